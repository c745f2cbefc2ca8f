"""What rewards of items and of lists share: weighted terms as text, and functions of users."""

import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, UsageError


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
    places: NDArray[np.bool_],
    kind: str,
) -> NDArray[np.float64]:
    """(n, G) rewards of the answers to each of n prompts by a function of the user, which gets
    prompts, answers and `others`. `places`, (n, G), is where the answers to a prompt are in its
    group; elsewhere the reward is 0. `kind` is what an answer is.

    Raises DataError if the function raises, or does not return a finite number for each answer."""
    try:
        returned = [
            np.asarray(row, dtype=np.float64) for row in function(prompts, answers, *others)
        ]
    except Exception as error:  # whatever the user's code raises, and what is no list of lists
        raise DataError(f"reward {name} failed: {_one_line(error)}") from error
    if len(returned) != len(answers):
        raise DataError(
            f"reward {name} returned {len(returned)} lists, not one for each of {len(answers)} "
            "prompts"
        )
    rewards = np.zeros(places.shape)
    for group, (of_prompt, asked) in enumerate(zip(returned, answers, strict=True)):
        if of_prompt.shape != (len(asked),):
            raise DataError(
                f"reward {name} returned shape {of_prompt.shape} for the {len(asked)} {kind}s of a "
                f"prompt, not ({len(asked)},)"
            )
        if not np.isfinite(of_prompt).all():
            place = int(np.isfinite(of_prompt).argmin())
            raise DataError(
                f"reward {name} returned {of_prompt[place]} for {kind} {asked[place]!r}"
            )
        rewards[group, places[group]] = of_prompt
    return rewards


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
