"""The bundle: SID space, item map, codebook and manifest as one immutable value."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from sidtool.bundle.arrays import StoredArrays, bundle_layout
from sidtool.bundle.history import BuildChange
from sidtool.bundle.identity import Identity, codebook_arrays, identify, item_arrays
from sidtool.bundle.item_map import BLOCK, IdIndex, ItemMap
from sidtool.bundle.lookup import INDEX_ARRAYS, MAX_LOOKUPS, Lookup, check_rows, checked_codes
from sidtool.bundle.manifest import Collisions, Manifest, Provenance
from sidtool.bundle.strings import StringArray
from sidtool.bundle.trie import Trie
from sidtool.bundle.zarr_group import new_zip, read_manifest, write_group
from sidtool.collisions.policy import Policy
from sidtool.errors import IntegrityError, RefusedError, UsageError
from sidtool.output import new_dir
from sidtool.output_name import BUNDLE, check_suffix
from sidtool.quantize.codebook import Codebook, QuantizerParams
from sidtool.sid import Codes, SidSpace, Vectors
from sidtool.storage.storage import Storage
from sidtool.storage.zips import is_zip


class Bundle:
    """A semantic-ID tokenizer. Arrays of a stored bundle are read when they are first used.

    # doctest: +SKIP
    >>> bundle = Bundle.open("shop.zarr")
    # doctest: +SKIP
    >>> bundle.sid("B01"), bundle.item_ids("<s_a_12><s_b_200><s_c_7>")
    """

    def __init__(self, manifest: Manifest, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.manifest = manifest
        self.arrays = arrays
        self._n_lookups = 0

    def __len__(self) -> int:
        """The number of items, retired ones included; reads no array."""
        return self.manifest.items

    def __bool__(self) -> bool:
        """A bundle is a value, also one without items."""
        return True

    def __repr__(self) -> str:
        """Name, items, levels and the start of the digest; reads no array."""
        return (
            f"<Bundle {self.manifest.name!r}: {len(self):,} items, "
            f"{self.space.spelled_sizes}, {self.digest[:12]}>"
        )

    @classmethod
    def open(cls, location: str | Path) -> "Bundle":
        """Open a folder or a .zarr.zip, at a path or an fsspec URL.

        Only the manifest is read, and checked against its own SHA-256. Raises DataError if there is
        no bundle or the URL cannot be reached, UsageError if a URL's client is not installed,
        IntegrityError if the bundle is unfinished or damaged, CompatibilityError if its format is
        newer than this version reads.
        """
        storage = Storage(location)
        manifest = read_manifest(storage)
        return cls(manifest, StoredArrays(storage, manifest, bundle_layout(manifest)))

    @classmethod
    def of(
        cls,
        items: ItemMap,
        codebook: Codebook | None,
        policy: Policy,
        *,
        name: str,
        capacity: int | None = None,
        **provenance: Unpack[Provenance],
    ) -> "Bundle":
        """A bundle in memory. `capacity` is the size of the level that the policy `append` added.

        The recipe is completed with the codebook's method and parameters.
        """
        recipe = provenance.get("recipe")
        if codebook is not None:
            quantizer = {"method": codebook.method, "parameters": codebook.params.to_json()}
            recipe = {**(recipe or {}), "quantizer": quantizer}
        fields: Provenance = {"change": BuildChange(len(items)), **provenance, "recipe": recipe}
        manifest = Manifest(
            name=name,
            space=items.space,
            identity=identify(items.space, items, codebook, recipe, policy),
            items=len(items),
            collisions=Collisions(policy, capacity),
            **fields,
        )
        return cls(manifest, _all_arrays(items, codebook))

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

    @cached_property
    def items(self) -> ItemMap:
        """The item map. Raises IntegrityError if a stored array does not fit the manifest."""
        title_arrays = {"items/title_bytes", "items/title_offset"}
        stored_titles = {name for name in title_arrays if name in self.arrays}
        if stored_titles not in (set(), title_arrays):
            raise IntegrityError(f"{min(stored_titles)} is stored without the other of the titles")
        index = None
        if "index/id_hash" in self.arrays:
            index = IdIndex(self.arrays["index/id_hash"], self.arrays["index/id_row"])
            check_rows(index.rows, self.manifest.items)
        return ItemMap(
            space=self.space,
            ids=self._strings("items/id", may_be_empty=False),
            codes=checked_codes(self.space, self.arrays["items/sid"]),
            retired=self.arrays["items/retired"],
            titles=self._strings("items/title", may_be_empty=True) if stored_titles else None,
            stored_index=index,
        )

    def _strings(self, name: str, *, may_be_empty: bool) -> StringArray:
        data = self.arrays[f"{name}_bytes"]
        offsets = self.arrays[f"{name}_offset"]
        return StringArray.stored(name, data, offsets, may_be_empty=may_be_empty)

    def items_with_sids(self, codes: Codes) -> ItemMap:
        """An item map with at least the items that have one of these (m, levels) SIDs, retired ones
        included.

        It is `items`, or a part of it with other row numbers: the first look-ups in a large
        stored bundle read only parts, then the whole map is read once.
        """
        return self._lookup.with_sids(codes) if self._reads_parts(len(codes)) else self.items

    def items_with_ids(self, ids: Sequence[str]) -> ItemMap:
        """An item map with at least the items with these ids, as in `items_with_sids`."""
        return self._lookup.with_ids(ids) if self._reads_parts(len(ids)) else self.items

    def _reads_parts(self, n_lookups: int) -> bool:
        self._n_lookups += n_lookups
        if "items" in vars(self) or not isinstance(self.arrays, StoredArrays):
            return False  # in memory already
        if self.manifest.items <= BLOCK or self._n_lookups > MAX_LOOKUPS:
            return False  # reading everything is faster
        return all(name in self.arrays for name in INDEX_ARRAYS)

    @cached_property
    def _lookup(self) -> Lookup:
        assert isinstance(self.arrays, StoredArrays)
        return Lookup(self.arrays, self.space, self.manifest.items)

    @cached_property
    def codebook(self) -> Codebook | None:
        """The codebook, or None for a map without one."""
        names = [name for name in self.arrays if name.startswith("codebook/")]
        n_levels = sum(1 for name in names if name.startswith("codebook/level_"))
        if not n_levels:
            return None
        if self.manifest.recipe is None:
            raise IntegrityError("the bundle has a codebook but no recipe")
        quantizer = self.manifest.recipe["quantizer"]
        encoder = "codebook/encoder/"
        codebook = Codebook(
            method=quantizer["method"],
            levels=tuple(self.arrays[f"codebook/level_{level}"] for level in range(n_levels)),
            encoder={
                name.removeprefix(encoder): self.arrays[name]
                for name in names
                if name.startswith(encoder)
            },
            params=QuantizerParams.from_json(quantizer["parameters"]),
        )
        try:
            codebook.check()
        except (ValueError, KeyError) as error:
            raise IntegrityError(f"the codebook is malformed: {error}") from error
        return codebook

    @cached_property
    def active(self) -> NDArray[np.int64]:
        """(n_active,) int64: the rows of `items` that are not retired."""
        return np.flatnonzero(~self.items.retired).astype(np.int64)

    def trie(self) -> Trie:
        """The trie of the active items; its rows are rows of `items`."""
        return self._trie

    @cached_property
    def _trie(self) -> Trie:
        codes = self.items.codes[self.active]
        try:
            return Trie.from_codes(codes, self.space.sizes, self.active)
        except UsageError as error:
            if len(codes):  # the rows are not in the order of the format
                raise IntegrityError(f"items/sid: {error}") from error
            raise

    def sid(self, item_id: str, *, begin_end_tokens: bool = False) -> str:
        """The spelled SID of an item. Raises DataError if the bundle does not have it."""
        items = self.items_with_ids([item_id])
        return self.space.spell(items.codes[items.row(item_id)], begin_end_tokens=begin_end_tokens)

    def sids(self) -> dict[str, str]:
        """The spelled SID of each active item by its id, in the order of SIDs; reads all items."""
        tokens = [
            [self.space.token(level, code) for code in range(size)]
            for level, size in enumerate(self.space.sizes)
        ]
        return {
            self.items.ids[row]: "".join(
                level_tokens[code]
                for level_tokens, code in zip(tokens, self.items.codes[row].tolist(), strict=True)
            )
            for row in self.active.tolist()
        }

    def item_ids(self, sid: str) -> list[str]:
        """The ids of the active items with a spelled SID (several only if collisions are allowed).

        Raises UsageError if the text is not a SID of the space.
        """
        codes = np.array([self.space.parse(sid)], dtype=np.uint16)
        items = self.items_with_sids(codes)
        first, stop = items.rows_at(codes)
        rows = range(int(first[0]), int(stop[0]))
        return [items.ids[row] for row in rows if not items.retired[row]]

    def encode(self, vectors: Vectors) -> Codes:
        """(n, dim) vectors -> (n, codebook levels) codes, before collisions are resolved.

        Raises RefusedError if the bundle has no codebook, DataError if the dimensions differ.
        """
        return self.require_codebook().encode(vectors)

    def require_codebook(self) -> Codebook:
        """The codebook. Raises RefusedError if the bundle has none."""
        if self.codebook is None:
            raise RefusedError(
                f"bundle {self.manifest.name!r} is a map without a codebook: it cannot encode",
                hint="sidtool build-codebook makes a bundle with a codebook",
            )
        return self.codebook

    def save(self, location: str | Path, *, force: bool = False) -> None:
        """Write a folder, or a stored zip if the name ends in .zip; it appears whole or not at all.

        Raises UsageError if the output exists and `force` is not given, or if the manifest breaks a
        rule of the format.
        """
        try:
            self.manifest.check()
        except (TypeError, ValueError) as error:
            name = self.manifest.name
            raise UsageError(f"bundle {name!r} cannot be written: {error}") from error
        path = Path(location)
        check_suffix(path, BUNDLE)
        new_output = new_zip if is_zip(path.name) else new_dir
        with new_output(path, force=force) as folder:
            write_group(folder, _all_arrays(self.items, self.codebook), self.manifest)


def index_arrays(items: ItemMap) -> dict[str, NDArray[Any]]:
    """The arrays for look-ups, which follow from the items: sorted id hashes with the row of each,
    and the first entry of each block of rows."""
    return {
        "index/id_hash": items.index.hashes,
        "index/id_row": items.index.rows,
        "index/id_hash_first": items.index.hashes[::BLOCK],
        "index/sid_first": items.codes[::BLOCK],
    }


def _all_arrays(items: ItemMap, codebook: Codebook | None) -> dict[str, NDArray[Any]]:
    codebook_part = codebook_arrays(codebook) if codebook is not None else {}
    return codebook_part | item_arrays(items) | index_arrays(items)
