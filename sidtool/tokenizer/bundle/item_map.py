"""The map between items and semantic IDs, sorted by SID, so that look-ups are binary searches."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, IntegrityError, UsageError
from sidtool.data import Texts, pack_texts
from sidtool.tokenizer.sid import Codes, ItemRows, SidSpace

CHUNK = 1 << 16
"""Strings that are read at once."""
HASHED_BYTES = 1 << 18
"""Bytes of strings that are hashed at once: the tables need about 50 bytes for each."""

ITEM_IDS = "items/id"
"""The strings that are not empty."""

SIDES: tuple[Literal["left"], Literal["right"]] = ("left", "right")

LARGE = 1 << 24
"""Items above which no array but the codes is held in memory: ids, titles and index are read in
parts, and codes are packed for look-ups a block at a time."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class StringArray:
    """n strings: `data` (bytes,) uint8, `offsets` (n + 1,) int64; string i is
    data[offsets[i]:offsets[i + 1]]. One of ten million ids is read in 2.6 us; Zarr's own string
    type takes milliseconds."""

    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    @classmethod
    def of(cls, strings: Iterable[str], folder: Path | None = None) -> "StringArray":
        """Pack strings, in memory or in unnamed files of a folder. Raises DataError for one with a
        lone surrogate, and for what is no string."""
        try:
            return cls(*pack_texts(strings, folder))
        except UnicodeEncodeError as error:
            raise DataError(
                f"the text {error.object[:60]!r} has a lone surrogate, which UTF-8 cannot hold"
            ) from error
        except TypeError as error:
            raise DataError(f"ids and titles are strings: {error}") from error

    @classmethod
    def stored(
        cls, name: str, data: NDArray[np.uint8], offsets: NDArray[np.int64]
    ) -> "StringArray":
        """The strings of two stored arrays, `name`_bytes and `name`_offset. Raises IntegrityError
        unless the offsets divide the bytes into strings in UTF-8, and for an empty id."""
        starts, stops = offsets[:-1], offsets[1:]
        covers_data = offsets[0] == 0 and offsets[-1] == len(data)
        if not covers_data or (stops < starts).any():
            raise IntegrityError(f"{name}_offset does not divide {name}_bytes into strings")
        if name == ITEM_IDS and (stops == starts).any():
            raise IntegrityError(f"{name}: string {int((stops == starts).argmax())} is empty")
        if data.max(initial=0) >= 0x80:
            for first in range(0, len(offsets) - 1, CHUNK):
                bounds = offsets[first : first + CHUNK + 1]
                part = data[bounds[0] : bounds[-1]]
                inner = bounds[bounds < bounds[-1]] - bounds[0]
                try:
                    part.tobytes().decode("utf-8")
                    inside_character = ((part[inner] & 0xC0) == 0x80).any()
                except UnicodeDecodeError:
                    inside_character = True
                if inside_character:
                    raise IntegrityError(f"{name}: a string is not UTF-8")
        return cls(data, offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> str:
        try:
            start, stop = self.offsets[row : row + 2]
            return self.data[start:stop].tobytes().decode("utf-8")
        except ValueError as error:  # strings that are read in parts were not checked
            raise IntegrityError(f"string {row} is missing or not UTF-8") from error

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), CHUNK):
            bounds = self.offsets[first : first + CHUNK + 1]
            data = self.data[bounds[0] : bounds[-1]].tobytes()
            for row, (start, stop) in enumerate(itertools.pairwise((bounds - bounds[0]).tolist())):
                try:
                    text = data[start:stop].decode("utf-8")
                except UnicodeDecodeError as error:
                    raise IntegrityError(f"string {first + row} is not UTF-8") from error
                yield text

    def hashes(self) -> NDArray[np.uint64]:
        """(n,) uint64: a polynomial hash of each string's bytes modulo 2^64 (docs/format.md).
        Strings must not be empty."""
        sums = np.zeros(len(self), dtype=np.uint64)
        longest = int(np.diff(self.offsets).max(initial=0))
        powers = np.full(longest, _MULTIPLIER, dtype=np.uint64)
        np.cumprod(powers, out=powers)  # M, M^2, M^3 ...
        for first in range(0, len(self.data), HASHED_BYTES):
            data = self.data[first : first + HASHED_BYTES].astype(np.uint64) + np.uint64(1)
            # the strings that have some of these bytes, and where each has its first one here
            begin = int(np.searchsorted(self.offsets, first, "right")) - 1
            end = int(np.searchsorted(self.offsets, first + len(data), "left"))
            starts = self.offsets[begin:end] - first
            first_bytes = np.maximum(starts, 0)
            # position of each byte within its string
            lengths = np.diff(first_bytes, append=len(data))
            positions = np.arange(len(data)) - np.repeat(starts, lengths)
            sums[begin:end] += np.add.reduceat(data * powers[positions], first_bytes)
        sums ^= sums >> np.uint64(32)
        return sums * _MULTIPLIER


BLOCK = 4096
"""Rows per entry of the sparse indexes; part of the bundle format."""


@dataclass(frozen=True)
class IdIndex:
    """Look-up of ids: (n,) uint64 hashes, sorted, and the (n,) uint32 row of each. Not part of the
    identity."""

    hashes: NDArray[np.uint64]
    rows: NDArray[np.uint32]
    firsts: NDArray[np.uint64] | None = None
    """Every BLOCK-th hash, if the others are read in parts"""

    def rows_of(self, hashes: NDArray[np.uint64]) -> list[list[int]]:
        """The rows of the ids with each of (m,) hashes: several if hashes collide."""
        if self.firsts is None:
            starts, stops = (np.searchsorted(self.hashes, hashes, side) for side in SIDES)
            bounds = zip(starts.tolist(), stops.tolist(), strict=True)
            return [self.rows[start:stop].tolist() for start, stop in bounds]
        rows = []
        # equal hashes may begin in the block before the first one that begins with them
        starts = np.maximum(np.searchsorted(self.firsts, hashes, side="left") - 1, 0) * BLOCK
        stops = np.searchsorted(self.firsts, hashes, side="right") * BLOCK
        for value, start, stop in zip(hashes, starts.tolist(), stops.tolist(), strict=True):
            block = self.hashes[start:stop]
            first, last = (start + int(np.searchsorted(block, value, side)) for side in SIDES)
            rows.append(self.rows[first:last].tolist())
        return rows


def check_ids(ids: Sequence[str]) -> None:
    """Raise DataError on an empty or repeated id, or one that is no string."""
    if "" in map(text_id, ids):
        raise DataError(f"item {ids.index('')} has an empty id")
    if len(set(ids)) != len(ids):
        raise DataError(f"{len(ids) - len(set(ids))} item ids are repeated")


@dataclass(frozen=True)
class ItemMap:
    """n items in lexicographic SID order, equal SIDs in the order of ids.

    `codes` is (n, levels) uint16, `retired` (n,) bool."""

    space: SidSpace
    ids: StringArray
    codes: Codes
    retired: NDArray[np.bool_]
    titles: StringArray | None = None
    stored_index: IdIndex | None = None
    first_codes: Codes | None = None
    """The codes of every BLOCK-th row, if they are stored"""

    def __repr__(self) -> str:
        """The number of items and the levels; no array."""
        return f"<ItemMap of {len(self):,} items, {self.space.spelled_sizes}>"

    @classmethod
    def of(
        cls,
        space: SidSpace,
        ids: Sequence[str],
        codes: Codes,
        titles: Sequence[str] | None = None,
        retired: NDArray[np.bool_] | None = None,
        *,
        folder: Path | None = None,
    ) -> "ItemMap":
        """Sort items in any order; all are active unless `retired` says otherwise. Ids and titles
        are in memory, or in unnamed files of a folder. Raises DataError on an empty or repeated id,
        UsageError on a code outside the space."""
        space.check(codes)
        # only rows with equal keys are sorted in Python
        keys = space.pack(codes)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        bounds = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1], [True]]))
        del keys  # each array of 8 bytes per item counts in a large catalog
        for group in np.flatnonzero(np.diff(bounds) > 1):
            first, stop = bounds[group : group + 2]
            order[first:stop] = sorted(order[first:stop].tolist(), key=lambda row: ids[row])
        del bounds
        has_titles = titles is not None and any(titles)
        items = cls(
            space=space,
            ids=StringArray.of(_in_order(ids, order), folder),
            codes=codes[order],
            retired=np.zeros(len(ids), dtype=np.bool_) if retired is None else retired[order],
            titles=StringArray.of(_in_order(titles or (), order), folder) if has_titles else None,
        )
        empty = np.flatnonzero(np.diff(items.ids.offsets) == 0)
        if len(empty):
            raise DataError(f"item {int(order[empty].min())} has an empty id")
        del order
        if repeated := items.repeated_ids():
            raise DataError(f"{len(repeated)} item ids are repeated, like {repeated[0][:60]!r}")
        return items

    def __len__(self) -> int:
        return len(self.codes)

    @cached_property
    def keys(self) -> NDArray[np.uint64]:
        """(n,) uint64: packed SIDs, sorted."""
        return self.space.pack(self.codes)

    @cached_property
    def index(self) -> IdIndex:
        """The stored id index, or a new one."""
        if self.stored_index is not None:
            return self.stored_index
        hashes = self.ids.hashes()
        order = np.argsort(hashes, kind="stable")
        return IdIndex(hashes[order], order.astype(np.uint32))

    def repeated_ids(self) -> list[str]:
        """Each id that occurs n times, n - 1 times."""
        hashes = self.index.hashes
        equal = np.flatnonzero(hashes[1:] == hashes[:-1])
        rows = self.index.rows[np.union1d(equal, equal + 1)].tolist()
        counts = Counter(self.ids[row] for row in rows)
        return [item for item, count in counts.items() for _ in range(count - 1)]

    def rows(self, ids: Sequence[str]) -> ItemRows:
        """(m,) int64: the row of each id, -1 if the map does not have it."""
        rows = np.full(len(ids), -1, dtype=np.int64)
        positions = [position for position, text in enumerate(ids) if text]
        if not positions or not len(self):
            return ItemRows(rows)
        texts = [text for text in ids if text]
        hashes = StringArray.of(texts).hashes()
        index, stored = self.index, self.ids
        if len(positions) * BLOCK > len(self):  # of arrays that are read in parts, most are needed
            index = IdIndex(np.asarray(index.hashes), np.asarray(index.rows))
            stored = StringArray(np.asarray(stored.data), np.asarray(stored.offsets))
        for position, text, candidates in zip(positions, texts, index.rows_of(hashes), strict=True):
            for row in candidates:
                if stored[row] == text:
                    rows[position] = row
        return ItemRows(rows)

    def row(self, item_id: str) -> int:
        """The row of one id. Raises DataError if the map does not have it."""
        row = int(self.rows([item_id])[0])
        if row < 0:
            raise DataError(f"no item {item_id!r} in this bundle")
        return row

    def rows_at(self, codes: Codes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(m, levels) codes -> first and last row (exclusive) with that SID, (m,) int64 each; equal
        if there is none."""
        keys = self.space.pack(codes)
        if self._first_keys is None:
            first, stop = (np.searchsorted(self.keys, keys, side) for side in SIDES)
            return first, stop
        positions = [[self._position(key, side) for side in SIDES] for key in keys]
        rows = np.array(positions, dtype=np.int64).reshape(-1, 2)
        return rows[:, 0], rows[:, 1]

    def checked_codes(self, first: int, stop: int) -> Codes:
        """(n, levels) codes of some rows, which nothing has checked if they are read in parts.
        Raises IntegrityError if one is outside of its level."""
        codes = self.codes[first:stop]
        try:
            self.space.check(codes)
        except UsageError as error:
            raise IntegrityError(f"items/sid: {error}") from error
        return codes

    def _position(self, key: np.uint64, side: Literal["left", "right"]) -> int:
        """As `np.searchsorted(self.keys, key, side)`, from the keys of one block."""
        start = max(int(np.searchsorted(self._first_keys, key, side)) - 1, 0) * BLOCK
        block_keys = self.space.pack(self.checked_codes(start, start + BLOCK))
        return start + int(np.searchsorted(block_keys, key, side))

    def whole_ids(self) -> StringArray:
        """The ids in memory: those that are read in parts are read whole. Raises IntegrityError if
        these are no ids."""
        data, offsets = np.asarray(self.ids.data), np.asarray(self.ids.offsets)
        return self.ids if data is self.ids.data else StringArray.stored(ITEM_IDS, data, offsets)

    @property
    def id_texts(self) -> Texts:
        """`whole_ids` as arrow texts, without a copy."""
        ids = self.whole_ids()
        return Texts.of_utf8(ids.data, ids.offsets)

    @cached_property
    def _first_keys(self) -> Any:
        """Every BLOCK-th key, if the others are packed a block at a time."""
        if self.first_codes is None and len(self) <= LARGE:
            return None
        first_codes = self.codes[::BLOCK] if self.first_codes is None else self.first_codes
        return self.space.pack(first_codes)

    def rows_under(self, prefix: Sequence[int]) -> tuple[int, int]:
        """First and last row (exclusive) of the items whose SID starts with these codes. Raises
        UsageError if no SID of the space does."""
        sizes = self.space.sizes
        fits = all(0 <= code < size for code, size in zip(prefix, sizes, strict=False))
        if not fits or len(prefix) > len(sizes):
            codes = ", ".join(map(str, prefix))
            raise UsageError(f"no SID of {self.space.spelled_sizes} starts with the codes {codes}")
        other_sizes = sizes[len(prefix) :]
        lowest = [*prefix, *(0 for _ in other_sizes)]
        highest = [*prefix, *(size - 1 for size in other_sizes)]
        first, stop = self.rows_at(np.array([lowest, highest], dtype=np.uint16))
        return int(first[0]), int(stop[1])

    def title(self, row: int) -> str:
        """The title at a row, "" if the bundle has no titles."""
        return self.titles[row] if self.titles is not None else ""


def _in_order(strings: Sequence[str], order: NDArray[np.int64]) -> Iterator[str]:
    if isinstance(strings, Texts):
        yield from strings.take(order)
        return
    for first in range(0, len(order), CHUNK):
        yield from map(strings.__getitem__, order[first : first + CHUNK].tolist())


def text_id(item_id: object) -> str:
    """An item id. Raises DataError for what is no string: 12 and "12" may be two ids, and "012" a
    third."""
    if not isinstance(item_id, str):
        raise DataError(f"an item id is a string, like {str(item_id)!r}, not {item_id!r}")
    return item_id
