"""The training events of a split as columns, and training examples as lines of a file, many at
once: lines are joined from arrays of the texts that occur in them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from json.encoder import encode_basestring
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sidtool.base.ranges import bounds_of, ranges
from sidtool.data import Texts
from sidtool.data.split import PackedExamples, PackedSequences, Split, write_examples

BLOCK = 1 << 17
"""Items that are shown in a block, unless those of a single user are more."""


@dataclass(frozen=True, eq=False)
class EventBlock:
    """The training events of consecutive users whose items the bundle has."""

    users: NDArray[np.integer[Any]]
    """(users,) codes of their ids in `TrainEvents.user_ids`"""
    starts: NDArray[np.int64]
    """(users + 1,): the events of user i are starts[i]:starts[i + 1]"""
    items: NDArray[np.int64]
    """(events,) the place of each item in `TrainEvents.used_rows`"""
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
        places = np.searchsorted(self.used_rows, self._row_of_code)
        self._place_of_code = np.where(in_bundle, places, -1)
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
            items = self._place_of_code[codes]
            in_bundle = items >= 0
            n_events = np.bincount(owners[in_bundle], minlength=len(train))
            starts = bounds_of(n_events)
            yield EventBlock(train.user_codes, starts, items[in_bundle], is_held_out[in_bundle])

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


def strings(texts: Iterable[str]) -> Any:
    """(n,) texts as an arrow array, which may have any number of bytes."""
    import pyarrow as pa

    return pa.array(texts, pa.large_string())


def escaped(texts: Iterable[str]) -> Iterator[str]:
    """Texts as they stand within a JSON string."""
    return (encode_basestring(text)[1:-1] for text in texts)


def escaped_strings(texts: Texts) -> Any:
    """(n,) texts as they stand within a JSON string, as `strings`."""
    data = np.frombuffer(texts.arrow.buffers()[2] or b"", dtype=np.uint8)
    if ((data < ord(" ")) | (data == ord('"')) | (data == ord("\\"))).any():
        return strings(escaped(texts))
    return texts.arrow.cast("large_string")


def taken(texts: Any, places: NDArray[Any]) -> Any:
    """(n,): the texts at n places."""
    import pyarrow as pa

    return texts.take(pa.array(places))


def joined(*parts: Any) -> Any:
    """(n,) texts: each has a text of every part, that is an array of n, or one for all of them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    separator = ""  # the last argument
    columns = [
        pa.scalar(part, pa.large_string()) if isinstance(part, str) else part
        for part in (*parts, separator)
    ]
    return pc.binary_join_element_wise(*columns)


def joined_lists(texts: Any, sizes: Numbers, separator: str = "") -> Any:
    """(n,): the texts of each of n lists of these sizes, with a separator between them; the lists
    lie behind one another in `texts`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    lists = pa.LargeListArray.from_arrays(pa.array(bounds_of(sizes)), texts)
    return pc.binary_join(lists, pa.scalar(separator, pa.large_string()))


def spelled(numbers: NDArray[Any]) -> Any:
    """(n,) numbers as texts."""
    import pyarrow as pa

    return pa.array(numbers).cast(pa.large_string())


def where(condition: NDArray[np.bool_], texts: Any) -> Any:
    """(n,): the texts, or text, where a condition is true; else nothing."""
    import pyarrow as pa
    import pyarrow.compute as pc

    nothing = pa.scalar("", pa.large_string())
    text = pa.scalar(texts, pa.large_string()) if isinstance(texts, str) else texts
    return pc.if_else(pa.array(condition), text, nothing)


def line_bytes(lines: Any) -> Any:
    """The bytes of n lines, as a buffer."""
    _, offsets, values = lines.buffers()
    return values[: int(np.frombuffer(offsets, dtype=np.int64)[len(lines)])]


def write_validation(path: Path, examples: PackedExamples) -> None:
    """Write the lines of `write_examples`."""
    if examples.store.has_fields or (examples.targets.lengths > 1).any():
        write_examples(path, examples)
        return
    users = escaped_strings(examples.store.users)
    items = joined('"', escaped_strings(examples.names), '"')
    with path.open("wb") as stream:
        for start, stop in ranges(examples.histories.lengths, BLOCK):
            part = examples.take(slice(start, stop))
            history = taken(items, part.histories.joined)
            lines = joined(
                '{"user": "',
                taken(users, part.user_codes),
                '", "history": [',
                joined_lists(history, part.histories.lengths, ", "),
                '], "item": ',
                taken(items, part.items),
                ', "position": ',
                spelled(part.positions),
                "}\n",
            )
            stream.write(line_bytes(lines))


def catalog_spans(sizes: Numbers, starts: Numbers, stops: Numbers, answers: Numbers) -> Any:
    """(n,), or "" if there are none: the spans of catalog text at the ends of n lines, as
    `example_json` has them. (n,) `sizes` are the spans of each prompt, `starts` and `stops` where
    these start and stop, one prompt after the other; (n,) `answers` the characters of each answer,
    0 for one that is no catalog text."""
    import pyarrow as pa

    in_prompt, in_answer = sizes > 0, answers > 0
    if not (in_prompt | in_answer).any():
        return ""
    n_offsets = int(stops.max(initial=0)) + 1
    offsets = spelled(np.arange(n_offsets))
    ends = pa.concat_arrays([joined("[", offsets), joined(offsets, "]")])
    # of each span where it starts, then where it stops
    places = np.stack([starts, n_offsets + stops], axis=1).ravel()
    spans = joined_lists(taken(ends, places), 2 * sizes, ", ")
    catalog = joined(
        ', "catalog": {',
        where(in_prompt, joined('"prompt": [', spans, "]")),
        where(in_prompt & in_answer, ", "),
        where(in_answer, joined('"completion": [[0, ', spelled(answers), "]]")),
        "}",
    )
    return where(in_prompt | in_answer, catalog)
