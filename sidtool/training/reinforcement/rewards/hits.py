"""Rewards that compare the answers with what really followed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import UsageError
from sidtool.training.reinforcement.rewards.reward import Groups, Matrix, RewardContext

# ---- items ----


def exact(groups: Groups, context: RewardContext) -> Matrix:
    """1 for the target's SID, else 0."""
    return _hits(groups, context).astype(np.float64)


def rank(groups: Groups, context: RewardContext) -> Matrix:
    """MiniOneRec's rank-aware reward (arXiv:2510.24431): in a group with a hit, a miss at rank i,
    from 0, has the negative share of its discount 1 / log2(i + 2) in those of the whole group. The
    hit has 0, and so has every item of a group without a hit. MiniOneRec adds `exact`."""
    hits = _hits(groups, context)
    discounts = _discounts(hits.shape[1])
    penalties = np.where(hits, 0.0, -discounts / discounts.sum())
    return np.where(hits.any(axis=1, keepdims=True), penalties, 0.0)


def _hits(groups: Groups, context: RewardContext) -> NDArray[np.bool_]:
    """(n, G): whether an item has the target's SID. A policy cannot tell such items apart."""
    codes = context.bundle.items.codes
    has_codes = (codes[groups.items] == codes[np.asarray(groups.targets)][:, None]).all(axis=-1)
    hits: NDArray[np.bool_] = has_codes & (groups.items >= 0)
    return hits


# ---- lists ----


def list_recall(groups: Groups, _: RewardContext) -> Matrix:
    """The share of the targets that the list has."""
    return _gained_share(groups, None)


def list_value(groups: Groups, _: RewardContext) -> Matrix:
    """The share of the targets' weights that the list has."""
    if groups.values is None:
        raise UsageError(
            "reward value needs training examples with weights", hint="make-sft --weight COLUMN"
        )
    return _gained_share(groups, groups.values)


def list_ndcg(groups: Groups, _: RewardContext) -> Matrix:
    """The discounted gain of the targets in the list, by their weights if they have any, relative
    to that of the best list of its length."""
    values = groups.values
    discounts = _discounts(groups.items.shape[2])
    ideal = np.zeros((len(groups.targets), 1))
    for row, targets in enumerate(groups.targets):
        gains = np.ones(len(targets)) if values is None else values[row]
        best = np.sort(gains)[::-1][: len(discounts)]
        ideal[row] = (best * discounts[: len(best)]).sum()
    gained: Matrix = (_gains(groups, values) * discounts).sum(axis=-1) / ideal
    return gained


def _gained_share(groups: Groups, values: Sequence[NDArray[np.float64]] | None) -> Matrix:
    """(n, G): the sum of the weights of the targets in a list, relative to that of all targets."""
    totals = [
        float(len(targets) if values is None else values[row].sum())
        for row, targets in enumerate(groups.targets)
    ]
    share: Matrix = _gains(groups, values).sum(axis=-1) / np.array(totals)[:, None]
    return share


def _gains(groups: Groups, values: Sequence[NDArray[np.float64]] | None) -> Any:
    """(n, G, m): the weight of each item as a target, 0 if it is none."""
    gains = np.zeros(groups.items.shape)
    for row, (lists, targets) in enumerate(zip(groups.items, groups.targets, strict=True)):
        of_targets = np.ones(len(targets)) if values is None else values[row]
        matches = lists[..., None] == targets  # (G, m, targets)
        gains[row] = (matches * of_targets).max(axis=-1)
    return gains


# ---- both ----


def _discounts(size: int) -> NDArray[np.float64]:
    discounts: NDArray[np.float64] = 1 / np.log2(np.arange(size) + 2)
    return discounts
