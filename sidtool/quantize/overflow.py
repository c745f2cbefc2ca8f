"""Places for items whose own prefix is full, found for all of them together.

Knows the centroids, taken SIDs and rows of vectors that stand in the order of their ids; knows
nothing of items. A prefix here is a SID without its last code. Round by round every row that waits
asks for the nearest prefix with room; each prefix takes the nearest rows that ask, ties by id,
until it is full. Who is placed stays."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sidtool.errors import RefusedError
from sidtool.quantize.codebook import Codebook
from sidtool.sid import Codes, SidSpace, Vectors

BEAM = 8
"""Prefixes of each depth that a row looks below."""
OFFERS = 16
"""Nearest prefixes with room that a row remembers; when all of them have filled up, it looks again.
"""
ENTRIES = 1 << 21
"""About how many distances are held at once."""

Keys = NDArray[np.uint64]
"""Packed SIDs or prefixes."""
Table = NDArray[np.float64]


def spill(latent: Vectors, codebook: Codebook, taken: Codes) -> Codes:
    """(n, width) rows in the space of the centroids, in the order of ids -> (n, levels) codes that
    nobody has.

    `taken` are the SIDs of everybody else, each once. Raises RefusedError when there are fewer free
    ones than rows."""
    space = SidSpace(codebook.sizes)
    if len(taken) + len(latent) > space.capacity:
        raise RefusedError(
            f"{len(taken)} of {space.capacity} semantic IDs are taken, and {len(latent)} items "
            "look for one",
            hint="build a codebook with more levels",
        )
    keys = np.sort(space.pack(taken))
    prefixes, distances = _find_prefixes(latent, codebook.levels, _Room(space, keys))
    return _last_codes(latent, codebook, keys, prefixes, distances)


class _Room:
    """Free SIDs under each prefix."""

    def __init__(self, space: SidSpace, keys: Keys) -> None:
        self.bits, self.sizes = space.key_bits, space.sizes
        self.known, taken = _runs(
            keys >> np.uint64(self.bits[-1])
        )  # sorted; any other prefix is empty
        self.left = self.sizes[-1] - taken

    def of(self, prefixes: Keys) -> NDArray[np.intp]:
        """How many SIDs are free under each."""
        at = np.searchsorted(self.known, prefixes)
        known = at < len(self.known)
        known[known] = self.known[at[known]] == prefixes[known]
        free = np.full(len(prefixes), self.sizes[-1])
        free[known] = self.left[at[known]]
        return free

    def take(self, prefixes: Keys, counts: NDArray[np.intp]) -> None:
        """Take so many under each; `prefixes` are sorted, each once."""
        fresh = prefixes[~np.isin(prefixes, self.known)]
        if len(fresh):
            at = np.searchsorted(self.known, fresh)
            self.known, self.left = (
                np.insert(self.known, at, fresh),
                np.insert(self.left, at, self.sizes[-1]),
            )
        self.left[np.searchsorted(self.known, prefixes)] -= counts

    def full(self) -> list[Keys]:
        """Sorted: the first codes, pairs of first codes, ... whole prefixes under which nothing is
        free."""
        found = [self.known[self.left == 0]]
        for bits, size in zip(self.bits[-2:0:-1], self.sizes[-2:0:-1], strict=True):
            parents, children = _runs(found[0] >> np.uint64(bits))
            found.insert(0, parents[children == size])
        return found


def _find_prefixes(
    latent: Vectors, levels: Sequence[Vectors], room: _Room
) -> tuple[Keys, NDArray[np.float32]]:
    """(n,) prefixes that hold no more rows than they have room for, and the squared distances to
    them."""
    places, distances = (
        np.zeros(len(latent), dtype=np.uint64),
        np.zeros(len(latent), dtype=np.float32),
    )
    offers = _Offers(latent, _Search(levels, room.bits), room)
    waiting = np.arange(len(latent))
    while len(waiting):
        wanted, costs = offers.best(waiting)
        order = np.lexsort((costs, wanted))  # stable: ties by id
        prefixes, counts = _runs(wanted[order])
        limits = np.minimum(room.of(prefixes), counts)
        won = order[_ranks(counts) < np.repeat(limits, counts)]
        room.take(prefixes, limits)
        places[waiting[won]], distances[waiting[won]] = wanted[won], costs[won]
        waiting = np.delete(waiting, won)
    return places, distances


class _Offers:
    """The nearest prefix with room for each row: of some that it remembers, and looked for anew
    when those are full."""

    def __init__(self, latent: Vectors, search: "_Search", room: _Room) -> None:
        self.latent, self.search, self.room = latent, search, room
        self.prefixes = np.zeros((len(latent), OFFERS), dtype=np.uint64)
        self.costs = np.full(
            (len(latent), OFFERS + 1), np.inf, dtype=np.float32
        )  # the last: there are no more
        self.at = np.zeros(len(latent), dtype=np.intp)

    def best(self, rows: NDArray[np.intp]) -> tuple[Keys, NDArray[np.float32]]:
        """(n,) prefixes and the squared distances to them."""
        asking = rows
        while len(asking):
            ended = asking[np.isinf(self.costs[asking, self.at[asking]])]
            if len(ended):
                self._renew(ended)
            asking = asking[self.room.of(self.prefixes[asking, self.at[asking]]) == 0]
            self.at[asking] += 1
        return self.prefixes[rows, self.at[rows]], self.costs[rows, self.at[rows]]

    def _renew(self, rows: NDArray[np.intp]) -> None:
        full = self.room.full()
        for some in np.array_split(rows, -(-len(rows) // self.search.rows)):
            self.prefixes[some], self.costs[some, :-1] = self.search.nearest(
                self.latent[some], full
            )
        self.at[rows] = 0


class _Search:
    """The nearest prefixes with room, by a beam over the levels but the last.

    The squared distance of a row x to a sum of centroids is |x|^2 plus, for each level, |c|^2 - 2
    x.c, plus twice the products of all pairs of centroids, which are the same for all rows below a
    node of the beam."""

    def __init__(self, levels: Sequence[Vectors], bits: Sequence[int]) -> None:
        self.levels, self.bits = [level.astype(np.float64) for level in levels[:-1]], bits
        self.rows = max(1, ENTRIES // (BEAM * max(map(len, levels))))

    def nearest(self, rows: Vectors, full: Sequence[Keys]) -> tuple[Keys, NDArray[np.float32]]:
        """(n, width) -> (n, OFFERS) prefixes, the nearest first, and their distances: inf where
        there are no more."""
        x = rows.astype(np.float64)
        beam = np.zeros((len(rows), 1), dtype=np.uint64)
        costs = np.square(x).sum(axis=1)[:, None]  # (n, beam)
        for depth, level in enumerate(self.levels):
            nodes, node = np.unique(beam, return_inverse=True)
            table = self._below(nodes, depth, full[depth])  # (nodes, K)
            found = table[node.reshape(beam.shape)]  # (n, beam, K)
            found += (-2 * x @ level.T)[:, None]
            found += costs[:, :, None]
            whole = depth == len(self.levels) - 1
            best, costs = _smallest(found.reshape(len(rows), -1), OFFERS if whole else BEAM)
            parents, codes = np.divmod(best, len(level))
            beam = np.take_along_axis(beam, parents, axis=1) << np.uint64(
                self.bits[depth]
            ) | codes.astype(np.uint64)
        order = np.lexsort((beam, costs.astype(np.float32)))
        beam, costs = (
            np.take_along_axis(beam, order, axis=1),
            np.take_along_axis(costs, order, axis=1),
        )
        missing = ((0, 0), (0, OFFERS - beam.shape[1]))
        return np.pad(beam, missing), np.pad(
            np.maximum(costs, 0), missing, constant_values=np.inf
        ).astype(np.float32)

    def _below(self, nodes: Keys, depth: int, full: Keys) -> Table:
        """(nodes, K): what each next code adds to the distances of all rows alike; inf where
        nothing is free."""
        level, bits = self.levels[depth], np.uint64(self.bits[depth])
        table = np.tile(np.square(level).sum(axis=1), (len(nodes), 1))
        rest = nodes
        for earlier in reversed(range(depth)):
            codes, at = np.unique(
                rest & np.uint64((1 << self.bits[earlier]) - 1), return_inverse=True
            )
            table += (2 * self.levels[earlier][codes] @ level.T)[at]
            rest = rest >> np.uint64(self.bits[earlier])
        at = np.minimum(np.searchsorted(nodes, full >> bits), len(nodes) - 1)
        below = nodes[at] == full >> bits
        table[at[below], (full & ((np.uint64(1) << bits) - np.uint64(1)))[below]] = np.inf
        return table


def _last_codes(
    latent: Vectors, codebook: Codebook, keys: Keys, prefixes: Keys, distances: NDArray[np.float32]
) -> Codes:
    """(n, levels) codes: under each prefix the nearest row takes the nearest free code first, ties
    by id."""
    space, last = SidSpace(codebook.sizes), codebook.levels[-1].astype(np.float64)
    bits, size = np.uint64(space.key_bits[-1]), len(last)
    order = np.lexsort((distances, prefixes))
    groups, counts = _runs(prefixes[order])
    codes = np.empty((len(latent), space.levels), dtype=np.uint16)
    codes[order] = space.unpack(prefixes[order] << bits)
    ends = np.cumsum(counts)
    part = (ends - counts) * size // ENTRIES
    for some in np.split(np.arange(len(groups)), np.flatnonzero(np.diff(part, prepend=-1)))[1:]:
        rows, group = (
            order[ends[some[0]] - counts[some[0]] : ends[some[-1]]],
            np.repeat(some - some[0], counts[some]),
        )
        left = latent[rows].astype(np.float64) - codebook.decode(codes[rows, :-1])
        costs = np.square(last).sum(axis=1) - 2 * left @ last.T
        taken, rank = _taken(keys, groups[some], bits, size), _ranks(counts[some])
        for turn in range(int(counts[some].max())):
            now = np.flatnonzero(rank == turn)
            chosen = np.where(taken[group[now]], np.inf, costs[now]).argmin(axis=1)
            taken[group[now], chosen] = True
            codes[rows[now], -1] = chosen
    return codes


def _taken(keys: Keys, prefixes: Keys, bits: np.uint64, size: int) -> NDArray[np.bool_]:
    """(prefixes, K) bool: which last codes the sorted keys have under each prefix."""
    first = np.searchsorted(keys, prefixes << bits)
    counts = (
        np.searchsorted(
            keys, (prefixes << bits) + ((np.uint64(1) << bits) - np.uint64(1)), side="right"
        )
        - first
    )
    found = np.zeros((len(prefixes), size), dtype=bool)
    own = keys[np.repeat(first, counts) + _ranks(counts)] & ((np.uint64(1) << bits) - np.uint64(1))
    found[np.repeat(np.arange(len(prefixes)), counts), own] = True
    return found


def _runs(ordered: Keys) -> tuple[Keys, NDArray[np.intp]]:
    """Each value of a sorted array once, and how often it is there."""
    firsts = np.flatnonzero(
        np.concatenate([np.ones(min(1, len(ordered)), dtype=bool), ordered[1:] != ordered[:-1]])
    )
    return ordered[firsts], np.diff(firsts, append=len(ordered))


def _ranks(counts: NDArray[np.intp]) -> NDArray[np.intp]:
    """0, 1, 2, ... anew for each run of a length."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def _smallest(costs: Table, count: int) -> tuple[NDArray[np.intp], Table]:
    """Columns of the smallest values of each row, and the values, in no order."""
    if count >= costs.shape[1]:
        columns = np.broadcast_to(np.arange(costs.shape[1]), costs.shape)
    else:
        columns = np.argpartition(costs, count, axis=1)[:, :count]
    return columns, np.take_along_axis(costs, columns, axis=1)
