"""Weighted sums of rewards, of items or of lists, and what rewards read beside the answers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from sidtool.data.fields.fields import Fields
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.training.reinforcement.reward_terms import find_function, parse_terms

Matrix = NDArray[np.float64]
"""(n, G): one number for each of G answers to n prompts."""
ItemScorer = Callable[[Sequence[NDArray[np.int64]], NDArray[np.int64]], Matrix]
"""(n histories of bundle rows, (n, k) bundle rows) -> (n, k) scores."""
LabelScorer = Callable[
    [Sequence[NDArray[np.int64]], Sequence[Fields] | None, NDArray[np.int64]], Matrix
]
"""(n histories, the fields known before the next item of each, (n, k) bundle rows) -> (n, k)
scores, 0 for -1."""
Groups = TypeVar("Groups")
"""The answers to n prompts: items, or lists."""


@dataclass(frozen=True, eq=False)
class RewardContext:
    """What rewards read beside the answers."""

    bundle: Bundle
    collaborative: ItemScorer | None = None
    """item-kNN scores"""
    teacher: ItemScorer | None = None
    """probabilities of another model"""
    label: LabelScorer | None = None
    """probabilities of positive labels"""


@dataclass(frozen=True)
class WeightedReward(Generic[Groups]):
    """One term of a sum of rewards."""

    name: str
    weight: float
    reward: Callable[[Groups, RewardContext], Matrix]


def weighted_rewards(
    text: str,
    known: Mapping[str, Callable[[Groups, RewardContext], Matrix]],
    of_function: Callable[[str, Callable[..., Any]], Callable[[Groups, RewardContext], Matrix]],
) -> tuple[WeightedReward[Groups], ...]:
    """Parse `rank=1,prefix=0.5`: `known` names, or functions as MODULE:FUNCTION, with weights; the
    weight is 1 if not given. `of_function` makes a reward of a name and its function.

    Raises UsageError for an unknown or repeated name, a weight that is not a number other than 0,
    and a function that cannot be imported."""
    return tuple(
        WeightedReward(
            name, weight, known.get(name) or of_function(name, find_function(name, known))
        )
        for name, weight in parse_terms(text).items()
    )


def reward_sum(
    rewards: Sequence[WeightedReward[Groups]], groups: Groups, context: RewardContext
) -> Matrix:
    """The weighted sum of the rewards of every answer; there is at least one reward.

    Raises DataError if a function of the user raises, returns another shape, or NaN or infinity."""
    terms = [term.weight * term.reward(groups, context) for term in rewards]
    total: Matrix = np.sum(terms, axis=0)
    return total


def item_scores(
    scorer: ItemScorer | None, histories: Sequence[NDArray[np.int64]], items: NDArray[np.int64]
) -> Matrix:
    """(n, k) scores of (n, k) bundle rows, 0 for -1."""
    assert scorer is not None  # the plan of a run has checked
    return np.where(items >= 0, scorer(histories, items), 0.0)
