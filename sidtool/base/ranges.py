"""Ranges of consecutive numbers, for arrays whose parts lie behind one another."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


def consecutive(starts: NDArray[Any], lengths: NDArray[Any]) -> NDArray[Any]:
    """start, start + 1 ... of each start, so many as its length; numbers of the type of the
    starts."""
    if (lengths == 1).all():
        return starts
    ends = np.cumsum(lengths, dtype=np.int64)
    firsts = (starts - ends + lengths).astype(starts.dtype)
    numbers = np.arange(ends[-1] if len(ends) else 0, dtype=starts.dtype)
    numbers += np.repeat(firsts, lengths)
    return numbers


def bounds_of(lengths: Any) -> NDArray[np.int64]:
    """(n + 1,): where each of n parts of these lengths starts, and where the last one ends."""
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(lengths, dtype=np.int64)])


def run_starts(*columns: NDArray[Any]) -> NDArray[np.bool_]:
    """(n,): whether each of n rows differs from the one before it, in any of the columns; the first
    one does."""
    differs = np.zeros(len(columns[0]), dtype=np.bool_)
    differs[:1] = True
    for column in columns:
        differs[1:] |= column[1:] != column[:-1]
    return differs


def ranges(sizes: NDArray[np.int64], limit: int) -> Iterator[tuple[int, int]]:
    """Consecutive ranges whose sizes add up to at most the limit, or to that plus one size."""
    numbers = np.cumsum(sizes) // limit
    starts = np.flatnonzero(np.diff(numbers, prepend=-1)).tolist()
    return zip(starts, [*starts[1:], len(sizes)], strict=False)  # none without sizes
