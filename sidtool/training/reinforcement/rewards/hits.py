"""Rewards that compare the answers with what really followed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import UsageError
from sidtool.tokenizer.sid import Codes
from sidtool.training.reinforcement.rewards.reward import (
    Groups,
    ListGroups,
    Matrix,
    RewardContext,
)

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


def prefix(groups: Groups, context: RewardContext) -> Matrix:
    """The share of the target's codes that the item has up to the first that differs."""
    item_codes, target_codes = _codes(groups, context)
    equal = item_codes == target_codes
    depth = np.cumprod(equal, axis=-1).sum(axis=-1)  # (n, G)
    return np.where(groups.items >= 0, depth / equal.shape[-1], 0.0)


def ndcg(groups: Groups, context: RewardContext) -> Matrix:
    """What an item adds to the NDCG of its group: that of the group less that of the group without
    the item. The hit has its discount, an item before it what the hit loses by its rank."""
    hits = _hits(groups, context)
    discounts = _discounts(hits.shape[1])
    rank_of_hit = hits.argmax(axis=1)  # (n,)
    gain = discounts[rank_of_hit]
    gain_without = discounts[np.maximum(rank_of_hit - 1, 0)]  # one rank higher
    before = np.arange(hits.shape[1]) < rank_of_hit[:, None]  # (n, G)
    rewards = np.where(before, (gain - gain_without)[:, None], np.where(hits, gain[:, None], 0.0))
    return np.where(hits.any(axis=1, keepdims=True), rewards, 0.0)


def value(groups: Groups, context: RewardContext) -> Matrix:
    """The weight of the training example (a rating, a price, a watch time) for the target's SID,
    else 0."""
    return _hits(groups, context) * _weights(groups)[:, None]


def _codes(groups: Groups, context: RewardContext) -> tuple[Codes, Codes]:
    """(n, G, levels) codes of the items, any codes for -1, and (n, 1, levels) of the targets."""
    codes = context.bundle.items.codes
    return codes[np.maximum(groups.items, 0)], codes[groups.targets][:, None]


def _hits(groups: Groups, context: RewardContext) -> NDArray[np.bool_]:
    """(n, G): whether an item has the target's SID. A policy cannot tell such items apart."""
    item_codes, target_codes = _codes(groups, context)
    hits: NDArray[np.bool_] = (item_codes == target_codes).all(axis=-1) & (groups.items >= 0)
    return hits


# ---- lists ----


def list_recall(groups: ListGroups, _: RewardContext) -> Matrix:
    """The share of the targets that the list has."""
    return _gained_share(groups, None)


def list_value(groups: ListGroups, _: RewardContext) -> Matrix:
    """The share of the targets' weights that the list has."""
    return _gained_share(groups, _weights(groups))


def list_ndcg(groups: ListGroups, _: RewardContext) -> Matrix:
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


def _gained_share(groups: ListGroups, values: Sequence[NDArray[np.float64]] | None) -> Matrix:
    """(n, G): the sum of the weights of the targets in a list, relative to that of all targets."""
    totals = [
        float(len(targets) if values is None else values[row].sum())
        for row, targets in enumerate(groups.targets)
    ]
    share: Matrix = _gains(groups, values).sum(axis=-1) / np.array(totals)[:, None]
    return share


def _gains(groups: ListGroups, values: Sequence[NDArray[np.float64]] | None) -> Any:
    """(n, G, m): the weight of each item as a target, 0 if it is none."""
    gains = np.zeros(groups.items.shape)
    for row, (lists, targets) in enumerate(zip(groups.items, groups.targets, strict=True)):
        of_targets = np.ones(len(targets)) if values is None else values[row]
        matches = lists[..., None] == targets  # (G, m, targets)
        gains[row] = (matches * of_targets).max(axis=-1)
    return gains


# ---- both ----


def _weights(groups: Groups | ListGroups) -> Any:
    if groups.values is None:
        raise UsageError(
            "reward value needs training examples with weights", hint="make-sft --weight COLUMN"
        )
    return groups.values


def _discounts(size: int) -> NDArray[np.float64]:
    discounts: NDArray[np.float64] = 1 / np.log2(np.arange(size) + 2)
    return discounts
