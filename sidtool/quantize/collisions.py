"""What happens when several items get the same codes.

Knows raw codes, vectors and item ids; knows nothing of bundles. Nothing here depends on the order
of the items: ties go by item id. Sinkhorn re-encoding of a colliding group (LC-Rec, LETTER,
MiniOneRec) is not offered: it gives equal rows one code again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sidtool.data.vectors import VectorSource
from sidtool.errors import UsageError
from sidtool.quantize.codebook import Codebook
from sidtool.quantize.overflow import place_overflow
from sidtool.sid import MAX_CODES, Codes, Levels, Vectors

Policy = Literal["reassign", "append", "allow"]

FULLEST = 0.9
"""Share of a space that `reassign` fills at most: beyond it, most moves are far."""
PAIRS = 2048
"""Prefixes with one colliding pair that are settled at once."""
HEADROOM = 4
"""How many times the largest group an appended level holds, for items that come later."""


@dataclass(frozen=True)
class CollisionCounts:
    """Items that share their SID with another, the groups they form, and the size of the largest
    (1: no collision)."""

    items: int
    groups: int
    largest: int

    @classmethod
    def of(cls, codes: Codes) -> "CollisionCounts":
        """Count the collisions in (n, levels) codes."""
        _, sizes = _groups(codes)
        shared = sizes[sizes > 1]
        return cls(int(shared.sum()), len(shared), int(sizes.max(initial=0)))


@dataclass(frozen=True)
class Assigned:
    """Final codes, in the order of the items.

    `codes` is (n, levels) uint16, one level more than the raw codes under `append`; `space_sizes`
    are its level sizes; `moved` is (n,) bool: the items whose final code is not their nearest one.
    """

    codes: Codes
    space_sizes: tuple[int, ...]
    moved: NDArray[np.bool_]
    before: CollisionCounts
    after: CollisionCounts


def assign(
    raw: Codes,
    vectors: Vectors | VectorSource,
    codebook: Codebook,
    ids: Sequence[str],
    policy: Policy,
) -> Assigned:
    """Settle the collisions in (n, levels) raw codes of (n, dim) embeddings.

    `reassign`: in each colliding group one item keeps its code, and the others take free codes of
    the last level under the same prefix, at the least total squared distance. Where a prefix has
    more items than codes, the rest go to the nearest prefix with room, by `place_overflow`.
    `append`: one level more tells the items of a group apart, by id. `allow`: nothing. Raises
    UsageError if `reassign` would fill more than 90% of the space, or `append` needs too large a
    level."""
    if policy == "reassign":
        codes, sizes = _reassign(raw, VectorSource.of(vectors), codebook, ids), codebook.sizes
    elif policy == "append":
        codes, sizes = _append(raw, codebook.sizes, ids)
    else:
        codes, sizes = raw, codebook.sizes
    moved = (codes[:, : raw.shape[1]] != raw).any(axis=1)
    return Assigned(codes, sizes, moved, CollisionCounts.of(raw), CollisionCounts.of(codes))


def _groups(codes: Codes) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Rows sorted by codes, and the sizes of the runs of equal codes in that order."""
    order = np.lexsort(codes.T[::-1]) if codes.shape[1] else np.arange(len(codes))
    changes = (codes[order[1:]] != codes[order[:-1]]).any(axis=1)
    bounds = (
        np.flatnonzero(np.concatenate([[True], changes, [True]]))
        if len(codes)
        else np.zeros(1, dtype=np.intp)
    )
    return order, np.diff(bounds)


def _append(
    raw: Codes, sizes: tuple[int, ...], ids: Sequence[str]
) -> tuple[Codes, tuple[int, ...]]:
    order, runs = _groups(raw)
    capacity = 1 << (HEADROOM * int(runs.max(initial=1)) - 1).bit_length()  # the next power of two
    if capacity > MAX_CODES:
        raise UsageError(
            f"{int(runs.max())} items share one SID, and an appended level with room for later "
            f"items needs {capacity} "
            f"codes, more than {MAX_CODES}",
            hint="remove duplicate items, or use more or larger levels",
        )
    rank = np.zeros(len(raw), dtype=np.uint16)
    for start, size in zip((np.cumsum(runs) - runs)[runs > 1], runs[runs > 1], strict=True):
        rows = sorted(order[start : start + size], key=lambda row: ids[row])
        rank[rows] = np.arange(size)
    return np.column_stack([raw, rank]), (*sizes, capacity)


def _reassign(raw: Codes, source: VectorSource, codebook: Codebook, ids: Sequence[str]) -> Codes:
    _require_room(len(raw), Levels(codebook.sizes))
    codes = raw.copy()
    crowded = _Crowded.of(raw)
    spilled: list[int] = []
    for groups in crowded.batches(source.limit):
        rows = [crowded.colliding(group, ids) for group in groups]
        together = np.concatenate(rows)
        residuals = codebook.transform(source.take(together)) - codebook.decode(raw[together, :-1])
        starts = crowded.firsts[groups.start : groups.stop + 1] - crowded.firsts[groups.start]
        pairs = np.flatnonzero(np.diff(starts) == 2)
        for some in np.array_split(pairs, -(-len(pairs) // PAIRS)) if len(pairs) else ():
            at = starts[some][:, None] + np.arange(2)
            taken = crowded.taken(some + groups.start, raw[:, -1], codebook.sizes[-1])
            chosen = _assign_pairs(
                raw[together[at[:, 0]], -1], residuals[at], codebook.levels[-1], taken
            )
            codes[together[at], -1] = np.maximum(chosen, 0)
            spilled += together[at][chosen < 0].tolist()
        for group in np.flatnonzero(np.diff(starts) > 2).tolist():
            own, left = rows[group], residuals[starts[group] : starts[group + 1]]
            counts = np.bincount(
                raw[crowded.members(group + groups.start), -1], minlength=codebook.sizes[-1]
            )
            chosen = _assign_last(raw[own, -1], left, codebook.levels[-1], counts)
            codes[own, -1] = np.maximum(chosen, 0)
            spilled += own[chosen < 0].tolist()
    if spilled:
        spilled.sort(key=lambda row: ids[row])
        settled = np.ones(len(codes), dtype=bool)
        settled[spilled] = False
        codes[spilled] = place_overflow(
            codebook.transform(source.take(np.array(spilled))), codebook, codes[settled]
        )
    return codes


@dataclass(frozen=True)
class _Crowded:
    """The prefixes under which items collide: all that `reassign` must look at, found without
    looking at each group.

    `order` (n,) are rows sorted by codes; prefix group g lies at `bounds[g]` (g, 2) in it, and its
    colliding rows at `shared[firsts[g] : firsts[g + 1]]`."""

    order: NDArray[np.intp]
    bounds: NDArray[np.intp]
    shared: NDArray[np.intp]
    firsts: NDArray[np.intp]

    @classmethod
    def of(cls, raw: Codes) -> "_Crowded":
        order, runs = _groups(raw)
        places = np.flatnonzero(
            np.repeat(runs, runs) > 1
        )  # in the order, of rows that share their codes
        prefixes = raw[order, :-1]
        starts = np.flatnonzero(
            np.concatenate([[True], (prefixes[1:] != prefixes[:-1]).any(axis=1)])
        )
        group = np.searchsorted(starts, places, side="right") - 1
        firsts = np.flatnonzero(np.diff(group, prepend=-1))
        lies = np.stack([starts, np.append(starts[1:], len(raw))], axis=1)
        return cls(order, lies[group[firsts]], order[places], np.append(firsts, len(places)))

    def batches(self, rows: int) -> Iterator[range]:
        """Runs of groups that have at most so many colliding rows together (one group at least)."""
        start, groups = 0, len(self.bounds)
        while start < groups:
            stop = int(np.searchsorted(self.firsts, self.firsts[start] + rows, side="right")) - 1
            yield range(start, max(stop, start + 1))
            start = max(stop, start + 1)

    def members(self, group: int) -> NDArray[np.intp]:
        """All rows of a group."""
        first, stop = self.bounds[group]
        return self.order[first:stop]

    def taken(
        self, groups: NDArray[np.intp], last: NDArray[np.uint16], size: int
    ) -> NDArray[np.bool_]:
        """(g, size) bool: which last-level codes the rows of each group have."""
        lengths = np.diff(self.bounds[groups], axis=1)[:, 0]
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        members = self.order[np.repeat(self.bounds[groups, 0], lengths) + within]
        found = np.zeros((len(groups), size), dtype=bool)
        found[np.repeat(np.arange(len(groups)), lengths), last[members]] = True
        return found

    def colliding(self, group: int, ids: Sequence[str]) -> NDArray[np.intp]:
        """Its rows that share their codes, sorted by id."""
        rows = self.shared[self.firsts[group] : self.firsts[group + 1]].tolist()
        return np.array(sorted(rows, key=lambda row: ids[row]), dtype=np.intp)


def _require_room(items: int, space: Levels) -> None:
    if items <= FULLEST * space.capacity:
        return
    sizes = space.sizes
    while items > FULLEST * int(np.prod(np.array(sizes, dtype=object))):
        sizes = (*sizes, max(2, sizes[-1]))
    raise UsageError(
        f"{items} items would fill {items / space.capacity:.0%} of the {space.capacity} "
        "semantic IDs of "
        f"{space.spelled_sizes}, more than {FULLEST:.0%}",
        hint=f"levels {'x'.join(map(str, sizes))} would do",
    )


def _assign_pairs(
    own: NDArray[np.uint16], residuals: Vectors, centroids: Vectors, taken: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """What `_assign_last` gives where a prefix has one pair of colliding items, for g prefixes at
    once.

    `own` (g,) is the code that both items have, `residuals` (g, 2, width) stand in the order of
    their ids, `taken` (g, K) says which codes the prefix has in use. (g, 2) codes: either the first
    stays and the second goes to the free code nearest to it, or the other way round, whichever is
    less far in all; -1 where no code is free."""
    groups = np.arange(len(own))
    costs = _squared_distances(residuals.reshape(2 * len(own), -1), centroids).reshape(
        len(own), 2, -1
    )
    stay = costs[groups, :, own]  # (g, 2)
    costs[np.broadcast_to(taken[:, None], costs.shape)] = np.inf
    free, away = costs.argmin(axis=2), costs.min(axis=2)
    full = np.isinf(away[:, 0])
    away[full] = 0
    equal = (residuals[:, 0] == residuals[:, 1]).all(axis=1)
    mover = np.where(equal | (stay[:, 0] + away[:, 1] <= stay[:, 1] + away[:, 0]), 1, 0)
    chosen = np.repeat(own.astype(np.int64)[:, None], 2, axis=1)
    chosen[groups, mover] = np.where(full, -1, free[groups, mover])
    return chosen


def _assign_last(
    own: NDArray[np.uint16], residuals: Vectors, centroids: Vectors, counts: NDArray[np.intp]
) -> NDArray[np.int64]:
    """Last-level codes for the m colliding items of one prefix, -1 where the prefix has no code
    left.

    `own` (m,) are their raw codes and `residuals` (m, width) what the prefix leaves of them, both
    sorted by id; `counts` (K,) says how many items of the prefix have each raw code. One item in
    each group keeps its code, which makes the fewest moves; who keeps and where the others go is
    the assignment of least total squared distance."""
    from scipy.optimize import linear_sum_assignment

    columns = np.flatnonzero((counts == 0) | (counts > 1))
    stays = own[:, None] == columns
    costs = _whole_numbers(_squared_distances(residuals, centroids[columns]))
    costs -= np.where(
        stays, costs.max() * (len(own) + 1) + 1, 0
    )  # keeping a code outweighs all distances
    costs[~stays & (counts[columns] > 1)] = np.inf  # nobody takes the code of another group
    rows, places = linear_sum_assignment(costs)
    chosen = np.full(len(own), -1, dtype=np.int64)
    chosen[rows] = columns[places]
    for equal in _equal_rows(own, residuals):
        wishes = dict(zip(columns.tolist(), costs[equal[0]].tolist(), strict=True))
        chosen[equal] = sorted(
            chosen[equal].tolist(), key=lambda code: (wishes.get(code, np.inf), code)
        )
    return chosen


def _squared_distances(rows: Vectors, centroids: Vectors) -> NDArray[np.float64]:
    """(m, width), (K, width) -> (m, K) float64."""
    left, right = rows.astype(np.float64), centroids.astype(np.float64)
    distances = (
        np.square(left).sum(axis=1)[:, None] + np.square(right).sum(axis=1) - 2 * left @ right.T
    )
    return np.maximum(distances, 0)


def _whole_numbers(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distances in units so small that m of them stand beside m rewards for keeping, and sums are
    exact below 2**53."""
    bits = 52 - 2 * (len(distances) + 1).bit_length()
    return np.rint(distances * (2.0**bits / max(float(distances.max()), np.finfo(np.float64).tiny)))


def _equal_rows(own: NDArray[np.uint16], residuals: Vectors) -> list[list[int]]:
    """Groups of items that nothing but their ids tells apart, each sorted by id."""
    groups: dict[tuple[int, bytes], list[int]] = {}
    for row, (code, residual) in enumerate(zip(own.tolist(), residuals, strict=True)):
        groups.setdefault((code, residual.tobytes()), []).append(row)
    return [rows for rows in groups.values() if len(rows) > 1]
