"""Labels: the few different values of a feedback, as the texts that a model writes."""

from collections.abc import Iterable

from sidtool.data.times import NUMBER

MOST_LABELS = 20
"""More different texts are no labels."""


def sorted_labels(texts: Iterable[str]) -> tuple[str, ...]:
    """The different texts, numbers in their order and texts in that of the alphabet."""
    labels = sorted(set(texts))
    if are_numbers(labels):
        labels.sort(key=float)
    return tuple(labels)


def are_numbers(labels: Iterable[str]) -> bool:
    """Whether every label is a number."""
    return all(map(NUMBER.fullmatch, labels))
