"""Rewards of lists: each a function of several lists per prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import UsageError
from sidtool.data.fields.fields import Fields
from sidtool.training.reinforcement.reward_sum import (
    Matrix,
    RewardContext,
    WeightedReward,
    item_scores,
    weighted_rewards,
)
from sidtool.training.reinforcement.reward_terms import call_function


@dataclass(frozen=True, eq=False)
class ListGroups:
    """G lists for each of n prompts; items are rows of the bundle."""

    histories: Sequence[NDArray[np.int64]]
    """n histories, oldest item first"""
    lists: NDArray[np.int64]
    """(n, G, m): -1 behind the last item of a list"""
    targets: Sequence[NDArray[np.int64]]
    """n lists of the items that really followed"""
    values: Sequence[NDArray[np.float64]] | None = None
    """the weight of each target, if the examples have weights"""
    fields: Sequence[Fields] | None = None
    """n fields, known before the next item of each history, if a reward reads them"""


ListReward = Callable[[ListGroups, RewardContext], Matrix]


def parse_list_rewards(text: str) -> tuple[WeightedReward[ListGroups], ...]:
    """Parse `ndcg=1,collaborative=0.5`: names of LIST_REWARDS, or functions, as
    `weighted_rewards`."""
    return weighted_rewards(text, LIST_REWARDS, _function_reward)


def _recall(groups: ListGroups, _: RewardContext) -> Matrix:
    """The share of the targets that the list has."""
    return _sums(_gains(groups, None), np.ones(groups.lists.shape[2])) / _totals(groups, None)


def _value(groups: ListGroups, _: RewardContext) -> Matrix:
    """The share of the targets' weights that the list has."""
    values = _values(groups)
    return _sums(_gains(groups, values), np.ones(groups.lists.shape[2])) / _totals(groups, values)


def _ndcg(groups: ListGroups, _: RewardContext) -> Matrix:
    """The discounted gain of the targets in the list, by their weights if they have any, relative
    to that of the best list of its length."""
    values = groups.values
    discounts = 1 / np.log2(np.arange(groups.lists.shape[2]) + 2)
    ideal = np.zeros((len(groups.targets), 1))
    for row, targets in enumerate(groups.targets):
        gains = np.ones(len(targets)) if values is None else values[row]
        best = np.sort(gains)[::-1][: len(discounts)]
        ideal[row] = (best * discounts[: len(best)]).sum()
    return _sums(_gains(groups, values), discounts) / ideal


def _collaborative(groups: ListGroups, context: RewardContext) -> Matrix:
    """The mean of the items' item-kNN scores for the history, relative to the best item."""
    return _mean_scores(partial(item_scores, context.collaborative, groups.histories), groups)


def _teacher(groups: ListGroups, context: RewardContext) -> Matrix:
    """The mean of the items' probabilities under another model, relative to the sum over all lists
    of the prompt."""
    return _mean_scores(partial(item_scores, context.teacher, groups.histories), groups)


def _label(groups: ListGroups, context: RewardContext) -> Matrix:
    """The mean of the items' probabilities of a positive label under a model that predicts
    labels."""
    assert context.label is not None  # the plan of a run has checked
    return _mean_scores(partial(context.label, groups.histories, groups.fields), groups)


LIST_REWARDS: dict[str, ListReward] = {
    "recall": _recall,
    "ndcg": _ndcg,
    "value": _value,
    "collaborative": _collaborative,
    "teacher": _teacher,
    "label": _label,
}


def _values(groups: ListGroups) -> Sequence[NDArray[np.float64]]:
    if groups.values is None:
        raise UsageError(
            "reward value needs training examples with weights", hint="make-sft --weight COLUMN"
        )
    return groups.values


def _gains(groups: ListGroups, values: Sequence[NDArray[np.float64]] | None) -> Any:
    """(n, G, m): the weight of each item as a target, 0 if it is none."""
    gains = np.zeros(groups.lists.shape)
    for row, (lists, targets) in enumerate(zip(groups.lists, groups.targets, strict=True)):
        of_targets = np.ones(len(targets)) if values is None else values[row]
        matches = lists[..., None] == targets  # (G, m, targets)
        gains[row] = (matches * of_targets).max(axis=-1)
    return gains


def _sums(gains: Any, discounts: NDArray[np.float64]) -> Matrix:
    """(n, G): the discounted sums of (n, G, m) gains."""
    sums: Matrix = (gains * discounts).sum(axis=-1)
    return sums


def _totals(groups: ListGroups, values: Sequence[NDArray[np.float64]] | None) -> Matrix:
    """(n, 1): the sum of the targets' weights."""
    totals = [
        float(len(targets) if values is None else values[row].sum())
        for row, targets in enumerate(groups.targets)
    ]
    return np.array(totals)[:, None]


def _mean_scores(score: Callable[[NDArray[np.int64]], Matrix], groups: ListGroups) -> Matrix:
    """(n, G): the mean of the items' scores, by a function of (n, k) bundle rows that gives 0 for
    -1."""
    n, size, length = groups.lists.shape
    scores = score(groups.lists.reshape(n, size * length))
    n_items = (groups.lists >= 0).sum(axis=-1)  # (n, G)
    means: Matrix = scores.reshape(groups.lists.shape).sum(axis=-1) / np.maximum(n_items, 1)
    return means


def _function_reward(name: str, function: Callable[..., Any]) -> ListReward:
    def reward(groups: ListGroups, context: RewardContext) -> Matrix:
        """Call `function(prompts, lists, targets, context)` with item ids."""
        ids = context.bundle.items.ids

        def named(rows: NDArray[np.int64]) -> list[str]:
            return [ids[row] for row in rows.tolist() if row >= 0]

        prompts = [named(history) for history in groups.histories]
        is_list: NDArray[np.bool_] = np.any(groups.lists >= 0, axis=-1)  # (n, G)
        lists = [
            list(map(named, group[places]))
            for group, places in zip(groups.lists, is_list, strict=True)
        ]
        targets = [named(rows) for rows in groups.targets]
        return call_function(
            name, function, prompts, lists, targets, context, places=is_list, kind="list"
        )

    return reward
