"""make-sft: writes the training examples of a bundle, a catalog and a split, with their lineage."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sidtool.base.digests import file_digest
from sidtool.base.output import locked, partial_path, publish, refuse_existing, remove
from sidtool.base.output_name import JSON_LINES, check_suffix
from sidtool.base.progress import Progress
from sidtool.data.general_text import GeneralOptions
from sidtool.data.items import Items
from sidtool.data.queries import Query
from sidtool.data.spilled_events import spill_beside
from sidtool.data.split.examples import write_examples
from sidtool.data.split.split import Split
from sidtool.examples.catalog import TaskCatalogOptions
from sidtool.examples.event_weights import WeightOptions
from sidtool.examples.job import ExampleWriter, SftJob, open_job
from sidtool.examples.lineage import Lineage, side_files, write_lineage
from sidtool.examples.sft_options import SftOptions
from sidtool.tokenizer.bundle.bundle import Bundle


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
        job = open_job(
            bundle,
            items,
            split,
            options,
            catalog_options,
            queries=queries,
            model=model,
            tokenizer=tokenizer,
            weights=weights,
            general=general,
            spill=spill,
            progress=progress,
        )
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
            job.general.write_held_out(stage / side["general"].name, job.bundle.space)
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
