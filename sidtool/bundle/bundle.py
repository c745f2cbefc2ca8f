"""The bundle: space, item map, codebook and manifest as one immutable value that opens, saves and
verifies.

Knows which arrays make up a bundle; knows nothing of how they lie on disk (store.py) or how they
were made (build.py)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sidtool.bundle import store
from sidtool.bundle.arrays import StoredArrays
from sidtool.bundle.item_map import BLOCK, IdIndex, ItemMap
from sidtool.bundle.lookup import FEW, NEEDED, Lookup
from sidtool.bundle.manifest import Identity, Manifest, codebook_arrays, identify
from sidtool.bundle.storage import is_zip
from sidtool.bundle.strings import StringArray
from sidtool.errors import IntegrityError, RefusedError, SidtoolError, UsageError
from sidtool.output import new_dir
from sidtool.quantize.codebook import Codebook
from sidtool.sid import Codes, SidSpace, Vectors

if TYPE_CHECKING:
    from sidtool.bundle.trie import Trie


class Bundle:
    """A semantic-ID tokenizer. Arrays of a stored bundle are read when they are first used.

    # doctest: +SKIP
    >>> bundle = Bundle.open("shop.zarr")
    # doctest: +SKIP
    >>> bundle.sid("B01"), bundle.item_ids("<s_a_12><s_b_200><s_c_7>")
    """

    def __init__(self, manifest: Manifest, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.manifest = manifest
        self._arrays = arrays
        self._asked = 0

    @classmethod
    def open(cls, location: str | Path) -> "Bundle":
        """Open a folder or a .zarr.zip, at a path or an fsspec URL.

        Only the manifest is read, and checked against its own hash. Raises DataError if nothing is
        there or the URL cannot be reached, UsageError if a URL's client is not installed,
        IntegrityError if the bundle is unfinished or damaged, CompatibilityError if its format is
        newer than this version reads."""
        return cls(*store.open_stored(str(location)))

    @classmethod
    def of(cls, items: ItemMap, codebook: Codebook | None, policy: str, **facts: Any) -> "Bundle":
        """A bundle in memory; `facts` are further fields of Manifest (name, collisions, recipe,
        source, report ...).

        The recipe is completed with how the codebook was made; a map without a codebook has none.
        """
        if codebook is not None:
            quantizer = {"method": codebook.method, "parameters": dict(codebook.parameters)}
            facts["recipe"] = dict(facts.get("recipe") or {}) | {"quantizer": quantizer}
        identity = identify(items.space, items, codebook, facts.get("recipe"), policy)
        facts["collisions"] = {"policy": policy} | dict(facts.get("collisions", {}))
        manifest = Manifest(space=items.space, identity=identity, items=len(items), **facts)
        return cls(manifest, _arrays_of(items, codebook))

    @property
    def space(self) -> SidSpace:
        """Level sizes and spelling."""
        return self.manifest.space

    @property
    def identity(self) -> Identity:
        """The three digests."""
        return self.manifest.identity

    @cached_property
    def items(self) -> ItemMap:
        """The item map. Raises IntegrityError if a stored shape is not what the manifest says."""
        read = self._arrays
        return ItemMap(
            space=self.space,
            ids=self._strings("items/id"),
            codes=read["items/sid"],
            retired=read["items/retired"],
            titles=self._strings("items/title") if "items/title_offset" in read else None,
            stored_index=IdIndex(read["index/id_hash"], read["index/id_row"])
            if "index/id_hash" in read
            else None,
        )

    def _strings(self, name: str) -> StringArray:
        data, offsets = self._arrays[f"{name}_bytes"], self._arrays[f"{name}_offset"]
        if offsets[0] != 0 or offsets[-1] != len(data) or (offsets[1:] < offsets[:-1]).any():
            raise IntegrityError(f"{name}_offset does not cut {name}_bytes into strings")
        return StringArray(data, offsets)

    def holders(self, codes: Codes) -> ItemMap:
        """The items that hold one of these (m, levels) SIDs, retired ones too: `items`, or a part
        read for them.

        A part has rows of its own. Few look-ups in a large stored bundle read parts, many the
        whole, once."""
        return self._lookup.holders(codes) if self._reads_parts(len(codes)) else self.items

    def named(self, ids: Sequence[str]) -> ItemMap:
        """The items with these ids, as `holders` gives them; others may be among them."""
        return self._lookup.named(ids) if self._reads_parts(len(ids)) else self.items

    def _reads_parts(self, asked: int) -> bool:
        self._asked += asked
        large = (
            "items" not in vars(self)
            and isinstance(self._arrays, StoredArrays)
            and self.manifest.items > BLOCK
        )
        return large and self._asked <= FEW and all(name in self._arrays for name in NEEDED)

    @cached_property
    def _lookup(self) -> Lookup:
        return Lookup(self._arrays, self.space, self.manifest.items)  # type: ignore[arg-type]

    @cached_property
    def codebook(self) -> Codebook | None:
        """The codebook, or None where the map came without one."""
        prefix, names = (
            "codebook/encoder/",
            [name for name in self._arrays if name.startswith("codebook/")],
        )
        levels = sum(1 for name in names if name.startswith("codebook/level_"))
        if not levels:
            return None
        if self.manifest.recipe is None:
            raise IntegrityError("the bundle holds a codebook and no recipe")
        return Codebook(
            method=self.manifest.recipe["quantizer"]["method"],
            levels=tuple(self._arrays[f"codebook/level_{level}"] for level in range(levels)),
            encoder={
                name.removeprefix(prefix): self._arrays[name]
                for name in names
                if name.startswith(prefix)
            },
            parameters=self.manifest.recipe["quantizer"]["parameters"],
        )

    @cached_property
    def active(self) -> NDArray[np.int64]:
        """(n_active,) int64: the rows that are not retired."""
        return np.flatnonzero(~self.items.retired).astype(np.int64)

    def trie(self) -> "Trie":
        """The trie of the items that are not retired; its rows are rows of `items`."""
        return self._trie

    @cached_property
    def _trie(self) -> "Trie":
        from sidtool.bundle.trie import Trie

        return Trie.from_codes(self.items.codes[self.active], self.space.sizes, self.active)

    def sid(self, item_id: str, *, markers: bool = False) -> str:
        """The spelled SID of an item. Raises DataError if the bundle does not know it."""
        items = self.named([item_id])
        return self.space.spell(items.codes[items.row(item_id)], markers=markers)

    def item_ids(self, sid: str) -> list[str]:
        """The ids of the active items that hold a spelled SID (several only where collisions are
        allowed)."""
        codes = np.array([self.space.parse(sid)], dtype=np.uint16)
        items = self.holders(codes)
        first, stop = items.rows_at(codes)
        return [
            items.ids[row] for row in range(int(first[0]), int(stop[0])) if not items.retired[row]
        ]

    def encode(self, vectors: Vectors) -> Codes:
        """(n, dim) vectors -> (n, codebook levels) codes, before any collision is resolved.

        Raises RefusedError if the map came without its codebook, UsageError if the dimensions
        differ."""
        if self.codebook is None:
            raise RefusedError(
                f"bundle {self.manifest.name!r} is a map without a codebook: it cannot encode"
            )
        if vectors.ndim != 2 or vectors.shape[1] != self.codebook.dim:
            raise UsageError(
                f"vectors have shape {vectors.shape}, the codebook takes (n, {self.codebook.dim})"
            )
        return self.codebook.encode(vectors)

    def save(self, location: str | Path, *, force: bool = False) -> None:
        """Write to a sibling, then move into place; a name that ends in .zip makes a stored zip.

        Raises UsageError if the output exists and `force` is not given.
        """
        path = Path(location)
        place = store.packed if is_zip(path.name) else new_dir
        with place(path, force=force) as folder:
            store.write_folder(folder, _arrays_of(self.items, self.codebook), self.manifest)

    def renamed(self, name: str) -> "Bundle":
        """The same bundle under another name; its identity does not change."""
        return Bundle(replace(self.manifest, name=name), self._arrays)


def verify(location: str | Path) -> list[tuple[str, str]]:
    """Everything that is wrong with a stored bundle: (object, what), empty when all is well.

    Checks every stored object against its SHA-256, the manifest against its own, the order of the
    rows, the values against the identity, and that the index agrees."""
    place = str(location)
    try:
        manifest = store.read_manifest(place)
        broken = store.broken_objects(place, manifest)
    except IntegrityError as error:
        return [(store.ROOT, str(error))]
    return broken or _broken_values(Bundle.open(place))


def _broken_values(bundle: Bundle) -> list[tuple[str, str]]:
    try:
        items, codebook, policy = (
            bundle.items,
            bundle.codebook,
            bundle.manifest.collisions["policy"],
        )
        bundle.space.check(items.codes)
        found = identify(bundle.space, items, codebook, bundle.manifest.recipe, policy)
    except SidtoolError as error:
        return [("values", str(error))]
    broken = [
        (
            part,
            f"{part} digest is {getattr(found, part)[:12]}…, the manifest says "
            f"{getattr(bundle.identity, part)[:12]}…",
        )
        for part in ("space", "codebook", "items")
        if getattr(found, part) != getattr(bundle.identity, part)
    ]
    if (items.keys[1:] < items.keys[:-1]).any():
        broken.append(("items/sid", "rows are not in lexicographic SID order"))
    ties = np.flatnonzero(items.keys[1:] == items.keys[:-1]).tolist()
    if any(items.ids[row] >= items.ids[row + 1] for row in ties):
        broken.append(("items/id", "rows of one SID are not in the order of their ids"))
    index = _index_arrays(replace(items, stored_index=None))
    broken += [
        (name, "does not agree with the items")
        for name, array in index.items()
        if name in bundle._arrays and not np.array_equal(array, bundle._arrays[name])
    ]
    return broken


def _arrays_of(items: ItemMap, codebook: Codebook | None) -> dict[str, NDArray[Any]]:
    arrays = codebook_arrays(codebook) if codebook else {}
    arrays |= {
        "items/id_bytes": items.ids.data,
        "items/id_offset": items.ids.offsets,
        "items/sid": items.codes,
        "items/retired": items.retired,
    }
    if items.titles is not None:
        arrays |= {
            "items/title_bytes": items.titles.data,
            "items/title_offset": items.titles.offsets,
        }
    return arrays | _index_arrays(items)


def _index_arrays(items: ItemMap) -> dict[str, NDArray[Any]]:
    """What is derived from the items, for look-ups: sorted hashes of ids, and every BLOCK-th row of
    what is sorted."""
    return {
        "index/id_hash": items.index.hashes,
        "index/id_row": items.index.rows,
        "index/id_hash_first": items.index.hashes[::BLOCK],
        "index/sid_first": items.codes[::BLOCK],
    }
