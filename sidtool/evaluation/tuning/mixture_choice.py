"""Chooses weight, power and gate of a memory by what each would recommend to validation users, and
how far items without training events may compete with the others.

A new item has probability by content alone. What it takes from items with events is a loss to the
users who want these, which the gain of those who want a new item outweighs on a validation set with
many of them. So the aim is not the best mean: new items are let in as far as users with warm
targets lose less than the noise of their recall."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from sidtool.evaluation.bootstrap import intervals
from sidtool.evaluation.tuning.mixture_candidates import Candidates, K, gains
from sidtool.memory.mixture import DEFAULT_NEW_ITEM_FACTOR, LIMIT, Gate, standardize

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

CANDIDATES_BY_MODEL = "ndcg@10 candidates by model"
"""Of the items that the even mixture found, in the order of the model. The model alone may find
others, so it is not what the model reaches without a memory."""
CANDIDATES_BY_MEMORY = "ndcg@10 candidates by memory"


def best_cell(
    grid_ranks: NDArray[np.int64], candidates: Candidates, users: NDArray[np.bool_]
) -> tuple[float, float, NDArray[np.float64]]:
    """The best weight and power of (weights, powers, n) ranks for a part of the n users, of equal
    ones the smallest weight; and the (weights, powers) NDCG@10 of all."""
    cells = grid_ranks.reshape(-1, len(users))
    qualities = [quality(cell, grid_ranks, candidates, users) for cell in cells]
    weight, power = divmod(qualities.index(max(qualities)), len(POWERS))
    ndcg = np.array([cell.ndcg for cell in qualities]).reshape(-1, len(POWERS))
    return WEIGHTS[weight], POWERS[power], ndcg


class Quality(NamedTuple):
    """How good ranks are; the larger is better."""

    keeps_rare: bool
    """whether they keep the memory's recall of rare targets"""
    ndcg: float
    """at 10"""


def quality(
    ranks: NDArray[np.int64],
    grid_ranks: NDArray[np.int64],
    candidates: Candidates,
    users: NDArray[np.bool_],
) -> Quality:
    """The quality of (n,) ranks over a part of the users."""
    rare = users & candidates.is_rare
    memory_ranks = grid_ranks[-1, POWERS.index(1.0)]  # weight 1: the memory alone
    memory_hits = int((memory_ranks[rare] < K).sum())
    hits = int((ranks[rare] < K).sum())
    keeps_rare = memory_hits < RARE_HITS or hits >= RARE_SHARE * memory_hits
    return Quality(keeps_rare, float(gains(ranks[users]).mean()))


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
        everyone = np.ones(candidates.users, dtype=np.bool_)
        weight, power, ndcg = best_cell(ranks, candidates, everyone)
        summary = {
            CANDIDATES_BY_MODEL: float(ndcg[0].max()),
            CANDIDATES_BY_MEMORY: float(ndcg[-1].max()),
            "ndcg@10 mixture": float(ndcg[WEIGHTS.index(weight), POWERS.index(power)]),
        }
        gate, gated_power, judged = choose_gate(candidates, ranks)
        return cls(weight, power if gate is None else gated_power, gate, summary | judged)

    def ranks(self, candidates: Candidates) -> NDArray[np.int64]:
        """(n,) as `Candidates.ranks`."""
        return candidates.ranks(candidates.raised(self.power), self.weights(candidates))

    def weights(self, candidates: Candidates) -> NDArray[np.float64] | float:
        """The memory's weight, or (n,) weights by the gate."""
        return self.weight if self.gate is None else self.gate.weights(candidates.features)


def choose_gate(
    candidates: Candidates, grid_ranks: NDArray[np.int64]
) -> tuple[Gate | None, float, dict[str, float]]:
    """A gate, its power, and NDCG@10 of constant weight and gate on users that they were not chosen
    on: each half of the users judges the choice of the other. The gate is None if it is not better
    there."""
    # (n,) each: the ranks of every user by what was chosen on the other half
    constant_ranks = np.full(candidates.users, K)
    gate_ranks = np.full(candidates.users, K)
    for half in (candidates.in_first_half, ~candidates.in_first_half):
        if half.sum() < GATE_USERS:
            return None, 0.0, {}
        weight, power, _ = best_cell(grid_ranks, candidates, ~half)
        constant_ranks[half] = grid_ranks[WEIGHTS.index(weight), POWERS.index(power), half]
        gate_ranks[half] = _best_gate(candidates, grid_ranks, ~half).ranks[half]
    everyone = np.ones(candidates.users, dtype=np.bool_)
    constant_quality = quality(constant_ranks, grid_ranks, candidates, everyone)
    gate_quality = quality(gate_ranks, grid_ranks, candidates, everyone)
    judged = {
        "ndcg@10 constant, judged": constant_quality.ndcg,
        "ndcg@10 gate, judged": gate_quality.ndcg,
    }
    if gate_quality <= constant_quality:
        return None, 0.0, judged
    best = _best_gate(candidates, grid_ranks, everyone)
    return best.gate, best.power, judged


class _GateChoice(NamedTuple):
    """A gate that was fitted to a part of the users, None if none could be."""

    gate: Gate | None
    power: float
    ranks: NDArray[np.int64]
    """(n,) those of all users' targets"""


def _best_gate(
    candidates: Candidates, grid_ranks: NDArray[np.int64], users: NDArray[np.bool_]
) -> _GateChoice:
    """The best gate for a part of the users."""
    weight, power, _ = best_cell(grid_ranks, candidates, users)
    best = _GateChoice(None, power, np.full(len(users), K))
    best_quality = Quality(False, -1.0)
    for power in GATE_POWERS:
        raised = candidates.raised(power)
        for importance in RARE_IMPORTANCE:
            gate = fit_gate(candidates, raised, users, weight, importance)
            if gate is None:
                continue
            ranks = candidates.ranks(raised, gate.weights(candidates.features))
            gate_quality = quality(ranks, grid_ranks, candidates, users)
            if gate_quality > best_quality:
                best = _GateChoice(gate, power, ranks)
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


TEMPERATURE = 0.3
"""Of the smooth ranks, in units of log-probability."""
L2 = 1e-3
"""Penalty of the coefficients of standardized features."""


def gate_loss(
    parameters: NDArray[np.float64],
    inputs: NDArray[np.float64],
    model: NDArray[np.float64],
    memory: NDArray[np.float64],
    targets: NDArray[np.int64],
    importance: NDArray[np.float64],
) -> tuple[float, NDArray[np.float64]]:
    """The negative mean of a smooth NDCG, with a penalty, and its gradient by the parameters of a
    gate (ApproxNDCG, Qin et al., 2010): an item counts as before the target by the sigmoid of how
    much higher its score in the mixture is.

    `inputs` (n, 1 + GATE_FEATURES) is a column of ones, then the standardized features; `model`
    and `memory` (n, c) are probabilities, `targets` (n,) the columns of the targets, and
    `importance` (n,) how much each user counts. The likelihood of the target would be the wrong
    aim: it is dominated by targets far from the first places, where the memory knows nothing, so it
    lowers the weight."""
    from scipy.special import expit

    rows = np.arange(len(targets))
    weights = expit(inputs @ parameters)  # (n,)
    # (n, c); 1e-12 keeps the log of an item that neither knows finite
    mixture = (1 - weights[:, None]) * model + weights[:, None] * memory + 1e-12
    log_mixture = np.log(mixture)
    leads = log_mixture - log_mixture[rows, targets][:, None]  # over the target
    before = expit(leads / TEMPERATURE)  # (n, c)
    ranks = before.sum(axis=1) + 0.5  # (n,); the target itself adds a half
    log_ranks = np.log1p(ranks)
    gains = np.log(2) / log_ranks
    coefficients = np.concatenate([[0.0], parameters[1:]])  # the bias has no penalty
    loss = -(importance * gains).mean() + L2 * (coefficients**2).sum() / 2
    # slopes by the weight, from the mixture to the rank
    log_slopes = (memory - model) / mixture  # (n, c)
    lead_slopes = log_slopes - log_slopes[rows, targets][:, None]
    rank_slopes = (before * (1 - before) * lead_slopes).sum(axis=1) / TEMPERATURE  # (n,)
    # the slope of the loss by the rank, then by `inputs @ parameters`
    loss_by_rank = gains / log_ranks / (1 + ranks)
    loss_slopes = loss_by_rank * rank_slopes * weights * (1 - weights)
    gradient = (importance * loss_slopes) @ inputs / len(rows) + L2 * coefficients
    return float(loss), gradient


def fit_gate(
    candidates: Candidates,
    raised: NDArray[np.float64],
    users: NDArray[np.bool_],
    start: float,
    rare_importance: float,
) -> Gate | None:
    """The best gate for (n,) users, from a constant weight; `raised` has the memory's log
    probabilities. Users with a rare target count `rare_importance` times. None if no user's target
    is among the candidates."""
    from scipy.optimize import minimize

    users = users & candidates.has_memory
    informative = users & (candidates.targets >= 0)
    if not informative.any():
        return None
    features = candidates.features[users]
    means = features.mean(axis=0).tolist()
    # a feature that is the same for all users has no effect
    scales = np.maximum(features.std(axis=0), 1 / LIMIT).tolist()
    standardized = standardize(candidates.features[informative], means, scales)
    arguments = (
        np.concatenate([np.ones((len(standardized), 1)), standardized], axis=1),
        np.exp(candidates.model_scores[informative]),
        np.exp(raised[informative]),
        candidates.targets[informative],
        np.where(candidates.is_rare[informative], rare_importance, 1.0),
    )
    start = min(max(start, 0.05), 0.95)
    initial = np.zeros(1 + len(means))
    initial[0] = np.log(start / (1 - start))
    fitted = minimize(gate_loss, initial, arguments, method="L-BFGS-B", jac=True)
    parameters = fitted.x.tolist()
    return Gate(tuple(means), tuple(scales), tuple(parameters[1:]), parameters[0])


METRIC = "hr@10"
FACTORS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.6, 0.5, 0.35, 0.25, 0.12, 0.06, 0.03, 0.0)
"""The factors that are tried, the largest first; 0 leaves new items to the model."""
LOSS = 0.4
"""What users with warm targets may lose of their recall@10, as a share of half of its 95%
interval. That is three quarters of its standard error, and about half of what the difference of two
memories would need to be seen in as many users."""


def choose_for_new_items(
    candidates: Candidates, users: Sequence[str]
) -> tuple[MixtureChoice, float]:
    """Weight, power and gate, and the factor of new items, by (n,) users and their candidates.

    The best for all users is taken if users with warm targets lose at most LOSS by new items. Else
    the best for these users in a catalog without new items, and the largest factor by which they
    lose no more. A loss is counted from that choice without new items."""
    choice = MixtureChoice.of(candidates)
    if not any(
        candidates.is_new[distribution.positions].any() for distribution in candidates.distributions
    ):
        return choice, DEFAULT_NEW_ITEM_FACTOR  # the memory recommends no new item to any user
    if not candidates.is_warm.any():
        return choice, 1.0
    warm = candidates.select(candidates.is_warm)
    without_new_items = warm.with_factor(0.0)
    cautious = MixtureChoice.of(without_new_items)
    hits_before = _hits(cautious.ranks(without_new_items))
    warm_users = [users[row] for row in np.flatnonzero(candidates.is_warm).tolist()]
    low, high = intervals([METRIC], hits_before[:, None], warm_users)["all"][METRIC]
    lowest = float(hits_before.mean()) - LOSS * (high - low) / 2
    if _hits(choice.ranks(warm)).mean() >= lowest:
        return choice, 1.0
    for factor in FACTORS:
        hits_after = _hits(cautious.ranks(warm.with_factor(factor)))
        if hits_after.mean() >= lowest:  # at the latest with 0, which loses nothing
            break
    mixture = float(gains(cautious.ranks(candidates.with_factor(factor))).mean())
    judged_on_warm = {
        f"{name} of warm targets, without new items": value
        for name, value in cautious.summary.items()
    }
    measured = {
        **{name: choice.summary[name] for name in (CANDIDATES_BY_MODEL, CANDIDATES_BY_MEMORY)},
        "ndcg@10 mixture": mixture,
        **judged_on_warm,
        f"{METRIC} of warm targets": float(hits_after.mean()),
        f"{METRIC} of warm targets, without new items": float(hits_before.mean()),
    }
    return replace(cautious, summary=measured), factor


def _hits(ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n,) whether each target is among the first K."""
    return (ranks < K).astype(np.float64)
