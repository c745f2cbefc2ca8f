"""make-sft: opens what training examples are made from, and writes them with the validation users
and their lineage."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from sidtool.base.digests import file_digest
from sidtool.base.documents import sealed_text
from sidtool.base.errors import UsageError
from sidtool.base.inputs import keeps_inputs
from sidtool.base.options import argument_options, options_from, take_options
from sidtool.base.output import locked, partial_path, publish, refuse_existing, remove
from sidtool.base.output_name import JSON_LINES, check_name, check_suffix
from sidtool.base.progress import Progress
from sidtool.base.threads import arrow_threads, in_threads, meanwhile, thread_count
from sidtool.data import Items, Query, read_queries
from sidtool.data.split import Split, folder_manifest, open_split
from sidtool.examples.event_weights import EventWeights, WeightOptions
from sidtool.examples.general_text import GeneralOptions
from sidtool.examples.lineage import Lineage, side_files
from sidtool.examples.sft_job import GeneralExamples, SftJob
from sidtool.examples.sft_options import SftOptions, TaskCatalogOptions, read_catalog
from sidtool.examples.tasks import named_task
from sidtool.examples.training_examples import ExampleMaker
from sidtool.model import Checkpoint, check_model_folder, load_tokenizer
from sidtool.model.contract import model_folder
from sidtool.model.prompt import HistoryPrompt
from sidtool.model.vocabulary import FieldValues
from sidtool.registry import open_source
from sidtool.tokenizer.bundle import Bundle


class ExampleWriter(Protocol):
    """Makes examples in place of this process."""

    def opened(self, out: Path, progress: Progress | None) -> AbstractContextManager[SftJob]:
        """The job of an output, with checked ids, which has what it needs to write it until the
        block ends."""

    def write_parts(self, out: str, progress: Progress | None, *, force: bool) -> Lineage:
        """Write the examples to a folder of parts, at a path or URL."""


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

    def open(self, progress: Progress | None = None, threads: int = 1) -> SftJob:
        """Read what is not read yet, and check that it fits. Raises as `make_sft`."""
        options, tokenizer, bundle = self.options, self.tokenizer, self.bundle
        if not isinstance(bundle, Bundle):
            bundle = open_source(str(bundle))
        prompt: HistoryPrompt | None = None
        field_tokens: FieldValues = {}
        if self.model is not None:
            folder = model_folder(self.model)
            contract, _, _ = check_model_folder(folder, bundle)
            # items with a code that has no token are in no example, retired ones included
            bundle = bundle.only(~contract.tokens.lacking(bundle.items.codes))
            tokenizer = load_tokenizer(Checkpoint(folder))
            field_tokens = contract.field_tokens
            # the prompt that a model was adopted with, unless there are templates of its task
            is_adopted = any(record.stage == "adopt" for record in contract.stages)
            made_with = contract.history_prompt
            if is_adopted and made_with is not None and made_with.task not in options.templates:
                prompt = made_with
        reads: list[Callable[[Bundle], Any]] = [self._catalog, self._split]
        (items, queries, columns), split = in_threads(lambda read: read(bundle), reads, threads)
        if options.columns is None:
            options = replace(options, columns=columns)
        bundle.check_split("the training examples", split.reference)
        maker = ExampleMaker(
            bundle, items, options, tokenizer, queries, split.fields, prompt, field_tokens
        )
        weights = EventWeights.read(self.weights, split)
        general = None if self.general is None else GeneralExamples.read(self.general, maker)
        return SftJob(bundle, items, split, options, maker, weights, general, progress, threads)

    def with_split(self, job: SftJob, split: Split) -> SftJob:
        """A job of these inputs with another part of the split."""
        return replace(job, split=split, weights=EventWeights.read(self.weights, split))

    def _split(self, bundle: Bundle) -> Split:
        if isinstance(self.split, Split):
            return self.split
        return open_split(self.split, recorded=bundle.manifest.made_from.event_columns)

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
        tasks = [named_task(name) for name in self.options.tasks]
        if options.has_queries and not any(task.needs_queries for task in tasks):
            raise UsageError("queries are for a task about them", hint="--task query-to-sid=1")
        if options.fields and not any(
            task.per == "item" and task.target == "text" for task in tasks
        ):
            raise UsageError(
                f"columns ({', '.join(options.fields)}) are shown by the task item-text only",
                hint="--task item-text=1, or a task of a column, as sid-to-COLUMN",
            )
        recorded = bundle.manifest.made_from.columns
        items, queries = read_catalog(Path(self.items), self.options.tasks, options, recorded)
        return items, self.queries or queries, options.fields


@keeps_inputs()
def make_sft(
    bundle: Bundle | str | Path,
    items: Items | str | Path,
    split: Split | str | Path,
    out: str | Path,
    options: SftOptions | None = None,
    *,
    catalog_options: TaskCatalogOptions | None = None,
    queries: Sequence[Query] | str | Path = (),
    model: str | Path | None = None,
    tokenizer: Any | None = None,
    weights: WeightOptions | str | None = None,
    general: GeneralOptions | str | Path | None = None,
    threads: int | None = None,
    writer: ExampleWriter | None = None,
    dry_run: bool = False,
    force: bool = False,
    progress: Progress | None = None,
    **given: Any,
) -> Lineage:
    """Write the training examples `out`, and beside it the validation users and the lineage. The
    options, those of the catalog too, may also be given as keywords, like
    `tasks={"next-item": 1}`. A `writer` makes a folder of parts, with the other files in it, if
    `out` ends with "/" or is a URL.

    `bundle` is a bundle or a reference to one, `items` a catalog or its file (read with
    `catalog_options`, which may name queries too), `split` a split, its folder, or a file of events
    (`open_split`). `weights` names the weights of the examples of events, `general` a
    general corpus whose text is mixed in; its held-out part is written beside the examples, as
    examples too. `threads` (None: one per core) divide the work; the examples are the same.
    `writer` makes them of its own inputs in place of this process (`ClusterExamples`). Without
    `model` (an extended model's folder) or `tokenizer`, examples are not measured and `max_length`
    is not enforced. Training events and queries of items that the bundle
    lacks are left out and counted; validation users are kept as they are, so that every bundle is
    evaluated on the same users. With an adopted `model`, examples of the task next-item have the
    prompt that it was adopted with, unless `options` has templates of that task. A dry run writes
    nothing and returns the same lineage without files.

    Raises UsageError if an output exists, CompatibilityError if the bundle's codebook was built
    from another split or the model from another bundle, RefusedError if a held-out event is in a
    training example, or if too many ids are unknown (`check_catalog`, `check_events` of SftJob),
    DataError if there is no example, and what ExampleMaker and EventWeights raise.

    Examples:
        >>> lineage = sidtool.make_sft(
        ...     "shop.zarr", "items.jsonl", "split", "made.jsonl", model="base+sid"
        ... )
        >>> lineage.leaked_events, list(lineage.tasks)
        (0, ['sequence'])
    """
    in_folder = "://" in str(out) or str(out).endswith("/")
    catalog_options = take_options(TaskCatalogOptions, catalog_options, given)
    weights = argument_options(WeightOptions, weights, given)
    general = argument_options(GeneralOptions, general, given)
    others = (TaskCatalogOptions, WeightOptions, GeneralOptions)
    options = options_from(SftOptions, options, given, others)
    if in_folder and writer is None:
        raise UsageError(f"{out} is a folder of parts, which a writer makes (ClusterExamples)")
    manifest = None if isinstance(split, Split) or not in_folder else folder_manifest(Path(split))
    if in_folder and (manifest is None or manifest.parts < 2):
        raise UsageError(
            f"{out} has the parts of a split in parts, and {split} is none",
            hint="sidtool split --parts, or -o FILE.jsonl",
        )
    location, out = str(out), Path(out)
    if not dry_run and not in_folder:
        _refuse_outputs(out, force)
    if isinstance(queries, str | Path):
        queries = read_queries(Path(queries))
    inputs = SftInputs(
        bundle, items, split, options, catalog_options, model, weights, general, queries, tokenizer
    )
    if writer is not None and general is not None:
        raise UsageError("--general is mixed in by one process: write a file, without --engine")
    if writer is not None and threads is not None:
        raise UsageError("--threads is for one process: leave out --engine")
    if writer is not None and in_folder and not dry_run:
        return writer.write_parts(location, progress, force=force)
    if writer is not None and not dry_run:
        with writer.opened(out, progress) as job:
            return _written(job, out, force)
    n_threads = thread_count(threads)
    with arrow_threads(n_threads):
        job = inputs.open(progress, n_threads)
        job.check_catalog()
        job.check_events()
        return job.lineage(job.write(None)[0], {}) if dry_run else _written(job, out, force)


def _written(job: SftJob, out: Path, force: bool) -> Lineage:
    """Write the files of a job, whole or not at all: they move beside `out` when all are written,
    the lineage last."""
    side = side_files(out)
    with ExitStack() as locks:
        for path in side.values():
            locks.enter_context(locked(path))
        stage = locks.enter_context(locked(out))  # the last one is named by errors of the disk
        _refuse_outputs(out, force)
        remove(stage)
        stage.mkdir()
        try:
            digests: dict[str, str] = {}

            def write_valid() -> None:
                path = stage / side["valid"].name
                job.write_valid(path)
                digests[path.name] = file_digest(path)

            with meanwhile(write_valid, job.threads):
                counts, digests[out.name] = job.write(stage / out.name)
            if job.general is not None:
                general = stage / side["general"].name
                with general.open("wb") as stream:
                    job.write_examples(stream, job.general.held_out)
                digests[general.name] = file_digest(general)
            lineage = job.lineage(counts, dict(sorted(digests.items())))
            text = sealed_text(lineage.to_json())
            (stage / side["meta"].name).write_text(text, encoding="utf-8")
            side["meta"].unlink(missing_ok=True)  # from here on an old output is no longer whole
            if not (stage / side["general"].name).exists():
                side["general"].unlink(missing_ok=True)
            for target in (side["valid"], side["general"], out, side["meta"]):
                if (stage / target.name).exists():
                    publish(stage / target.name, target)
        finally:
            remove(stage)
    return lineage


def _refuse_outputs(out: Path, force: bool) -> None:
    """Raise UsageError if an output exists, or has the name of another file type.

    A killed run leaves files that may be replaced: it had begun to move them, and the lineage comes
    last."""
    check_name(out)
    check_suffix(out, JSON_LINES)
    side = side_files(out)
    killed_while_moving = partial_path(out).exists() and not side["meta"].exists()
    if killed_while_moving:
        return
    for path in (out, *side.values()):
        refuse_existing(path, force, JSON_LINES)
