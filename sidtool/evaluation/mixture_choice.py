"""Chooses weight, power and gate of a memory by what each would recommend to validation users."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sidtool.evaluation.fit_gate import fit_gate
from sidtool.evaluation.mixture_candidates import Candidates, K, gains
from sidtool.memory import Gate

WEIGHTS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
POWERS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)
GATE_USERS = 100
"""A gate is fitted to each half of the users only if it has at least so many."""
GATE_POWERS = (1.0, 1.5, 2.0, 3.0)
RARE_IMPORTANCE = (1.0, 3.0, 5.0)
"""How much a user with a rare target counts when a gate is fitted, against others."""
RARE_SHARE = 0.9
"""Of the memory's recall@10 of rare targets, what a mixture should keep on the users on which it is
chosen. On other users it keeps a little less; the aim is 0.85 there."""
RARE_HITS = 20
"""With fewer rare targets among the memory's first ten, their recall is noise and not regarded."""


@dataclass(frozen=True, eq=False)
class Grid:
    """NDCG@10 of every weight and power."""

    values: NDArray[np.float64]
    """(weights, powers)"""
    users: int
    keeps_rare: NDArray[np.bool_] | None = None
    """(weights, powers): whether rare targets keep RARE_SHARE of their recall; None if all do"""

    @classmethod
    def of(cls, ranks: NDArray[np.int64], candidates: Candidates, users: NDArray[np.bool_]) -> Self:
        """The grid of (weights, powers, n) ranks, over a part of the n users."""
        qualities = [[quality(cell, ranks, candidates, users) for cell in row] for row in ranks]
        keeps_rare, values = np.moveaxis(np.array(qualities), -1, 0)
        return cls(values, int(users.sum()), keeps_rare.astype(bool))

    @property
    def best(self) -> tuple[float, float]:
        """Weight and power of the best value; of equal ones the smallest weight."""
        values = self.values
        if self.keeps_rare is not None and self.keeps_rare.any():
            values = np.where(self.keeps_rare, values, -1.0)
        weight, power = np.unravel_index(int(values.argmax()), values.shape)
        return WEIGHTS[int(weight)], POWERS[int(power)]

    @property
    def summary(self) -> dict[str, float]:
        """The values that a contract records."""
        weight, power = self.best
        return {
            "users": float(self.users),
            "ndcg@10 model": float(self.values[0].max()),
            "ndcg@10 memory": float(self.values[-1].max()),
            "ndcg@10 mixture": float(self.values[WEIGHTS.index(weight), POWERS.index(power)]),
        }


def quality(
    ranks: NDArray[np.int64],
    grid_ranks: NDArray[np.int64],
    candidates: Candidates,
    users: NDArray[np.bool_],
) -> tuple[bool, float]:
    """Whether (n,) ranks keep the memory's recall of rare targets, and their NDCG@10, over a part
    of the users: the larger is better."""
    rare = users & candidates.is_rare
    memory_hits = int((grid_ranks[-1, POWERS.index(1.0)][rare] < K).sum())
    hits = int((ranks[rare] < K).sum())
    keeps_rare = memory_hits < RARE_HITS or hits >= RARE_SHARE * memory_hits
    return keeps_rare, float(gains(ranks[users]).mean())


@dataclass(frozen=True)
class MixtureChoice:
    """A weight or a gate, and a power."""

    weight: float
    power: float
    gate: Gate | None
    """In place of the weight."""
    summary: dict[str, float]
    """what a contract records"""

    @classmethod
    def of(cls, candidates: Candidates) -> Self:
        """The best for these users."""
        ranks = grid_ranks(candidates)
        grid = Grid.of(ranks, candidates, np.ones(candidates.users, dtype=np.bool_))
        weight, power = grid.best
        gate, gated_power, judged = choose_gate(candidates, ranks)
        if gate is not None:
            power = gated_power
        return cls(weight, power, gate, grid.summary | judged)

    def ranks(self, candidates: Candidates) -> NDArray[np.int64]:
        """(n,) as `Candidates.ranks`."""
        weights = self.weight if self.gate is None else self.gate.weights(candidates.features)
        return candidates.ranks(candidates.raised(self.power), weights)


def choose_gate(
    candidates: Candidates, grid_ranks: NDArray[np.int64]
) -> tuple[Gate | None, float, dict[str, float]]:
    """A gate, its power, and NDCG@10 of constant weight and gate on users that they were not chosen
    on: each half of the users judges the choice of the other. The gate is None if it is not better
    there."""
    constant_ranks = np.full(candidates.users, K)
    gate_ranks = np.full(candidates.users, K)
    for half in (candidates.in_first_half, ~candidates.in_first_half):
        if half.sum() < GATE_USERS:
            return None, 0.0, {}
        weight, power = Grid.of(grid_ranks, candidates, ~half).best
        constant = grid_ranks[WEIGHTS.index(weight), POWERS.index(power)]
        constant_ranks[half] = constant[half]
        _, _, ranks = _best_gate(candidates, grid_ranks, ~half)
        gate_ranks[half] = ranks[half]
    everyone = np.ones(candidates.users, dtype=np.bool_)
    of_constant = quality(constant_ranks, grid_ranks, candidates, everyone)
    of_gate = quality(gate_ranks, grid_ranks, candidates, everyone)
    judged = {"ndcg@10 constant, judged": of_constant[1], "ndcg@10 gate, judged": of_gate[1]}
    if of_gate <= of_constant:
        return None, 0.0, judged
    gate, power, _ = _best_gate(candidates, grid_ranks, everyone)
    return gate, power, judged


def _best_gate(
    candidates: Candidates, grid_ranks: NDArray[np.int64], users: NDArray[np.bool_]
) -> tuple[Gate | None, float, NDArray[np.int64]]:
    """The best gate for a part of the users, its power, and the ranks of all users' targets."""
    weight, power = Grid.of(grid_ranks, candidates, users).best
    best: tuple[Gate | None, float, NDArray[np.int64]] = (None, power, np.full(len(users), K))
    best_quality = (False, -1.0)
    for power in GATE_POWERS:
        raised = candidates.raised(power)
        for importance in RARE_IMPORTANCE:
            gate = fit_gate(candidates, raised, users, weight, importance)
            if gate is None:
                continue
            ranks = candidates.ranks(raised, gate.weights(candidates.features))
            gate_quality = quality(ranks, grid_ranks, candidates, users)
            if gate_quality > best_quality:
                best = (gate, power, ranks)
                best_quality = gate_quality
    return best


def grid_ranks(candidates: Candidates) -> NDArray[np.int64]:
    """(weights, powers, n) ranks of the targets."""
    ranks = np.empty((len(WEIGHTS), len(POWERS), candidates.users), dtype=np.int64)
    for column, power in enumerate(POWERS):
        raised = candidates.raised(power)
        for row, weight in enumerate(WEIGHTS):
            ranks[row, column] = candidates.ranks(raised, weight)
    return ranks
