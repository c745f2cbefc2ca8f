"""The parts of a bundle's page that show items: the tree of the codebook, the items in a plane, and
which of an item's nearest items by vector are still near by SID."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sidtool.cli.reports.blocks import (
    Block,
    Details,
    Listing,
    Mark,
    Node,
    Scatter,
    Series,
    Table,
    named,
)
from sidtool.cli.reports.render import COLORS, cut
from sidtool.data import open_vectors
from sidtool.tokenizer import Example, TitleWords
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.codes import near_items, neighbor_preservation
from sidtool.tokenizer.sid import ItemRows

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
        position_of: dict[str, int] = {}
        positions = []
        for row in self.bundle.active.tolist():
            value = (self.values or {}).get(self.bundle.items.ids[row], "")
            positions.append(position_of.setdefault(value, len(position_of)) if value else -1)
        return tuple(position_of), np.array(positions, dtype=np.int64)

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
        sizes = stops - starts
        most_first = np.argsort(-sizes, kind="stable")
        width = len(starts) if self.is_whole else WIDTHS[min(depth, len(WIDTHS) - 1)]
        nodes = tuple(
            self._node(int(starts[child]), int(stops[child]), depth + 1)
            for child in most_first[:width]
        )
        hidden = most_first[width:]
        n_items = int(sizes[hidden].sum())
        left_out = f"and {len(hidden):,} more codes with {n_items:,} items" if n_items else ""
        return nodes, left_out

    def _node(self, first: int, stop: int, depth: int) -> Node:
        items, space = self.bundle.items, self.bundle.space
        rows = self.bundle.active[first:stop]
        n_items = stop - first
        children: tuple[Node, ...] = ()
        examples: tuple[Example, ...] = ()
        if depth < space.levels and n_items > LEAF:
            children, left_out = self._children(first, stop, depth)
        else:
            example_rows = (rows if self.is_whole else rows[:LEAF]).tolist()
            examples = tuple(
                Example(items.ids[row], space.spell(items.codes[row]), items.title(row))
                for row in example_rows
            )
            n_more = n_items - len(example_rows)
            left_out = f"and {n_more:,} more items" if n_more else ""
        return Node(
            space.spell(items.codes[rows[0], :depth].tolist()),
            n_items,
            self._words.terms(int(rows[0]), int(rows[-1]) + 1, TERMS) if n_items > 1 else (),
            *self._common_value(first, stop),
            children,
            examples,
            left_out,
        )

    def _common_value(self, first: int, stop: int) -> tuple[str, float]:
        """The most frequent value of the active items first..stop, and its share; "" without."""
        if self.values is None:
            return "", 0.0
        names, labels = self._labels
        inside = labels[first:stop]
        present, counts = np.unique(inside[inside >= 0], return_counts=True)
        if not len(present):
            return "", 0.0
        most = int(counts.argmax())
        return names[present[most]], float(counts[most] / counts.sum())


DRAWN = 2000
"""Most items that are drawn."""


def map_blocks(
    bundle: Bundle, values: Mapping[str, str] | None, field: str, suffix: str, *, seed: int = 0
) -> Iterator[Block]:
    """The two largest principal components of the reconstructed vectors of at most DRAWN active
    items, drawn with the seed; nothing without a codebook or with fewer than three items.

    The groups are the most frequent values of a field (item id -> value), or else codes of the
    first level; `suffix` ends the caption."""
    codebook = bundle.codebook
    rows = bundle.active
    if codebook is None or len(rows) < 3:
        return
    if len(rows) > DRAWN:
        drawn = np.random.default_rng(seed).choice(rows, DRAWN, replace=False)
        rows = ItemRows(np.sort(drawn))
    codes = bundle.items.codes[rows, : len(codebook.levels)]
    points, variance = principal_plane(codebook.reconstruct(codes))
    items = bundle.items
    labels = [cut(f"{items.ids[row]}: {items.title(row)}".rstrip(": ")) for row in rows.tolist()]
    if values is None:
        by = "codes of the first level"
        groups = [bundle.space.spell(items.codes[row, :1].tolist()) for row in rows.tolist()]
    else:
        by = f"values of {field}"
        groups = [values.get(items.ids[row], "") for row in rows.tolist()]
    yield (
        f"{len(rows):,} of {len(bundle.active):,} items, drawn at random where there are more; the "
        f"plane has {variance:.0%} of the variance of the vectors that the codes stand for. Colors "
        f"are the most frequent {by}."
    )
    series = grouped_points(points, labels, groups)
    yield Scatter(f"Items{suffix} by principal components", series)


def principal_plane(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float64], float]:
    """(n, dim) vectors -> (n, 2) coordinates on the two largest principal components, and their
    share of the variance."""
    centered = vectors.astype(np.float64)
    centered -= centered.mean(axis=0)
    # (dim, dim): the number of items can be large, the width of a codebook is not
    variances, directions = np.linalg.eigh(centered.T @ centered)
    plane = directions[:, ::-1][:, :2]
    # the sign of an eigenvector is arbitrary: the largest entry is positive
    largest = np.abs(plane).argmax(axis=0)
    plane = plane * np.sign(plane[largest, np.arange(plane.shape[1])])
    points = centered @ plane
    if points.shape[1] < 2:
        points = np.column_stack([points, np.zeros(len(points))])
    total = variances.sum()
    return points, float(variances[::-1][:2].sum() / total) if total > 0 else 1.0


def grouped_points(
    points: NDArray[np.float64], labels: list[str], groups: list[str]
) -> tuple[Series, ...]:
    """The points as one series per frequent group, most frequent first, and one of all others."""
    names, counts = np.unique([group for group in groups if group], return_counts=True)
    frequent = names[np.argsort(-counts, kind="stable")][: COLORS - 1].tolist()
    series = []
    for name in (*frequent, ""):
        rows = [
            row for row, group in enumerate(groups) if (group if group in frequent else "") == name
        ]
        if rows:
            places = tuple((float(points[row, 0]), float(points[row, 1])) for row in rows)
            point_labels = tuple(labels[row] for row in rows)
            series.append(Series(name or "all others", places, point_labels))
    return tuple(series)


QUERIES = 12
"""Items whose neighbors are shown."""
NEAREST = 10
"""Neighbors of each."""


def neighbor_blocks(
    bundle: Bundle, embeddings: str | Path, suffix: str, *, seed: int = 0
) -> Iterator[Block]:
    """What the SIDs of a bundle keep of the neighbors by the vectors in a file, measured and for a
    few items drawn with the seed; `suffix` ends the captions.

    Raises DataError if the file has no vector of an active item, and as `open_vectors`."""
    items = bundle.items
    ids = [items.ids[row] for row in bundle.active.tolist()]
    vectors = open_vectors(Path(embeddings), ids, by_row=False)
    if len(ids) < 2:
        yield f"Neighbors need two active items, there are {len(ids)}."
        return
    codes = items.codes[bundle.active]
    measured = neighbor_preservation(vectors, codes, bundle.codebook, seed=seed)
    rows = tuple(enumerate(measured.jaccard, 1))
    yield Table(f"Neighbors kept by the first codes{suffix}", ("codes", "Jaccard overlap"), rows)
    yield (
        f"Mean overlap of the {measured.k} nearest items by vector and by prefix, for "
        f"{measured.queries:,} items among {measured.pool:,}. Below are {QUERIES} items drawn at "
        f"random: an item's neighbor is kept if it is also among the {NEAREST} nearest by SID."
    )
    near = near_items(vectors, codes, bundle.codebook, queries=QUERIES, k=NEAREST, seed=seed)
    names = [named(items.ids[row], items.title(row)) for row in bundle.active[near.pool].tolist()]
    for query in range(len(near.cosines)):
        cosines, by_sid = near.cosines[query], near.by_sid[query]
        neighbors = np.flatnonzero(near.by_vector[query])
        neighbors = neighbors[np.argsort(-cosines[neighbors], kind="stable")]
        near_rows = tuple(
            (
                names[at],
                float(cosines[at]),
                int(near.shared_levels[query, at]),
                Mark("kept") if by_sid[at] else "lost",
            )
            for at in neighbors.tolist()
        )
        columns = ("nearest by vector", "cosine", "first codes shared", "by SID")
        blocks: list[Listing | Table] = [Table(f"Neighbors of {names[query]}", columns, near_rows)]
        others = np.flatnonzero(by_sid & ~near.by_vector[query]).tolist()
        if others:
            blocks.append(Listing("Near by SID instead:", tuple(names[at] for at in others)))
        share_preserved = f"{int(by_sid[neighbors].sum())} of {len(neighbors)} neighbors kept"
        yield Details(f"{names[query]}: {share_preserved}", tuple(blocks))
