"""Rewards that are functions of the user, named MODULE:FUNCTION."""

import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, UsageError
from sidtool.tokenizer.bundle import StringArray
from sidtool.training.reinforcement.rewards.reward import (
    Groups,
    ListGroups,
    Matrix,
    Reward,
    RewardContext,
)


def function_reward(name: str, known: Iterable[str]) -> Reward:
    """The reward of MODULE:FUNCTION, of an importable module or a file MODULE.py in the current
    folder: `function(prompts, items, targets, context)` with item ids, where a prompt has G items
    and a target, or G lists and a list of targets.

    Raises UsageError for a name that is none and not `known`, and if it cannot be imported."""
    function = _find_function(name, known)

    def of_items(groups: Groups, context: RewardContext) -> Matrix:
        ids = context.bundle.items.ids
        answers = [_named(ids, rows) for rows in groups.items]
        targets = _named(ids, groups.targets)
        return _call(name, function, "item", groups, answers, targets, context)

    def of_lists(groups: ListGroups, context: RewardContext) -> Matrix:
        ids = context.bundle.items.ids
        answers = [
            [_named(ids, rows) for rows in lists if (rows >= 0).any()] for lists in groups.items
        ]
        targets = [_named(ids, rows) for rows in groups.targets]
        return _call(name, function, "list", groups, answers, targets, context)

    return Reward(of_items, of_lists)


def _find_function(name: str, known: Iterable[str]) -> Callable[..., Any]:
    module, colon, function_name = name.partition(":")
    if not (module and colon and function_name):
        raise UsageError(
            f"no reward {name!r}", hint=f"choose from {', '.join(known)}, or MODULE:FUNCTION"
        )
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        function: Callable[..., Any] = getattr(importlib.import_module(module), function_name)
    except Exception as error:  # whatever the module's code raises
        raise UsageError(f"reward {name} cannot be imported: {_one_line(error)}") from error
    finally:
        sys.path.remove(folder)
    if not callable(function):
        raise UsageError(f"reward {name} is no function")
    return function


def _named(ids: StringArray, rows: NDArray[np.int64]) -> list[str]:
    return [ids[row] for row in rows.tolist() if row >= 0]


def _call(
    name: str,
    function: Callable[..., Any],
    kind: str,
    groups: Groups | ListGroups,
    answers: Sequence[Sequence[Any]],
    targets: Sequence[Any],
    context: RewardContext,
) -> Matrix:
    """(n, G) rewards of the answers to each of n prompts, 0 where there is none; `kind` is what an
    answer is.

    Raises DataError if the function raises, or does not return a finite number for each answer."""
    prompts = [_named(context.bundle.items.ids, history) for history in groups.histories]
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
    for group, (of_prompt, judged) in enumerate(zip(returned, answers, strict=True)):
        if of_prompt.shape != (len(judged),):
            raise DataError(
                f"reward {name} returned shape {of_prompt.shape} for the {len(judged)} {kind}s of "
                f"a prompt, not ({len(judged)},)"
            )
        if not np.isfinite(of_prompt).all():
            place = int(np.isfinite(of_prompt).argmin())
            raise DataError(
                f"reward {name} returned {of_prompt[place]} for {kind} {judged[place]!r}"
            )
        rewards[group, places[group]] = of_prompt
    return rewards


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
