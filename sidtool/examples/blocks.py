"""The training events of a split as columns, and training examples as lines of a file, many at
once: every text that occurs in them is stored once, and lines are put together from the numbers of
their texts."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sidtool.base.ranges import bounds_of, consecutive, ranges
from sidtool.data import Texts
from sidtool.data.split import PackedExamples, PackedSequences, Split, write_examples

BLOCK = 1 << 18
"""Items that are shown in a block, unless those of a single user are more."""


@dataclass(frozen=True, eq=False)
class EventBlock:
    """The training events of consecutive users whose items the bundle has."""

    users: NDArray[np.integer[Any]]
    """(users,) codes of their ids in `TrainEvents.user_ids`"""
    starts: NDArray[np.int64]
    """(users + 1,): the events of user i are starts[i]:starts[i + 1]"""
    rows: NDArray[np.int64]
    """(events,) the row of each item in the bundle"""
    is_held_out: NDArray[np.bool_]
    """(events,)"""

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(users,): events of each user."""
        return np.diff(self.starts)

    def count_held_out(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> int:
        """The held-out events within (n,) ranges of events."""
        before = bounds_of(self.is_held_out)
        return int((before[stops] - before[starts]).sum())


class TrainEvents:
    """The training events of a split, and their items as rows of a bundle: (names,) of its items,
    -1 for those that the bundle lacks."""

    def __init__(self, split: Split, rows: NDArray[np.int32]) -> None:
        self._train = split.train
        self._held_out = split.held_out
        self._row_of_code = rows.astype(np.int64)
        counts = np.zeros(len(rows), dtype=np.int64)
        for train in self._parts(range(len(self)), BLOCK):
            counts += np.bincount(train.items.joined, minlength=len(rows))
        in_bundle = self._row_of_code >= 0
        self.n_events = int(counts.sum())
        """All events, those whose items the bundle lacks too"""
        self.n_dropped = int(counts[~in_bundle].sum())
        """Events whose items the bundle lacks"""
        self.used_rows = np.sort(self._row_of_code[in_bundle & (counts > 0)])
        """The rows of the items that users have, ascending"""
        self.longest = int(self._train.items.lengths.max(initial=0))
        """The events of the user who has most"""
        self.user_ids = self._train.store.users
        """The ids of users by code"""

    def __len__(self) -> int:
        return len(self._train)

    @property
    def unknown_items(self) -> Sequence[str]:
        """The items of the split, its held-out ones too, that the bundle lacks."""
        return [str(item) for item in self._train.names[self._row_of_code < 0]]

    def blocks(self, users: range, n_shown: int = 1) -> Iterator[EventBlock]:
        """The events of consecutive users, each of which is shown up to `n_shown` times."""
        for train in self._parts(users, max(1, BLOCK // n_shown)):
            codes = train.items.joined
            owners = np.repeat(np.arange(len(train)), train.items.lengths)
            user_codes = train.user_codes[owners]
            is_held_out = self._held_out.are_held_out(user_codes, codes, train.event_positions)
            rows = self._row_of_code[codes]
            in_bundle = rows >= 0
            n_events = np.bincount(owners[in_bundle], minlength=len(train))
            starts = bounds_of(n_events)
            yield EventBlock(train.user_codes, starts, rows[in_bundle], is_held_out[in_bundle])

    def _parts(self, users: range, n_events: int) -> Iterator[PackedSequences]:
        """The events of consecutive users, about `n_events` at once."""
        lengths = self._train.items.lengths[users.start : users.stop]
        for start, stop in ranges(lengths, n_events):
            yield self._train.take(slice(users.start + start, users.start + stop))


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


class LinePart(NamedTuple):
    """A part of n lines, each of which has some texts of it, one after the other."""

    sizes: NDArray[Any]
    """(n,) texts of each line, as numbers or as booleans"""
    numbers: NDArray[Any]
    """(sum of sizes,) the numbers of the texts"""


def line_part(numbers: NDArray[Any]) -> LinePart:
    """A part of which each line has one text."""
    return LinePart(np.ones_like(numbers), numbers)


class LineTexts:
    """The texts that lines consist of, by number."""

    def __init__(self) -> None:
        self._arrays: list[Any] = []
        self._n_texts = 0

    def add(self, texts: Iterable[str]) -> int:
        """Add texts -> the number of the first one; the others follow."""
        import pyarrow as pa

        return self._add(pa.array(texts, pa.large_string()))

    def add_escaped(self, texts: Texts, before: str = "", after: str = "") -> int:
        """Add texts as they stand within a JSON string, between two others, as `add`."""
        import pyarrow as pa
        import pyarrow.compute as pc

        in_json = texts.arrow
        data = np.frombuffer(in_json.buffers()[2] or b"", dtype=np.uint8)
        if ((data < ord(" ")) | (data == ord('"')) | (data == ord("\\"))).any():
            in_json = pa.array(escaped(texts), pa.large_string())
        in_json = in_json.cast(pa.large_string())
        if before or after:
            parts = [pa.scalar(text, pa.large_string()) for text in (before, after, "")]
            in_json = pc.binary_join_element_wise(parts[0], in_json, parts[1], parts[2])
        return self._add(in_json)

    def _add(self, texts: Any) -> int:
        first = self._n_texts
        self._arrays.append(texts)
        self._n_texts += len(texts)
        return first

    def joined(self, parts: Sequence[LinePart]) -> Any:
        """The bytes of lines as a buffer: the texts of the first one part by part, then those of
        the next."""
        import pyarrow as pa

        sizes = np.stack([part.sizes for part in parts], axis=1)  # (lines, parts)
        if not sizes.any():
            return b""
        stops = np.cumsum(sizes).reshape(sizes.shape)
        starts = stops - sizes
        numbers = np.empty(int(stops[-1, -1]), dtype=np.int64)
        for place, part in enumerate(parts):
            numbers[consecutive(starts[:, place], part.sizes)] = part.numbers
        if len(self._arrays) > 1:
            self._arrays = [pa.concat_arrays(self._arrays)]
        _, offsets, values = self._arrays[0].take(pa.array(numbers)).buffers()
        stop = np.frombuffer(offsets, dtype=np.int64)[len(numbers)]
        return values[: int(stop)]


def write_validation(path: Path, examples: PackedExamples) -> None:
    """Write the lines of `write_examples`."""
    if examples.store.has_fields or (examples.targets.lengths > 1).any():
        write_examples(path, examples)
        return
    texts, names = LineTexts(), examples.names
    head = texts.add(['{"user": "', '", "history": ['])
    opening = head + 1
    users = texts.add_escaped(examples.store.users)
    first_items = texts.add_escaped(names, '"', '"')
    next_items = texts.add_escaped(names, ', "', '"')
    targets = texts.add_escaped(names, '], "item": "', '"')
    distinct, inverse = np.unique(examples.positions, return_inverse=True)
    positions = texts.add([f', "position": {position}}}\n' for position in distinct.tolist()])
    with path.open("wb") as stream:
        for start, stop in ranges(examples.histories.lengths, BLOCK):
            part = examples.take(slice(start, stop))
            sizes = part.histories.lengths
            one_each = np.ones_like(sizes)
            history = part.histories.joined + np.int64(next_items)
            oldest = (np.cumsum(sizes) - sizes)[sizes > 0]
            history[oldest] += first_items - next_items
            parts = [
                line_part(one_each * head),
                line_part(part.user_codes + np.int64(users)),
                line_part(one_each * opening),
                LinePart(sizes, history),
                line_part(part.items + np.int64(targets)),
                line_part(inverse[start:stop] + positions),
            ]
            stream.write(texts.joined(parts))


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
        """The parts of n lines. (n,) `sizes` are the spans of each prompt, `starts` and `stops`
        where these start and stop, one prompt after the other; (n,) `answers` the characters of
        each answer, 0 for one that is no catalog text. A line with neither has no text."""
        span_texts = np.empty(2 * len(starts), dtype=np.int64)  # two of each span
        span_texts[::2] = self._starts + starts
        span_texts[1::2] = self._stops + stops
        has_spans = sizes > 0
        last_spans = np.cumsum(sizes)[has_spans] - 1
        span_texts[2 * last_spans + 1] = self._last_stops + stops[last_spans]
        openings = np.full(len(last_spans), self._opening)
        ends = np.where(has_spans, self._answers, self._only_answers) + answers
        ends[answers == 0] = self._closing
        has_end = has_spans | (answers > 0)
        return [
            LinePart(has_spans, openings),
            LinePart(2 * sizes, span_texts),
            LinePart(has_end, ends[has_end]),
        ]


def by_row(first: int, rows: Numbers) -> Numbers:
    """The numbers of the texts of ascending rows, the first of which has a number: those of other
    rows are 0."""
    numbers = np.zeros(rows.max(initial=-1) + 1, dtype=np.int64)
    numbers[rows] = first + np.arange(len(rows))
    return numbers


def escaped(texts: Iterable[str]) -> Iterator[str]:
    """Texts as they stand within a JSON string."""
    return (encode_basestring(text)[1:-1] for text in texts)
