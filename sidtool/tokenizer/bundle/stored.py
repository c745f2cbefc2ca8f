"""The items, the codebook and the encoder of a bundle, from its arrays and its manifest; the part
of a large bundle that a look-up needs."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import IntegrityError, UsageError
from sidtool.tokenizer.bundle.arrays import Expected, RowRange, StoredArrays
from sidtool.tokenizer.bundle.item_map import BLOCK, IdIndex, ItemMap, StringArray
from sidtool.tokenizer.bundle.manifest import Manifest
from sidtool.tokenizer.encoder.lexical import ARRAYS, LEXICAL, LexicalEncoder
from sidtool.tokenizer.quantize.codebook import Codebook
from sidtool.tokenizer.sid import Codes, SidSpace

Arrays = Mapping[str, NDArray[Any]]


def stored_items(manifest: Manifest, arrays: Arrays) -> ItemMap:
    """The item map. Raises IntegrityError if an array does not fit the manifest."""
    title_arrays = {"items/title_bytes", "items/title_offset"}
    stored_titles = {name for name in title_arrays if name in arrays}
    if stored_titles not in (set(), title_arrays):
        raise IntegrityError(f"{min(stored_titles)} is stored without the other of the titles")
    index = None
    if "index/id_hash" in arrays:
        index = IdIndex(arrays["index/id_hash"], arrays["index/id_row"])
        check_rows(index.rows, manifest.items)
    return ItemMap(
        space=manifest.space,
        ids=_strings(arrays, "items/id", may_be_empty=False),
        codes=checked_codes(manifest.space, arrays["items/sid"]),
        retired=arrays["items/retired"],
        titles=_strings(arrays, "items/title", may_be_empty=True) if stored_titles else None,
        stored_index=index,
    )


def _strings(arrays: Arrays, name: str, *, may_be_empty: bool) -> StringArray:
    columns = (arrays[f"{name}_bytes"], arrays[f"{name}_offset"])
    return StringArray.stored(name, *columns, may_be_empty=may_be_empty)


def stored_codebook(manifest: Manifest, arrays: Arrays) -> Codebook | None:
    """The codebook, or None for a map without one. Raises IntegrityError if it is malformed."""
    names = [name for name in arrays if name.startswith("codebook/")]
    n_levels = sum(1 for name in names if name.startswith("codebook/level_"))
    if not n_levels:
        return None
    quantizer = manifest.made_by.quantizer
    if quantizer is None:
        raise IntegrityError("the bundle has a codebook but no recipe")
    encoder = "codebook/encoder/"
    codebook = Codebook(
        method=quantizer.method,
        levels=tuple(arrays[f"codebook/level_{level}"] for level in range(n_levels)),
        encoder={name.removeprefix(encoder): arrays[name] for name in names if encoder in name},
        params=quantizer.parameters,
    )
    try:
        codebook.check()
    except (ValueError, KeyError) as error:
        raise IntegrityError(f"the codebook is malformed: {error}") from error
    return codebook


def stored_lexical(manifest: Manifest, arrays: Arrays) -> LexicalEncoder | None:
    """The encoder `lexical`, or None if the recipe does not name it. Raises IntegrityError if an
    array is missing, malformed, or not the one of the recipe."""
    recipe = manifest.made_by.encoder
    if recipe.model != LEXICAL or set(recipe.weights) != set(ARRAYS):
        return None
    lexical = LexicalEncoder(
        feature_hash=arrays["encoder/feature_hash"],
        idf=arrays["encoder/idf"],
        components=arrays["encoder/components"],
    )
    try:
        lexical.check()
    except ValueError as error:
        raise IntegrityError(f"the lexical encoder is malformed: {error}") from error
    for name, digest in lexical.record["weights"].items():
        if recipe.weights[name] != digest:
            raise IntegrityError(f"{name} is not the array that the recipe names")
    return lexical


def bundle_layout(manifest: Manifest) -> dict[str, Expected]:
    """Type and shape of the arrays that the format defines."""
    n = manifest.items
    levels = manifest.space.levels
    blocks = -(-n // BLOCK)  # rounded up
    codebook: dict[str, Expected] = {
        f"codebook/level_{level}": ("float32", (size, None))
        for level, size in enumerate(manifest.space.sizes)
    }
    encoder_dim = manifest.made_by.encoder.dim
    return codebook | {
        "encoder/components": ("float16", (None, encoder_dim)),
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


MAX_LOOKUPS = 64
"""Look-ups by block after which reading the whole map is faster."""

INDEX_ARRAYS = ("index/sid_first", "index/id_hash_first", "index/id_hash", "index/id_row")
"""Arrays that look-ups by block need; a bundle of another writer may lack them."""


class Lookup:
    """Look-ups in the arrays of a stored bundle of `n_items` items. The first entries of each block
    of rows are read once, then only the blocks that may match."""

    def __init__(self, arrays: StoredArrays, space: SidSpace, n_items: int) -> None:
        self._arrays = arrays
        self._space = space
        self._n_items = n_items

    def with_sids(self, codes: Codes) -> ItemMap:
        """(m, levels) codes -> the items with one of these SIDs, retired ones included."""
        keys = np.unique(self._space.pack(codes))
        blocks = _blocks(self._first_keys, keys, self._n_items)
        rows = [
            first + np.flatnonzero(np.isin(self._space.pack(block_codes), keys))
            for (first, _), block_codes in zip(
                blocks, self._arrays.parts("items/sid", blocks), strict=True
            )
        ]
        return self._take(rows)

    def with_ids(self, ids: Sequence[str]) -> ItemMap:
        """The items with these ids, and any other items whose ids have the same hashes."""
        hashes = np.unique(StringArray.of([text for text in ids if text]).hashes())
        blocks = _blocks(self._arrays["index/id_hash_first"], hashes, self._n_items)
        positions = [
            first + np.flatnonzero(np.isin(block_hashes, hashes))
            for (first, _), block_hashes in zip(
                blocks, self._arrays.parts("index/id_hash", blocks), strict=True
            )
        ]
        parts = self._arrays.parts("index/id_row", _ranges(positions))
        for rows in parts:
            check_rows(rows, self._n_items)
        return self._take(parts)

    def _take(self, rows: Iterable[NDArray[Any]]) -> ItemMap:
        """These rows of the item map, ascending."""
        ranges = _ranges(rows)
        codes = self._arrays.parts("items/sid", ranges)
        retired = self._arrays.parts("items/retired", ranges)
        has_titles = "items/title_offset" in self._arrays
        return ItemMap(
            space=self._space,
            ids=self._strings("items/id", ranges),
            codes=checked_codes(
                self._space, _join(codes, np.empty((0, self._space.levels), dtype=np.uint16))
            ),
            retired=_join(retired, np.empty(0, dtype=np.bool_)),
            titles=self._strings("items/title", ranges) if has_titles else None,
        )

    def _strings(self, name: str, ranges: Sequence[RowRange]) -> StringArray:
        # a string needs the offset behind it, too
        offsets = self._arrays.parts(f"{name}_offset", [(a, b + 1) for a, b in ranges])
        byte_ranges = [(int(part[0]), int(part[-1])) for part in offsets]
        n_bytes = self._arrays.layout(f"{name}_bytes").shape[0]
        if any(not 0 <= start <= stop <= n_bytes for start, stop in byte_ranges):
            raise IntegrityError(f"{name}_offset does not divide {name}_bytes into strings")
        data = self._arrays.parts(f"{name}_bytes", byte_ranges)
        lengths = [np.zeros(1, dtype=np.int64), *(np.diff(part) for part in offsets)]
        return StringArray.stored(
            name,
            _join(data, np.empty(0, dtype=np.uint8)),
            np.cumsum(np.concatenate(lengths)),
            may_be_empty=name != "items/id",
        )

    @cached_property
    def _first_keys(self) -> NDArray[np.uint64]:
        return self._space.pack(self._arrays["index/sid_first"])


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
