"""Reads the items, the codebook and the encoder of a bundle from its arrays and its manifest."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from sidtool.base.errors import IntegrityError, RefusedError
from sidtool.base.output_name import BUNDLE
from sidtool.tokenizer.bundle.arrays import Expected, StoredArrays
from sidtool.tokenizer.bundle.item_map import BLOCK, LARGE, IdIndex, ItemMap, StringArray
from sidtool.tokenizer.bundle.layout import bundle_layout, identify, index_arrays
from sidtool.tokenizer.bundle.manifest import Manifest
from sidtool.tokenizer.bundle.stored_group import StoredGroup
from sidtool.tokenizer.encoder.lexical import ARRAYS, LEXICAL, LexicalEncoder
from sidtool.tokenizer.quantize.codebook import Codebook

MAX_LOOKUPS = 64
"""Look-ups by block after which reading the whole map is faster."""

INDEX_ARRAYS = ("index/sid_first", "index/id_hash_first", "index/id_hash", "index/id_row")
"""Arrays that look-ups by block need; a bundle of another writer may lack them."""


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
        return self._read_items(self._large_arrays())

    def whole_items(self) -> ItemMap:
        """The item map with every array read whole and checked. Raises IntegrityError as
        `items`."""
        return self.items if self._large_arrays() is None else self._read_items(None)

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

    def _large_arrays(self) -> StoredArrays | None:
        """The arrays if they are so large that `items` reads them in parts."""
        return self._indexed_arrays() if self.manifest.items > LARGE else None

    def _indexed_arrays(self) -> StoredArrays | None:
        """The arrays if they are stored, with all that look-ups by block need."""
        if not isinstance(self.arrays, StoredArrays):
            return None
        return self.arrays if all(name in self.arrays for name in INDEX_ARRAYS) else None

    def _read_items(self, stored: StoredArrays | None, *, codes_in_parts: bool = False) -> ItemMap:
        """The item map, whose arrays are read in parts if they are `stored`."""
        arrays, space = self.arrays, self.manifest.space
        title_arrays = {"items/title_bytes", "items/title_offset"} & arrays.keys()
        if len(title_arrays) == 1:
            raise IntegrityError(f"{min(title_arrays)} is stored without the other of the titles")
        index = first_codes = None
        if stored is not None:
            hashes, rows = stored.in_parts("index/id_hash"), stored.in_parts("index/id_row")
            index = IdIndex(hashes, rows, arrays["index/id_hash_first"])
            first_codes = arrays["index/sid_first"]
        elif "index/id_hash" in arrays:
            index = IdIndex(arrays["index/id_hash"], arrays["index/id_row"])
            n_items, last_row = self.manifest.items, index.rows.max(initial=0)
            if last_row >= max(n_items, 1):
                raise IntegrityError(f"index/id_row names row {last_row} of {n_items} items")

        def strings(name: str) -> StringArray:
            data, offsets = f"{name}_bytes", f"{name}_offset"
            if stored is not None:
                return StringArray(stored.in_parts(data), stored.in_parts(offsets))
            return StringArray.stored(name, arrays[data], arrays[offsets])

        if stored is not None and codes_in_parts:
            codes, retired = stored.in_parts("items/sid"), stored.in_parts("items/retired")
        else:
            codes, retired = arrays["items/sid"], arrays["items/retired"]
        items = ItemMap(
            space=space,
            ids=strings("items/id"),
            codes=codes,
            retired=retired,
            titles=strings("items/title") if title_arrays else None,
            stored_index=index,
            first_codes=first_codes,
        )
        if not codes_in_parts:
            items.checked_codes(0, len(items))
        return items

    @cached_property
    def codebook(self) -> Codebook | None:
        """The codebook, or None for a map without one. Raises IntegrityError if it is malformed."""
        names = [name for name in self.arrays if name.startswith("codebook/")]
        n_levels = sum(1 for name in names if name.startswith("codebook/level_"))
        if not n_levels:
            return None
        quantizer = self.manifest.made_by.quantizer
        if quantizer is None:
            raise IntegrityError("the bundle has a codebook but no recipe")
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
                hint="sidtool build-codebook makes a bundle with a codebook",
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
        items = self.whole_items()
        identity = identify(
            manifest.space, items, self.codebook, manifest.recipe, manifest.collisions.policy
        )
        self.lexical  # noqa: B018 (raises unless it is that of the recipe)
        expected = replace(items, stored_index=None)
        broken = self._broken_rows(expected)
        for name, array in index_arrays(expected).items():
            if name in self.arrays and not np.array_equal(array, self.arrays[name]):
                broken.append((name, "does not agree with the items"))
        for part in ("space", "codebook", "items"):
            digest, stored = getattr(identity, part), getattr(manifest.identity, part)
            if digest != stored:
                reason = f"{part} digest is {digest[:12]}…, the manifest says {stored[:12]}…"
                broken.append((part, reason))
        return broken

    def _broken_rows(self, items: ItemMap) -> list[tuple[str, str]]:
        """What is wrong with codes, ids and order of the items, which have an index of their
        own."""
        broken: list[tuple[str, str]] = []
        codebook = self.codebook
        if codebook is not None:
            first_code = codebook.params.first_code
            codes = items.codes[:, : len(codebook.levels)]  # an appended level counts from 0
            if n_items := int((codes < first_code).any(axis=1).sum()):
                reason = f"{n_items} items have a code below the first one, {first_code}"
                broken.append(("items/sid", reason))
        if (items.keys[1:] < items.keys[:-1]).any():
            broken.append(("items/sid", "rows are not in lexicographic SID order"))
        ties = np.flatnonzero(items.keys[1:] == items.keys[:-1]).tolist()
        if any(items.ids[row] >= items.ids[row + 1] for row in ties):
            broken.append(("items/id", "rows with equal SIDs are not in the order of their ids"))
        if repeated := items.repeated_ids():
            broken.append(("items/id", f"the id {repeated[0][:80]!r} is repeated"))
        return broken
