"""How a mix of tasks is made: by weights, or within a budget of tokens.

Knows weights, budgets and the lengths of rows; knows nothing of what a row says.
"""

from collections.abc import Callable, Mapping, Sequence
from zlib import crc32

import numpy as np

from sidtool.errors import UsageError

Copies = Callable[[], int]
"""How often the next row is taken: asked once for each."""


def check_budgets(
    weights: Mapping[str, float], tokens: int | None, budgets: Mapping[str, int]
) -> None:
    """Raise UsageError unless budgets are positive, of tasks of the mix, and leave something for
    the other tasks."""
    for task, budget in budgets.items():
        if task not in weights:
            raise UsageError(
                f"a token budget for {task!r}, which is no task of this mix",
                hint=f"--task {task}=1",
            )
        if budget < 1:
            raise UsageError(f"the token budget of {task} must be positive, not {budget}")
    if tokens is None:
        return
    taken = sum(budgets.values())
    if tokens < 1 or taken > tokens or (taken == tokens and len(budgets) < len(weights)):
        raise UsageError(f"a mix of {tokens} tokens cannot hold tasks that take {taken} of them")


def shares(
    weights: Mapping[str, float], tokens: int | None, budgets: Mapping[str, int]
) -> dict[str, int]:
    """The token budget of each task that has one: its own, or its weight's share in what is left of
    the total."""
    if tokens is None:
        return dict(budgets)
    others = {task: weight for task, weight in weights.items() if task not in budgets}
    left, total = tokens - sum(budgets.values()), sum(others.values())
    return dict(budgets) | {task: int(left * weight / total) for task, weight in others.items()}


def generator(task: str, seed: int) -> np.random.Generator:
    """What is drawn for a task, whichever other tasks are in the mix."""
    return np.random.default_rng([seed, crc32(task.encode())])


def drawn(weight: float, rng: np.random.Generator) -> Copies:
    """Copies whose mean is a weight: 1.5 takes a row once or twice."""
    return lambda: int(weight + rng.random())


def picks(lengths: Sequence[int], budget: int, rng: np.random.Generator) -> list[int]:
    """How often each row is taken: all rows as often as the budget has room for all, then a random
    part once more."""
    sizes = np.asarray(lengths, dtype=np.int64)
    if not sizes.sum():
        return [0] * len(sizes)
    rounds, rest = divmod(budget, int(sizes.sum()))
    copies = np.full(len(sizes), rounds)
    order = rng.permutation(len(sizes))
    copies[order[sizes[order].cumsum() <= rest]] += 1
    return [int(n) for n in copies]
