"""The kinds of rewards by name, and sums of them as text: those that compare the answers with what
really followed, that of a memory, and functions of the user."""

import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, UsageError
from sidtool.data.split import check_split
from sidtool.memory import Memory
from sidtool.memory.mixture import MemoryIndex
from sidtool.tokenizer.bundle import Bundle, StringArray
from sidtool.tokenizer.sid import ItemRows
from sidtool.training.reinforcement.rewards.label import POSITIVE, open_labels
from sidtool.training.reinforcement.rewards.reward import (
    Answer,
    Groups,
    Matrix,
    Reward,
    RewardContext,
    RewardInput,
    RewardTerm,
    RunFacts,
    Scores,
)

BOTH: tuple[Answer, ...] = ("item", "list")
"""Answers that rewards with an input, and functions of the user, judge."""


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


def list_recall(groups: Groups, _: RewardContext) -> Matrix:
    """The share of the targets that the list has."""
    return _gained_share(groups, _equal_values(groups))


def list_value(groups: Groups, _: RewardContext) -> Matrix:
    """The share of the targets' weights that the list has."""
    if groups.values is None:  # the plan has read the lineage, and not the examples
        raise UsageError(
            "reward value needs training examples with weights", hint="make-sft --weight COLUMN"
        )
    return _gained_share(groups, groups.values)


def list_ndcg(groups: Groups, _: RewardContext) -> Matrix:
    """The discounted gain of the targets in the list, by their weights if they have any, relative
    to that of the best list of its length."""
    values = groups.values or _equal_values(groups)
    discounts = _discounts(groups.items.shape[2])
    ideal = np.zeros((len(groups.targets), 1))
    for row, weights in enumerate(values):
        best = np.sort(weights)[::-1][: len(discounts)]
        ideal[row] = (best * discounts[: len(best)]).sum()
    gained: Matrix = (_gains(groups, values) * discounts).sum(axis=-1) / ideal
    return gained


Values = Sequence[NDArray[np.float64]]
"""The weight of each target, for n lists."""


def _equal_values(groups: Groups) -> Values:
    return [np.ones(len(targets)) for targets in groups.targets]


def _gained_share(groups: Groups, values: Values) -> Matrix:
    """(n, G): the sum of the weights of the targets in a list, relative to that of all targets."""
    totals = np.array([weights.sum() for weights in values])
    share: Matrix = _gains(groups, values).sum(axis=-1) / totals[:, None]
    return share


def _gains(groups: Groups, values: Values) -> Any:
    """(n, G, m): the weight of each item as a target, 0 if it is none."""
    gains = np.zeros(groups.items.shape)
    rows = zip(groups.items, groups.targets, values, strict=True)
    for row, (lists, targets, weights) in enumerate(rows):
        matches = lists[..., None] == targets  # (G, m, targets)
        gains[row] = (matches * weights).max(axis=-1)
    return gains


def _discounts(size: int) -> NDArray[np.float64]:
    discounts: NDArray[np.float64] = 1 / np.log2(np.arange(size) + 2)
    return discounts


def function_reward(name: str, built_in: Iterable[str]) -> Reward:
    """The reward of MODULE:FUNCTION, of an importable module or a file MODULE.py in the current
    folder: `function(prompts, items, targets, context)` with item ids, where a prompt has G items
    and a target, or G lists and a list of targets.

    Raises UsageError for a name of another form, with the names of rewards that are `built_in`, and
    for a function that cannot be imported."""
    module, colon, function_name = name.partition(":")
    if not (module and colon and function_name):
        raise UsageError(
            f"no reward {name!r}", hint=f"choose from {', '.join(built_in)}, or MODULE:FUNCTION"
        )
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        function = getattr(importlib.import_module(module), function_name)
    except Exception as error:  # whatever the module's code raises
        raise UsageError(f"reward {name} cannot be imported: {_one_line(error)}") from error
    finally:
        sys.path.remove(folder)
    if not callable(function):
        raise UsageError(f"reward {name} is no function")
    return Reward(partial(_call, name, function), BOTH)


def _named(ids: StringArray, rows: NDArray[np.int64]) -> list[str]:
    return [ids[row] for row in rows.tolist() if row >= 0]


def _call(
    name: str, function: Callable[..., Any], groups: Groups, context: RewardContext
) -> Matrix:
    """(n, G) rewards of the answers to each of n prompts, 0 where there is none.

    Raises DataError if the function raises, or does not return a finite number for each answer."""
    ids = context.bundle.items.ids
    prompts = [_named(ids, history) for history in groups.histories]
    answers: list[list[Any]]
    targets: list[Any]
    if groups.has_lists:
        kind = "list"
        targets = [_named(ids, rows) for rows in groups.targets]
        answers = [
            [_named(ids, rows) for rows in lists if (rows >= 0).any()] for lists in groups.items
        ]
    else:
        kind = "item"
        targets = _named(ids, np.asarray(groups.targets))
        answers = [_named(ids, rows) for rows in groups.items]
    is_item = (groups.items >= 0).reshape(*groups.items.shape[:2], -1)
    places: NDArray[np.bool_] = np.any(is_item, axis=-1)  # (n, G)
    try:
        returned = [
            np.asarray(row, dtype=np.float64)
            for row in function(prompts, answers, targets, context)
        ]
    except Exception as error:  # whatever the user's code raises, and what is no list of lists
        raise DataError(f"reward {name} failed: {_one_line(error)}") from error
    if len(returned) != len(answers):
        raise DataError(
            f"reward {name} returned {len(returned)} lists, not one for each of {len(answers)} "
            "prompts"
        )
    rewards = np.zeros(places.shape)
    for group, (scores, judged) in enumerate(zip(returned, answers, strict=True)):
        if scores.shape != (len(judged),):
            raise DataError(
                f"reward {name} returned shape {scores.shape} for the {len(judged)} {kind}s of "
                f"a prompt, not ({len(judged)},)"
            )
        if not np.isfinite(scores).all():
            place = int(np.isfinite(scores).argmin())
            raise DataError(f"reward {name} returned {scores[place]} for {kind} {judged[place]!r}")
        rewards[group, places[group]] = scores
    return rewards


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def open_memory(path: str, facts: RunFacts) -> RewardInput:
    """Raises CompatibilityError if the memory is of another bundle, or may have learned from events
    that the examples' split holds out."""
    memory = Memory.open_verified(Path(path))
    memory.check_bundle(facts.bundle)
    made_from = (str(facts.examples), facts.lineage.split)
    check_split(f"memory {path}", memory.manifest.split, *made_from)
    return RewardInput(
        lambda device: memory_scores(memory, facts.bundle),
        lambda: memory.manifest.digest,
        f"memory {path}",
        split=memory.manifest.split,
    )


def memory_scores(memory: Memory, bundle: Bundle) -> Scores:
    """Item-kNN scores of a memory: 1 for the best item for a history, 0 for items that are not
    among its `index.ITEMS` best.

    Raises CompatibilityError unless the bundle is the memory's or a later version of it."""
    index = MemoryIndex.of(memory, bundle)
    trie = bundle.trie()

    def score(histories: Sequence[NDArray[np.int64]], _: Any, items: NDArray[np.int64]) -> Matrix:
        scores = np.zeros(items.shape)
        distributions = index.distributions(list(map(ItemRows, histories)), power=1.0)
        for row, distribution in enumerate(distributions):
            if len(distribution):
                logs = distribution.log_probs_at(trie.positions_of(ItemRows(items[row])))
                scores[row] = np.exp(logs - distribution.log_probs.max())
        return np.where(items >= 0, scores, 0.0)

    return score


# what the examples know of an event is a field of `Groups`, filled by `RlExamples.groups`
REWARDS: dict[str, Reward] = {
    "exact": Reward(exact),
    "rank": Reward(rank),
    "recall": Reward(list_recall, ("list",)),
    "ndcg": Reward(list_ndcg, ("list",)),
    "value": Reward(list_value, ("list",), needs_weights=True),
    "collaborative": Reward(answers=BOTH, open_input=open_memory),
    "label": Reward(answers=BOTH, open_input=open_labels, settings=(POSITIVE,)),
}


def parse_rewards(text: str, *, lists: bool = False) -> tuple[RewardTerm, ...]:
    """Parse `exact=1,rank=0.5`: names of REWARDS of items or of lists, or functions as
    MODULE:FUNCTION, with weights; the weight is 1 if not given.

    Raises UsageError for an unknown or repeated name, a weight that is not a number other than 0,
    and a function that cannot be imported."""
    answer = "list" if lists else "item"
    kinds = {name: kind for name, kind in REWARDS.items() if answer in kind.answers}
    terms: dict[str, RewardTerm] = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.partition("="))
        try:
            weight = float(number) if equals else 1.0
        except ValueError:
            weight = np.nan
        if not np.isfinite(weight) or weight == 0:
            raise UsageError(
                f"the weight of reward {name} is a number other than 0, not {number!r}"
            )
        if name in terms:
            raise UsageError(f"reward {name} is given twice")
        terms[name] = RewardTerm(name, weight, kinds.get(name) or function_reward(name, kinds))
    return tuple(terms.values())
