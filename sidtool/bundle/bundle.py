"""The bundle: space, item map, codebook and manifest as one immutable value that opens, saves and verifies.

Knows which arrays make up a bundle; knows nothing of how they lie on disk (store.py) or how they were made (build.py).
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sidtool.bundle import store
from sidtool.bundle.items import IdIndex, ItemMap
from sidtool.bundle.manifest import Identity, Manifest, codebook_arrays, identify
from sidtool.bundle.refs import resolve
from sidtool.bundle.strings import StringArray
from sidtool.errors import IntegrityError, RefusedError, SidtoolError, UsageError
from sidtool.output import new_dir
from sidtool.quantize.codebook import Codebook
from sidtool.sid import Codes, SidSpace, Vectors

if TYPE_CHECKING:
    from sidtool.bundle.trie import Trie


class Bundle:
    """A semantic-ID tokenizer. Arrays of a stored bundle are read when they are first used.

    >>> bundle = Bundle.open("shop.zarr")                                                      # doctest: +SKIP
    >>> bundle.sid("B01"), bundle.item_ids("<s_a_12><s_b_200><s_c_7>")                          # doctest: +SKIP
    """

    def __init__(self, manifest: Manifest, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.manifest = manifest
        self._arrays = arrays

    @classmethod
    def open(cls, location: str | Path) -> "Bundle":
        """Open a folder, a .zarr.zip, an fsspec URL or a published URL/NAME[@VERSION|@TAG].

        Only the manifest is read, and checked against its own hash. Raises DataError if nothing is there,
        IntegrityError if it is unfinished or damaged, CompatibilityError if its format is newer than this version
        reads.
        """
        place = resolve(str(location))
        return cls(store.read_manifest(place), store.StoredArrays(place))

    @classmethod
    def of(cls, items: ItemMap, codebook: Codebook | None, policy: str, **facts: Any) -> "Bundle":
        """A bundle in memory; `facts` are further fields of Manifest (name, collisions, recipe, source, report ...).

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
        items = ItemMap(
            space=self.space,
            ids=StringArray(read["items/id_bytes"], read["items/id_offset"]),
            codes=read["items/sid"],
            retired=read["items/retired"],
            titles=self._titles(),
            stored_index=IdIndex(read["index/id_hash"], read["index/id_row"]) if "index/id_hash" in read else None,
        )
        rows = self.manifest.items
        if items.codes.shape != (rows, self.space.levels) or len(items.ids) != rows or len(items.retired) != rows:
            raise IntegrityError(f"the manifest says {rows} items, items/sid has shape {items.codes.shape}")
        return items

    def _titles(self) -> StringArray | None:
        if "items/title_offset" not in self._arrays:
            return None
        return StringArray(self._arrays["items/title_bytes"], self._arrays["items/title_offset"])

    @cached_property
    def codebook(self) -> Codebook | None:
        """The codebook, or None where the map came without one."""
        prefix, names = "codebook/encoder/", [name for name in self._arrays if name.startswith("codebook/")]
        levels = sum(1 for name in names if name.startswith("codebook/level_"))
        if not levels:
            return None
        if self.manifest.recipe is None:
            raise IntegrityError("the bundle holds a codebook and no recipe")
        return Codebook(
            method=self.manifest.recipe["quantizer"]["method"],
            levels=tuple(self._arrays[f"codebook/level_{level}"] for level in range(levels)),
            encoder={name.removeprefix(prefix): self._arrays[name] for name in names if name.startswith(prefix)},
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
        return self.space.spell(self.items.codes[self.items.row(item_id)], markers=markers)

    def item_ids(self, sid: str) -> list[str]:
        """The ids of the active items that hold a spelled SID (several only where collisions are allowed)."""
        first, stop = self.items.rows_at(np.array([self.space.parse(sid)], dtype=np.uint16))
        rows = range(int(first[0]), int(stop[0]))
        return [self.items.ids[row] for row in rows if not self.items.retired[row]]

    def encode(self, vectors: Vectors) -> Codes:
        """(n, dim) vectors -> (n, codebook levels) codes, before any collision is resolved.

        Raises RefusedError if the map came without its codebook, UsageError if the dimensions differ.
        """
        if self.codebook is None:
            raise RefusedError(f"bundle {self.manifest.name!r} is a map without a codebook: it cannot encode")
        if vectors.ndim != 2 or vectors.shape[1] != self.codebook.dim:
            raise UsageError(f"vectors have shape {vectors.shape}, the codebook takes (n, {self.codebook.dim})")
        return self.codebook.encode(vectors)

    def save(self, location: str | Path, *, force: bool = False) -> None:
        """Write to a sibling, then move into place; a name that ends in .zip makes a stored zip.

        Raises UsageError if the output exists and `force` is not given.
        """
        path = Path(location)
        place = store.packed if store.is_zip(path.name) else new_dir
        with place(path, force=force) as folder:
            store.write_folder(folder, self._arrays, self.manifest)

    def renamed(self, name: str) -> "Bundle":
        """The same bundle under another name; its identity does not change."""
        return Bundle(replace(self.manifest, name=name), self._arrays)


def verify(location: str | Path) -> list[tuple[str, str]]:
    """Everything that is wrong with a stored bundle: (object, what), empty when all is well.

    Checks every stored object against its SHA-256, the manifest against its own, the order of the rows, the values
    against the identity, and that the index agrees.
    """
    place = resolve(str(location))
    try:
        manifest = store.read_manifest(place)
        broken = store.broken_objects(place, manifest)
    except IntegrityError as error:
        return [(store.ROOT, str(error))]
    return broken or _broken_values(Bundle.open(place))


def _broken_values(bundle: Bundle) -> list[tuple[str, str]]:
    try:
        items, codebook, policy = bundle.items, bundle.codebook, bundle.manifest.collisions["policy"]
        found = identify(bundle.space, items, codebook, bundle.manifest.recipe, policy)
    except SidtoolError as error:
        return [("values", str(error))]
    broken = [
        (
            part,
            f"{part} digest is {getattr(found, part)[:12]}…, the manifest says {getattr(bundle.identity, part)[:12]}…",
        )
        for part in ("space", "codebook", "items")
        if getattr(found, part) != getattr(bundle.identity, part)
    ]
    if (items.keys[1:] < items.keys[:-1]).any():
        broken.append(("items/sid", "rows are not in lexicographic SID order"))
    fresh = IdIndex.of(items.ids)
    if not (np.array_equal(fresh.hashes, items.index.hashes) and np.array_equal(fresh.rows, items.index.rows)):
        broken.append(("index", "does not agree with the ids"))
    return broken


def _arrays_of(items: ItemMap, codebook: Codebook | None) -> dict[str, NDArray[Any]]:
    arrays = codebook_arrays(codebook) if codebook else {}
    arrays |= {
        "items/id_bytes": items.ids.data,
        "items/id_offset": items.ids.offsets,
        "items/sid": items.codes,
        "items/retired": items.retired,
        "index/id_hash": items.index.hashes,
        "index/id_row": items.index.rows,
    }
    if items.titles is not None:
        arrays |= {"items/title_bytes": items.titles.data, "items/title_offset": items.titles.offsets}
    return arrays
