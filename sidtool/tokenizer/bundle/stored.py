"""The items, the codebook and the encoder of a bundle, from its arrays and its manifest; the part
of a large bundle that a look-up needs."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import IntegrityError, SidtoolError, UsageError
from sidtool.base.storage import Storage
from sidtool.tokenizer.bundle.arrays import RowRange, StoredArrays
from sidtool.tokenizer.bundle.item_map import BLOCK, LARGE, IdIndex, ItemMap, StringArray
from sidtool.tokenizer.bundle.layout import identify, index_arrays
from sidtool.tokenizer.bundle.manifest import Manifest
from sidtool.tokenizer.bundle.zarr_group import broken_objects
from sidtool.tokenizer.encoder.lexical import ARRAYS, LEXICAL, LexicalEncoder
from sidtool.tokenizer.quantize.codebook import Codebook
from sidtool.tokenizer.sid import Codes, SidSpace

MAX_LOOKUPS = 64
"""Look-ups by block after which reading the whole map is faster."""

INDEX_ARRAYS = ("index/sid_first", "index/id_hash_first", "index/id_hash", "index/id_row")
"""Arrays that look-ups by block need; a bundle of another writer may lack them."""


class StoredBundle:
    """The items, the codebook and the encoder of a bundle, made of its arrays when they are first
    used."""

    def __init__(self, manifest: Manifest, arrays: Mapping[str, NDArray[Any]]) -> None:
        self.manifest = manifest
        self.arrays = arrays
        self._n_lookups = 0

    @cached_property
    def items(self) -> ItemMap:
        """The item map; ids, titles and index of a large one are read in parts, and checked no
        further. Raises IntegrityError if a stored array does not fit the manifest."""
        return self._read_items(self._large_arrays())

    def whole_items(self) -> ItemMap:
        """The item map with every array read whole and checked. Raises IntegrityError as
        `items`."""
        return self.items if self._large_arrays() is None else self._read_items(None)

    def _large_arrays(self) -> StoredArrays | None:
        """The arrays if they are so large that `items` reads them in parts."""
        return self._indexed_arrays() if self.manifest.items > LARGE else None

    def _read_items(self, large: StoredArrays | None) -> ItemMap:
        arrays, space = self.arrays, self.manifest.space
        title_arrays = {"items/title_bytes", "items/title_offset"} & arrays.keys()
        if len(title_arrays) == 1:
            raise IntegrityError(f"{min(title_arrays)} is stored without the other of the titles")
        codes = checked_codes(space, arrays["items/sid"])
        index = None
        if large is not None:
            hashes, rows = large.in_parts("index/id_hash"), large.in_parts("index/id_row")
            index = IdIndex(hashes, rows, arrays["index/id_hash_first"])
        elif "index/id_hash" in arrays:
            index = IdIndex(arrays["index/id_hash"], arrays["index/id_row"])
            check_rows(index.rows, self.manifest.items)

        def strings(name: str) -> StringArray:
            data, offsets = f"{name}_bytes", f"{name}_offset"
            if large is not None:
                return StringArray(large.in_parts(data), large.in_parts(offsets))
            return StringArray.stored(name, arrays[data], arrays[offsets])

        return ItemMap(
            space=space,
            ids=strings("items/id"),
            codes=codes,
            retired=arrays["items/retired"],
            titles=strings("items/title") if title_arrays else None,
            stored_index=index,
        )

    def items_with_sids(self, codes: Codes) -> ItemMap:
        """An item map with at least the items that have one of these (m, levels) SIDs, retired ones
        included. It is `items`, or a part of it with other row numbers: the first look-ups in a
        large stored bundle read the first entries of each block of rows and the blocks that may
        match, then the whole map is read once."""
        arrays, space = self._arrays_in_parts(len(codes)), self.manifest.space
        if arrays is None:
            return self.items
        keys = np.unique(space.pack(codes))
        blocks = _blocks(self._first_keys, keys, self.manifest.items)
        rows = [
            first + np.flatnonzero(np.isin(space.pack(block_codes), keys))
            for (first, _), block_codes in zip(
                blocks, arrays.parts("items/sid", blocks), strict=True
            )
        ]
        return _part(arrays, space, _ranges(rows))

    def items_with_ids(self, ids: Sequence[str]) -> ItemMap:
        """An item map with at least the items with these ids, as in `items_with_sids`."""
        arrays, n_items = self._arrays_in_parts(len(ids)), self.manifest.items
        if arrays is None:
            return self.items
        hashes = np.unique(StringArray.of([text for text in ids if text]).hashes())
        blocks = _blocks(arrays["index/id_hash_first"], hashes, n_items)
        positions = [
            first + np.flatnonzero(np.isin(block_hashes, hashes))
            for (first, _), block_hashes in zip(
                blocks, arrays.parts("index/id_hash", blocks), strict=True
            )
        ]
        parts = arrays.parts("index/id_row", _ranges(positions))
        for rows in parts:
            check_rows(rows, n_items)
        return _part(arrays, self.manifest.space, _ranges(parts))

    def _arrays_in_parts(self, n_lookups: int) -> StoredArrays | None:
        """The arrays if reading parts of them is faster than reading all items."""
        self._n_lookups += n_lookups
        if "items" in vars(self):
            return None  # in memory already
        if self.manifest.items <= BLOCK or self._n_lookups > MAX_LOOKUPS:
            return None
        return self._indexed_arrays()

    def _indexed_arrays(self) -> StoredArrays | None:
        """The arrays if they are stored, with all that look-ups by block need."""
        if not isinstance(self.arrays, StoredArrays):
            return None
        return self.arrays if all(name in self.arrays for name in INDEX_ARRAYS) else None

    @cached_property
    def _first_keys(self) -> NDArray[np.uint64]:
        return self.manifest.space.pack(self.arrays["index/sid_first"])

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


def _part(arrays: StoredArrays, space: SidSpace, ranges: Sequence[RowRange]) -> ItemMap:
    """These ascending rows of a stored item map."""

    def strings(name: str) -> StringArray:
        # a string needs the offset behind it, too
        offsets = arrays.parts(f"{name}_offset", [(a, b + 1) for a, b in ranges])
        byte_ranges = [(int(part[0]), int(part[-1])) for part in offsets]
        n_bytes = arrays.layout(f"{name}_bytes").shape[0]
        if any(not 0 <= start <= stop <= n_bytes for start, stop in byte_ranges):
            raise IntegrityError(f"{name}_offset does not divide {name}_bytes into strings")
        data = arrays.parts(f"{name}_bytes", byte_ranges)
        lengths = [np.zeros(1, dtype=np.int64), *(np.diff(part) for part in offsets)]
        text = _join(data, np.empty(0, dtype=np.uint8))
        return StringArray.stored(name, text, np.cumsum(np.concatenate(lengths)))

    codes = arrays.parts("items/sid", ranges)
    retired = arrays.parts("items/retired", ranges)
    return ItemMap(
        space=space,
        ids=strings("items/id"),
        codes=checked_codes(space, _join(codes, np.empty((0, space.levels), dtype=np.uint16))),
        retired=_join(retired, np.empty(0, dtype=np.bool_)),
        titles=strings("items/title") if "items/title_offset" in arrays else None,
    )


def checked_codes(space: SidSpace, codes: Codes) -> Codes:
    """Stored (n, levels) codes. Raises IntegrityError if one is outside of its level."""
    try:
        space.check(codes)
    except UsageError as error:
        raise IntegrityError(f"items/sid: {error}") from error
    return codes


def check_rows(rows: NDArray[np.uint32], n_items: int) -> None:
    """Raise IntegrityError if a row of the index is not one of the items."""
    if rows.max(initial=0) >= max(n_items, 1):
        raise IntegrityError(f"index/id_row names row {rows.max()} of {n_items} items")


def _blocks(firsts: NDArray[np.uint64], values: NDArray[np.uint64], n: int) -> list[RowRange]:
    """The blocks of n sorted rows that may contain the values; `firsts` has each block's first
    entry."""
    # equal entries may start in the block before the first one that starts with them
    low = np.maximum(np.searchsorted(firsts, values, side="left") - 1, 0)
    high = np.searchsorted(firsts, values, side="right")
    numbers = [np.arange(start, stop) for start, stop in zip(low, high, strict=True)]
    blocks = np.unique(np.concatenate(numbers or [low]))
    return [(int(block) * BLOCK, min(int(block + 1) * BLOCK, n)) for block in blocks]


def _ranges(rows: Iterable[NDArray[Any]]) -> list[RowRange]:
    """Rows, in any order and with repeats, as ranges of consecutive rows."""
    all_rows = _join(list(rows), np.empty(0, dtype=np.int64))
    distinct = np.unique(all_rows.astype(np.int64))
    gaps = np.flatnonzero(np.diff(distinct) > 1) + 1
    runs = [run for run in np.split(distinct, gaps) if len(run)]
    return [(int(run[0]), int(run[-1]) + 1) for run in runs]


def _join(parts: Sequence[NDArray[Any]], empty: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate(parts) if len(parts) else empty


def broken_parts(
    bundle: StoredBundle, storage: Storage, *, alone: bool = True
) -> list[tuple[str, str]]:
    """Everything that is wrong with a bundle that was opened there: (object, reason). Checks
    objects, root document, values, row order and index. Unless it is `alone`, other files may be
    there."""
    manifest = bundle.manifest
    broken = broken_objects(storage, manifest, alone=alone)
    if broken:
        return broken
    try:
        items = bundle.whole_items()
        identity = identify(
            manifest.space, items, bundle.codebook, manifest.recipe, manifest.collisions.policy
        )
        bundle.lexical  # noqa: B018 (raises unless it is that of the recipe)
        expected = replace(items, stored_index=None)
        broken = _broken_rows(bundle, expected)
        for name, array in index_arrays(expected).items():
            if name in bundle.arrays and not np.array_equal(array, bundle.arrays[name]):
                broken.append((name, "does not agree with the items"))
    except SidtoolError as error:
        return [("values", str(error))]
    for part in ("space", "codebook", "items"):
        digest, stored = getattr(identity, part), getattr(manifest.identity, part)
        if digest != stored:
            reason = f"{part} digest is {digest[:12]}…, the manifest says {stored[:12]}…"
            broken.append((part, reason))
    return broken


def _broken_rows(bundle: StoredBundle, items: ItemMap) -> list[tuple[str, str]]:
    """What is wrong with the codes and the ids of the items and their order; they have an index of
    their own."""
    broken: list[tuple[str, str]] = []
    codebook = bundle.codebook
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
