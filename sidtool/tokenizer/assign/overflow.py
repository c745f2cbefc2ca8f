"""The overflow rule: free semantic IDs for items whose nearest one is taken.

A prefix is a SID without its last code. In each round every waiting row picks its nearest prefix
that has free SIDs, and each prefix accepts the nearest of its rows (ties by row) until it is full.
Under each prefix the nearest row then takes the nearest free last code first.
"""

from collections.abc import Iterator
from itertools import pairwise
from math import prod

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import RefusedError
from sidtool.data import Vectors
from sidtool.tokenizer.assign import prefix_search
from sidtool.tokenizer.assign.prefix_search import (
    CANDIDATES,
    FreeSids,
    PrefixSearch,
    low_bits,
    ranks,
    runs,
)
from sidtool.tokenizer.quantize.codebook import Codebook
from sidtool.tokenizer.sid import Codes, Keys, Levels


def place_new_items(vectors: Vectors, codebook: Codebook, taken: Codes) -> Codes:
    """(n, dim) embeddings of new items -> (n, levels) free codes, all different.

    An item whose nearest SID is free gets it (the first of several such items). All others are
    placed together by `place_overflow`, so one batch may get other codes than the same items in
    several batches. `taken` are the SIDs in use, each once. Raises RefusedError if there are fewer
    free SIDs than items.
    """
    levels = Levels(codebook.sizes)
    require_free(codebook, taken, len(vectors))
    codes = codebook.encode(vectors)
    keys = levels.pack(codes)
    _, first_of_each = np.unique(keys, return_index=True)
    settled = np.zeros(len(keys), dtype=np.bool_)
    settled[first_of_each] = True
    settled &= ~np.isin(keys, levels.pack(taken))
    if not settled.all():
        latent = codebook.transform(vectors[~settled])
        in_use = np.concatenate([taken, codes[settled]])
        codes[~settled] = place_overflow(latent, codebook, in_use)
    return codes


def place_overflow(latent: Vectors, codebook: Codebook, taken: Codes) -> Codes:
    """(n, width) rows in the space of the centroids -> (n, levels) free codes, all different.

    `taken` are the SIDs in use, each once. Ties go to the earlier row. Raises RefusedError if there
    are fewer free SIDs than rows.
    """
    levels = Levels(codebook.sizes)
    require_free(codebook, taken, len(latent))
    keys = np.sort(levels.pack(taken))
    first_code = codebook.params.first_code
    search = PrefixSearch(codebook.levels, levels.key_bits, first_code)
    free = FreeSids(levels, keys, first_code)
    prefixes, distances = _choose_prefixes(latent, search, free)
    return _choose_last_codes(latent, codebook, keys, prefixes, distances)


def require_free(codebook: Codebook, taken: Codes, count: int) -> None:
    """Raise RefusedError if fewer than `count` SIDs are free besides those in `taken`."""
    capacity = prod(size - codebook.params.first_code for size in codebook.sizes)
    if len(taken) + count > capacity:
        raise RefusedError(
            f"{len(taken)} of {capacity} semantic IDs are taken, and {count} items need one",
            hint="build a codebook with more levels",
        )


def _choose_prefixes(
    latent: Vectors, search: PrefixSearch, free: FreeSids
) -> tuple[Keys, NDArray[np.float32]]:
    """(n,) prefixes, none with more rows than free SIDs, and the squared distances to them."""
    prefixes = np.zeros(len(latent), dtype=np.uint64)
    distances = np.zeros(len(latent), dtype=np.float32)
    candidates = _Candidates(latent, search, free)
    waiting = np.arange(len(latent))
    while len(waiting):
        nearest, costs = candidates.nearest(waiting)
        order = np.lexsort((costs, nearest))  # by prefix, then distance; stable: ties by row
        distinct, applicants = runs(nearest[order])
        accepted = np.minimum(free.count(distinct), applicants)
        free.take(distinct, accepted)
        # in each prefix the nearest applicants win
        winners = order[ranks(applicants) < np.repeat(accepted, applicants)]
        prefixes[waiting[winners]] = nearest[winners]
        distances[waiting[winners]] = costs[winners]
        waiting = np.delete(waiting, winners)
    return prefixes, distances


class _Candidates:
    """The nearest prefixes of each row, searched again when all that are stored have filled up."""

    def __init__(self, latent: Vectors, search: PrefixSearch, free: FreeSids) -> None:
        self._latent = latent
        self._search = search
        self._free = free
        self._prefixes = np.zeros((len(latent), CANDIDATES), dtype=np.uint64)
        # the extra column stays inf: the end of the list
        self._distances = np.full((len(latent), CANDIDATES + 1), np.inf, dtype=np.float32)
        self._next = np.zeros(len(latent), dtype=np.intp)

    def nearest(self, rows: NDArray[np.intp]) -> tuple[Keys, NDArray[np.float32]]:
        """The nearest prefix with free SIDs of each row, and the squared distance to it."""
        unresolved = rows
        while len(unresolved):
            at_end = np.isinf(self._distances[unresolved, self._next[unresolved]])
            self._search_again(unresolved[at_end])
            prefixes = self._prefixes[unresolved, self._next[unresolved]]
            unresolved = unresolved[self._free.count(prefixes) == 0]
            self._next[unresolved] += 1
        column = self._next[rows]
        return self._prefixes[rows, column], self._distances[rows, column]

    def _search_again(self, rows: NDArray[np.intp]) -> None:
        if not len(rows):
            return
        full = self._free.full_prefixes()
        for batch in np.array_split(rows, -(-len(rows) // self._search.batch)):
            prefixes, distances = self._search.nearest(self._latent[batch], full)
            self._prefixes[batch] = prefixes
            self._distances[batch, :CANDIDATES] = distances
        self._next[rows] = 0


def _choose_last_codes(
    latent: Vectors,
    codebook: Codebook,
    taken: Keys,
    prefixes: Keys,
    distances: NDArray[np.float32],
) -> Codes:
    """(n, levels) codes: under each prefix the nearest row takes its nearest free last code first.

    `taken` are sorted keys, `distances` those of the rows to their prefixes; ties go by row.
    """
    levels = Levels(codebook.sizes)
    last = codebook.levels[-1].astype(np.float64)
    order = np.lexsort((distances, prefixes))
    groups, counts = runs(prefixes[order])
    codes = np.empty((len(latent), levels.levels), dtype=np.uint16)
    codes[order] = levels.unpack(prefixes[order] << np.uint64(levels.key_bits[-1]))
    for span in _batches(counts, len(last)):
        size = counts[span]
        start = counts[: span.start].sum()
        rows = order[start : start + size.sum()]
        residuals = latent[rows].astype(np.float64) - codebook.decode(codes[rows, :-1])
        # squared distances without |residual|^2, which is equal for all codes: (rows, K)
        costs = np.square(last).sum(axis=1) - 2 * residuals @ last.T
        in_use = _last_codes_in_use(taken, groups[span], levels)
        in_use[:, : codebook.params.first_code] = True
        codes[rows, -1] = _nearest_free(costs, size, in_use)
    return codes


def _batches(counts: NDArray[np.intp], size: int) -> Iterator[slice]:
    """Runs of groups with about ENTRIES distances each: `counts` rows to `size` last codes."""
    starts = np.cumsum(counts) - counts
    batch = starts * size // prefix_search.ENTRIES
    firsts = np.flatnonzero(np.diff(batch, prepend=-1))
    for first, stop in pairwise([*firsts.tolist(), len(counts)]):
        yield slice(first, stop)


def _nearest_free(
    costs: NDArray[np.float64], counts: NDArray[np.intp], in_use: NDArray[np.bool_]
) -> NDArray[np.intp]:
    """(n,) codes: the rows of each group take their cheapest free code one after the other.

    `costs` is (n, K), group by group; `counts` (g,) are the rows per group; `in_use` (g, K) marks
    the codes that are not free, and is updated.
    """
    group = np.repeat(np.arange(len(counts)), counts)
    turn = ranks(counts)
    chosen = np.empty(len(costs), dtype=np.intp)
    for step in range(int(counts.max())):
        rows = np.flatnonzero(turn == step)  # at most one row per group
        free_costs = np.where(in_use[group[rows]], np.inf, costs[rows])
        chosen[rows] = free_costs.argmin(axis=1)
        in_use[group[rows], chosen[rows]] = True
    return chosen


def _last_codes_in_use(taken: Keys, prefixes: Keys, levels: Levels) -> NDArray[np.bool_]:
    """(g, K) bool: which last codes occur under each prefix in the sorted keys `taken`."""
    bits = levels.key_bits[-1]
    smallest = prefixes << np.uint64(bits)
    first = np.searchsorted(taken, smallest)
    stop = np.searchsorted(taken, smallest + low_bits(bits), side="right")
    counts = stop - first
    keys = taken[np.repeat(first, counts) + ranks(counts)]
    in_use = np.zeros((len(prefixes), levels.sizes[-1]), dtype=np.bool_)
    in_use[np.repeat(np.arange(len(prefixes)), counts), keys & low_bits(bits)] = True
    return in_use
