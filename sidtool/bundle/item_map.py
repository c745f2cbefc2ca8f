"""The map between items and semantic IDs: sorted rows, so that both ways are binary searches.

Knows ids, codes, tombstones and titles; knows nothing of vectors, codebooks or storage.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sidtool.bundle.strings import StringArray
from sidtool.errors import DataError
from sidtool.sid import Codes, SidSpace

BLOCK = 4096
"""Rows between two entries of the sparse indexes: part of the bundle format."""


@dataclass(frozen=True)
class IdIndex:
    """Lookup of ids: hashes (n,) uint64 sorted, and the row (n,) uint32 of each. Derived, never
    identity."""

    hashes: NDArray[np.uint64]
    rows: NDArray[np.uint32]

    @classmethod
    def of(cls, ids: StringArray) -> "IdIndex":
        """Build the index of a column of ids."""
        hashes = ids.hashes()
        order = np.argsort(hashes, kind="stable")
        return cls(hashes[order], order.astype(np.uint32))


@dataclass(frozen=True)
class ItemMap:
    """n items in lexicographic SID order, ties by id: `codes` (n, levels) uint16, `retired` (n,)
    bool."""

    space: SidSpace
    ids: StringArray
    codes: Codes
    retired: NDArray[np.bool_]
    titles: StringArray | None = None
    stored_index: IdIndex | None = None

    @classmethod
    def of(
        cls, space: SidSpace, ids: Sequence[str], codes: Codes, titles: Sequence[str] | None = None
    ) -> "ItemMap":
        """Sort items given in any order.

        Raises DataError on an empty or repeated id, UsageError on a code off the space.
        """
        space.check(codes)
        if "" in ids:
            raise DataError(f"item {list(ids).index('')} has an empty id")
        if len(set(ids)) != len(ids):
            raise DataError(f"{len(ids) - len(set(ids))} item ids are given twice")
        order = _sid_order(space.pack(codes), ids)
        rows = order.tolist()
        return cls(
            space=space,
            ids=StringArray.of([ids[row] for row in rows]),
            codes=codes[order],
            retired=np.zeros(len(ids), dtype=np.bool_),
            titles=StringArray.of([titles[row] for row in rows])
            if titles is not None and any(titles)
            else None,
        )

    def __len__(self) -> int:
        return len(self.codes)

    @cached_property
    def keys(self) -> NDArray[np.uint64]:
        """(n,) uint64: packed SIDs, sorted."""
        return self.space.pack(self.codes)

    @cached_property
    def index(self) -> IdIndex:
        """The stored id index, or one built now."""
        return self.stored_index or IdIndex.of(self.ids)

    @property
    def n_active(self) -> int:
        """Number of items that are not retired."""
        return int(len(self) - self.retired.sum())

    def rows(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """(m,) int64: the row of each id, -1 where the map has none."""
        known = np.full(len(ids), -1, dtype=np.int64)
        asked = [position for position, text in enumerate(ids) if text]
        if not asked or not len(self):
            return known
        hashes = StringArray.of([ids[position] for position in asked]).hashes()
        starts = np.searchsorted(self.index.hashes, hashes, side="left")
        stops = np.searchsorted(self.index.hashes, hashes, side="right")
        for position, start, stop in zip(asked, starts.tolist(), stops.tolist(), strict=True):
            for row in self.index.rows[start:stop].tolist():  # one, but for hash collisions
                if self.ids[row] == ids[position]:
                    known[position] = row
        return known

    def row(self, item_id: str) -> int:
        """The row of one id. Raises DataError if the map has none."""
        row = int(self.rows([item_id])[0])
        if row < 0:
            raise DataError(f"no item {item_id!r} in this bundle")
        return row

    def rows_at(self, codes: Codes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(m, levels) codes -> first and stop, (m,) int64 each: rows first..stop-1 hold that SID
        (none where equal)."""
        keys = self.space.pack(codes)
        return np.searchsorted(self.keys, keys, side="left"), np.searchsorted(
            self.keys, keys, side="right"
        )

    def rows_under(self, prefix: Sequence[int]) -> tuple[int, int]:
        """First and stop row of the items whose SID starts with these codes."""
        low = list(prefix) + [0] * (self.space.levels - len(prefix))
        high = list(prefix) + [size - 1 for size in self.space.sizes[len(prefix) :]]
        (first, _), (_, stop) = (
            self.rows_at(np.array([codes], dtype=np.uint16)) for codes in (low, high)
        )
        return int(first[0]), int(stop[0])

    def title(self, row: int) -> str:
        """The title at a row, "" where the bundle keeps none."""
        return self.titles[row] if self.titles is not None else ""


def arrange(
    space: SidSpace,
    ids: Sequence[str],
    codes: Codes,
    titles: Sequence[str] | None,
    retired: NDArray[np.bool_],
) -> ItemMap:
    """An item map of n items in any order, (n,) `retired` among them. Raises as ItemMap.of does."""
    items = ItemMap.of(space, ids, codes, titles)
    flags = np.zeros(len(ids), dtype=np.bool_)
    flags[items.rows(ids)] = retired
    return replace(items, retired=flags, stored_index=items.index)


def _sid_order(keys: NDArray[np.uint64], ids: Sequence[str]) -> NDArray[np.int64]:
    """(n,) int64: rows sorted by key, equal keys by id. Python looks at those that share their key
    only."""
    order = np.argsort(keys, kind="stable")
    changes = np.flatnonzero(np.diff(keys[order]) != 0) + 1
    bounds = np.concatenate([[0], changes, [len(keys)]])
    for group in np.flatnonzero(np.diff(bounds) > 1):
        first, stop = bounds[group : group + 2]
        order[first:stop] = sorted(order[first:stop].tolist(), key=lambda row: ids[row])
    return order
