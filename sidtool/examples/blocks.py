"""Training examples as lines of a file, many at once: every text that occurs in them is stored
once, and lines are put together from the numbers of their texts."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from json.encoder import encode_basestring
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sidtool.data.split import consecutive

ADDED = 1 << 16
"""Texts that are objects at once."""
Numbers = NDArray[np.int64]
BlockCopies = Callable[[int], Numbers]
"""The number of copies of each of the next n examples."""
MakeBlock = Callable[[], "ExampleBlock"]
"""Makes a block; blocks are made in any order, and in several threads."""


class ExampleBlock(NamedTuple):
    """n examples of one task."""

    lines: Any
    """Their lines in UTF-8, a buffer"""
    lengths: Numbers
    """(n,) tokens of each, 0 where nothing is measured"""
    leaked: int
    """Held-out events that they show"""


class LineTexts:
    """The texts that lines consist of, by number."""

    def __init__(self) -> None:
        self._arrays: list[Any] = []
        self._n_texts = 0

    def add(self, texts: Iterable[str]) -> int:
        """Add texts -> the number of the first one; the others follow."""
        import pyarrow as pa

        first = self._n_texts
        stream = iter(texts)
        while block := list(islice(stream, ADDED)):  # those of ten million users are no list
            self._arrays.append(pa.array(block, pa.large_string()))
            self._n_texts += len(block)
        return first

    def add_by_row(self, texts: Iterable[str], rows: Numbers) -> Numbers:
        """Add the texts of ascending rows -> the number of each row's text."""
        numbers = np.zeros(rows.max(initial=-1) + 1, dtype=np.int64)
        numbers[rows] = self.add(texts) + np.arange(len(rows))
        return numbers

    def joined(self, numbers: Numbers) -> Any:
        """The bytes of texts, one after the other, as a buffer."""
        import pyarrow as pa

        if not len(numbers):
            return b""
        if len(self._arrays) > 1:
            self._arrays = [pa.concat_arrays(self._arrays)]
        _, offsets, values = self._arrays[0].take(pa.array(numbers)).buffers()
        stop = np.frombuffer(offsets, dtype=np.int64)[len(numbers)]
        return values[: int(stop)]


class LinePart(NamedTuple):
    """A part of n lines, each of which has some texts of it, one after the other."""

    sizes: NDArray[Any]
    """(n,) texts of each line, as numbers or as booleans"""
    numbers: NDArray[Any]
    """(sum of sizes,) the numbers of the texts"""


def line_part(numbers: NDArray[Any]) -> LinePart:
    """A part of which each line has one text."""
    return LinePart(np.ones_like(numbers), numbers)


def line_by_line(parts: Sequence[LinePart]) -> Numbers:
    """The numbers of all texts: those of the first line part by part, then those of the next."""
    sizes = np.stack([part.sizes for part in parts], axis=1)  # (lines, parts)
    stops = np.cumsum(sizes).reshape(sizes.shape)
    starts = stops - sizes
    numbers = np.empty(int(stops[-1, -1]) if len(stops) else 0, dtype=np.int64)
    for place, part in enumerate(parts):
        numbers[consecutive(starts[:, place], part.sizes)] = part.numbers
    return numbers


class CatalogSpans:
    """The spans of catalog text at the end of lines, as `example_json` has them."""

    def __init__(self, texts: LineTexts, longest_prompt: int, longest_answer: int) -> None:
        offsets = range(longest_prompt + 1)
        self._starts = texts.add([f"{offset}, " for offset in offsets])
        self._stops = texts.add([f"{offset}], [" for offset in offsets])
        self._last_stops = texts.add([f"{offset}]]" for offset in offsets])
        self._opening = texts.add([', "catalog": {"prompt": [['])
        self._closing = texts.add(["}"])
        answers = [f'"completion": [[0, {length}]]}}' for length in range(longest_answer + 1)]
        self._only_answers = texts.add([f', "catalog": {{{answer}' for answer in answers])
        self._answers = texts.add([f", {answer}" for answer in answers])

    def parts(
        self, sizes: Numbers, starts: Numbers, stops: Numbers, answers: Numbers
    ) -> list[LinePart]:
        """The parts of n lines: (n,) spans of each prompt, where these start and stop, one prompt
        after the other, and (n,) characters of each answer, 0 for one that is no catalog text."""
        numbers = np.empty(2 * len(starts), dtype=np.int64)
        numbers[::2] = self._starts + starts
        numbers[1::2] = self._stops + stops
        has_spans = sizes > 0
        last = np.cumsum(sizes)[has_spans] - 1
        numbers[2 * last + 1] = self._last_stops + stops[last]
        ends = np.where(has_spans, self._answers, self._only_answers) + answers
        ends[answers == 0] = self._closing
        has_end = has_spans | (answers > 0)
        opening = np.full(len(last), self._opening)
        return [
            LinePart(has_spans, opening),
            LinePart(2 * sizes, numbers),
            LinePart(has_end, ends[has_end]),
        ]


def escaped(texts: Iterable[str]) -> Iterator[str]:
    """Texts as they stand within a JSON string."""
    return (encode_basestring(text)[1:-1] for text in texts)
