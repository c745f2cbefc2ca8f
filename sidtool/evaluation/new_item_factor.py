"""Chooses how far items without training events may compete with the others, on validation users.

A new item has probability by content alone. What it takes from items with events is a loss to the
users who want these, which the gain of those who want a new item outweighs on a validation set with
many of them. So the aim is not the best mean: new items are let in as far as users with warm
targets lose less than the noise of their recall."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sidtool.evaluation.bootstrap import intervals
from sidtool.evaluation.mixture_candidates import Candidates, K, gains
from sidtool.evaluation.mixture_choice import MixtureChoice
from sidtool.model import DEFAULT_NEW_ITEM_FACTOR

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
    if not _new_items_compete(candidates):
        return choice, DEFAULT_NEW_ITEM_FACTOR
    if not candidates.is_warm.any():
        return choice, 1.0
    warm = candidates.select(candidates.is_warm)
    without = warm.with_factor(0.0)
    cautious = MixtureChoice.of(without)
    before = _hits(cautious.ranks(without))
    warm_users = [users[row] for row in np.flatnonzero(candidates.is_warm).tolist()]
    low, high = intervals([METRIC], before[:, None], warm_users)["all"][METRIC]
    lowest = float(before.mean()) - LOSS * (high - low) / 2
    if _hits(choice.ranks(warm)).mean() >= lowest:
        return choice, 1.0
    # factor 0 loses nothing
    factor = next(
        each for each in FACTORS if _hits(cautious.ranks(warm.with_factor(each))).mean() >= lowest
    )
    after = _hits(cautious.ranks(warm.with_factor(factor)))
    measured = {
        "users": float(candidates.users),
        "ndcg@10 mixture": float(gains(cautious.ranks(candidates.with_factor(factor))).mean()),
        f"{METRIC} of warm targets": float(after.mean()),
        f"{METRIC} of warm targets, without new items": float(before.mean()),
    }
    return replace(cautious, summary=cautious.summary | measured), factor


def _new_items_compete(candidates: Candidates) -> bool:
    """Whether a memory recommends a new item to any user."""
    return any(candidates.is_new[each.positions].any() for each in candidates.distributions)


def _hits(ranks: NDArray[np.int64]) -> NDArray[np.float64]:
    """(n,) whether each target is among the first K."""
    return (ranks < K).astype(np.float64)
