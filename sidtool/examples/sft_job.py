"""What training examples are made from, opened, and the examples that are written from it."""

import json
import warnings
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple

from sidtool.base.digests import HashedFile
from sidtool.base.errors import DataError, SidtoolWarning
from sidtool.base.progress import Progress
from sidtool.base.threads import in_threads
from sidtool.data import Items
from sidtool.data.split import Event, Split
from sidtool.examples.blocks import TrainEvents, write_validation
from sidtool.examples.event_weights import EventWeights
from sidtool.examples.example_file import example_json
from sidtool.examples.general_text import GeneralOptions, GeneralRecord, GeneralText
from sidtool.examples.lineage import ExampleCounts, Lineage, task_counts
from sidtool.examples.sft_options import SftOptions
from sidtool.examples.task import TrainingExample
from sidtool.examples.tasks import GENERAL_TASK, copies_within, task_rng, token_budgets
from sidtool.examples.training_examples import ExampleMaker
from sidtool.tokenizer.bundle import Bundle

Stream = BinaryIO | HashedFile
"""What examples are written to."""


class GeneralExamples(NamedTuple):
    """The examples of a general corpus."""

    record: GeneralRecord
    train: Sequence[TrainingExample]
    held_out: Sequence[TrainingExample]

    @classmethod
    def read(cls, options: GeneralOptions, maker: ExampleMaker) -> "GeneralExamples":
        """Read a corpus. Raises as `GeneralText.read` and `ExampleMaker.general_examples`."""
        text = GeneralText.read(options.path)
        parts = (maker.general_examples(part) for part in (text.train, text.held_out))
        return cls(text.record(options.share), *parts)


@dataclass(frozen=True)
class EventTotals:
    """What is known of all events of a split."""

    n_events: int
    """Training events"""
    n_dropped: int
    """Training events whose items the bundle lacks"""
    unknown_items: Sequence[str]
    """The items of the split that the bundle lacks"""
    n_valid: int
    """Validation examples"""


@dataclass(frozen=True)
class SftJob:
    """Everything that training examples are made from."""

    bundle: Bundle
    items: Items
    split: Split
    options: SftOptions
    maker: ExampleMaker
    weights: EventWeights | None
    general: GeneralExamples | None
    progress: Progress | None
    threads: int = 1

    @cached_property
    def events(self) -> TrainEvents:
        """The training events as columns."""
        return self.maker.events(self.split)

    @cached_property
    def totals(self) -> EventTotals:
        """The figures of all events of the split."""
        events = self.events
        n_valid = len(self.split.valid)
        return EventTotals(events.n_events, events.n_dropped, events.unknown_items, n_valid)

    def check_catalog(self) -> None:
        """Raise RefusedError if the catalog lacks too many items of the bundle; warn of fewer."""
        ids, active = self.bundle.items.ids, self.bundle.active
        is_missing = self.maker.texts.catalog_rows[active] < 0
        missing = [ids[row] for row in active[is_missing].tolist()]
        self.options.check_unknown(
            "items of the bundle are not in the catalog",
            self.items.ids,
            missing,
            ("the catalog", "the bundle"),
            count=len(missing),
            total=len(active),
        )

    def check_events(self) -> None:
        """Raise RefusedError if the bundle lacks the items of too many training events; warn of
        fewer."""
        totals = self.totals
        self.options.check_unknown(
            "training events are of items that the bundle lacks",
            self.bundle.items.ids,
            totals.unknown_items,
            ("the bundle", "events"),
            count=totals.n_dropped,
            total=totals.n_events,
        )

    def write(self, path: Path | None) -> tuple[dict[str, ExampleCounts], str]:
        """Make the examples, write them if there is a path -> their counts by task, and SHA-256
        (hex) of the file."""
        if path is None:
            return self._write_tasks(None), ""
        with path.open("wb") as stream:
            hashed = HashedFile(stream)
            return self._write_tasks(hashed), hashed.digest

    def _write_tasks(self, stream: Stream | None) -> dict[str, ExampleCounts]:
        counts: dict[str, ExampleCounts] = {}
        for done, task in enumerate(self.options.tasks, start=1):
            counts[task] = self.write_task(stream, task)
            if self.progress is not None:
                self.progress(done, len(self.options.tasks))
        if self.general is not None:
            # drawn at random, all equally often, until they have their share of the tokens
            train = self.general.train
            lengths = [self.maker.length(example.segments) for example in train]
            other_tokens = sum(example_counts.tokens for example_counts in counts.values())
            share = self.general.record.share
            budget = round(other_tokens * share / (1 - share))
            copies = copies_within(lengths, budget, task_rng(GENERAL_TASK, self.options.seed))
            pairs = zip(train, copies, strict=True)
            general = (example for example, n_copies in pairs for _ in range(n_copies))
            counts[GENERAL_TASK] = self.write_examples(stream, general)
        return counts

    def write_valid(self, path: Path) -> None:
        """Write the validation users."""
        write_validation(path, self.split.valid)

    def write_task(
        self, stream: Stream | None, task: str, units: range | None = None, first_number: int = 0
    ) -> ExampleCounts:
        """Write the examples of a task, of all users or some (`units`), if there is a stream. Those
        of the users before have `first_number` examples (`ExampleMaker.count_before`)."""
        split = self.split
        if self.weights is None:
            users = range(len(self.events)) if units is None else units
            blocks = self.maker.task_blocks(task, split, self.events, users, first_number)
            if blocks is not None:
                written = ExampleCounts()
                for block in in_threads(lambda make: make(), blocks, self.threads):
                    if stream is not None:
                        stream.write(block.lines)
                    lengths = block.lengths
                    longest = int(lengths.max(initial=0))
                    total = int(lengths.sum())
                    written += ExampleCounts(len(lengths), total, longest, block.leaked)
                return written
        if units is not None:
            split = self.maker.part(task, split, units)
        counts = None if self.weights is None else self.weights.counts
        examples = self.maker.task_examples(task, split, counts, first_number)
        return self.write_examples(stream, examples)

    def write_examples(
        self, stream: Stream | None, examples: Iterable[TrainingExample]
    ) -> ExampleCounts:
        """Write examples one by one, if there is a stream."""
        lengths = array("l")

        def events() -> Iterator[Event]:
            for example in examples:
                if stream is not None:
                    weight = None if self.weights is None else self.weights.of_example(example)
                    value = example_json(self.bundle.space, example, weight)
                    stream.write(f"{json.dumps(value, ensure_ascii=False)}\n".encode())
                lengths.append(self.maker.length(example.segments))
                yield from example.events

        leaked = self.split.held_out.count(events())
        return ExampleCounts(len(lengths), sum(lengths), max(lengths, default=0), leaked)

    def lineage(self, counts: Mapping[str, ExampleCounts], files: Mapping[str, str]) -> Lineage:
        """The lineage of the examples that were written. Raises RefusedError if one of them shows a
        held-out event, DataError if there are none; a SidtoolWarning names tasks without examples,
        whose prompts are not served."""
        tasks = task_counts(counts)
        options = self.options
        missing = [task for task in options.tasks if task not in tasks]
        if len(missing) == len(options.tasks):
            raise DataError(
                f"no training example of {', '.join(missing)} can be made",
                hint="examples need users with two training events, items with text, queries of "
                "items in the bundle, and room in --max-tokens",
            )
        if missing:
            warnings.warn(
                f"there is no training example of {', '.join(missing)}",
                SidtoolWarning,
                stacklevel=3,
            )
        prompts = replace(self.maker.prompts, without=frozenset(missing))
        return Lineage(
            bundle=self.bundle.identity,
            catalog=self.items.digest,
            split=self.split.reference,
            task_weights=dict(options.tasks),
            task_budgets=token_budgets(options.tasks, options.max_tokens),
            max_tokens=options.max_tokens,
            example_format=self.maker.format,
            max_length=options.max_length,
            history_length=options.history_length,
            hidden_items=len(options.hide_text_of),
            seed=options.seed,
            templates=prompts.templates,
            history_prompt=prompts.history,
            list_prompt=prompts.list,
            lists=options.list_targets,
            label_prompts=prompts.labels(self.split),
            text_prompt=prompts.text,
            tasks=tasks,
            dropped_events=self.totals.n_dropped,
            dropped_queries=self.maker.count_dropped_queries(self.split),
            valid=self.totals.n_valid,
            files=files,
            weights=None if self.weights is None else self.weights.record,
            general=None if self.general is None else self.general.record,
            field_tokens=prompts.field_tokens,
            columns=tuple(self.items.fields) if options.columns is None else options.columns,
            own_templates=options.templates,
        )
