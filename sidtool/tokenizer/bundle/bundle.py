"""The bundle: SID space, item map, codebook and manifest as one immutable value."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, IntegrityError, UsageError
from sidtool.base.extras import data_frame, library_versions
from sidtool.base.options import MAX_SEED, Option
from sidtool.data import Items, Vectors, VectorSource, make_items
from sidtool.data.split import SplitReference, check_split
from sidtool.tokenizer.bundle.card import bundle_card
from sidtool.tokenizer.bundle.contents import StoredBundle, all_arrays, identify
from sidtool.tokenizer.bundle.item_map import ItemMap, check_ids, text_id
from sidtool.tokenizer.bundle.manifest import (
    BuildChange,
    Collisions,
    Identity,
    Manifest,
    Provenance,
    now,
)
from sidtool.tokenizer.bundle.trie import Trie
from sidtool.tokenizer.codes.report import Policy
from sidtool.tokenizer.encoder.lexical import LexicalEncoder
from sidtool.tokenizer.quantize.codebook import Codebook
from sidtool.tokenizer.sid import Codes, ItemRows, Levels, SidSpace, Spelling, read_sizes

SEED = Option(minimum=0, maximum=MAX_SEED)


class Bundle(StoredBundle):
    """A semantic-ID tokenizer. Arrays of a stored bundle are read when they are first used.

    Examples:
        >>> bundle = sidtool.Bundle.open("shop.zarr")
        >>> len(bundle), bundle.item_ids(bundle.sid("b007"))
        (60, ['b007'])
        >>> bundle.title("b007"), len(bundle.similar("b007", k=3))
        (..., 3)
        >>> bundle.to_arrow().column_names
        ['item_id', 'title', 'codes', 'sid']
    """

    def __len__(self) -> int:
        """The number of items, retired ones included; reads no array."""
        return self.manifest.items

    def __bool__(self) -> bool:
        """A bundle is a value, also one without items."""
        return True

    def __contains__(self, item_id: object) -> bool:
        """Whether there is an active item with this id."""
        row = int(self.items.rows([text_id(item_id)])[0])
        return row >= 0 and not self.items.retired[row]

    def __iter__(self) -> Iterator[str]:
        """The ids of the active items, in the order of SIDs."""
        return (self.items.ids[row] for row in self.active.tolist())

    def check_split(self, label: str, split: SplitReference | None) -> None:
        """Raise CompatibilityError if the codebook may have learned from events that `split` holds
        out. `label` names the input with this split in the message."""
        made = f"the codebook of bundle {self.manifest.name!r}"
        check_split(made, self.manifest.made_from.split, label, split)

    def __repr__(self) -> str:
        """Name, items, levels and the start of the digest; reads no array."""
        return (
            f"<Bundle {self.manifest.name!r}: {len(self):,} items, "
            f"{self.space.spelled_sizes}, {self.digest[:12]}>"
        )

    @classmethod
    def of(
        cls,
        items: ItemMap,
        codebook: Codebook | None,
        policy: Policy,
        *,
        name: str,
        lexical: LexicalEncoder | None = None,
        **provenance: Unpack[Provenance],
    ) -> "Bundle":
        """A bundle in memory. `lexical` is the encoder that the recipe names so. The recipe is
        completed with the codebook's method and parameters."""
        recipe = provenance.get("recipe")
        if codebook is not None:
            quantizer = {"method": codebook.method, "parameters": codebook.params.to_json()}
            recipe = {**(recipe or {}), "quantizer": quantizer}
        fields: Provenance = {"change": BuildChange(len(items)), **provenance, "recipe": recipe}
        manifest = Manifest(
            name=name,
            space=items.space,
            identity=identify(items, codebook, recipe, policy),
            items=len(items),
            collisions=Collisions(policy, items.space.sizes[-1] if policy == "append" else None),
            format=1 if codebook is None else codebook.min_format,
            **fields,
        )
        return cls(manifest, all_arrays(items, codebook, lexical))

    @classmethod
    def from_vectors(
        cls,
        ids: Sequence[str],
        vectors: Vectors,
        *,
        titles: Sequence[str] | None = None,
        name: str = "bundle",
        levels: str | Sequence[int] | None = None,
        method: str = "rq-kmeans",
        collisions: Policy = "reassign",
        spelling: Spelling = "openonerec",
        seed: int = 0,
        **method_options: Any,
    ) -> "Bundle":
        """Fit a codebook to the (n, dim) float32 vectors of n items, and give each item a SID.

        `levels` are the codes per level, like "256x256x256" or (256, 256, 256) (default: by
        `Levels.for_items`); `method_options` are those of the method, like `balanced`. `save`
        writes the bundle. `sidtool.build_codebook` also embeds texts, uses co-occurrence and
        resumes.
        Raises DataError for ids or vectors that do not fit, UsageError for a method, option, size,
        collision policy or spelling that does not exist."""
        from sidtool.tokenizer.codes.make import make_codes
        from sidtool.tokenizer.quantize.methods import fit

        ids = list(ids)  # a pandas Series is indexed by labels, not by places
        titles = None if titles is None else list(titles)
        check_ids(ids)
        for title in titles or ():
            if not isinstance(title, str):
                raise DataError(f"a title is a text, not {title!r}")
        Option().check("collisions", collisions, Policy)
        seed = SEED.held(seed, int)
        SEED.check("seed", seed, int)
        if "sizes" in method_options:
            raise UsageError("there is no option sizes", hint='levels="256x256x256"')
        if levels is None:
            levels = Levels.for_items(len(ids)).sizes
        sizes = read_sizes(levels) if isinstance(levels, str) else levels
        sizes = SidSpace.of_spelling(sizes, spelling).sizes
        if titles is not None and len(titles) != len(ids):
            raise DataError(f"{len(titles)} titles for {len(ids)} items")

        source = VectorSource.of(vectors)
        fit_codebook = partial(fit, source, sizes, method=method, seed=seed, **method_options)
        codebook, assigned, report = make_codes(source, ids, fit_codebook, collisions, seed=seed)
        space = SidSpace.of_spelling(assigned.level_sizes, spelling)
        return cls.of(
            ItemMap.of(space, ids, assigned.codes, titles),
            codebook,
            collisions,
            name=name,
            recipe={"encoder": {"vectors": "given", "dim": codebook.dim}},
            report=report.to_json(),
            libraries=library_versions("sidtool", "numpy", "zarr", "scipy"),
            created=now(),
        )

    @property
    def space(self) -> SidSpace:
        """Level sizes and spelling."""
        return self.manifest.space

    @property
    def identity(self) -> Identity:
        """The three digests."""
        return self.manifest.identity

    @property
    def digest(self) -> str:
        """The one digest over the three of the identity."""
        return self.identity.digest

    @property
    def n_retired(self) -> int:
        """The number of retired items; reads no other array than that of their marks."""
        return int(self.arrays["items/retired"].sum())

    @cached_property
    def active(self) -> ItemRows:
        """(n_active,) int64: the rows of `items` that are not retired."""
        return ItemRows(np.flatnonzero(~self.items.retired).astype(np.int64))

    @property
    def is_active(self) -> NDArray[np.bool_]:
        """(n,) whether a row of `items` is in `active`."""
        return np.isin(np.arange(len(self.items)), self.active)

    @property
    def catalog(self) -> Items:
        """The items as a catalog of ids and titles, which is what a bundle knows of them."""
        ids = tuple(self.items.ids)
        titles = tuple(self.items.titles or ("",) * len(ids))
        return make_items(ids, titles, ids, fields={}, template="{title}")

    def without(self, rows: ItemRows) -> "Bundle":
        """The same bundle with these rows of `items` left out of `active`, and so of the trie."""
        smaller = Bundle(self.manifest, self.arrays)
        smaller.items = self.items
        smaller.active = ItemRows(np.setdiff1d(self.active, rows))
        return smaller

    def only(self, is_kept: NDArray[np.bool_]) -> "Bundle":
        """The same bundle with some rows of `items` alone, in their order; itself if all are."""
        if is_kept.all():
            return self
        items, rows = self.items, ItemRows(np.flatnonzero(is_kept))
        ids = [items.ids[row] for row in rows.tolist()]
        titles = None if items.titles is None else [items.titles[row] for row in rows.tolist()]
        smaller = Bundle(self.manifest, self.arrays)
        smaller.items = ItemMap.of(items.space, ids, items.codes[rows], titles, items.retired[rows])
        return smaller

    def trie(self) -> Trie:
        """The trie of the active items; its rows are rows of `items`."""
        return self._trie

    @cached_property
    def _trie(self) -> Trie:
        codes, rows = self.items.codes, None
        if self.items.retired.any() or len(vars(self).get("active", codes)) < len(codes):
            codes, rows = codes[self.active], self.active
        try:
            return Trie.from_codes(codes, self.space.sizes, rows)
        except UsageError as error:
            if len(codes):  # the rows are not in the order of the format
                raise IntegrityError(f"items/sid: {error}") from error
            raise

    def sid(self, item_id: str, *, begin_end_tokens: bool = False) -> str:
        """The spelled SID of an item. Raises DataError if the bundle does not have it."""
        items = self.items_for(1)
        row = items.row(text_id(item_id))
        codes = items.checked_codes(row, row + 1)[0]
        return self.space.spell(codes, begin_end_tokens=begin_end_tokens)

    def title(self, item_id: str) -> str:
        """The title of an item, "" if the bundle has no titles. Raises DataError if the bundle does
        not have the item."""
        items = self.items_for(1)
        return items.title(items.row(text_id(item_id)))

    def similar(self, item_id: str, k: int = 10) -> list[str]:
        """The ids of the k active items whose SIDs are nearest to that of an item, nearest first:
        those with the most first codes in common, then with the least distance by the codebook.
        Raises UsageError unless k is at least 1, DataError if the bundle does not have the item."""
        from sidtool.tokenizer.codes.measure import prefix_similarity

        if k < 1:
            raise UsageError(f"k must be at least 1, not {k}")
        items = self.items
        row = items.row(text_id(item_id))
        others = self.active[self.active != row]
        for depth in range(self.space.levels, -1, -1):
            first, stop = items.rows_under(items.codes[row, :depth].tolist())
            near = others[(others >= first) & (others < stop)]
            if len(near) >= k:
                break
        codes = items.codes[[row, *near]]
        similarity = prefix_similarity(codes, np.array([0]), self.codebook)[0, 1:]
        nearest = near[np.argsort(-similarity, kind="stable")[:k]]
        return [items.ids[at] for at in nearest.tolist()]

    def sids(self) -> dict[str, str]:
        """The spelled SID of each active item by its id, in the order of SIDs; reads all items."""
        table = self._table(titles=None)
        ids, sids = (table[name].to_pylist() for name in ("item_id", "sid"))
        return dict(zip(ids, sids, strict=True))

    def item_ids(self, sid: str) -> list[str]:
        """The ids of the active items with a spelled SID (several only if collisions are allowed).
        Raises UsageError if the text is not a SID of the space."""
        return self.decode([sid])[0]

    def decode(self, sids: Sequence[str]) -> list[list[str]]:
        """The ids of the active items with each of several spelled SIDs, none for a SID without.
        Raises UsageError if a text is not a SID of the space; `sidtool.decode` finds SIDs in a text
        and says what is wrong with them."""
        codes = np.array([self.space.parse(sid) for sid in sids], dtype=np.uint16)
        codes = codes.reshape(-1, self.space.levels)
        items = self.items_for(len(codes))
        first_rows, stop_rows = items.rows_at(codes)
        return [
            [items.ids[row] for row in range(first, stop) if not items.retired[row]]
            for first, stop in zip(first_rows.tolist(), stop_rows.tolist(), strict=True)
        ]

    def to_arrow(self) -> Any:
        """The active items as a `pyarrow.Table`, in the order of SIDs; reads all items. Columns:
        `item_id`, `title` (if the bundle has titles), `codes` (a list of `levels` uint16) and
        `sid`, the spelled SID."""
        return self._table(titles=self.items.titles)

    def _table(self, *, titles: Iterable[str] | None) -> Any:
        from sidtool.tokenizer.codes.make import code_table

        active = self.is_active  # strings are read in large parts when all are read in order
        ids = list(itertools.compress(self.items.ids, active))
        active_titles = None if titles is None else list(itertools.compress(titles, active))
        return code_table(self.space, ids, self.items.codes[self.active], active_titles)

    def to_pandas(self) -> Any:
        """The same as a `pandas.DataFrame`. Raises MissingPackageError if pandas is not
        installed."""
        table = self.to_arrow()
        rows = list(zip(*table.to_pydict().values(), strict=True))
        return data_frame(rows, table.column_names)

    def encode(self, vectors: Vectors) -> Codes:
        """(n, dim) vectors -> (n, codebook levels) codes, before collisions are resolved. Raises
        RefusedError if the bundle has no codebook, DataError if the dimensions differ."""
        return self.require_codebook().encode(vectors)

    def arrays_to_store(self) -> dict[str, NDArray[Any]]:
        """Every array. Raises UsageError if the manifest breaks a rule of the format."""
        try:
            Manifest.from_json(self.manifest.to_json())
        except IntegrityError as error:
            name = self.manifest.name
            raise UsageError(f"bundle {name!r} cannot be written: {error}") from error
        return all_arrays(self.items, self.codebook, self.lexical)

    def card(self, reference: str, license: str | None) -> str:
        """The card of the bundle as it is published, in Markdown."""
        return bundle_card(self.manifest, reference, license)
