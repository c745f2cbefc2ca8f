"""Rewards of recommended items: each a function of groups, and weighted sums of them.

A group is the items that a policy recommends for one prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.bundle.bundle import Bundle
from sidtool.errors import UsageError
from sidtool.policy.reward_terms import call_function, find_function, parse_terms
from sidtool.sid import Codes

Matrix = NDArray[np.float64]
"""(n, G): one number for each item of n groups."""
ItemScorer = Callable[[Sequence[NDArray[np.int64]], NDArray[np.int64]], Matrix]
"""(n histories of bundle rows, (n, G) bundle rows) -> (n, G) scores."""


@dataclass(frozen=True, eq=False)
class Groups:
    """n groups of G items; items are rows of the bundle."""

    histories: Sequence[NDArray[np.int64]]
    """n histories, oldest item first, -1 for an unknown item; empty where a prompt has none"""
    items: NDArray[np.int64]
    """(n, G): each group from the item that the policy prefers; -1 is an answer that is no item"""
    targets: NDArray[np.int64]
    """(n,): the item of each training example"""
    values: NDArray[np.float64] | None = None
    """(n,): the weight of each training example, if the examples have weights"""


@dataclass(frozen=True, eq=False)
class RewardContext:
    """What rewards read beside the groups."""

    bundle: Bundle
    collaborative: ItemScorer | None = None
    """item-kNN scores (`scorers.memory_scorer`)"""
    teacher: ItemScorer | None = None
    """probabilities of another model (`scorers.teacher_scorer`)"""


Reward = Callable[[Groups, RewardContext], Matrix]


@dataclass(frozen=True)
class WeightedReward:
    """One term of a sum of rewards."""

    name: str
    weight: float
    reward: Reward


def reward_matrix(
    rewards: Sequence[WeightedReward], groups: Groups, context: RewardContext
) -> Matrix:
    """The weighted sum of the rewards of every item.

    Raises DataError if a function of the user raises, returns another shape, or NaN or infinity."""
    total = np.zeros(groups.items.shape)
    for term in rewards:
        total += term.weight * term.reward(groups, context)
    return total


def parse_rewards(text: str) -> tuple[WeightedReward, ...]:
    """Parse `rank=1,prefix=0.5`: names of REWARDS, or functions as MODULE:FUNCTION, with weights;
    the weight is 1 if not given.

    Raises UsageError for an unknown or repeated name, a weight that is not a number other than 0,
    and a function that cannot be imported."""
    return tuple(
        WeightedReward(name, weight, _find_reward(name))
        for name, weight in parse_terms(text).items()
    )


def check_context(rewards: Sequence[WeightedReward], context: RewardContext) -> None:
    """Raise UsageError if a reward needs a scorer that the context lacks."""
    names = {term.name for term in rewards}
    if "collaborative" in names and context.collaborative is None:
        raise UsageError("reward collaborative needs a memory", hint="--reward-memory MEMORY")
    if "teacher" in names and context.teacher is None:
        raise UsageError("reward teacher needs a trained model", hint="--reward-teacher MODEL")


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
    return _scores(context.collaborative, groups)


def _teacher(groups: Groups, context: RewardContext) -> Matrix:
    """The item's probability under another model, relative to the sum over the group."""
    return _scores(context.teacher, groups)


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


def _scores(scorer: ItemScorer | None, groups: Groups) -> Matrix:
    if scorer is None:
        raise UsageError("the reward needs a scorer")  # check_context says which
    return np.where(groups.items >= 0, scorer(groups.histories, groups.items), 0.0)


def _find_reward(name: str) -> Reward:
    if name in REWARDS:
        return REWARDS[name]
    function = find_function(name, REWARDS)

    def reward(groups: Groups, context: RewardContext) -> Matrix:
        return _call(name, function, groups, context)

    return reward


def _call(
    name: str, function: Callable[..., Any], groups: Groups, context: RewardContext
) -> Matrix:
    """Call `function(prompts, items, targets, context)` with item ids."""
    ids = context.bundle.items.ids

    def named(row: int) -> str | None:
        return ids[row] if row >= 0 else None

    prompts = [[ids[row] for row in history[history >= 0]] for history in groups.histories]
    items = [[named(row) for row in group] for group in groups.items.tolist()]
    targets = [ids[row] for row in groups.targets.tolist()]
    return call_function(name, function, prompts, items, targets, context, kind="item")
