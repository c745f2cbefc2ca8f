"""The training examples of a mix of tasks, made of a split, a catalog and queries.

Every example records the events that it shows, so that a scan can prove that none is held out."""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, UsageError
from sidtool.data import FieldTypes, Items, Query
from sidtool.data.split import Event, Split
from sidtool.examples.blocks import MakeBlock, TrainEvents
from sidtool.examples.histories import Histories
from sidtool.examples.items import training_queries
from sidtool.examples.prompts import ServedPrompts, frames_of_mix
from sidtool.examples.sft_options import SftOptions
from sidtool.examples.task import ExampleContext, ItemTexts, TrainingExample
from sidtool.examples.tasks import (
    BLOCKS,
    GENERAL_TASK,
    WeightedCopies,
    copies_within,
    history_prompt_task,
    named_task,
    task_rng,
    token_budgets,
)
from sidtool.model.prompt import HistoryPrompt, PromptEncoder, Segment, make_frame, template
from sidtool.model.vocabulary import FieldValues, SidTokens
from sidtool.tokenizer.bundle import Bundle


class ExampleMaker:
    """Makes the training examples of a split.

    `queries` are for the query tasks. Without a tokenizer examples cannot be measured, and
    `max_length` is not applied.

    `fields` are those of the split, which templates may show. With the prompt of a trained model,
    examples of its task are made as those that it was trained on. `field_tokens` are the values
    that have tokens in the model.

    Raises UsageError if a whole history cannot fit, if a task needs a column or queries that are
    missing, if a template shows a field that the split has not, if there is a token budget but no
    tokenizer, and if `hide_text_of` contains an id that is not in the bundle."""

    def __init__(
        self,
        bundle: Bundle,
        items: Items,
        options: SftOptions,
        tokenizer: Any | None = None,
        queries: Sequence[Query] = (),
        fields: FieldTypes | None = None,
        trained_prompt: HistoryPrompt | None = None,
        field_tokens: FieldValues | None = None,
    ) -> None:
        self._types = fields or FieldTypes()
        self._options = options
        if options.list_targets is not None:
            options.list_targets.check(self._types)
        self.format = options.example_format(tokenizer)
        self._bundle = bundle
        self._tokenizer = tokenizer
        self._queries = queries
        self._encoder: PromptEncoder | None = None
        if tokenizer is not None:
            self._encoder = PromptEncoder(tokenizer, SidTokens(bundle.space, len(tokenizer)))
        frames = frames_of_mix(options, tokenizer, self._types, field_tokens or {}, trained_prompt)
        self.prompts = ServedPrompts(options, frames, bundle.space, self._encoder)
        self.texts = ItemTexts(bundle, items, options.hide_text_of, options.columns)
        self._histories: Histories | None = None
        self._counted: tuple[Split, NDArray[np.int64]] | None = None
        self._check_inputs(items)
        _ = self.prompts.history, self.prompts.list, self.prompts.text  # refused before the work

    def length(self, segments: Sequence[Segment]) -> int:
        """Number of tokens in segments, 0 without a tokenizer."""
        return 0 if self._encoder is None else self._encoder.length(segments)

    def events(self, split: Split) -> TrainEvents:
        """The training events of a split as columns. Raises DataError if the bundle has none of
        their items, unless the split is a part of another one: some of its users."""
        events = TrainEvents(split, self._histories_of(split).rows)
        is_whole = split.origin.whole is None
        if is_whole and events.n_events and events.n_dropped == events.n_events:
            raise DataError(
                f"the bundle contains none of the items in {events.n_events} training events",
                hint="check the ids",
            )
        return events

    def count_dropped_queries(self, split: Split) -> int:
        """Number of queries that the query tasks of the mix leave out."""
        for name in self._options.tasks:
            if named_task(name).needs_queries:
                return len(self._queries) - len(training_queries(self._context(name, split)))
        return 0

    def examples(
        self, split: Split, counts: Callable[[Event], bool] | None = None
    ) -> Iterator[TrainingExample]:
        """The examples of every task, task by task. Raises as `events`."""
        self.events(split)
        for task in self._options.tasks:
            yield from self.task_examples(task, split, counts)

    def task_examples(
        self,
        task: str,
        split: Split,
        counts: Callable[[Event], bool] | None = None,
        first_number: int = 0,
    ) -> Iterator[TrainingExample]:
        """The examples of a task, for the users of `split`, which may be a part of another split:
        those before have `first_number` examples. Events for which `counts` is false are in no
        list."""
        options = self._options
        budgets = token_budgets(options.tasks, options.max_tokens)
        # every task has its own generator, so adding a task leaves the others' examples unchanged
        rng = task_rng(task, options.seed)
        make = partial(named_task(task).make, self._context(task, split, counts, first_number))
        if task not in budgets:
            yield from make(WeightedCopies(options.tasks[task], rng))
            return
        # all equally often within the budget: a first pass measures one copy of each example, a
        # second one makes the copies
        lengths = array("l", [self.length(example.segments) for example in make(lambda: 1)])
        copies = iter(copies_within(lengths, budgets[task], rng))
        spent = 0
        for example in make(lambda: next(copies, 0)):
            length = self.length(example.segments)
            # a copy has another template than was measured, which may be longer
            if spent + length <= budgets[task]:
                spent += length
                yield example

    def task_blocks(
        self, task: str, split: Split, events: TrainEvents, users: range, first_number: int = 0
    ) -> Iterator[MakeBlock] | None:
        """What makes the examples of `task_examples` for some users of a split as lines; None for
        those that are made one by one."""
        options = self._options
        make = BLOCKS.get(named_task(task).make)
        context = self._context(task, split, first_number=first_number)
        shows_fields = context.task.feedback or any(frame.has_slots for frame in context.frames)
        has_windows = split.windows is not None and not context.task.of_whole_histories
        if make is None or options.max_tokens or has_windows or shows_fields:
            return None
        copies = WeightedCopies(options.tasks[task], task_rng(task, options.seed))
        return make(context, events, users, copies.of_next)

    def part(self, task: str, split: Split, units: range) -> Split:
        """The split with only some users, or windows if the examples of the task are made of
        such."""
        if split.windows is None or named_task(task).of_whole_histories:
            return replace(split, train=split.train[units.start : units.stop])
        return replace(split, windows=split.windows[units.start : units.stop])

    def general_examples(self, documents: Sequence[str]) -> list[TrainingExample]:
        """Documents of a general corpus, in pieces of at most `max_length` tokens. Raises
        UsageError without a tokenizer."""
        if self._tokenizer is None:
            raise UsageError("general text needs a tokenizer", hint="--model MODEL")
        frame = make_frame("{item}", self._tokenizer, "text")
        context = self._context(GENERAL_TASK, Split.of("given", ()))
        context = replace(context, frames=(frame,), documents=documents)
        return list(context.task.make(context, lambda: 1))

    def counts_events(self, task: str, split: Split) -> bool:
        """Whether the number of an example of a task follows from the events of the users before,
        and not from their number."""
        context = self._context(task, split)
        has_one_frame = context.same_frame or len(context.frames) == 1
        return not (context.task.of_whole_histories or has_one_frame)

    def count_before(self, task: str, split: Split, users: int) -> int:
        """The number that the first example of a task has after the first `users` users of a split
        (of windows: after so many windows). It chooses between templates."""
        if named_task(task).of_whole_histories:
            return users
        if not self.counts_events(task, split):
            return 0
        if self._counted is None or self._counted[0] is not split:
            histories = self._histories_of(split)
            numbers = range(len(split.train if split.windows is None else split.windows))
            parts = (self.part(task, split, range(number, number + 1)) for number in numbers)
            per_part = [sum(1 for _ in histories.with_target(part)) for part in parts]
            self._counted = split, np.cumsum([0, *per_part])
        return int(self._counted[1][users])

    def _context(
        self,
        name: str,
        split: Split,
        counts: Callable[[Event], bool] | None = None,
        first_number: int = 0,
    ) -> ExampleContext:
        """What the examples of a task are made with."""
        task = named_task(name)
        is_served = task.target in ("feedback", "list")
        is_served |= name == history_prompt_task(self._options.tasks)
        return ExampleContext(
            name=name,
            task=task,
            frames=self.prompts.frames.get(name, ()),
            same_frame=is_served,  # a trained model asks for them by the first frame
            bundle=self._bundle,
            split=split,
            texts=self.texts,
            histories=self._histories_of(split),
            encoder=self._encoder,
            max_length=self._options.max_length,
            types=self._types,
            queries=self._queries,
            lists=self._options.list_targets,
            counts=counts,
            first_number=first_number,
        )

    def _histories_of(self, split: Split) -> Histories:
        """Those of a split; of several that are used in turn, the last one's are kept."""
        names = split.train.names
        if self._histories is None or self._histories.names is not names:
            self._histories = Histories(self._bundle, self._options.history_length, names)
        return self._histories

    def _check_inputs(self, items: Items) -> None:
        for name in self._options.tasks:
            task = named_task(name)
            if task.column and task.column not in items.fields:
                raise UsageError(f"task {name} needs the catalog column {task.column!r}")
            if task.needs_queries and not self._queries:
                raise UsageError(
                    f"task {name} needs queries", hint="--queries FILE, or --query-text TEMPLATE"
                )
            levels = self._bundle.space.levels
            if task.source == "prefix" and levels < 2:
                raise UsageError(
                    f"task {name} needs SIDs of two levels or more, these have {levels}"
                )
            if not task.is_sequence:
                continue
            n_items = self._options.history_length + 1
            n_tokens = n_items * (levels + 2 * self._bundle.space.has_begin_end_tokens)
            n_tokens += self.length([template(self.prompts.frames[name][0].before)])
            if n_tokens > self._options.max_length:
                raise UsageError(
                    f"{n_items} items take {n_tokens} tokens, an example has at most "
                    f"{self._options.max_length}",
                    hint="lower --history-length or raise --max-length",
                )
        if self._options.max_tokens and self._encoder is None:
            raise UsageError("a token budget needs a tokenizer", hint="--model MODEL")
        if unknown := self.texts.unknown:
            raise UsageError(
                f"{len(unknown)} items whose text is to be hidden are not in the bundle, such as "
                f"{unknown[0]!r}"
            )
