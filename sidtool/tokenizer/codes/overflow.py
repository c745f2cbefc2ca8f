"""The overflow rule: free semantic IDs for items whose nearest one is taken.

A prefix is a SID without its last code. In each round every waiting row picks its nearest prefix
that has free SIDs, and each prefix accepts the nearest of its rows (ties by row) until it is full.
Under each prefix the nearest row then takes the nearest free last code first."""

import itertools
from collections.abc import Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import RefusedError
from sidtool.base.ranges import consecutive
from sidtool.data import Vectors
from sidtool.tokenizer.quantize.codebook import Codebook
from sidtool.tokenizer.sid import Codes, Keys, Levels

BEAM = 8
"""Prefixes that the search keeps at each depth."""
CANDIDATES = 16
"""Prefixes that the search returns for each row."""
ENTRIES = 1 << 21
"""Approximate number of distances held in memory at once."""


class FreeSids:
    """The number of free SIDs under each prefix."""

    def __init__(self, levels: Levels, taken: Keys, first_code: int) -> None:
        """`taken` are the keys of the SIDs in use; codes below `first_code` are never given."""
        self._bits = levels.key_bits
        self._sizes = tuple(size - first_code for size in levels.sizes)
        # sorted; a prefix that is not listed has no SID in use
        self._prefixes, in_use = np.unique(taken >> np.uint64(self._bits[-1]), return_counts=True)
        self._free = self._sizes[-1] - in_use

    def count(self, prefixes: Keys) -> NDArray[np.intp]:
        """(n,) prefixes -> (n,) free SIDs under each."""
        position = np.searchsorted(self._prefixes, prefixes)
        listed = position < len(self._prefixes)  # the others are above all that are listed
        listed[listed] = self._prefixes[position[listed]] == prefixes[listed]
        free = np.full(len(prefixes), self._sizes[-1])
        free[listed] = self._free[position[listed]]
        return free

    def take(self, prefixes: Keys, counts: NDArray[np.intp]) -> None:
        """Mark `counts` SIDs as used under each of the sorted, distinct prefixes."""
        new = prefixes[~np.isin(prefixes, self._prefixes)]
        position = np.searchsorted(self._prefixes, new)
        self._prefixes = np.insert(self._prefixes, position, new)
        self._free = np.insert(self._free, position, self._sizes[-1])
        self._free[np.searchsorted(self._prefixes, prefixes)] -= counts

    def full_prefixes(self) -> list[Keys]:
        """Per depth from 1 to that of a prefix: sorted keys under which no SID is free."""
        full = [self._prefixes[self._free == 0]]
        for level in range(len(self._sizes) - 2, 0, -1):
            parents = full[0] >> np.uint64(self._bits[level])
            parents, full_children = np.unique(parents, return_counts=True)
            full.insert(0, parents[full_children == self._sizes[level]])
        return full


class PrefixSearch:
    """Beam search for the prefixes nearest to a row.

    The squared distance of a row x to a sum of centroids is |x|^2, plus |c|^2 - 2 x.c for each
    level, plus twice the products of all pairs of centroids. The products are equal for all rows
    below one node of the beam, so they are computed once per node."""

    def __init__(self, codebook: Codebook) -> None:
        self._first_code = codebook.params.first_code
        self._levels = [level.astype(np.float64) for level in codebook.levels[:-1]]
        self._bits = Levels(codebook.sizes).key_bits
        self.batch = max(1, ENTRIES // (BEAM * max(codebook.sizes)))
        """Rows to search at once."""

    def nearest(
        self, rows: Vectors, full: Sequence[Keys]
    ) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
        """(n, width) rows -> (n, CANDIDATES) prefixes, nearest first, and squared distances to
        them. `full` are the prefixes to avoid (`FreeSids.full_prefixes`). The distance is inf where
        there are fewer prefixes with free SIDs."""
        x = rows.astype(np.float64)
        beam = np.zeros((len(rows), 1), dtype=np.uint64)
        costs = np.square(x).sum(axis=1)[:, None]  # (n, beam)
        for depth, level in enumerate(self._levels):
            nodes, node_indexes = np.unique(beam, return_inverse=True)
            costs_below = self._costs_below(nodes, depth, full[depth])  # (nodes, K)
            extended = costs_below[node_indexes.reshape(beam.shape)]  # (n, beam, K)
            extended += (-2 * x @ level.T)[:, None]  # (n, 1, K)
            extended += costs[:, :, None]  # (n, beam, 1)
            is_last = depth == len(self._levels) - 1
            width = CANDIDATES if is_last else BEAM
            costs = extended.reshape(len(rows), -1)  # (n, beam * K)
            best = np.broadcast_to(np.arange(costs.shape[1]), costs.shape)
            if width < costs.shape[1]:
                best = np.argpartition(costs, width, axis=1)[:, :width]
            costs = np.take_along_axis(costs, best, axis=1)  # (n, the next beam)
            parent_columns, codes = np.divmod(best, len(level))
            parents = np.take_along_axis(beam, parent_columns, axis=1)
            beam = (parents << np.uint64(self._bits[depth])) | codes.astype(np.uint64)
        order = np.lexsort((beam, costs.astype(np.float32)))
        beam = np.take_along_axis(beam, order, axis=1)
        costs = np.maximum(np.take_along_axis(costs, order, axis=1), 0)
        missing_columns = ((0, 0), (0, CANDIDATES - beam.shape[1]))
        distances = np.pad(costs, missing_columns, constant_values=np.inf)
        return np.pad(beam, missing_columns), distances.astype(np.float32)

    def _costs_below(self, nodes: Keys, depth: int, full: Keys) -> NDArray[np.float64]:
        """(nodes, K): what each next code adds to the distances of all rows; inf if it is full."""
        level = self._levels[depth]
        table = np.tile(np.square(level).sum(axis=1), (len(nodes), 1))
        table[:, : self._first_code] = np.inf
        prefixes = nodes
        for earlier in reversed(range(depth)):
            last_codes = prefixes & low_bits(self._bits[earlier])
            codes, inverse = np.unique(last_codes, return_inverse=True)
            products = 2 * self._levels[earlier][codes] @ level.T
            table += products[inverse]
            prefixes = prefixes >> np.uint64(self._bits[earlier])
        # a full prefix of this depth is excluded if its parent is a node of the beam
        parents = full >> np.uint64(self._bits[depth])
        position = np.minimum(np.searchsorted(nodes, parents), len(nodes) - 1)
        in_beam = nodes[position] == parents
        codes = full & low_bits(self._bits[depth])
        table[position[in_beam], codes[in_beam]] = np.inf
        return table


def low_bits(count: int) -> np.uint64:
    """A mask of the lowest `count` bits."""
    return np.uint64((1 << count) - 1)


def place_new_items(vectors: Vectors, codebook: Codebook, taken: Codes) -> Codes:
    """(n, dim) embeddings of new items -> (n, levels) free codes, all different.

    An item whose nearest SID is free gets it (the first of several such items). All others are
    placed together by `place_overflow`, so one batch may get other codes than the same items in
    several batches. `taken` are the SIDs in use, each once. Errors as in `place_overflow`."""
    levels = Levels(codebook.sizes)
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
    are fewer free SIDs than rows."""
    levels = Levels(codebook.sizes)
    require_free(codebook, taken, len(latent))
    keys = np.sort(levels.pack(taken))
    free = FreeSids(levels, keys, codebook.params.first_code)
    search = PrefixSearch(codebook)
    # the nearest prefixes of each row as last searched, and the next one to request
    candidates = np.zeros((len(latent), CANDIDATES), dtype=np.uint64)
    # the extra column stays inf: the end of the list
    distances_to = np.full((len(latent), CANDIDATES + 1), np.inf, dtype=np.float32)
    column = np.zeros(len(latent), dtype=np.intp)
    # prefixes, none with more rows than free SIDs, and the squared distances to them
    prefixes = np.zeros(len(latent), dtype=np.uint64)
    distances = np.zeros(len(latent), dtype=np.float32)
    waiting = np.arange(len(latent))
    while len(waiting):
        unresolved = waiting  # rows whose next prefix may be full
        while len(unresolved):
            exhausted = unresolved[np.isinf(distances_to[unresolved, column[unresolved]])]
            if len(exhausted):
                full = free.full_prefixes()
                for batch in np.array_split(exhausted, -(-len(exhausted) // search.batch)):
                    hits = search.nearest(latent[batch], full)
                    candidates[batch], distances_to[batch, :CANDIDATES] = hits
                column[exhausted] = 0
            requested = candidates[unresolved, column[unresolved]]
            unresolved = unresolved[free.count(requested) == 0]
            column[unresolved] += 1
        nearest = candidates[waiting, column[waiting]]
        costs = distances_to[waiting, column[waiting]]
        order = np.lexsort((costs, nearest))  # by prefix, then distance; stable: ties by row
        distinct, applicants = np.unique(nearest[order], return_counts=True)
        accepted = np.minimum(free.count(distinct), applicants)
        free.take(distinct, accepted)
        # in each prefix the nearest applicants win
        place = consecutive(np.zeros_like(applicants), applicants)
        winners = order[place < np.repeat(accepted, applicants)]
        prefixes[waiting[winners]] = nearest[winners]
        distances[waiting[winners]] = costs[winners]
        waiting = np.delete(waiting, winners)
    return _choose_last_codes(latent, codebook, keys, prefixes, distances)


def require_free(codebook: Codebook, taken: Codes, count: int) -> None:
    """Raise RefusedError if fewer than `count` SIDs are free besides those in `taken`."""
    capacity = prod(size - codebook.params.first_code for size in codebook.sizes)
    if len(taken) + count > capacity:
        raise RefusedError(
            f"{len(taken)} of {capacity} semantic IDs are taken, and {count} items need one",
            hint="build a codebook with more levels",
        )


def _choose_last_codes(
    latent: Vectors, codebook: Codebook, taken: Keys, prefixes: Keys, distances: NDArray[np.float32]
) -> Codes:
    """(n, levels) codes: under each prefix the nearest row takes its nearest free last code first.
    `taken` are sorted keys, `distances` those of the rows to their prefixes; ties go by row."""
    levels = Levels(codebook.sizes)
    bits = levels.key_bits[-1]
    last_level = codebook.levels[-1].astype(np.float64)
    order = np.lexsort((distances, prefixes))
    # a group is the rows with one prefix
    group_prefixes, group_sizes = np.unique(prefixes[order], return_counts=True)
    group_starts = np.cumsum(group_sizes) - group_sizes  # in `order`
    codes = np.empty((len(latent), levels.levels), dtype=np.uint16)
    codes[order] = levels.unpack(prefixes[order] << np.uint64(bits))
    # consecutive groups with about ENTRIES distances are resolved at once
    batch = group_starts * len(last_level) // ENTRIES
    bounds = [*np.flatnonzero(np.diff(batch, prepend=-1)).tolist(), len(group_sizes)]
    for first_group, stop_group in itertools.pairwise(bounds):
        sizes = group_sizes[first_group:stop_group]
        start = group_starts[first_group]
        rows = order[start : start + sizes.sum()]
        residuals = latent[rows].astype(np.float64) - codebook.decode(codes[rows, :-1])
        # squared distances without |residual|^2, which is equal for all codes: (rows, K)
        costs = np.square(last_level).sum(axis=1) - 2 * residuals @ last_level.T
        # the keys in use under each prefix lie behind one another in `taken`
        smallest = group_prefixes[first_group:stop_group] << np.uint64(bits)
        first_key = np.searchsorted(taken, smallest)
        n_keys = np.searchsorted(taken, smallest + low_bits(bits), side="right") - first_key
        last_codes = taken[consecutive(first_key, n_keys)] & low_bits(bits)
        in_use = np.zeros((len(sizes), len(last_level)), dtype=np.bool_)  # (groups, K)
        in_use[np.repeat(np.arange(len(sizes)), n_keys), last_codes] = True
        in_use[:, : codebook.params.first_code] = True
        codes[rows, -1] = _nearest_free(costs, sizes, in_use)
    return codes


def _nearest_free(
    costs: NDArray[np.float64], counts: NDArray[np.intp], in_use: NDArray[np.bool_]
) -> NDArray[np.intp]:
    """(n,) codes: the rows of each group take their cheapest free code one after the other. `costs`
    is (n, K), group by group; `counts` (g,) are the rows per group; `in_use` (g, K) marks the codes
    that are not free, and is updated."""
    group = np.repeat(np.arange(len(counts)), counts)
    turn = consecutive(np.zeros_like(counts), counts)  # place of each row in its group
    codes = np.empty(len(costs), dtype=np.intp)
    for step in range(int(counts.max())):
        rows = np.flatnonzero(turn == step)  # at most one row per group
        free_costs = np.where(in_use[group[rows]], np.inf, costs[rows])
        codes[rows] = free_costs.argmin(axis=1)
        in_use[group[rows], codes[rows]] = True
    return codes
