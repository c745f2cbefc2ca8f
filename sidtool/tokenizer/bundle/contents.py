"""What a bundle stores: its arrays by name, their types and shapes, the digests over them, and the
items, codebook and encoder that are read back from them.

Storage order, chunks, compressors and container do not change a digest; name, version, dates,
report and index are not part of it. docs/format.md specifies both."""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.digests import hash_array
from sidtool.base.documents import canonical
from sidtool.base.errors import IntegrityError, RefusedError
from sidtool.base.output_name import BUNDLE
from sidtool.tokenizer.bundle.item_map import BLOCK, LARGE, IdIndex, ItemMap, StringArray
from sidtool.tokenizer.bundle.manifest import Identity, Manifest
from sidtool.tokenizer.bundle.zarr_arrays import Expected, StoredArrays
from sidtool.tokenizer.bundle.zarr_group import StoredGroup
from sidtool.tokenizer.encoder.lexical import ARRAYS, LEXICAL, LexicalEncoder
from sidtool.tokenizer.quantize.codebook import Codebook

MAX_LOOKUPS = 64
"""Look-ups by block after which reading the whole map is faster."""

INDEX_ARRAYS = ("index/sid_first", "index/id_hash_first", "index/id_hash", "index/id_row")
"""Arrays that look-ups by block need; a bundle of another writer may lack them."""

_LOCATION_KEYS = ("model", "revision", "trust_remote_code", "probes")
"""Keys of an encoder's recipe that its weights' digests make redundant."""


def identify(
    items: ItemMap, codebook: Codebook | None, recipe: Mapping[str, Any] | None, policy: str
) -> Identity:
    """Hash the values of a bundle."""
    if recipe is not None and "weights" in recipe.get("encoder", {}):
        encoder = {
            key: value for key, value in recipe["encoder"].items() if key not in _LOCATION_KEYS
        }
        recipe = {**recipe, "encoder": encoder}
    codebook_hash = hashlib.sha256(canonical({"recipe": recipe, "policy": policy}))
    if codebook is not None:
        for name, array in sorted(codebook_arrays(codebook).items()):
            hash_array(codebook_hash, name, array)
    items_hash = hashlib.sha256()
    for name, array in item_arrays(items).items():
        hash_array(items_hash, name.removeprefix("items/"), array)
    space_hash = hashlib.sha256(canonical(items.space.to_json()))
    return Identity(space_hash.hexdigest(), codebook_hash.hexdigest(), items_hash.hexdigest())


def codebook_arrays(codebook: Codebook) -> dict[str, NDArray[Any]]:
    """A codebook's arrays by the names under which a bundle stores them."""
    levels = {
        f"codebook/level_{level}": centroids for level, centroids in enumerate(codebook.levels)
    }
    return levels | {f"codebook/encoder/{name}": array for name, array in codebook.encoder.items()}


def item_arrays(items: ItemMap) -> dict[str, NDArray[Any]]:
    """An item map's arrays by the names under which a bundle stores them, without the index."""
    arrays: dict[str, NDArray[Any]] = {
        "items/id_bytes": np.asarray(items.ids.data),
        "items/id_offset": np.asarray(items.ids.offsets),
        "items/sid": items.codes,
        "items/retired": items.retired,
    }
    if items.titles is not None:
        arrays["items/title_bytes"] = np.asarray(items.titles.data)
        arrays["items/title_offset"] = np.asarray(items.titles.offsets)
    return arrays


def index_arrays(items: ItemMap) -> dict[str, NDArray[Any]]:
    """The arrays for look-ups, which follow from the items: sorted id hashes with the row of each,
    and the first entry of each block of rows."""
    hashes = np.asarray(items.index.hashes)
    return {
        "index/id_hash": hashes,
        "index/id_row": np.asarray(items.index.rows),
        "index/id_hash_first": hashes[::BLOCK],
        "index/sid_first": items.codes[::BLOCK],
    }


def all_arrays(
    items: ItemMap, codebook: Codebook | None, lexical: LexicalEncoder | None
) -> dict[str, NDArray[Any]]:
    """Every array of a bundle by name."""
    codebook_part = codebook_arrays(codebook) if codebook is not None else {}
    encoder_part = lexical.arrays if lexical is not None else {}
    return codebook_part | encoder_part | item_arrays(items) | index_arrays(items)


def bundle_layout(manifest: Manifest) -> dict[str, Expected]:
    """Type and shape of the arrays that the format defines."""
    n = manifest.items
    levels = manifest.space.levels
    blocks = -(-n // BLOCK)  # rounded up
    codebook: dict[str, Expected] = {
        f"codebook/level_{level}": ("float32", (size, None))
        for level, size in enumerate(manifest.space.sizes)
    }
    return codebook | {
        "encoder/components": ("float16", (None, manifest.made_by.encoder.dim)),
        "encoder/feature_hash": ("uint64", (None,)),
        "encoder/idf": ("float32", (None,)),
        "items/id_bytes": ("uint8", (None,)),
        "items/id_offset": ("int64", (n + 1,)),
        "items/sid": ("uint16", (n, levels)),
        "items/retired": ("bool", (n,)),
        "items/title_bytes": ("uint8", (None,)),
        "items/title_offset": ("int64", (n + 1,)),
        "index/id_hash": ("uint64", (n,)),
        "index/id_row": ("uint32", (n,)),
        "index/id_hash_first": ("uint64", (blocks,)),
        "index/sid_first": ("uint16", (blocks, levels)),
    }


class StoredBundle(StoredGroup):
    """The items, the codebook and the encoder of a bundle, made of its arrays when they are first
    used."""

    kind = "bundle"
    output = BUNDLE
    manifest: Manifest
    _n_lookups = 0

    @staticmethod
    def parse(value: Mapping[str, Any]) -> tuple[Manifest, dict[str, Expected]]:
        """The manifest in a JSON object, with type and shape of the arrays of the format."""
        manifest = Manifest.from_json(value)
        return manifest, bundle_layout(manifest)

    @cached_property
    def items(self) -> ItemMap:
        """The item map; ids, titles and index of a large one are read in parts, and checked no
        further. Raises IntegrityError if a stored array does not fit the manifest."""
        is_large = self.manifest.items > LARGE
        return self._read_items(self._indexed_arrays() if is_large else None)

    def items_for(self, n_lookups: int) -> ItemMap:
        """The item map for some look-ups. The first ones in a stored bundle read the blocks of rows
        that they need, of codes too; then it is `items`, which is read once."""
        self._n_lookups += n_lookups
        is_small = self.manifest.items <= BLOCK or self._n_lookups > MAX_LOOKUPS
        return self.items if is_small or "items" in vars(self) else self._items_in_parts

    @cached_property
    def _items_in_parts(self) -> ItemMap:
        arrays = self._indexed_arrays()
        return self.items if arrays is None else self._read_items(arrays, codes_in_parts=True)

    def _indexed_arrays(self) -> StoredArrays | None:
        """The arrays if they are stored, with all that look-ups by block need."""
        if not isinstance(self.arrays, StoredArrays):
            return None
        return self.arrays if all(name in self.arrays for name in INDEX_ARRAYS) else None

    def _read_items(self, stored: StoredArrays | None, *, codes_in_parts: bool = False) -> ItemMap:
        """The item map: read whole and checked, or in parts if its arrays are `stored`. Codes are
        read whole and checked unless they, too, are read in parts."""
        read_whole = self.arrays.__getitem__
        read = read_whole if stored is None else stored.in_parts
        read_codes = read if codes_in_parts else read_whole
        title_arrays = {"items/title_bytes", "items/title_offset"} & self.arrays.keys()
        if len(title_arrays) == 1:
            raise IntegrityError(f"{min(title_arrays)} is stored without the other of the titles")
        index = self._read_index(stored)

        def strings(name: str) -> StringArray:
            data, offsets = read(f"{name}_bytes"), read(f"{name}_offset")
            if stored is None:
                return StringArray.stored(name, data, offsets)
            return StringArray(data, offsets)

        items = ItemMap(
            space=self.manifest.space,
            ids=strings("items/id"),
            codes=read_codes("items/sid"),
            retired=read_codes("items/retired"),
            titles=strings("items/title") if title_arrays else None,
            stored_index=index,
            first_codes=None if stored is None else read_whole("index/sid_first"),
        )
        if not codes_in_parts:
            items.checked_codes(0, len(items))
        return items

    def _read_index(self, stored: StoredArrays | None) -> IdIndex | None:
        """The index of ids: read whole and checked, or in parts; None if the bundle has none."""
        arrays = self.arrays
        if "index/id_hash" not in arrays:
            return None
        if stored is not None:
            hashes, rows = stored.in_parts("index/id_hash"), stored.in_parts("index/id_row")
            return IdIndex(hashes, rows, arrays["index/id_hash_first"])
        index = IdIndex(arrays["index/id_hash"], arrays["index/id_row"])
        n_items, last_row = self.manifest.items, index.rows.max(initial=0)
        if last_row >= max(n_items, 1):
            raise IntegrityError(f"index/id_row names row {last_row} of {n_items} items")
        return index

    @cached_property
    def codebook(self) -> Codebook | None:
        """The codebook, or None for a map without one. Raises IntegrityError if it is malformed."""
        names = [name for name in self.arrays if name.startswith("codebook/")]
        n_levels = sum(1 for name in names if name.startswith("codebook/level_"))
        quantizer = self.manifest.made_by.quantizer
        if not n_levels or quantizer is None:  # a manifest with levels has a quantizer
            return None
        part = "codebook/encoder/"
        codebook = Codebook(
            method=quantizer.method,
            levels=tuple(self.arrays[f"codebook/level_{level}"] for level in range(n_levels)),
            encoder={name.removeprefix(part): self.arrays[name] for name in names if part in name},
            params=quantizer.parameters,
        )
        try:
            codebook.check()
        except (ValueError, KeyError) as error:
            raise IntegrityError(f"the codebook is malformed: {error}") from error
        return codebook

    def require_codebook(self) -> Codebook:
        """The codebook. Raises RefusedError if the bundle has none."""
        if self.codebook is None:
            raise RefusedError(
                f"bundle {self.manifest.name!r} is a map without a codebook: it cannot encode",
                hint="sidtool import --codebook reads that of the map",
            )
        return self.codebook

    @cached_property
    def lexical(self) -> LexicalEncoder | None:
        """The stored encoder, None if the recipe names another or none. Raises IntegrityError if an
        array is missing, malformed, or not the one of the recipe."""
        recipe = self.manifest.made_by.encoder
        if recipe.model != LEXICAL or set(recipe.weights) != set(ARRAYS):
            return None
        lexical = LexicalEncoder(
            feature_hash=self.arrays["encoder/feature_hash"],
            idf=self.arrays["encoder/idf"],
            components=self.arrays["encoder/components"],
        )
        try:
            lexical.check()
        except ValueError as error:
            raise IntegrityError(f"the lexical encoder is malformed: {error}") from error
        for name, digest in lexical.record["weights"].items():
            if recipe.weights[name] != digest:
                raise IntegrityError(f"{name} is not the array that the recipe names")
        return lexical

    def broken_values(self) -> list[tuple[str, str]]:
        """What is wrong with the values, the order of the rows and the index: (object, reason)."""
        manifest = self.manifest
        # read whole, so that every array is checked
        items = self.items if manifest.items <= LARGE else self._read_items(None)
        policy = manifest.collisions.policy
        identity = identify(items, self.codebook, manifest.recipe, policy)
        self.lexical  # noqa: B018 (raises unless it is that of the recipe)
        expected = replace(items, stored_index=None)
        broken = []
        if self.codebook is not None:
            first_code = self.codebook.params.first_code
            codes = items.codes[:, : len(self.codebook.levels)]  # an appended one counts from 0
            if n_items := int((codes < first_code).any(axis=1).sum()):
                reason = f"{n_items} items have a code below the first one, {first_code}"
                broken.append(("items/sid", reason))
        keys, ids = expected.keys, expected.ids
        if (keys[1:] < keys[:-1]).any():
            broken.append(("items/sid", "rows are not in lexicographic SID order"))
        ties = np.flatnonzero(keys[1:] == keys[:-1]).tolist()
        if any(ids[row] >= ids[row + 1] for row in ties):
            broken.append(("items/id", "rows with equal SIDs are not in the order of their ids"))
        if repeated := expected.repeated_ids():
            broken.append(("items/id", f"the id {repeated[0][:80]!r} is repeated"))
        for name, array in index_arrays(expected).items():
            if name in self.arrays and not np.array_equal(array, self.arrays[name]):
                broken.append((name, "does not agree with the items"))
        for part in ("space", "codebook", "items"):
            digest, stored = getattr(identity, part), getattr(manifest.identity, part)
            if digest != stored:
                reason = f"{part} digest is {digest[:12]}…, the manifest says {stored[:12]}…"
                broken.append((part, reason))
        return broken
