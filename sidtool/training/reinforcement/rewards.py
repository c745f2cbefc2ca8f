"""Rewards of recommended items: each a function of groups.

A group is the items that a policy recommends for one prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import UsageError
from sidtool.data.fields.fields import Fields
from sidtool.tokenizer.sid import Codes
from sidtool.training.reinforcement.reward_sum import (
    Matrix,
    RewardContext,
    WeightedReward,
    item_scores,
    weighted_rewards,
)
from sidtool.training.reinforcement.reward_terms import call_function


@dataclass(frozen=True, eq=False)
class Groups:
    """n groups of G items; items are rows of the bundle."""

    histories: Sequence[NDArray[np.int64]]
    """n histories of known items, oldest first; empty where a prompt has none"""
    items: NDArray[np.int64]
    """(n, G): each group from the item that the policy prefers; -1 is an answer that is no item"""
    targets: NDArray[np.int64]
    """(n,): the item of each training example"""
    values: NDArray[np.float64] | None = None
    """(n,): the weight of each training example, if the examples have weights"""
    fields: Sequence[Fields] | None = None
    """n fields, known before the next item of each history, if a reward reads them"""


Reward = Callable[[Groups, RewardContext], Matrix]


def parse_rewards(text: str) -> tuple[WeightedReward[Groups], ...]:
    """Parse `rank=1,prefix=0.5`: names of REWARDS, or functions, as `weighted_rewards`."""
    return weighted_rewards(text, REWARDS, _function_reward)


def _exact(groups: Groups, context: RewardContext) -> Matrix:
    """1 for the target's SID, else 0."""
    return _hits(groups, context).astype(np.float64)


def _rank(groups: Groups, context: RewardContext) -> Matrix:
    """MiniOneRec's rank-aware reward (arXiv:2510.24431): in a group with a hit, a miss at rank i,
    from 0, has the negative share of its discount 1 / log2(i + 2) in those of the whole group. The
    hit has 0, and so has every item of a group without a hit. MiniOneRec adds `exact`."""
    hits = _hits(groups, context)
    discounts = _discounts(hits.shape[1])
    penalties = np.where(hits, 0.0, -discounts / discounts.sum())
    return np.where(hits.any(axis=1, keepdims=True), penalties, 0.0)


def _prefix(groups: Groups, context: RewardContext) -> Matrix:
    """The share of the target's codes that the item has up to the first that differs."""
    item_codes, target_codes = _codes(groups, context)
    equal = item_codes == target_codes
    depth = np.cumprod(equal, axis=-1).sum(axis=-1)  # (n, G)
    return np.where(groups.items >= 0, depth / equal.shape[-1], 0.0)


def _ndcg(groups: Groups, context: RewardContext) -> Matrix:
    """What an item adds to the NDCG of its group: that of the group less that of the group without
    the item. The hit has its discount, an item before it what the hit loses by its rank."""
    hits = _hits(groups, context)
    discounts = _discounts(hits.shape[1])
    rank = hits.argmax(axis=1)  # (n,)
    gain = discounts[rank]
    gain_without = discounts[np.maximum(rank - 1, 0)]  # one rank higher
    before = np.arange(hits.shape[1]) < rank[:, None]  # (n, G)
    rewards = np.where(before, (gain - gain_without)[:, None], np.where(hits, gain[:, None], 0.0))
    return np.where(hits.any(axis=1, keepdims=True), rewards, 0.0)


def _collaborative(groups: Groups, context: RewardContext) -> Matrix:
    """The item's item-kNN score for the history, relative to the best item of the catalog."""
    return item_scores(context.collaborative, groups.histories, groups.items)


def _teacher(groups: Groups, context: RewardContext) -> Matrix:
    """The item's probability under another model, relative to the sum over the group."""
    return item_scores(context.teacher, groups.histories, groups.items)


def _label(groups: Groups, context: RewardContext) -> Matrix:
    """The probability of a positive label under a model that predicts labels."""
    assert context.label is not None  # the plan of a run has checked
    return context.label(groups.histories, groups.fields, groups.items)


def _value(groups: Groups, context: RewardContext) -> Matrix:
    """The weight of the training example (a rating, a price, a watch time) for the target's SID,
    else 0."""
    if groups.values is None:
        raise UsageError(
            "reward value needs training examples with weights", hint="make-sft --weight COLUMN"
        )
    return _hits(groups, context) * groups.values[:, None]


def _format(groups: Groups, context: RewardContext) -> Matrix:
    """1 for an item of the catalog, 0 for an answer that is none: for models that generate without
    a constraint."""
    return (groups.items >= 0).astype(np.float64)


REWARDS: dict[str, Reward] = {
    "exact": _exact,
    "rank": _rank,
    "prefix": _prefix,
    "ndcg": _ndcg,
    "collaborative": _collaborative,
    "teacher": _teacher,
    "label": _label,
    "value": _value,
    "format": _format,
}


def _codes(groups: Groups, context: RewardContext) -> tuple[Codes, Codes]:
    """(n, G, levels) codes of the items, any codes for -1, and (n, 1, levels) of the targets."""
    codes = context.bundle.items.codes
    return codes[np.maximum(groups.items, 0)], codes[groups.targets][:, None]


def _hits(groups: Groups, context: RewardContext) -> NDArray[np.bool_]:
    """(n, G): whether an item has the target's SID. A policy cannot tell such items apart."""
    item_codes, target_codes = _codes(groups, context)
    hits: NDArray[np.bool_] = (item_codes == target_codes).all(axis=-1) & (groups.items >= 0)
    return hits


def _discounts(size: int) -> NDArray[np.float64]:
    discounts: NDArray[np.float64] = 1 / np.log2(np.arange(size) + 2)
    return discounts


def _function_reward(name: str, function: Callable[..., Any]) -> Reward:
    def reward(groups: Groups, context: RewardContext) -> Matrix:
        """Call `function(prompts, items, targets, context)` with item ids."""
        ids = context.bundle.items.ids

        def named(rows: NDArray[np.int64]) -> list[str]:
            return [ids[row] for row in rows.tolist() if row >= 0]

        prompts = list(map(named, groups.histories))
        items = list(map(named, groups.items))
        targets = named(groups.targets)
        return call_function(
            name, function, prompts, items, targets, context, places=groups.items >= 0, kind="item"
        )

    return reward
