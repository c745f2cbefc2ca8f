"""What rewards of items and of lists share: weighted terms as text, and functions of users."""

import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.errors import DataError, UsageError


def parse_terms(text: str) -> dict[str, float]:
    """`rank=1,prefix=0.5` as weights by name; the weight is 1 if not given.

    Raises UsageError for a repeated name, and a weight that is not a number other than 0."""
    terms: dict[str, float] = {}
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
        terms[name] = weight
    return terms


def find_function(name: str, known: Iterable[str]) -> Callable[..., Any]:
    """The function of MODULE:FUNCTION, of an importable module or a file MODULE.py in the current
    folder. Raises UsageError for a name that is none and not `known`, and if it cannot be
    imported."""
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


def call_function(
    name: str,
    function: Callable[..., Any],
    prompts: Sequence[Any],
    answers: Sequence[Sequence[Any]],
    *others: Any,
    kind: str,
) -> NDArray[np.float64]:
    """(n, G) rewards of G answers to each of n prompts by a function of the user, which gets
    prompts, answers and `others`. `kind` is what an answer is.

    Raises DataError if the function raises, or returns another shape, NaN or infinity."""
    shape = (len(answers), len(answers[0]) if answers else 0)
    try:
        rewards = np.asarray(function(prompts, answers, *others), dtype=np.float64)
    except Exception as error:  # whatever the user's code raises, and ragged lists
        raise DataError(f"reward {name} failed: {_one_line(error)}") from error
    if rewards.shape != shape:
        raise DataError(
            f"reward {name} returned shape {rewards.shape}, not {shape}: one list of {shape[1]} "
            "floats per prompt"
        )
    if not np.isfinite(rewards).all():
        group, place = np.argwhere(~np.isfinite(rewards))[0].tolist()
        raise DataError(
            f"reward {name} returned {rewards[group, place]} for {kind} {answers[group][place]!r}"
        )
    return rewards


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
