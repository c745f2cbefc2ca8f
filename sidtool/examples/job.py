"""What training examples are made from, and how they are made, written and counted."""

import json
import warnings
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from sidtool.base.errors import DataError, RefusedError, SidtoolWarning, UsageError
from sidtool.base.progress import Progress
from sidtool.data.general_text import GeneralOptions
from sidtool.data.items import Items
from sidtool.data.queries import Query
from sidtool.data.spilled_events import Spill
from sidtool.data.split.files import open_split
from sidtool.data.split.split import Event, Split, count_leaks
from sidtool.examples.catalog import TaskCatalogOptions, read_catalog
from sidtool.examples.event_weights import EventWeights, WeightOptions
from sidtool.examples.example_context import TrainingExample
from sidtool.examples.example_file import example_json
from sidtool.examples.general_examples import GeneralExamples
from sidtool.examples.lineage import Lineage, TaskCounts
from sidtool.examples.sft_options import SftOptions
from sidtool.examples.task_mix import token_budgets
from sidtool.examples.training_examples import ExampleMaker
from sidtool.model.contract.contract import Contract
from sidtool.model.contract.locate import model_folder
from sidtool.model.contract.split_check import check_bundle_split
from sidtool.model.load import check_model_folder
from sidtool.model.pretrained import Checkpoint, load_tokenizer
from sidtool.model.prompt.field_tokens import FieldValues
from sidtool.model.prompt.prompts import HistoryPrompt
from sidtool.registry.references import open_source
from sidtool.tokenizer.bundle.bundle import Bundle


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

    def write(self, path: Path | None) -> dict[str, TaskCounts]:
        """Make the examples, write them if there is a path, and count them by task.

        Raises RefusedError if one of them shows a held-out event."""
        lengths: dict[str, array[int]] = defaultdict(lambda: array("l"))
        with path.open("w", encoding="utf-8") if path else nullcontext() as stream:
            leaked = count_leaks(self.split, self._events(stream, lengths))
            if self.general is not None:
                n_tokens = sum(map(sum, lengths.values()))
                for example in self.general.mixed(n_tokens):
                    self.write_example(stream, lengths, example)
        if leaked:
            raise RefusedError(
                f"{leaked} held-out events are in the training examples, not 0",
                hint="report this split",
            )
        return _count_by_task(lengths)

    @property
    def counts(self) -> Callable[[Event], bool] | None:
        """Which events may be in a list; None for all."""
        return None if self.weights is None else self.weights.counts

    def _events(self, stream: IO[str] | None, lengths: "dict[str, array[int]]") -> Iterator[Event]:
        """Write each example, append its length to those of its task, and yield its events."""
        for example in self.maker.examples(self.split, self.progress, self.counts):
            self.write_example(stream, lengths, example)
            yield from example.events

    def write_example(
        self, stream: IO[str] | None, lengths: "dict[str, array[int]]", example: TrainingExample
    ) -> None:
        """Write an example if there is a stream, and append its length to those of its task."""
        if stream is not None:
            weight = None if self.weights is None else self.weights.of_example(example)
            value = example_json(self.bundle.space, example, weight)
            stream.write(json.dumps(value, ensure_ascii=False) + "\n")
        lengths[example.task].append(self.maker.length(example.segments) or 0)

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
            templates=self.maker.templates,
            history_prompt=prompts.history,
            list_prompt=prompts.list,
            lists=options.list_targets,
            label_prompts=prompts.labels(self.split),
            text_prompt=prompts.text,
            tasks=tasks,
            dropped_events=self.maker.count_dropped_events(self.split),
            dropped_queries=self.maker.count_dropped_queries(self.split),
            valid=len(self.split.valid),
            files=files,
            weights=None if self.weights is None else self.weights.record,
            general=None if self.general is None else self.general.record,
            field_tokens=prompts.field_tokens,
            columns=tuple(self.items.fields) if options.columns is None else options.columns,
            own_templates=options.templates,
        )


ExampleWriter = Callable[[SftJob, Path], Mapping[str, TaskCounts]]
"""Writes the examples of a job at a path -> their counts by task."""


def _count_by_task(lengths: Mapping[str, Sequence[int]]) -> dict[str, TaskCounts]:
    """The counts of each task, from the lengths of its examples in tokens."""
    total = max(1, sum(map(sum, lengths.values())))
    return {
        task: TaskCounts(len(tokens), sum(tokens), max(tokens), sum(tokens) / total)
        for task, tokens in lengths.items()
    }


def open_job(
    bundle: Bundle | str | Path,
    items: Items | str | Path,
    split: Split | str | Path,
    options: SftOptions,
    catalog_options: TaskCatalogOptions | None,
    *,
    queries: Sequence[Query] = (),
    model: str | Path | None = None,
    tokenizer: Any | None = None,
    weights: WeightOptions | None = None,
    general: GeneralOptions | None = None,
    spill: Spill | None = None,
    progress: Progress | None = None,
) -> SftJob:
    """Read what is not read yet, and check that it fits. Raises as `make_sft`."""
    if not isinstance(bundle, Bundle):
        bundle = open_source(str(bundle))
    of_model: _OfModel = (None, {})
    if model is not None:
        tokenizer, of_model = _read_model(model, bundle, options)
    if not isinstance(items, Items):
        recorded = bundle.manifest.made_from.columns
        catalog_options = catalog_options or TaskCatalogOptions()
        if queries and catalog_options.has_queries:
            raise UsageError("queries are given twice, as a value and by the catalog options")
        catalog_options.check_uses(options.tasks)
        items, read = read_catalog(Path(items), options.tasks, catalog_options, recorded)
        queries = queries or read
        if options.columns is None:
            options = replace(options, columns=catalog_options.fields)
    elif catalog_options is not None:
        raise UsageError("catalog options say how a file is read, but the catalog is a value")
    if not isinstance(split, Split):
        columns = bundle.manifest.made_from.event_columns
        split = open_split(split, recorded=columns, spill=spill)
    check_bundle_split(bundle, "the split of the training examples", split.reference)
    maker = ExampleMaker(bundle, items, options, tokenizer, queries, split.fields, *of_model)
    event_weights = EventWeights.read(weights, split)
    general_examples = None
    if general is not None:
        general_examples = GeneralExamples(general, maker, tokenizer, options)
    return SftJob(bundle, items, split, options, maker, event_weights, general_examples, progress)


_OfModel = tuple[HistoryPrompt | None, FieldValues]
"""What examples take from a model beside its tokenizer: its own prompt, and its field tokens."""


def _read_model(model: str | Path, bundle: Bundle, options: SftOptions) -> tuple[Any, _OfModel]:
    """The tokenizer of a model folder, and what else examples take from it."""
    folder = model_folder(model)
    contract, _, _ = check_model_folder(folder, bundle)
    tokenizer = load_tokenizer(Checkpoint(folder))
    return tokenizer, (_adopted_prompt(contract, options), contract.field_tokens)


def _adopted_prompt(contract: Contract, options: SftOptions) -> HistoryPrompt | None:
    """The prompt that a model was adopted with, unless there are templates of its task."""
    prompt = contract.history_prompt
    if prompt is None or not contract.is_adopted or prompt.task in options.templates:
        return None
    return prompt


@dataclass(frozen=True)
class SftInputs:
    """What a process needs to make the training examples of `make_sft` again: locations and
    settings."""

    bundle: str
    items: Path
    split: Path
    options: SftOptions
    catalog_options: TaskCatalogOptions
    model: str | None = None
    weights: WeightOptions | None = None

    def open(self) -> SftJob:
        """Read the inputs. Raises as `make_sft` does."""
        files = (self.bundle, self.items, self.split, self.options, self.catalog_options)
        return open_job(*files, model=self.model, weights=self.weights)
