"""How often each example of a task enters the mix: by weight, or within a budget of tokens."""

from collections.abc import Callable, Mapping, Sequence
from zlib import crc32

import numpy as np

from sidtool.base.errors import UsageError

Copies = Callable[[], int]
"""Number of copies of the next example; called once per example, in order."""


def check_budgets(
    weights: Mapping[str, float], max_tokens: int | None, max_task_tokens: Mapping[str, int]
) -> None:
    """Raise UsageError unless budgets are positive, belong to tasks of the mix, and leave tokens
    for the other tasks."""
    for task, budget in max_task_tokens.items():
        if task not in weights:
            raise UsageError(
                f"a token budget for task {task!r}, which is not in the mix",
                hint=f"--task {task}=1",
            )
        if budget < 1:
            raise UsageError(f"the token budget of {task} must be positive, not {budget}")
    if max_tokens is None:
        return
    taken = sum(max_task_tokens.values())
    others_get_nothing = taken == max_tokens and len(max_task_tokens) < len(weights)
    if max_tokens < 1 or taken > max_tokens or others_get_nothing:
        raise UsageError(
            f"the mix has {max_tokens} tokens, single tasks take {taken} of them",
            hint="raise --max-tokens or lower --max-task-tokens",
        )


def token_budgets(
    weights: Mapping[str, float], max_tokens: int | None, max_task_tokens: Mapping[str, int]
) -> dict[str, int]:
    """Token budget of each task that has one.

    With `max_tokens`, the tasks without a budget share the rest by weight."""
    budgets = dict(max_task_tokens)
    if max_tokens is None:
        return budgets
    rest = max_tokens - sum(budgets.values())
    others = {task: weight for task, weight in weights.items() if task not in budgets}
    total_weight = sum(others.values())
    for task, weight in others.items():
        budgets[task] = int(rest * weight / total_weight)
    return budgets


def task_rng(task: str, seed: int) -> np.random.Generator:
    """The random generator of a task, independent of the other tasks in the mix."""
    return np.random.default_rng([seed, crc32(task.encode())])


def weighted_copies(weight: float, rng: np.random.Generator) -> Copies:
    """Copies whose mean is the weight: at 1.5, one or two."""
    # the fraction of the weight is the probability of one more copy
    return lambda: int(weight + rng.random())


def copies_within(lengths: Sequence[int], budget: int, rng: np.random.Generator) -> list[int]:
    """Copies of each example, given the examples' lengths and a budget in tokens.

    Every example is copied as often as the budget has room for all of them; a random part that
    fits the rest is copied once more."""
    sizes = np.asarray(lengths, dtype=np.int64)
    total = int(sizes.sum())
    if total == 0:
        return [0] * len(sizes)
    rounds, rest = divmod(budget, total)
    copies = np.full(len(sizes), rounds)
    # in random order, the examples whose sizes add up to at most the rest
    order = rng.permutation(len(sizes))
    once_more = order[sizes[order].cumsum() <= rest]
    copies[once_more] += 1
    return [int(n) for n in copies]
