"""Training rows: a split's training events and a catalogue's items as questions and answers.

Knows which events and items make which rows, and how much of a history fits; knows nothing of files or training.
Every row carries the events that it was made of, so that a scan can prove that none of them is held out.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import numpy as np

from sidtool.bundle.bundle import Bundle
from sidtool.catalog.items import Items
from sidtool.catalog.splits import Event, Split
from sidtool.errors import DataError, UsageError
from sidtool.prompt.render import PromptEncoder, Segment, begin, catalogue, end, fitting, sids, template
from sidtool.prompt.serving import Serving
from sidtool.prompt.tokens import SidTokens
from sidtool.tune.tasks import TASKS, Format, Frame, check_weights, frames, served_task

Copies = Callable[[], int]
"""How often the next row is taken: drawn anew for each."""

DESCRIPTION_CHARACTERS = 400
"""A longer description is cut at a word before it is rendered, so that the answer is what the row shows of it."""


@dataclass(frozen=True)
class SftOptions:
    """What rows are made: `tasks` maps a task to the share of its rows taken (above 1: repeated, other templates).

    `history_length` counts items, `max_length` tokens of a whole row. Raises UsageError if a value makes no sense.
    """

    tasks: Mapping[str, float] = field(default_factory=lambda: {"sequence": 1.0})
    format: Format = "plain"
    max_length: int = 1024
    history_length: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        check_weights(self.tasks)
        if self.format not in ("plain", "chat"):
            raise UsageError(f"rows are plain or chat, not {self.format!r}")
        if self.history_length < 1 or self.max_length < 1:
            raise UsageError(f"history length {self.history_length} and max length {self.max_length} must be positive")


@dataclass(frozen=True)
class Row:
    """One training row: what is asked, what is answered, and the (user, item, position) events that it shows.

    A row without a prompt is a text of which every SID is a target.
    """

    task: str
    prompt: tuple[Segment, ...]
    answer: tuple[Segment, ...]
    events: tuple[Event, ...] = ()


@dataclass(frozen=True)
class _Seen:
    """A user's training events whose items the bundle knows: rows of the item map, ids and positions."""

    user: str
    rows: Sequence[int]
    items: Sequence[str]
    positions: Sequence[int]

    def cut(self, start: int, stop: int) -> "_Seen":
        span = slice(start, stop)
        return _Seen(self.user, self.rows[span], self.items[span], self.positions[span])

    @property
    def events(self) -> tuple[Event, ...]:
        return tuple((self.user, item, place) for item, place in zip(self.items, self.positions, strict=True))


class RowMaker:
    """Makes the rows of a split; without a tokenizer it cannot measure rows, and `max_length` is left to training.

    Raises UsageError if a whole history cannot fit, or a task needs descriptions that the items have not.
    """

    def __init__(self, bundle: Bundle, items: Items, options: SftOptions, tokenizer: Any | None = None) -> None:
        self._space, self._map, self._options = bundle.space, bundle.items, options
        self._markers = bundle.space.has_markers
        self._encoder = PromptEncoder(tokenizer, SidTokens(bundle.space, len(tokenizer))) if tokenizer else None
        self._frames = {task: frames(task, tokenizer, options.format) for task in options.tasks}
        self._items = items
        places = {item_id: place for place, item_id in enumerate(items.ids)}
        ids = list(self._map.ids)
        self._row = {item_id: row for row, item_id in enumerate(ids)}
        self._place = [places.get(item_id, -1) for item_id in ids]  # row of the map -> place in `items`
        self._title_lengths: dict[int, int] = {}
        self.dropped = 0
        self._check()

    def _check(self) -> None:
        options = self._options
        described = [task for task in options.tasks if "description" in (TASKS[task].source, TASKS[task].target)]
        if described and "description" not in self._items.fields:
            raise UsageError(
                f"task {described[0]} needs item descriptions", hint="name their column: --field description"
            )
        longest = (options.history_length + 1) * (self._space.levels + 2 * self._markers)
        if "sequence" in options.tasks and longest > options.max_length:
            raise UsageError(
                f"{options.history_length} items and the next take {longest} tokens, a row has {options.max_length}",
                hint="lower --history-length or raise --max-length",
            )

    @property
    def serving(self) -> Serving | None:
        """How a model trained on these rows is served, or None if no task of the mix recommends."""
        task = served_task(self._options.tasks)
        if task is None:
            return None
        frame, options = self._frames[task][0], self._options
        close = self.length([template(frame.close)]) or 0
        answer = self._space.levels + self._markers + close
        return Serving(
            task=task,
            template=frame.template,
            history_length=options.history_length,
            max_length=options.max_length - answer,
            markers=self._markers,
            format=frame.format,
            history_as="title" if TASKS[task].source == "title" else "sid",
            separator=frame.separator,
        )

    @property
    def templates(self) -> dict[str, list[str]]:
        """The literal text of every template in the mix, for the lineage."""
        return {
            task: [f"{f.before}{{…}}{f.after}{{answer}}{f.close}" for f in found]
            for task, found in self._frames.items()
        }

    def length(self, segments: Sequence[Segment]) -> int | None:
        """Tokens that segments take, or None without a tokenizer."""
        return None if self._encoder is None else len(self._encoder.ids(segments))

    def rows(self, split: Split, progress: Callable[[int, int], None] | None = None) -> Iterator[Row]:
        """The rows of every task, task by task. Raises DataError if no training event names an item of the bundle."""
        self.dropped = sum(item not in self._row for sequence in split.train for item in sequence.items)
        if self.dropped == sum(len(sequence.items) for sequence in split.train):
            raise DataError(f"none of {self.dropped} training events names an item of the bundle", hint="check the ids")
        total = len(self._options.tasks)
        for done, (task, weight) in enumerate(self._options.tasks.items()):
            make = self._user_rows if TASKS[task].per == "user" else self._item_rows
            yield from make(task, split, self._copies(task, weight))
            if progress:
                progress(done + 1, total)

    def _copies(self, task: str, weight: float) -> Copies:
        rng = np.random.default_rng([self._options.seed, crc32(task.encode())])
        return lambda: int(weight + rng.random())

    def _user_rows(self, task: str, split: Split, copies: Copies) -> Iterator[Row]:
        if task == "sequence":
            for sequence in split.train:
                yield from self._sequence_rows(
                    task, self._seen(sequence.user, sequence.items, sequence.positions), copies
                )
        else:
            for number, question in enumerate(self._questions(split)):
                yield from self._event_rows(task, question, number, copies)

    def _questions(self, split: Split) -> Iterator[_Seen]:
        """Every training event with what came before it, `history_length` items at most; it comes last."""
        length = self._options.history_length + 1
        if split.windows is None:
            for sequence in split.train:
                seen = self._seen(sequence.user, sequence.items, sequence.positions)
                yield from (seen.cut(max(0, stop - length), stop) for stop in range(2, len(seen.rows) + 1))
            return
        for window in split.windows:
            items = (*window.history, window.item)
            seen = self._seen(window.user, items, range(window.position + 1 - len(items), window.position + 1))
            if len(seen.rows) > 1 and seen.positions[-1] == window.position:
                yield seen.cut(max(0, len(seen.rows) - length), len(seen.rows))

    def _seen(self, user: str, items: Sequence[str], positions: Sequence[int]) -> _Seen:
        known = [place for place, item in enumerate(items) if item in self._row]
        return _Seen(
            user,
            [self._row[items[place]] for place in known],
            [items[place] for place in known],
            [positions[place] for place in known],
        )

    def _sequence_rows(self, task: str, seen: _Seen, copies: Copies) -> Iterator[Row]:
        frame = self._frames[task][0]
        for start, target, stop in windows(len(seen.rows), self._options.history_length):
            codes = self._map.codes[seen.rows[start:stop]]
            context = sids(self._space, codes[: target - start], markers=self._markers)
            answer = sids(self._space, codes[target - start :], markers=self._markers)
            for _ in range(copies()):
                if target == start:
                    yield Row(task, (), (template(frame.before), answer), seen.cut(start, stop).events)
                else:
                    yield Row(task, (template(frame.before), context), (answer,), seen.cut(start, stop).events)

    def _event_rows(self, task: str, seen: _Seen, number: int, copies: Copies) -> Iterator[Row]:
        *history, target = seen.rows
        answer = self._shown(TASKS[task].target, target)
        for copy in range(copies() if answer else 0):
            frame = self._frame(task, copy, number)
            closing = self._answer(task, answer, frame)
            fits = self._fitting(task, history, frame, closing)
            shown = self._history(task, history[len(history) - fits :], frame)
            prompt = (template(frame.before), *shown, template(frame.after), *self._asks(task))
            yield Row(task, prompt, closing, seen.cut(len(history) - fits, len(seen.rows)).events)

    def _item_rows(self, task: str, split: Split, copies: Copies) -> Iterator[Row]:
        for row in np.flatnonzero(~self._map.retired).tolist():
            asked, answer = self._shown(TASKS[task].source, row), self._shown(TASKS[task].target, row)
            for copy in range(copies() if asked and answer else 0):
                frame = self._frame(task, copy, row)
                prompt = (template(frame.before), *asked, template(frame.after), *self._asks(task))
                yield self._checked(Row(task, prompt, self._answer(task, answer, frame)))

    def _frame(self, task: str, copy: int, number: int) -> Frame:
        """The first template for the task that is served, so that serving looks like training; else all in turn."""
        found = self._frames[task]
        return found[(copy if task == served_task(self._options.tasks) else copy + number) % len(found)]

    def _asks(self, task: str) -> tuple[Segment, ...]:
        return (begin(self._space, markers=self._markers),) if TASKS[task].target == "sid" else ()

    def _answer(self, task: str, answer: tuple[Segment, ...], frame: Frame) -> tuple[Segment, ...]:
        if TASKS[task].target == "sid":
            bare = answer[0].places[1:-1] if self._markers else answer[0].places  # the prompt ended with the marker
            answer = (Segment("sid", places=bare), end(self._space, markers=self._markers))
        return (*answer, template(frame.close))

    def _shown(self, kind: str, row: int) -> tuple[Segment, ...]:
        """An item as one segment, or nothing where the catalogue has nothing to show."""
        if kind == "sid":
            return (sids(self._space, self._map.codes[row : row + 1], markers=self._markers),)
        text = self._text(kind, row)
        return (catalogue(text),) if text else ()

    def _text(self, kind: str, row: int) -> str:
        place = self._place[row]
        if kind == "title":
            return (self._items.titles[place] if place >= 0 else "") or self._map.title(row)
        text = " ".join(self._items.fields["description"][place].split()) if place >= 0 else ""
        if len(text) <= DESCRIPTION_CHARACTERS:
            return text
        return text[:DESCRIPTION_CHARACTERS].rpartition(" ")[0] or text[:DESCRIPTION_CHARACTERS]

    def _history(self, task: str, rows: Sequence[int], frame: Frame) -> list[Segment]:
        if TASKS[task].source == "sid":
            return [sids(self._space, self._map.codes[list(rows)], markers=self._markers)]
        segments: list[Segment] = []
        for number, row in enumerate(rows):
            segments += [template(frame.separator)] * bool(number) + [catalogue(self._text("title", row))]
        return segments

    def _fitting(self, task: str, rows: Sequence[int], frame: Frame, answer: tuple[Segment, ...]) -> int:
        """How many of the newest items of a history fit into a row with this frame and answer; at least one must."""
        if self._encoder is None:
            return len(rows)
        around = (template(frame.before), template(frame.after), *self._asks(task), *answer)
        room = self._options.max_length - len(self._encoder.ids(around))
        joint = len(self._encoder.ids([template(frame.separator)]))
        fits = fitting([self._item_length(task, row) for row in rows], room, joint)
        if not fits:
            raise self._too_long(task)
        return fits

    def _item_length(self, task: str, row: int) -> int:
        if TASKS[task].source == "sid" or self._encoder is None:
            return self._space.levels + 2 * self._markers
        if row not in self._title_lengths:
            self._title_lengths[row] = len(self._encoder.catalogue(self._text("title", row)))
        return self._title_lengths[row]

    def _checked(self, row: Row) -> Row:
        length = self.length([*row.prompt, *row.answer])
        if length is not None and length > self._options.max_length:
            raise self._too_long(row.task)
        return row

    def _too_long(self, task: str) -> DataError:
        return DataError(f"a {task} row does not fit {self._options.max_length} tokens", hint="raise --max-length")


def windows(length: int, history_length: int) -> list[tuple[int, int, int]]:
    """Cut a history into rows (start, first target, stop), so that every item is a target once.

    A served prompt holds at most `history_length` items and asks for one more: rows have that many. The last row ends
    with the history's end; rows overlap, so that no target of a long history has less than half a history before it.
    """
    size, stride = history_length + 1, max(1, history_length // 2)
    spans, stop = [], length
    while stop > size:
        spans.append((stop - size, stop - stride, stop))
        stop -= stride
    return [(0, 0, stop), *reversed(spans)] if length else []
