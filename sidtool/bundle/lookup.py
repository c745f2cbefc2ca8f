"""A few items of a large bundle: the part of its item map that holds certain SIDs or ids, without
reading the rest.

Knows the sparse index, one entry for each block of rows; knows nothing of how arrays lie in
objects. A part of an item map is an item map, so whoever asks works on it as on the whole."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.bundle.arrays import Span, StoredArrays
from sidtool.bundle.item_map import BLOCK, ItemMap
from sidtool.bundle.strings import StringArray
from sidtool.sid import Codes, SidSpace

FEW = 64
"""Look-ups in blocks after which reading the whole map is the shorter way."""

NEEDED = ("index/sid_first", "index/id_hash_first", "index/id_hash", "index/id_row")
"""Arrays without which there are no look-ups in blocks: older bundles, or another writer's, may
lack them."""


class Lookup:
    """Look-ups in stored arrays; the sparse index is read at the first one and kept."""

    def __init__(self, arrays: StoredArrays, space: SidSpace, items: int) -> None:
        self._arrays, self._space, self._items = arrays, space, items

    def holders(self, codes: Codes) -> ItemMap:
        """(m, levels) -> the items that hold one of these SIDs, retired ones too."""
        asked = np.unique(self._space.pack(codes))
        spans = _blocks(self._sid_first, asked, self._items)
        rows = [
            first + np.flatnonzero(np.isin(self._space.pack(block), asked))
            for (first, _), block in zip(spans, self._arrays.parts("items/sid", spans), strict=True)
        ]
        return self._take(rows)

    def named(self, ids: Sequence[str]) -> ItemMap:
        """The items with these ids, and any whose id has the same hash."""
        asked = np.unique(StringArray.of([text for text in ids if text]).hashes())
        spans = _blocks(self._id_hash_first, asked, self._items)
        found = [
            first + np.flatnonzero(np.isin(block, asked))
            for (first, _), block in zip(
                spans, self._arrays.parts("index/id_hash", spans), strict=True
            )
        ]
        return self._take(self._arrays.parts("index/id_row", _runs(found)))

    def _take(self, rows: Iterable[NDArray[Any]]) -> ItemMap:
        """The rows of the item map that are named, in order."""
        runs = _runs(rows)
        return ItemMap(
            space=self._space,
            ids=self._strings("items/id", runs),
            codes=_join(
                self._arrays.parts("items/sid", runs),
                np.empty((0, self._space.levels), dtype=np.uint16),
            ),
            retired=_join(self._arrays.parts("items/retired", runs), np.empty(0, dtype=np.bool_)),
            titles=self._strings("items/title", runs)
            if "items/title_offset" in self._arrays
            else None,
        )

    def _strings(self, name: str, runs: Sequence[Span]) -> StringArray:
        offsets = self._arrays.parts(f"{name}_offset", [(first, stop + 1) for first, stop in runs])
        data = self._arrays.parts(f"{name}_bytes", [(int(own[0]), int(own[-1])) for own in offsets])
        lengths = [np.zeros(1, dtype=np.int64), *(np.diff(own) for own in offsets)]
        return StringArray(
            _join(data, np.empty(0, dtype=np.uint8)), np.cumsum(np.concatenate(lengths))
        )

    @cached_property
    def _sid_first(self) -> NDArray[np.uint64]:
        return self._space.pack(self._arrays["index/sid_first"])

    @cached_property
    def _id_hash_first(self) -> NDArray[np.uint64]:
        return self._arrays["index/id_hash_first"]


def _blocks(firsts: NDArray[np.uint64], asked: NDArray[np.uint64], n: int) -> list[Span]:
    """The blocks of n sorted values in which those asked for may lie; `firsts` holds each block's
    first value."""
    low = np.maximum(np.searchsorted(firsts, asked, side="left") - 1, 0)
    high = np.searchsorted(firsts, asked, side="right")
    blocks = np.unique(
        np.concatenate([np.arange(*pair) for pair in zip(low, high, strict=True)] or [low])
    )
    return [(int(block) * BLOCK, min(int(block + 1) * BLOCK, n)) for block in blocks]


def _runs(rows: Iterable[NDArray[Any]]) -> list[Span]:
    """Rows, in any order and with repeats, as runs of neighbors."""
    every = np.unique(_join(list(rows), np.empty(0, dtype=np.int64)).astype(np.int64))
    cuts = np.flatnonzero(np.diff(every) > 1) + 1
    return [(int(run[0]), int(run[-1]) + 1) for run in np.split(every, cuts) if len(run)]


def _join(parts: Sequence[NDArray[Any]], nothing: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate(parts) if len(parts) else nothing
