"""Searches settings on validation users, one setting after the other."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Grid = Mapping[str, Sequence[Any]]
"""The values to try of each setting."""
Settings = dict[str, Any]

ROUNDS = 2
"""The second round sees the other settings' choices of the first."""


def coordinate_search(
    start: Mapping[str, Any],
    grid: Grid,
    quality: Callable[[Settings], float],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Settings, float]:
    """The settings with the best quality, and that quality: from `start`, every value of one
    setting after the other, in ROUNDS. Equal results keep the earlier setting."""
    best = dict(start)
    qualities = {tuple(best.values()): quality(best)}
    trials = [(name, value) for name, values in grid.items() for value in values] * ROUNDS
    for done, (name, value) in enumerate(trials, start=1):
        candidate = best | {name: value}
        key = tuple(candidate.values())
        if key not in qualities:
            qualities[key] = quality(candidate)
        if qualities[key] > qualities[tuple(best.values())]:
            best = candidate
        if progress is not None:
            progress(done, len(trials))
    return best, qualities[tuple(best.values())]
