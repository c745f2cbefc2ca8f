"""Training rows: a split's training events, a catalog's items and its queries as questions and
answers.

Knows which of them make which rows, and how much of a history fits; knows nothing of files or
training. How an item is shown is showcase.py's, how often a row is taken task_mix.py's. Every row
carries the events that it was made of, so that a scan can prove that none of them is held out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sidtool.bundle.bundle import Bundle
from sidtool.data.items import Items
from sidtool.data.queries import Query
from sidtool.data.splits import Event, Split
from sidtool.errors import DataError, UsageError
from sidtool.prompt.assemble import count_fitting
from sidtool.prompt.encoder import PromptEncoder
from sidtool.prompt.frames import HISTORY_SLOT, ITEM_SLOT, Format, PromptFrame
from sidtool.prompt.prompts import HistoryPrompt, TextPrompt
from sidtool.prompt.segments import Segment, begin, catalog, end, shorten, sids, template
from sidtool.prompt.tokens import SidTokens
from sidtool.sft import task_mix
from sidtool.sft.histories import Histories, HistorySlice, windows
from sidtool.sft.item_text import ItemRenderer
from sidtool.sft.task_mix import Copies
from sidtool.sft.tasks import (
    asked_task,
    check_weights,
    named_task,
    prompt_frames,
    served_task,
)


@dataclass(frozen=True)
class SftOptions:
    """What rows are made: `tasks` maps a task to the share of its rows taken (above 1: repeated,
    other templates).

    `budgets` are tokens of single tasks, whose weight then does not count; `tokens` are for the
    whole mix, and weights are then the shares of the tasks without a budget in what these leave.
    `history_length` counts items, `max_length` tokens of a whole row. Of the items `held_out` rows
    show SIDs alone: no title, no column, no query that means one. Raises UsageError if a value
    makes no sense."""

    tasks: Mapping[str, float] = field(default_factory=lambda: {"sequence": 1.0})
    format: Format = "plain"
    max_length: int = 1024
    history_length: int = 20
    seed: int = 0
    max_tokens: int | None = None
    max_task_tokens: Mapping[str, int] = field(default_factory=dict)
    hide_text_of: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        check_weights(self.tasks)
        task_mix.check_budgets(self.tasks, self.max_tokens, self.max_task_tokens)
        if self.format not in ("plain", "chat"):
            raise UsageError(f"rows are plain or chat, not {self.format!r}")
        if self.history_length < 1 or self.max_length < 1:
            raise UsageError(
                f"history length {self.history_length} and max length {self.max_length} must be "
                "positive"
            )


@dataclass(frozen=True)
class TrainingExample:
    """One training row: what is asked, what is answered, and the (user, item, position) events that
    it shows.

    `item` is the id of the item that a row is about, if it is about one. A row without a prompt is
    a text of which all is a target (every SID, if its task is `sequence`)."""

    task: str
    prompt: tuple[Segment, ...]
    completion: tuple[Segment, ...]
    events: tuple[Event, ...] = ()
    item: str | None = None


class ExampleMaker:
    """Makes the rows of a split; without a tokenizer it cannot measure rows, and `max_length` is
    left to training.

    `queries` are what query tasks ask with. `dropped` counts training events of items that the
    bundle lacks, `dropped_queries` queries of such items, of held-out ones, or of users whose
    training events do not hold the item.

    Raises UsageError if a whole history cannot fit, if a task needs a column that the items have
    not or queries and there are none, if there is a token budget and no tokenizer, and if a
    held-out item is none of the bundle's."""

    def __init__(
        self,
        bundle: Bundle,
        items: Items,
        options: SftOptions,
        tokenizer: Any | None = None,
        queries: Sequence[Query] = (),
    ) -> None:
        self._space, self._map, self._options = bundle.space, bundle.items, options
        self._markers = bundle.space.has_markers
        self._encoder = (
            PromptEncoder(tokenizer, SidTokens(bundle.space, len(tokenizer))) if tokenizer else None
        )
        self._frames = {
            task: prompt_frames(task, tokenizer, options.format) for task in options.tasks
        }
        self._case = ItemRenderer(bundle, items, self._encoder, options.hide_text_of)
        self._queries = queries
        self._histories = Histories(bundle, options.history_length)
        self.dropped_events = self.dropped_queries = 0
        self._check(items)

    def _check(self, items: Items) -> None:
        options = self._options
        for name in options.tasks:
            task = named_task(name)
            for column in task.fields:
                if column not in items.fields:
                    raise UsageError(
                        f"task {name} needs the column {column!r} of the catalog, which was not "
                        "read"
                    )
            if task.per == "query" and not self._queries:
                raise UsageError(
                    f"task {name} needs queries", hint="--queries FILE, or --query-text TEMPLATE"
                )
            if task.source == "prefix" and self._space.levels < 2:
                raise UsageError(
                    f"task {name} needs SIDs of two levels or more, these have {self._space.levels}"
                )
        if self._encoder is None and (options.max_tokens or options.max_task_tokens):
            raise UsageError(
                "a token budget needs a tokenizer", hint="--model names the model that is trained"
            )
        unknown = sorted(options.hide_text_of - set(self._map.ids))
        if unknown:
            raise UsageError(
                f"{len(unknown)} items to hold out are not in the bundle, as {unknown[0]!r}"
            )
        longest = (options.history_length + 1) * (self._space.levels + 2 * self._markers)
        if "sequence" in options.tasks:
            longest += self.length([template(self._frames["sequence"][0].before)]) or 0
        if "sequence" in options.tasks and longest > options.max_length:
            raise UsageError(
                f"{options.history_length} items and the next take {longest} tokens, a row has "
                f"{options.max_length}",
                hint="lower --history-length or raise --max-length",
            )

    @property
    def history_prompt(self) -> HistoryPrompt | None:
        """How a model trained on these rows is served, or None if no task of the mix recommends."""
        task = served_task(self._options.tasks)
        if task is None:
            return None
        frame = self._frames[task][0]
        return HistoryPrompt(
            task=task,
            template=frame.template(HISTORY_SLOT),
            history_length=self._options.history_length,
            max_length=self._prompt_room(frame),
            format=frame.format,
            history_as="title" if named_task(task).source == "title" else "sid",
            separator=frame.separator,
        )

    @property
    def text_prompt(self) -> TextPrompt | None:
        """How a model trained on these rows is asked in words, or None if no task of the mix
        teaches it."""
        task = asked_task(self._options.tasks)
        if task is None:
            return None
        frame = self._frames[task][0]
        return TextPrompt(task, frame.template(ITEM_SLOT), self._prompt_room(frame), frame.format)

    def _prompt_room(self, frame: PromptFrame) -> int:
        """Tokens that a prompt may take, so that the answer, a SID, fits too."""
        close = self.length([template(frame.close)]) or 0
        return self._options.max_length - self._space.levels - self._markers - close

    @property
    def templates(self) -> dict[str, list[str]]:
        """The literal text of every template in the mix, for the lineage."""
        return {
            task: [
                f"{f.before}{f.item or '{…}'}{f.after}{'' if f.item else '{answer}'}{f.close}"
                for f in found
            ]
            for task, found in self._frames.items()
        }

    def has_item(self, item: str) -> bool:
        """Whether rows can show an item: it is in the bundle."""
        return item in self._histories.row

    def length(self, segments: Sequence[Segment]) -> int | None:
        """Tokens that segments take, or None without a tokenizer."""
        return None if self._encoder is None else len(self._encoder.ids(segments))

    def examples(
        self, split: Split, progress: Callable[[int, int], None] | None = None
    ) -> Iterator[TrainingExample]:
        """The rows of every task, task by task. Raises DataError if no training event names an item
        of the bundle."""
        self.dropped_events = sum(
            item not in self._histories.row for sequence in split.train for item in sequence.items
        )
        if self.dropped_events and self.dropped_events == sum(
            len(sequence.items) for sequence in split.train
        ):
            raise DataError(
                f"none of {self.dropped_events} training events names an item of the bundle",
                hint="check the ids",
            )
        budgets = task_mix.shares(
            self._options.tasks, self._options.max_tokens, self._options.max_task_tokens
        )
        for done, (task, weight) in enumerate(self._options.tasks.items()):
            rng = task_mix.generator(task, self._options.seed)
            if task in budgets:
                yield from self._within(task, split, budgets[task], rng)
            else:
                yield from self._made(task, split, task_mix.drawn(weight, rng))
            if progress:
                progress(done + 1, len(self._options.tasks))

    def _within(
        self, task: str, split: Split, budget: int, rng: np.random.Generator
    ) -> Iterator[TrainingExample]:
        """As many rows of a task as fit into a budget of tokens, drawn at random, all of them
        equally often."""
        lengths = [self._row_length(row) for row in self._made(task, split, lambda: 1)]
        copies, spent = iter(task_mix.picks(lengths, budget, rng)), 0
        for row in self._made(task, split, lambda: next(copies, 0)):
            length = self._row_length(row)
            if spent + length <= budget:  # a copy has another template, which may be longer
                spent += length
                yield row

    def _row_length(self, row: TrainingExample) -> int:
        return self.length([*row.prompt, *row.completion]) or 0

    def _made(self, task: str, split: Split, copies: Copies) -> Iterator[TrainingExample]:
        kind = named_task(task)
        if task == "sequence":
            for sequence in split.train:
                yield from self._sequence_rows(task, self._histories.of(sequence), copies)
        elif kind.per == "user" and kind.target == "text":
            yield from self._history_text_rows(task, split, copies)
        elif kind.per == "user":
            for number, question in enumerate(self._histories.questions(split)):
                yield from self._event_rows(task, question, number, copies)
        else:
            make = self._query_rows if kind.per == "query" else self._item_rows
            yield from map(self._checked, make(task, split, copies))

    def _sequence_rows(
        self, task: str, seen: HistorySlice, copies: Copies
    ) -> Iterator[TrainingExample]:
        frame = self._frames[task][0]
        for start, target, stop in windows(len(seen.rows), self._options.history_length):
            codes = self._map.codes[seen.rows[start:stop]]
            context = sids(self._space, codes[: target - start])
            answer = sids(self._space, codes[target - start :])
            for _ in range(copies()):
                if target == start:
                    yield TrainingExample(
                        task, (), (template(frame.before), answer), seen.cut(start, stop).events
                    )
                else:
                    yield TrainingExample(
                        task,
                        (template(frame.before), context),
                        (answer,),
                        seen.cut(start, stop).events,
                    )

    def _event_rows(
        self, task: str, seen: HistorySlice, number: int, copies: Copies
    ) -> Iterator[TrainingExample]:
        *history, target = seen.rows
        kind = named_task(task)
        answer = self._case.shown(kind.target, target)
        for copy in range(copies() if answer else 0):
            frame = self._frame(task, copy, number)
            closing = self._answer(task, answer, frame)
            around = (template(frame.before), template(frame.after), *self._asks(task), *closing)
            fits = self._fitting(
                task, [self._case.length(kind.source, row) for row in history], frame, around
            )
            shown = self._case.history(kind.source, history[len(history) - fits :], frame.separator)
            prompt = (template(frame.before), *shown, template(frame.after), *self._asks(task))
            events = seen.cut(len(history) - fits, len(seen.rows)).events
            yield TrainingExample(task, prompt, closing, events, seen.items[-1])

    def _history_text_rows(
        self, task: str, split: Split, copies: Copies
    ) -> Iterator[TrainingExample]:
        """Whole histories as running text, in stretches of as many items as a served prompt and its
        answer have."""
        size = self._options.history_length + 1
        for number, sequence in enumerate(split.train):
            whole = self._histories.of(sequence)
            for start in range(0, len(whole.rows), size):
                seen = whole.cut(start, start + size)
                for copy in range(copies()):
                    yield self._history_text(task, seen, self._frame(task, copy, number))

    def _history_text(self, task: str, seen: HistorySlice, frame: PromptFrame) -> TrainingExample:
        items = [self._case.running(frame.item, row) for row in seen.rows]
        around = (template(frame.before), template(frame.after + frame.close))
        fits = self._fitting(task, [self.length(item) or 0 for item in items], frame, around)
        text = [around[0]]
        for number, item in enumerate(items[len(items) - fits :]):
            text += [template(frame.separator)] * bool(number) + item
        return TrainingExample(
            task, (), (*text, around[1]), seen.cut(len(items) - fits, len(items)).events
        )

    def _item_rows(self, task: str, split: Split, copies: Copies) -> Iterator[TrainingExample]:
        kind = named_task(task)
        for row in np.flatnonzero(~self._map.retired).tolist():
            answer = self._case.shown("title" if kind.target == "text" else kind.target, row)
            there = answer and self._case.shown(kind.source, row)
            for copy in range(copies() if there else 0):
                frame = self._frame(task, copy, row)
                if kind.target == "text":
                    text = self._case.running(frame.item, row)
                    closing = (template(frame.before), *text, template(frame.after + frame.close))
                    yield TrainingExample(task, (), closing, (), self._map.ids[row])
                else:
                    asked = self._case.shown(kind.source, row, copy + row)
                    prompt = (
                        template(frame.before),
                        *asked,
                        template(frame.after),
                        *self._asks(task),
                    )
                    yield TrainingExample(
                        task, prompt, self._answer(task, answer, frame), (), self._map.ids[row]
                    )

    def _query_rows(self, task: str, split: Split, copies: Copies) -> Iterator[TrainingExample]:
        """Queries as questions; one with a user must be a training event of the user's."""
        positions = {
            (sequence.user, item): place
            for sequence in split.train
            for item, place in zip(sequence.items, sequence.positions, strict=True)
        }
        self.dropped_queries = 0
        for number, query in enumerate(self._queries):
            row, place = (
                self._histories.row.get(query.item),
                positions.get((query.user or "", query.item)),
            )
            refused = query.item in self._options.hide_text_of or (
                query.user is not None and place is None
            )
            if row is None or self._map.retired[row] or refused:
                self.dropped_queries += 1
                continue
            events = (
                () if query.user is None or place is None else ((query.user, query.item, place),)
            )
            for copy in range(copies()):
                frame = self._frame(task, copy, number)
                prompt = (
                    template(frame.before),
                    catalog(shorten(query.text)),
                    template(frame.after),
                    *self._asks(task),
                )
                answer = self._answer(task, self._case.shown("sid", row), frame)
                yield TrainingExample(task, prompt, answer, events, query.item)

    def _frame(self, task: str, copy: int, number: int) -> PromptFrame:
        """The first template for the task that is served, so that serving looks like training; else
        all in turn."""
        found = self._frames[task]
        return found[
            (copy if task == served_task(self._options.tasks) else copy + number) % len(found)
        ]

    def _asks(self, task: str) -> tuple[Segment, ...]:
        return (begin(self._space),) if named_task(task).target == "sid" else ()

    def _answer(
        self, task: str, answer: tuple[Segment, ...], frame: PromptFrame
    ) -> tuple[Segment, ...]:
        if named_task(task).target == "sid":
            bare = (
                answer[0].sid_tokens[1:-1] if self._markers else answer[0].sid_tokens
            )  # the prompt ended with the marker
            answer = (Segment("sid", sid_tokens=bare), end(self._space))
        return (*answer, template(frame.close))

    def _fitting(
        self, task: str, lengths: Sequence[int], frame: PromptFrame, around: Sequence[Segment]
    ) -> int:
        """How many of the newest items, of these lengths, fit into a row beside all else; at least
        one must."""
        if self._encoder is None:
            return len(lengths)
        room = self._options.max_length - len(self._encoder.ids(around))
        fits = count_fitting(lengths, room, len(self._encoder.ids([template(frame.separator)])))
        if not fits:
            raise self._too_long(task)
        return fits

    def _checked(self, row: TrainingExample) -> TrainingExample:
        if self._row_length(row) > self._options.max_length:
            raise self._too_long(row.task)
        return row

    def _too_long(self, task: str) -> DataError:
        return DataError(
            f"a {task} row does not fit {self._options.max_length} tokens",
            hint="raise --max-length",
        )
