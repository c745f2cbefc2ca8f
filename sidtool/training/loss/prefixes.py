"""Prefixes of item sequences as training examples, known as sliding windows.

A causal model learns every item of a sequence from what precedes it, in one example. An
encoder-decoder has one prompt and one answer per example, so a sequence becomes an example for each
of its items. None of them is stored: a prefix is cut when it is read."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sidtool.examples.example_file import TokenizedExample, TokenizedExamples
from sidtool.model.prompt.tokens import SidTokens


class PrefixExamples:
    """Training examples whose item sequences end with one of their target items, the only target
    then. Other examples are unchanged.

    With `every`, each prefix is an example of its own; otherwise each sequence is one example,
    whose prefix is drawn."""

    def __init__(self, examples: TokenizedExamples, tokens: SidTokens, *, every: bool) -> None:
        self._examples = examples
        self._levels = tokens.space.levels
        self._edge = int(tokens.space.has_begin_end_tokens)
        self._every = every
        owners, starts = _target_items(examples, tokens)
        is_sequence = np.zeros(len(examples), dtype=np.bool_)
        is_sequence[owners] = True
        others = np.flatnonzero(~is_sequence)
        # -1: the example as it is
        numbers = np.concatenate([owners, others])
        cuts = np.concatenate([starts, np.full(len(others), -1)])
        order = np.argsort(numbers, kind="stable")
        self._numbers = numbers[order]
        """(prefixes,) the example of each, ascending"""
        self._cuts = cuts[order]
        """(prefixes,) where in the example its target item starts"""
        self._first = np.searchsorted(self._numbers, np.arange(len(examples) + 1))
        """(n + 1,) the prefixes of example i are first[i]:first[i + 1]"""

    def __len__(self) -> int:
        return len(self._numbers) if self._every else len(self._examples)

    @property
    def is_weighted(self) -> bool:
        """Whether a weight differs from 1."""
        return self._examples.is_weighted

    @property
    def users(self) -> Sequence[str]:
        """The user of each example, as in `TokenizedExamples`."""
        users = self._examples.users
        return [users[number] for number in self._numbers] if self._every and users else users

    def draw(self, number: int, rng: np.random.Generator) -> TokenizedExample:
        """An example; which prefix of a sequence it is follows from `number` with `every`, else
        from `rng`."""
        prefix = number
        if not self._every:
            first, stop = self._first[number : number + 2]
            prefix = int(rng.integers(first, stop)) if stop - first > 1 else int(first)
        example = self._examples[int(self._numbers[prefix])]
        start = int(self._cuts[prefix])
        if start < 0:
            return example
        end = start + self._levels
        # whole items, end token included: augmentation reorders them
        stop = end + self._edge
        targets = np.zeros(stop, dtype=np.bool_)
        targets[start:end] = True
        return TokenizedExample(example.ids[:stop], targets, example.weights[:stop])


def _target_items(
    examples: TokenizedExamples, tokens: SidTokens
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(items,) each: the examples of the items that may end a prefix, ascending, and where in the
    example their codes start.

    They are the target items of a sequence whose weight is above 0, but for its first one, which
    nothing precedes."""
    starts = np.flatnonzero(tokens.is_code(examples.ids, 0))  # (items,)
    owners = np.searchsorted(examples.offsets, starts, side="right") - 1  # (items,)
    places = starts[:, None] + np.arange(tokens.space.levels)  # (items, levels)
    # a prefix of a SID in running text may be cut short by the end
    places = np.minimum(places, len(examples.ids) - 1)
    is_target = (examples.targets & (examples.weights > 0))[places].all(axis=1)  # (items,)
    is_leading = np.ones(len(starts), dtype=np.bool_)
    is_leading[1:] = owners[1:] != owners[:-1]
    may_end = is_target & ~is_leading & examples.is_sequence[owners]
    starts_in_example = starts - examples.offsets[owners]
    return owners[may_end], starts_in_example[may_end]
