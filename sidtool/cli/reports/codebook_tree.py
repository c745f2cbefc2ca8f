"""The tree of a codebook: which items are below each code, and what they have in common."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.cli.reports.blocks import CommonValue, Node
from sidtool.tokenizer import Example, TitleWords
from sidtool.tokenizer.bundle import Bundle

WHOLE = 2000
"""A tree of at most so many items has all of them."""
WIDTHS = (64, 8, 3, 2)
"""Codes below a prefix in a larger tree, per level; the last one holds for all deeper levels."""
LEAF = 4
"""A prefix with at most so many items lists them; so many are also listed of a full SID."""
TERMS = 4


@dataclass(frozen=True, eq=False)
class CodebookTree:
    """A bundle, and the values of one field of its items, if any.

    The same numbers are computed for every prefix as `explain` has of one."""

    bundle: Bundle
    values: Mapping[str, str] | None = None
    """Item id -> value; an item without one is not in it or has an empty one."""

    @cached_property
    def _words(self) -> TitleWords:
        return TitleWords.of(self.bundle.items)

    @cached_property
    def _labels(self) -> tuple[tuple[str, ...], NDArray[np.int64]]:
        """The distinct values, and (n_active,) the position of each item's value; -1 without."""
        number_of: dict[str, int] = {}
        labels = []
        for row in self.bundle.active.tolist():
            value = (self.values or {}).get(self.bundle.items.ids[row], "")
            labels.append(number_of.setdefault(value, len(number_of)) if value else -1)
        return tuple(number_of), np.array(labels, dtype=np.int64)

    @property
    def is_whole(self) -> bool:
        """Whether the tree has every item."""
        return len(self.bundle.active) <= WHOLE

    def nodes(self) -> tuple[Node, ...]:
        """The nodes of the first level, most items first; none if every item is retired."""
        if not len(self.bundle.active):
            return ()
        return self._children(0, len(self.bundle.active), 0)[0]

    def _children(self, first: int, stop: int, depth: int) -> tuple[tuple[Node, ...], str]:
        """The nodes below the active items first..stop, which share `depth` codes, and what is left
        out."""
        codes = self.bundle.items.codes[self.bundle.active[first:stop], depth]
        is_start = np.concatenate([[True], codes[1:] != codes[:-1]])
        starts = first + np.flatnonzero(is_start)  # (children,)
        stops = np.append(starts[1:], stop)
        most_first = np.argsort(starts - stops, kind="stable")
        width = len(starts) if self.is_whole else WIDTHS[min(depth, len(WIDTHS) - 1)]
        nodes = tuple(
            self._node(int(starts[child]), int(stops[child]), depth + 1)
            for child in most_first[:width]
        )
        hidden = most_first[width:]
        n_items = int((stops[hidden] - starts[hidden]).sum())
        left_out = f"and {len(hidden):,} more codes with {n_items:,} items" if n_items else ""
        return nodes, left_out

    def _node(self, first: int, stop: int, depth: int) -> Node:
        rows = self.bundle.active[first:stop]
        prefix = self.bundle.space.spell(self.bundle.items.codes[rows[0], :depth].tolist())
        n_items = stop - first
        described: dict[str, Any] = {"common": self._common_value(first, stop)}
        if n_items > 1:
            described["terms"] = self._words.terms(int(rows[0]), int(rows[-1]) + 1, TERMS)
        if depth < self.bundle.space.levels and n_items > LEAF:
            children, left_out = self._children(first, stop, depth)
            return Node(prefix, n_items, children=children, left_out=left_out, **described)
        example_rows = rows if self.is_whole else rows[:LEAF]
        n_more = n_items - len(example_rows)
        left_out = f"and {n_more:,} more items" if n_more else ""
        examples = tuple(map(self._example, example_rows.tolist()))
        return Node(prefix, n_items, examples=examples, left_out=left_out, **described)

    def _example(self, row: int) -> Example:
        items = self.bundle.items
        return Example(items.ids[row], self.bundle.space.spell(items.codes[row]), items.title(row))

    def _common_value(self, first: int, stop: int) -> CommonValue | None:
        if self.values is None:
            return None
        names, labels = self._labels
        inside = labels[first:stop]
        present, counts = np.unique(inside[inside >= 0], return_counts=True)
        if not len(present):
            return None
        most = int(counts.argmax())
        return CommonValue(names[present[most]], float(counts[most] / counts.sum()))
