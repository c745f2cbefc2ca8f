"""make-sft: reads what training examples are made from, makes and counts them, and writes them with
their lineage."""

import json
import warnings
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from sidtool.base.digests import file_digest
from sidtool.base.errors import DataError, SidtoolWarning, UsageError
from sidtool.base.output import locked, partial_path, publish, refuse_existing, remove
from sidtool.base.output_name import JSON_LINES, check_suffix
from sidtool.base.progress import Progress
from sidtool.data import (
    GeneralOptions,
    GeneralRecord,
    GeneralText,
    Items,
    Query,
    Spill,
    spill_beside,
)
from sidtool.data.split import Event, Split, count_leaks, open_split, write_examples
from sidtool.examples.blocks import ExampleBlock
from sidtool.examples.catalog import TaskCatalogOptions, read_catalog
from sidtool.examples.event_columns import TrainEvents
from sidtool.examples.event_weights import EventWeights, WeightOptions
from sidtool.examples.example_file import example_json
from sidtool.examples.lineage import (
    ExampleCounts,
    Lineage,
    TaskCounts,
    side_files,
    task_counts,
    write_lineage,
)
from sidtool.examples.sft_options import SftOptions
from sidtool.examples.task import TrainingExample
from sidtool.examples.tasks import GENERAL_TASK, copies_within, task_rng, token_budgets
from sidtool.examples.training_examples import NO_FIELD_TOKENS, ExampleMaker
from sidtool.model import Checkpoint, check_model_folder, load_tokenizer
from sidtool.model.contract import check_bundle_split, model_folder
from sidtool.registry import open_source
from sidtool.tokenizer.bundle import Bundle


class GeneralExamples(NamedTuple):
    """The examples of a general corpus."""

    options: GeneralOptions
    record: GeneralRecord
    train: Sequence[TrainingExample]
    held_out: Sequence[TrainingExample]

    @classmethod
    def read(cls, options: GeneralOptions, maker: ExampleMaker) -> "GeneralExamples":
        """Read a corpus. Raises as `GeneralText.read` and `ExampleMaker.general_examples`."""
        text = GeneralText.read(options.path)
        parts = (maker.general_examples(part) for part in (text.train, text.held_out))
        return cls(options, text.record(options.share), *parts)


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

    @cached_property
    def events(self) -> TrainEvents:
        """The training events as columns."""
        return self.maker.events(self.split)

    def write(self, path: Path | None) -> dict[str, TaskCounts]:
        """Make the examples, write them if there is a path, and count them by task.

        Raises RefusedError if one of them shows a held-out event."""
        counts: dict[str, ExampleCounts] = {}
        n_tasks = len(self.options.tasks)
        with path.open("wb") if path else nullcontext() as stream:
            for done, task in enumerate(self.options.tasks, start=1):
                counts[task] = self.write_task(stream, task)
                if self.progress is not None:
                    self.progress(done, n_tasks)
            if self.general is not None:
                other_tokens = sum(of_task.tokens for of_task in counts.values())
                general = self._mixed(self.general, other_tokens)
                counts[GENERAL_TASK] = self.write_examples(stream, general)
        return task_counts(counts)

    def write_task(
        self, stream: BinaryIO | None, task: str, units: range | None = None
    ) -> ExampleCounts:
        """Write the examples of a task, of all users or some (`units`), if there is a stream."""
        first_number = 0
        split = self.split
        if units is not None:
            first_number = self.maker.count_before(task, split, units.start)
        if self.weights is None:
            users = range(len(self.events)) if units is None else units
            blocks = self.maker.task_blocks(task, split, self.events, users, first_number)
            if blocks is not None:
                return _write_blocks(stream, blocks)
        if units is not None:
            split = self.maker.part(task, split, units)
        examples = self.maker.task_examples(task, split, self.counts, first_number)
        return self.write_examples(stream, examples)

    @property
    def counts(self) -> Callable[[Event], bool] | None:
        """Which events may be in a list; None for all."""
        return None if self.weights is None else self.weights.counts

    def write_examples(
        self, stream: BinaryIO | None, examples: Iterable[TrainingExample]
    ) -> ExampleCounts:
        """Write examples one by one, if there is a stream."""
        lengths = array("l")

        def events() -> Iterator[Event]:
            for example in examples:
                if stream is not None:
                    weight = None if self.weights is None else self.weights.of_example(example)
                    value = example_json(self.bundle.space, example, weight)
                    stream.write(f"{json.dumps(value, ensure_ascii=False)}\n".encode())
                lengths.append(self.maker.length(example.segments) or 0)
                yield from example.events

        leaked = count_leaks(self.split, events())
        return ExampleCounts(len(lengths), sum(lengths), max(lengths, default=0), leaked)

    def _mixed(self, general: GeneralExamples, other_tokens: int) -> Iterator[TrainingExample]:
        """Examples of general text drawn at random, all equally often, whose tokens have the given
        share beside the tokens of the other examples."""
        lengths = [self.maker.length(example.segments) or 0 for example in general.train]
        budget = general.options.budget(other_tokens)
        copies = copies_within(lengths, budget, task_rng(GENERAL_TASK, self.options.seed))
        for example, n_copies in zip(general.train, copies, strict=True):
            yield from [example] * n_copies

    def lineage(self, tasks: Mapping[str, TaskCounts], files: Mapping[str, str]) -> Lineage:
        """The lineage of the examples that were written. Raises DataError if there are none; a
        SidtoolWarning names tasks without examples, whose prompts are not served."""
        options = self.options
        missing = [task for task in options.tasks if task not in tasks]
        if len(missing) == len(options.tasks):
            raise DataError(
                f"no training example of {', '.join(missing)} can be made",
                hint="have users two training events at least, and items text?",
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
            task_budgets=token_budgets(options.tasks, options.max_tokens, options.max_task_tokens),
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
            dropped_events=self.events.n_dropped,
            dropped_queries=self.maker.count_dropped_queries(self.split),
            valid=len(self.split.valid),
            files=files,
            weights=None if self.weights is None else self.weights.record,
            general=None if self.general is None else self.general.record,
            field_tokens=prompts.field_tokens,
            columns=tuple(self.items.fields) if options.columns is None else options.columns,
            own_templates=options.templates,
        )


def _write_blocks(stream: BinaryIO | None, blocks: Iterable[ExampleBlock]) -> ExampleCounts:
    counts = ExampleCounts()
    for block in blocks:
        if stream is not None:
            stream.write(block.lines)
        lengths = block.lengths
        longest = int(lengths.max(initial=0))
        counts += ExampleCounts(len(lengths), int(lengths.sum()), longest, block.leaked)
    return counts


ExampleWriter = Callable[[SftJob, Path], Mapping[str, TaskCounts]]
"""Writes the examples of a job at a path -> their counts by task."""


@dataclass(frozen=True)
class SftInputs:
    """What training examples are made from, as `make_sft` takes it: values, or where they are. What
    another process reads again are locations."""

    bundle: Bundle | str | Path
    items: Items | str | Path
    split: Split | str | Path
    options: SftOptions
    catalog_options: TaskCatalogOptions | None = None
    model: str | Path | None = None
    weights: WeightOptions | None = None
    general: GeneralOptions | None = None
    queries: Sequence[Query] = ()
    tokenizer: Any | None = None

    def open(self, spill: Spill | None = None, progress: Progress | None = None) -> SftJob:
        """Read what is not read yet, and check that it fits. Raises as `make_sft`."""
        options, tokenizer, split = self.options, self.tokenizer, self.split
        bundle = self.bundle
        if not isinstance(bundle, Bundle):
            bundle = open_source(str(bundle))
        prompt, field_tokens = None, NO_FIELD_TOKENS
        if self.model is not None:
            folder = model_folder(self.model)
            contract, _, _ = check_model_folder(folder, bundle)
            tokenizer = load_tokenizer(Checkpoint(folder))
            field_tokens = contract.field_tokens
            # the prompt that a model was adopted with, unless there are templates of its task
            prompt = contract.history_prompt if contract.is_adopted else None
            if prompt is not None and prompt.task in options.templates:
                prompt = None
        items, queries, columns = self._catalog(bundle)
        if options.columns is None:
            options = replace(options, columns=columns)
        if not isinstance(split, Split):
            event_columns = bundle.manifest.made_from.event_columns
            split = open_split(split, recorded=event_columns, spill=spill)
        check_bundle_split(bundle, "the split of the training examples", split.reference)
        maker = ExampleMaker(
            bundle, items, options, tokenizer, queries, split.fields, prompt, field_tokens
        )
        weights = EventWeights.read(self.weights, split)
        general = None
        if self.general is not None:
            general = GeneralExamples.read(self.general, maker)
        return SftJob(bundle, items, split, options, maker, weights, general, progress)

    def _catalog(self, bundle: Bundle) -> tuple[Items, Sequence[Query], tuple[str, ...] | None]:
        """The catalog, the queries, and the columns that running text shows, None for all."""
        if isinstance(self.items, Items):
            if self.catalog_options is not None:
                raise UsageError(
                    "catalog options say how a file is read, but the catalog is a value"
                )
            return self.items, self.queries, None
        options = self.catalog_options or TaskCatalogOptions()
        if self.queries and options.has_queries:
            raise UsageError("queries are given twice, as a value and by the catalog options")
        tasks = self.options.tasks
        options.check_uses(tasks)
        recorded = bundle.manifest.made_from.columns
        items, queries = read_catalog(Path(self.items), tasks, options, recorded)
        return items, self.queries or queries, options.fields


def make_sft(
    bundle: Bundle | str | Path,
    items: Items | str | Path,
    split: Split | str | Path,
    out: str | Path,
    options: SftOptions | None = None,
    *,
    catalog_options: TaskCatalogOptions | None = None,
    queries: Sequence[Query] = (),
    model: str | Path | None = None,
    tokenizer: Any | None = None,
    weights: WeightOptions | None = None,
    general: GeneralOptions | None = None,
    memory: int | None = None,
    writer: ExampleWriter | None = None,
    dry_run: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Lineage:
    """Write the training examples `out`, and beside it the validation users and the lineage.

    `bundle` is a bundle or a reference to one, `items` a catalog or its file (read with
    `catalog_options`, which may name queries too), `split` a split, its folder, or a file of events
    (`open_split`). `weights` names the weights of the examples of events, `general` a
    general corpus whose text is mixed in; its held-out part is written beside the examples, as
    examples too. With `memory`, a number of bytes, more events than fit lie in files beside the
    output; the examples are the same. `writer` writes the examples in place of this process
    (`cluster.ClusterExamples`). Without `model` (an
    extended model's folder) or `tokenizer`, examples are not measured and `max_length` is not
    enforced. Training events and queries of items that the bundle
    lacks are left out and counted; validation users are kept as they are, so that every bundle is
    evaluated on the same users. With an adopted `model`, examples of the task next-item have the
    prompt that it was adopted with, unless `options` has templates of that task. A dry run writes
    nothing and returns the same lineage without files.

    Raises UsageError if an output exists, CompatibilityError if the bundle's codebook was built
    from another split or the model from another bundle, RefusedError if a held-out event is in a
    training example, and what ExampleMaker and EventWeights raise.

    Examples:
        >>> lineage = sidtool.make_sft(
        ...     "shop.zarr", "items.jsonl", "split", "made.jsonl", model="base+sid"
        ... )
        >>> lineage.leaked_events, list(lineage.tasks)
        (0, ['sequence'])
    """
    out = Path(out)
    options = options or SftOptions()
    if not dry_run:
        _refuse_outputs(out, force)
    with nullcontext() if memory is None else spill_beside(out, memory) as spill:
        inputs = SftInputs(
            bundle,
            items,
            split,
            options,
            catalog_options,
            model,
            weights,
            general,
            queries,
            tokenizer,
        )
        job = inputs.open(spill, progress)
        if dry_run:
            return job.lineage(job.write(None), {})
        return _written(job, out, force, writer or SftJob.write)


def _written(job: SftJob, out: Path, force: bool, writer: ExampleWriter) -> Lineage:
    """Write the files of a job, whole or not at all."""
    side = side_files(out)
    with _staged(out, force) as stage:
        tasks = writer(job, stage / out.name)
        write_examples(stage / side["valid"].name, job.split.valid)
        if job.general is not None:
            with (stage / side["general"].name).open("wb") as stream:
                job.write_examples(stream, job.general.held_out)
        digests = {path.name: file_digest(path) for path in sorted(stage.iterdir())}
        lineage = job.lineage(tasks, digests)
        write_lineage(lineage, stage / side["meta"].name)
    return lineage


def _refuse_outputs(out: Path, force: bool) -> None:
    """Raise UsageError if an output exists, or has the name of another file type.

    A killed run leaves files that may be replaced: it had begun to move them, and the lineage comes
    last."""
    check_suffix(out, JSON_LINES)
    side = side_files(out)
    killed_while_moving = partial_path(out).exists() and not side["meta"].exists()
    if killed_while_moving:
        return
    for path in (out, *side.values()):
        refuse_existing(path, force)


@contextmanager
def _staged(out: Path, force: bool) -> Iterator[Path]:
    """A folder to write the files in; they move beside `out` when the block ends well, the lineage
    last."""
    side = side_files(out)
    with ExitStack() as locks:
        for path in side.values():
            locks.enter_context(locked(path))
        stage = locks.enter_context(locked(out))  # the last one is named by errors of the disk
        _refuse_outputs(out, force)
        remove(stage)
        stage.mkdir()
        try:
            yield stage
            side["meta"].unlink(missing_ok=True)  # from here on an old output is no longer whole
            if not (stage / side["general"].name).exists():
                side["general"].unlink(missing_ok=True)
            for target in (side["valid"], side["general"], out, side["meta"]):
                if (stage / target.name).exists():
                    publish(stage / target.name, target)
        finally:
            remove(stage)
