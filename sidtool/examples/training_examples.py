"""The training examples of a mix of tasks, made of a split, a catalog and queries.

Every example records the events that it shows, so that a scan can prove that none is held out."""

from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, UsageError
from sidtool.data.fields.fields import FieldTypes
from sidtool.data.items import Items
from sidtool.data.queries import Query
from sidtool.data.split.split import Event, Split
from sidtool.examples.example_context import ExampleContext, TrainingExample
from sidtool.examples.example_kinds import (
    TrainingQuery,
    event_examples,
    history_text_examples,
    item_examples,
    item_text_examples,
    query_examples,
    sequence_examples,
    training_queries,
)
from sidtool.examples.field_examples import feedback_examples
from sidtool.examples.histories import Histories
from sidtool.examples.item_text import ItemRenderer
from sidtool.examples.list_examples import list_examples
from sidtool.examples.mix_frames import frames_of_mix
from sidtool.examples.served_prompts import ServedPrompts, literal_templates
from sidtool.examples.sft_options import SftOptions
from sidtool.examples.task_mix import (
    Copies,
    copies_within,
    task_rng,
    token_budgets,
    weighted_copies,
)
from sidtool.examples.tasks import (
    LIST_TASK,
    history_prompt_task,
    named_task,
)
from sidtool.model.prompt.encoder import PromptEncoder
from sidtool.model.prompt.field_tokens import FieldValues
from sidtool.model.prompt.prompts import HistoryPrompt
from sidtool.model.prompt.segments import Segment, template
from sidtool.model.prompt.tokens import SidTokens
from sidtool.tokenizer.bundle.bundle import Bundle

NO_FIELD_TOKENS: FieldValues = {}


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
        field_tokens: FieldValues = NO_FIELD_TOKENS,
    ) -> None:
        self._types = fields or FieldTypes()
        self._options = options
        if options.list_targets is not None:
            options.list_targets.check(self._types)
        self.format = options.example_format(tokenizer)
        self._space = bundle.space
        self._map = bundle.items
        self._queries = queries
        self._encoder: PromptEncoder | None = None
        if tokenizer is not None:
            self._encoder = PromptEncoder(tokenizer, SidTokens(bundle.space, len(tokenizer)))
        self._frames = frames_of_mix(options, tokenizer, self._types, field_tokens, trained_prompt)
        self.prompts = ServedPrompts(options, self._frames, bundle.space, self._encoder)
        self._items = ItemRenderer(bundle, items, options.hide_text_of, options.columns)
        self._histories = Histories(bundle, options.history_length)
        self._event_counts: dict[bool, NDArray[np.int64]] = {}
        self._check_inputs(items)
        self._check_sequence_length()

    @property
    def templates(self) -> dict[str, tuple[str, ...]]:
        """The literal text of every template in the mix, for the lineage."""
        return literal_templates(self._frames)

    def has_item(self, item: str) -> bool:
        """Whether an item id is in the bundle."""
        return item in self._histories.item_index

    def length(self, segments: Sequence[Segment]) -> int | None:
        """Number of tokens in segments, or None without a tokenizer."""
        return None if self._encoder is None else self._encoder.length(segments)

    def count_dropped_events(self, split: Split) -> int:
        """Number of training events whose items are not in the bundle."""
        return sum(not self.has_item(item) for user in split.train for item in user.items)

    def count_dropped_queries(self, split: Split) -> int:
        """Number of queries that the query tasks of the mix leave out."""
        if all(named_task(task).per != "query" for task in self._options.tasks):
            return 0
        return len(self._queries) - len(self._training_queries(split))

    def examples(
        self,
        split: Split,
        progress: Callable[[int, int], None] | None = None,
        counts: Callable[[Event], bool] | None = None,
    ) -> Iterator[TrainingExample]:
        """The examples of every task, task by task. Events for which `counts` is false are in no
        list. Raises DataError if the bundle contains none of the items in the training events."""
        n_events = sum(len(user.items) for user in split.train)
        if n_events and self.count_dropped_events(split) == n_events:
            raise DataError(
                f"the bundle contains none of the items in {n_events} training events",
                hint="check the ids",
            )
        options = self._options
        budgets = token_budgets(options.tasks, options.max_tokens, options.max_task_tokens)
        # Every task has its own generator, so adding a task leaves the others' examples unchanged.
        for done, (task, weight) in enumerate(options.tasks.items(), start=1):
            rng = task_rng(task, options.seed)
            make = self._example_source(task, split, counts)
            if task in budgets:
                yield from self._within_budget(make, budgets[task], rng)
            else:
                yield from make(weighted_copies(weight, rng))
            if progress:
                progress(done, len(options.tasks))

    def task_examples(
        self,
        task: str,
        split: Split,
        counts: Callable[[Event], bool] | None = None,
        first_number: int = 0,
    ) -> Iterator[TrainingExample]:
        """The examples of a task of a whole weight and without a budget, for the users of `split`,
        which may be a part of another split: those before have `first_number` examples."""
        copies = int(self._options.tasks[task])
        return self._example_source(task, split, counts, first_number)(lambda: copies)

    def count_before(self, task: str, split: Split, users: int) -> int:
        """The number that the first example of a task has after the first `users` users of a split
        (of windows: after so many windows). It chooses between templates."""
        kind = named_task(task)
        if kind.per != "user" or task == "sequence" or len(self._frames[task]) == 1:
            return 0
        if kind.target == "text":
            return users
        only_targets = kind.target != "feedback"
        counted = self._event_counts.get(only_targets)
        if counted is None:
            per_user = self._histories.count_with_target(split, only_targets=only_targets)
            counted = np.concatenate([[0], np.cumsum(per_user)])
            self._event_counts[only_targets] = counted
        return int(counted[users])

    def _within_budget(
        self,
        make: Callable[[Copies], Iterator[TrainingExample]],
        budget: int,
        rng: np.random.Generator,
    ) -> Iterator[TrainingExample]:
        """Examples drawn at random, all equally often, that fit into a budget of tokens."""
        # a first pass measures one copy of each example, a second one makes the copies
        lengths = array("l")
        for example in make(lambda: 1):
            lengths.append(self.length(example.segments) or 0)
        copies = iter(copies_within(lengths, budget, rng))
        spent = 0
        for example in make(lambda: next(copies, 0)):
            length = self.length(example.segments) or 0
            # A copy has another template than was measured, which may be longer.
            if spent + length <= budget:
                spent += length
                yield example

    def _example_source(
        self,
        name: str,
        split: Split,
        counts: Callable[[Event], bool] | None,
        first_number: int = 0,
    ) -> Callable[[Copies], Iterator[TrainingExample]]:
        """The examples of a task as a function of their copies."""
        task = named_task(name)
        context = ExampleContext(
            name=name,
            task=task,
            frames=self._frames[name],
            same_frame=self._has_prompt(name),
            space=self._space,
            item_map=self._map,
            items=self._items,
            histories=self._histories,
            encoder=self._encoder,
            max_length=self._options.max_length,
            history_length=self._options.history_length,
            types=self._types,
            first_number=first_number,
        )
        if task.per == "query":
            return partial(query_examples, context, self._training_queries(split))
        if task.per == "item":
            return partial(item_text_examples if task.target == "text" else item_examples, context)
        targets = self._options.list_targets
        if task.target == "list" and targets is not None:
            return partial(list_examples, context, split, targets, counts)
        if name == "sequence":
            return partial(sequence_examples, context, split)
        if task.target == "text":
            return partial(history_text_examples, context, split)
        if task.target == "feedback":
            return partial(feedback_examples, context, split)
        return partial(event_examples, context, split)

    def _has_prompt(self, task: str) -> bool:
        """Whether a trained model has a prompt of a history by this task."""
        is_of_labels = named_task(task).target == "feedback"
        return is_of_labels or task in (history_prompt_task(self._options.tasks), LIST_TASK)

    def _training_queries(self, split: Split) -> list[TrainingQuery]:
        index = self._histories.item_index
        hidden = self._options.hide_text_of
        usable = {
            item_id: row
            for item_id, row in index.items()
            if not self._map.retired[row] and item_id not in hidden
        }
        return training_queries(self._queries, split, usable)

    def _check_inputs(self, items: Items) -> None:
        for name in self._options.tasks:
            task = named_task(name)
            if task.column and task.column not in items.fields:
                raise UsageError(f"task {name} needs the catalog column {task.column!r}")
            if task.per == "query" and not self._queries:
                raise UsageError(
                    f"task {name} needs queries", hint="--queries FILE, or --query-text TEMPLATE"
                )
            if task.source == "prefix" and self._space.levels < 2:
                raise UsageError(
                    f"task {name} needs SIDs of two levels or more, these have {self._space.levels}"
                )
        has_budget = self._options.max_tokens or self._options.max_task_tokens
        if has_budget and self._encoder is None:
            raise UsageError("a token budget needs a tokenizer", hint="--model MODEL")
        unknown = sorted(self._options.hide_text_of - set(self._map.ids))
        if unknown:
            raise UsageError(
                f"{len(unknown)} items whose text is to be hidden are not in the bundle, such as "
                f"{unknown[0]!r}"
            )

    def _check_sequence_length(self) -> None:
        if "sequence" not in self._options.tasks:
            return
        n_items = self._options.history_length + 1
        n_tokens = n_items * (self._space.levels + 2 * self._space.has_begin_end_tokens)
        n_tokens += self.length([template(self._frames["sequence"][0].before)]) or 0
        if n_tokens > self._options.max_length:
            raise UsageError(
                f"{n_items} items take {n_tokens} tokens, an example has at most "
                f"{self._options.max_length}",
                hint="lower --history-length or raise --max-length",
            )
