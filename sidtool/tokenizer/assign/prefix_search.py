"""Nearest prefixes with free semantic IDs, by beam search over the levels of a codebook.

A prefix is a SID without its last code, packed into a key.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sidtool.data import Vectors
from sidtool.tokenizer.sid import Keys, Levels

BEAM = 8
"""Prefixes that the search keeps at each depth."""
CANDIDATES = 16
"""Prefixes that the search returns for each row."""
ENTRIES = 1 << 21
"""Approximate number of distances held in memory at once."""

Table = NDArray[np.float64]


class FreeSids:
    """The number of free SIDs under each prefix."""

    def __init__(self, levels: Levels, taken: Keys, first_code: int = 0) -> None:
        """`taken` are the sorted keys of the SIDs in use; codes below `first_code` are never
        given."""
        self._bits = levels.key_bits
        self._sizes = tuple(size - first_code for size in levels.sizes)
        # sorted; a prefix that is not listed has no SID in use
        self._prefixes, in_use = runs(taken >> np.uint64(self._bits[-1]))
        self._free = self._sizes[-1] - in_use

    def count(self, prefixes: Keys) -> NDArray[np.intp]:
        """(n,) prefixes -> (n,) free SIDs under each."""
        position = np.searchsorted(self._prefixes, prefixes)
        listed = position < len(self._prefixes)
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
            parents, full_children = runs(full[0] >> np.uint64(self._bits[level]))
            full.insert(0, parents[full_children == self._sizes[level]])
        return full


class PrefixSearch:
    """Beam search for the prefixes nearest to a row.

    The squared distance of a row x to a sum of centroids is |x|^2, plus |c|^2 - 2 x.c for each
    level, plus twice the products of all pairs of centroids. The products are equal for all rows
    below one node of the beam, so they are computed once per node.
    """

    def __init__(
        self, centroids: Sequence[Vectors], bits: Sequence[int], first_code: int = 0
    ) -> None:
        """`centroids` of all levels, of which the last is not searched; `bits` of their codes, of
        which those below `first_code` are never given."""
        self._first_code = first_code
        self._levels = [level.astype(np.float64) for level in centroids[:-1]]
        self._bits = bits
        self.batch = max(1, ENTRIES // (BEAM * max(map(len, centroids))))
        """Rows to search at once."""

    def nearest(
        self, rows: Vectors, full: Sequence[Keys]
    ) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
        """(n, width) rows -> (n, CANDIDATES) prefixes, nearest first, and squared distances to
        them.

        `full` are the prefixes to avoid (`FreeSids.full_prefixes`). The distance is inf where there
        are fewer prefixes with free SIDs.
        """
        x = rows.astype(np.float64)
        beam = np.zeros((len(rows), 1), dtype=np.uint64)
        costs = np.square(x).sum(axis=1)[:, None]  # (n, beam)
        for depth, level in enumerate(self._levels):
            nodes, node = np.unique(beam, return_inverse=True)
            table = self._costs_below(nodes, depth, full[depth])  # (nodes, K)
            extended = table[node.reshape(beam.shape)]  # (n, beam, K)
            extended += (-2 * x @ level.T)[:, None]  # (n, 1, K)
            extended += costs[:, :, None]  # (n, beam, 1)
            is_last = depth == len(self._levels) - 1
            width = CANDIDATES if is_last else BEAM
            best, costs = _smallest(extended.reshape(len(rows), -1), width)
            parent, code = np.divmod(best, len(level))  # columns are (beam, K) flattened
            parents = np.take_along_axis(beam, parent, axis=1)
            beam = (parents << np.uint64(self._bits[depth])) | code.astype(np.uint64)
        order = np.lexsort((beam, costs.astype(np.float32)))
        beam = np.take_along_axis(beam, order, axis=1)
        costs = np.maximum(np.take_along_axis(costs, order, axis=1), 0)
        missing = ((0, 0), (0, CANDIDATES - beam.shape[1]))
        distances = np.pad(costs, missing, constant_values=np.inf)
        return np.pad(beam, missing), distances.astype(np.float32)

    def _costs_below(self, nodes: Keys, depth: int, full: Keys) -> Table:
        """(nodes, K): what each next code adds to the distances of all rows; inf if it is full."""
        level = self._levels[depth]
        table = np.tile(np.square(level).sum(axis=1), (len(nodes), 1))
        table[:, : self._first_code] = np.inf
        rest = nodes
        for earlier in reversed(range(depth)):
            codes, of_node = np.unique(rest & low_bits(self._bits[earlier]), return_inverse=True)
            products = 2 * self._levels[earlier][codes] @ level.T
            table += products[of_node]
            rest = rest >> np.uint64(self._bits[earlier])
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


def runs(ordered: Keys) -> tuple[Keys, NDArray[np.intp]]:
    """The distinct values of a sorted array, and how often each occurs."""
    differs = np.ones(len(ordered), dtype=bool)
    differs[1:] = ordered[1:] != ordered[:-1]
    firsts = np.flatnonzero(differs)
    return ordered[firsts], np.diff(firsts, append=len(ordered))


def ranks(counts: NDArray[np.intp]) -> NDArray[np.intp]:
    """Positions within runs of the given lengths: (2, 3) -> (0, 1, 0, 1, 2)."""
    starts = np.cumsum(counts) - counts
    return np.arange(counts.sum()) - np.repeat(starts, counts)


def _smallest(costs: Table, count: int) -> tuple[NDArray[np.intp], Table]:
    """Columns of the `count` smallest values of each row, in any order, and these values."""
    if count >= costs.shape[1]:
        columns = np.broadcast_to(np.arange(costs.shape[1]), costs.shape)
    else:
        columns = np.argpartition(costs, count, axis=1)[:, :count]
    return columns, np.take_along_axis(costs, columns, axis=1)
