"""Assignment of final codes to items with the same raw codes.

The result does not depend on the order of the items: ties go by item id. Sinkhorn re-encoding of a
colliding group (LC-Rec, LETTER, MiniOneRec) is not offered: it gives equal rows one code again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, UsageError
from sidtool.data import Vectors, VectorSource
from sidtool.tokenizer.codes.overflow import place_overflow
from sidtool.tokenizer.codes.report import Assigned, CollisionCounts, Policy, equal_rows
from sidtool.tokenizer.quantize.codebook import Codebook
from sidtool.tokenizer.sid import MAX_CODES, Codes, Levels

MAX_FILLED = 0.9
"""Largest share of all SIDs that `reassign` uses: beyond it, most items move far."""
PAIRS = 2048
"""Prefixes with one colliding pair that are resolved at once."""
HEADROOM = 4
"""An appended level holds this many times the largest group, for later items."""


def assign(
    raw: Codes,
    vectors: Vectors | VectorSource,
    codebook: Codebook,
    ids: Sequence[str],
    policy: Policy,
) -> Assigned:
    """Resolve the collisions in (n, levels) raw codes of (n, dim) embeddings.

    `reassign`: in each colliding group one item keeps its code, and the others take free codes of
    the last level under the same prefix, at the least total squared distance. If a prefix has more
    items than codes, the rest go to the nearest prefix with free codes (`place_overflow`).
    `append`: one more level distinguishes the items of a group, in the order of their ids. `allow`:
    nothing changes. Raises UsageError if `reassign` has collisions to resolve and would use more
    than 90% of all SIDs, or if `append` needs too large a level."""
    sizes = codebook.sizes
    if policy == "reassign":
        codes = _reassign(raw, VectorSource.of(vectors), codebook, ids)
    elif policy == "append":
        codes, sizes = _append(raw, sizes, ids)
    else:
        codes = raw
    reassigned = (codes[:, : raw.shape[1]] != raw).any(axis=1)
    return Assigned(codes, sizes, reassigned, CollisionCounts.of(raw), CollisionCounts.of(codes))


def _append(
    raw: Codes, sizes: tuple[int, ...], ids: Sequence[str]
) -> tuple[Codes, tuple[int, ...]]:
    order, runs = equal_rows(raw)
    largest = int(runs.max(initial=1))
    capacity = 1 << (HEADROOM * largest - 1).bit_length()  # the next power of two
    if capacity > MAX_CODES:
        raise UsageError(
            f"{largest} items share one SID, and an appended level with room for later items needs "
            f"{capacity} codes, more than {MAX_CODES}",
            hint="remove duplicate items, or use more or larger levels",
        )
    rank = np.zeros(len(raw), dtype=np.uint16)
    starts = np.cumsum(runs) - runs
    is_shared = runs > 1
    for start, size in zip(starts[is_shared], runs[is_shared], strict=True):
        rows = sorted(order[start : start + size], key=lambda row: ids[row])
        rank[rows] = np.arange(size)
    return np.column_stack([raw, rank]), (*sizes, capacity)


def _reassign(raw: Codes, source: VectorSource, codebook: Codebook, ids: Sequence[str]) -> Codes:
    order, runs = equal_rows(raw)
    if runs.max(initial=1) == 1:
        return raw
    require_capacity(len(raw), Levels(codebook.sizes))
    parts = _colliding_groups(raw, order, runs, ids, source.limit)
    rows = np.concatenate([part.rows for part in parts])
    codes_of_parts = dict(source.run(partial(_open_choosing, codebook, source), parts))
    # -1: the prefix is full
    last_codes = np.concatenate([codes_of_parts[index] for index in range(len(parts))])
    del codes_of_parts
    codes = raw.copy()
    codes[rows, -1] = np.maximum(last_codes, 0)
    overflow = sorted(rows[last_codes < 0].tolist(), key=lambda row: ids[row])
    if overflow:
        settled = np.ones(len(codes), dtype=np.bool_)
        settled[overflow] = False
        latent = codebook.transform(source.take(np.array(overflow)))
        codes[overflow] = place_overflow(latent, codebook, codes[settled])
    return codes


@dataclass(frozen=True)
class Groups:
    """The m colliding items of g prefixes, whose last codes are chosen together."""

    rows: NDArray[np.int64]
    """(m,) by prefix, then by id"""
    raw: Codes
    """(m, levels) their nearest codes"""
    n_colliding: NDArray[np.intp]
    """(g,) colliding items of each prefix"""
    last_codes: NDArray[np.uint16]
    """The nearest last codes of all items of each prefix"""
    n_items: NDArray[np.intp]
    """(g,) items of each prefix"""


def _colliding_groups(
    raw: Codes, order: NDArray[np.intp], runs: NDArray[np.intp], ids: Sequence[str], limit: int
) -> list[Groups]:
    """The colliding items: of as many prefixes at once as have up to `limit` of them, at least one.
    `order` sorts all items by their raw codes, and `runs` are how many have equal ones there
    (`equal_rows`)."""
    # all items of prefix p are order[bounds[p] : bounds[p + 1]]
    prefixes = raw[order, :-1]
    changes = (prefixes[1:] != prefixes[:-1]).any(axis=1)
    bounds = np.flatnonzero(np.concatenate([[True], changes, [True]]))
    # group g is the colliding items of prefix group_prefixes[g]: rows[firsts[g] : firsts[g + 1]]
    colliding = np.flatnonzero(np.repeat(runs, runs) > 1)  # positions in `order`
    row_prefixes = np.searchsorted(bounds, colliding, side="right") - 1
    firsts = np.flatnonzero(np.diff(row_prefixes, prepend=-1))
    group_prefixes = row_prefixes[firsts]
    firsts = np.append(firsts, len(colliding))
    rows = order[colliding]
    for first, stop in pairwise(firsts.tolist()):
        rows[first:stop] = sorted(rows[first:stop].tolist(), key=lambda row: ids[row])
    parts = []
    group = 0
    while group < len(group_prefixes):
        within_limit = np.searchsorted(firsts, firsts[group] + limit, side="right") - 1
        stop = max(int(within_limit), group + 1)
        part_rows = rows[firsts[group] : firsts[stop]]
        members = [order[bounds[p] : bounds[p + 1]] for p in group_prefixes[group:stop].tolist()]
        n_colliding = np.diff(firsts[group : stop + 1])
        n_items = np.array([*map(len, members)])
        last_codes = raw[np.concatenate(members), -1]
        parts.append(Groups(part_rows, raw[part_rows], n_colliding, last_codes, n_items))
        group = stop
    return parts


def _open_choosing(codebook: Codebook, source: VectorSource) -> Callable[[Groups], NDArray[Any]]:
    """What reads the vectors of the colliding items of groups, and chooses their last codes."""
    return partial(_choose_last_codes, codebook, source)


def check_levels(items: int, levels: Levels, policy: Policy) -> None:
    """Raise what follows from the number of items alone: DataError if a level has more codes,
    UsageError if `reassign` has fewer SIDs."""
    largest = max(levels.sizes)
    if items < largest:
        raise DataError(
            f"{items} items have at most {items} distinct vectors, and a level has {largest} codes",
            hint=f"choose levels of at most {items} codes",
        )
    if policy == "reassign" and items > levels.capacity:
        require_capacity(items, levels)  # some collide


def require_capacity(items: int, levels: Levels) -> None:
    """Raise UsageError if `reassign` would use more than 90% of all SIDs for colliding items."""
    if items <= MAX_FILLED * levels.capacity:
        return
    sizes = levels.sizes
    largest = max(sizes)  # there are as many distinct vectors, perhaps no more
    hint = "the collision policy append gives equal items different semantic IDs"
    if largest > 1:
        while items > MAX_FILLED * prod(sizes):
            sizes = (*sizes, largest)
        hint = f"levels {'x'.join(map(str, sizes))} have room"
    raise UsageError(
        f"{items} items would fill {items / levels.capacity:.0%} of the {levels.capacity} semantic "
        f"IDs of {levels.spelled_sizes}, more than {MAX_FILLED:.0%}",
        hint=hint,
    )


def _choose_last_codes(
    codebook: Codebook, source: VectorSource, groups: Groups
) -> NDArray[np.int64]:
    """(m,) last codes for the m colliding items of some groups, by their nearest ones and their
    residuals; -1 if the prefix has none left."""
    prefixes, nearest = groups.raw[:, :-1], groups.raw[:, -1]
    residuals = codebook.transform(source.take(groups.rows)) - codebook.decode(prefixes)
    centroids = codebook.levels[-1]
    # one array per prefix, of all its items
    last_codes = np.split(groups.last_codes, np.cumsum(groups.n_items)[:-1])
    sizes = groups.n_colliding
    codes = np.empty(len(nearest), dtype=np.int64)
    starts = np.cumsum(sizes) - sizes

    def counts(group: int) -> NDArray[np.intp]:
        return np.bincount(last_codes[group], minlength=len(centroids))

    pairs = np.flatnonzero(sizes == 2)
    n_batches = -(-len(pairs) // PAIRS)  # rounded up
    for batch in np.array_split(pairs, n_batches) if n_batches else ():
        pair_rows = starts[batch][:, None] + np.arange(2)  # (pairs, 2)
        in_use = np.stack([counts(group) > 0 for group in batch.tolist()])
        codes[pair_rows] = assign_pairs(
            nearest[pair_rows[:, 0]], residuals[pair_rows], centroids, in_use
        )
    for group in np.flatnonzero(sizes > 2).tolist():
        span = slice(starts[group], starts[group] + sizes[group])
        codes[span] = assign_group(nearest[span], residuals[span], centroids, counts(group))
    return codes


def assign_pairs(
    nearest: NDArray[np.uint16], residuals: Vectors, centroids: Vectors, in_use: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """What `assign_group` gives for prefixes with one colliding pair, for g prefixes at once.

    `nearest` (g,) is the code of both items, `residuals` (g, 2, width) are in the order of their
    ids, `in_use` (g, K) says which codes of the prefix are taken. Returns (g, 2) codes: one item
    stays and the other moves to its nearest free code, whichever has the least total distance; -1
    if no code is free."""
    groups = np.arange(len(nearest))
    distances = squared_distances(residuals.reshape(2 * len(nearest), -1), centroids)
    costs = np.maximum(distances, 0).reshape(len(nearest), 2, -1)  # (g, 2, K)
    stay_costs = costs[groups, :, nearest]  # (g, 2)
    # both rows of a pair see the same codes as taken
    costs[np.broadcast_to(in_use[:, None], costs.shape)] = np.inf
    free_codes = costs.argmin(axis=2)  # (g, 2): the nearest one of each
    move_costs = costs.min(axis=2)
    is_full = np.isinf(move_costs[:, 0])
    move_costs[is_full] = 0  # no code is free: the nearer item stays
    is_equal = (residuals[:, 0] == residuals[:, 1]).all(axis=1)
    second_moves = stay_costs[:, 0] + move_costs[:, 1] <= stay_costs[:, 1] + move_costs[:, 0]
    mover = np.where(is_equal | second_moves, 1, 0)
    codes = np.repeat(nearest.astype(np.int64)[:, None], 2, axis=1)
    codes[groups, mover] = np.where(is_full, -1, free_codes[groups, mover])
    return codes


def assign_group(
    nearest: NDArray[np.uint16], residuals: Vectors, centroids: Vectors, counts: NDArray[np.intp]
) -> NDArray[np.int64]:
    """(m,) last codes for the m colliding items of one prefix; -1 if the prefix has none left.

    `nearest` (m,) are their raw codes and `residuals` (m, width) what the prefix leaves of them,
    both sorted by id; `counts` (K,) says how many items of the prefix have each raw code. One item
    per raw code keeps it, which makes the fewest moves; which one, and where the others go, is the
    assignment of least total squared distance."""
    from scipy.optimize import linear_sum_assignment

    columns = np.flatnonzero((counts == 0) | (counts > 1))
    keeps = nearest[:, None] == columns
    distances = np.maximum(squared_distances(residuals, centroids[columns]), 0)
    # in a unit so small that m distances and m rewards add up exactly, below 2**53
    bits = 52 - 2 * (len(distances) + 1).bit_length()
    largest = float(distances.max()) or 1.0  # 0 if all centroids are equal, and all residuals
    costs = np.rint(distances * (2.0**bits / largest))
    reward = costs.max() * (len(nearest) + 1) + 1  # keeping a code outweighs all distances
    costs -= np.where(keeps, reward, 0)
    costs[~keeps & (counts[columns] > 1)] = np.inf  # the code of another colliding pair
    rows, positions = linear_sum_assignment(costs)
    codes = np.full(len(nearest), -1, dtype=np.int64)
    codes[rows] = columns[positions]
    # duplicates are interchangeable for the solver: the cheaper codes go to the lower ids
    duplicates: dict[tuple[int, bytes], list[int]] = {}
    for row, (code, residual) in enumerate(zip(nearest.tolist(), residuals, strict=True)):
        duplicates.setdefault((code, residual.tobytes()), []).append(row)
    for duplicate_rows in duplicates.values():
        if len(duplicate_rows) == 1:
            continue
        cost_by_code = dict(zip(columns.tolist(), costs[duplicate_rows[0]].tolist(), strict=True))
        by_cost = [
            (cost_by_code.get(code, np.inf), code) for code in codes[duplicate_rows].tolist()
        ]
        codes[duplicate_rows] = [code for _, code in sorted(by_cost)]
    return codes


def squared_distances(rows: Vectors, centroids: Vectors) -> NDArray[np.float64]:
    """(m, width), (K, width) -> (m, K) float64; rounding may leave values just below 0."""
    left = rows.astype(np.float64)
    right = centroids.astype(np.float64)
    lengths = np.square(left).sum(axis=1)[:, None] + np.square(right).sum(axis=1)
    return lengths - 2 * left @ right.T
