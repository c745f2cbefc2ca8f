"""Parameters of a test in fewer combinations than their product."""

from collections.abc import Iterable
from itertools import combinations, product
from typing import Any


def all_pairs(*values: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Combinations of one value of each parameter, such that any two values of two parameters meet
    in one of them: of 4 x 4 x 3 values, 16 instead of 48."""
    parameters = [list(parameter) for parameter in values]

    def pairs(row: tuple[int, ...]) -> set[tuple[tuple[int, int], ...]]:
        return set(combinations(enumerate(row), 2))

    rows = list(product(*(range(len(parameter)) for parameter in parameters)))
    missing = set().union(*map(pairs, rows))
    covering_rows = []
    while missing:
        row = max(rows, key=lambda row: len(pairs(row) & missing))
        missing -= pairs(row)
        covering_rows.append(row)
    return [
        tuple(parameter[index] for parameter, index in zip(parameters, row, strict=True))
        for row in covering_rows
    ]
