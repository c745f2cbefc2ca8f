"""Fits the gate of a memory on validation users, and judges it on others."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sidtool.evaluation.mixture_candidates import Candidates
from sidtool.memory import LIMIT, Gate, standardize

TEMPERATURE = 0.3
"""Of the smooth ranks, in units of log-probability."""
L2 = 1e-3
"""Penalty of the coefficients of standardized features."""


@dataclass(frozen=True, eq=False)
class SmoothNdcg:
    """NDCG of a mixture as a smooth function of the gate's parameters (ApproxNDCG, Qin et al.,
    2010): an item counts as before the target by the sigmoid of how much higher its score is.

    The likelihood of the target would be the wrong aim: it is dominated by targets far from the
    first places, where the memory knows nothing, so it lowers the weight."""

    inputs: NDArray[np.float64]
    """(n, 1 + FEATURES) a column of ones, then the standardized features"""
    model: NDArray[np.float64]
    """(n, c) the model's probabilities"""
    memory: NDArray[np.float64]
    """(n, c) the memory's"""
    targets: NDArray[np.int64]
    """(n,) the target's column"""
    importance: NDArray[np.float64]
    """(n,) how much each user counts"""

    def loss(self, parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """The negative mean, with a penalty, and its gradient."""
        from scipy.special import expit

        rows = np.arange(len(self.targets))
        weights = expit(self.inputs @ parameters)  # (n,)
        # (n, c); 1e-12 keeps the log of an item that neither knows finite
        mixed = (1 - weights[:, None]) * self.model + weights[:, None] * self.memory + 1e-12
        log_mixed = np.log(mixed)
        leads = log_mixed - log_mixed[rows, self.targets][:, None]  # over the target
        before = expit(leads / TEMPERATURE)  # (n, c)
        ranks = before.sum(axis=1) + 0.5  # (n,); the target itself adds a half
        log_ranks = np.log1p(ranks)
        gains = np.log(2) / log_ranks
        coefficients = np.concatenate([[0.0], parameters[1:]])  # the bias has no penalty
        loss = -(self.importance * gains).mean() + L2 * (coefficients**2).sum() / 2
        # slopes by the weight, from the mixture to the rank
        log_slopes = (self.memory - self.model) / mixed  # (n, c)
        lead_slopes = log_slopes - log_slopes[rows, self.targets][:, None]
        rank_slopes = (before * (1 - before) * lead_slopes).sum(axis=1) / TEMPERATURE  # (n,)
        # the slope of the loss by the rank, then by `inputs @ parameters`
        loss_by_rank = gains / log_ranks / (1 + ranks)
        loss_slopes = loss_by_rank * rank_slopes * weights * (1 - weights)
        gradient = (self.importance * loss_slopes) @ self.inputs / len(rows) + L2 * coefficients
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
    objective = SmoothNdcg(
        np.concatenate([np.ones((len(standardized), 1)), standardized], axis=1),
        np.exp(candidates.model_scores[informative]),
        np.exp(raised[informative]),
        candidates.targets[informative],
        np.where(candidates.is_rare[informative], rare_importance, 1.0),
    )
    start = min(max(start, 0.05), 0.95)
    initial = np.zeros(1 + len(means))
    initial[0] = np.log(start / (1 - start))
    parameters = minimize(objective.loss, initial, jac=True, method="L-BFGS-B").x.tolist()
    return Gate(tuple(means), tuple(scales), tuple(parameters[1:]), parameters[0])
