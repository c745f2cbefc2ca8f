"""The command build-codebook, and the table of a codebook report."""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

from sidtool import tokenizer
from sidtool.base.errors import UsageError
from sidtool.base.inputs import keeps_inputs
from sidtool.base.options import assignments, option, parse_bytes
from sidtool.base.output import refuse_existing
from sidtool.base.output_name import BUNDLE
from sidtool.cli.terminal import options
from sidtool.cli.terminal.console import next_step, say, say_json, say_table
from sidtool.cli.terminal.pace import progress
from sidtool.data import TextNames
from sidtool.integrations import cluster
from sidtool.integrations.cluster import WorkerOptions
from sidtool.tokenizer import BuildOptions
from sidtool.tokenizer.codes import CodebookReport
from sidtool.tokenizer.encoder import Encoder
from sidtool.tokenizer.quantize import FusionOptions
from sidtool.tokenizer.sid import LETTERS


@dataclass(frozen=True)
class VectorInputs:
    """What a codebook is built from, beside the catalog."""

    embeddings: tuple[str, ...] = option((), metavar="FILE[=WEIGHT]")
    """Item vectors: .npy with ids, Parquet (also at a URL) or Zarr. Several are fused by weight."""
    by_row: bool = option(False)
    """Accept vectors without ids: row i is that of item i of the catalog."""
    interactions: Path | None = option(None, metavar="SPLIT")
    """Split folder, or events (split by leave-one-out). Item co-occurrence in the training part is
    used to build the codebook."""
    memory_limit: int = option(
        parse_bytes("4GiB"),
        reads=parse_bytes,
        default_text="4GiB",
        panel="Quantizer",
        metavar="SIZE",
    )
    """Memory for vectors, like 4GiB, in each worker. Codes and their order need about 50 bytes per
    item on top; ids and titles of --embeddings are in files beside the output."""

    def check_workers(self, workers: WorkerOptions) -> None:
        """Raise UsageError for inputs that workers cannot read in parts."""
        if not workers.on_cluster:
            return
        if self.interactions is not None:
            raise UsageError("--interactions is for one process: leave out --engine")
        if len(self.embeddings) != 1:
            engine = f"--engine {workers.engine}"
            raise UsageError(
                f"{engine} reads vectors from one --embeddings, whose parts workers encode",
                hint=f"sidtool embed ITEMS -o VECTORS {engine} makes a folder of vectors",
            )


@dataclass(frozen=True)
class QuantizerSettings:
    """Options of the method and of the fusion of vectors."""

    balanced: bool | None = option(None)
    """Assign about the same number of items to every code of a level (rq-kmeans). Default: on below
    8 items per code."""
    normalize: bool = option(False, panel="Quantizer")
    """Scale every vector to length 1 first."""
    pairs: tuple[str, ...] = option(
        (),
        flag="--set",
        metavar="KEY=VALUE",
        panel="Quantizer",
        completes=lambda: options.setting_pairs("build-codebook"),
    )
    """Option of the method or of the fusion; `sidtool settings build-codebook` lists them."""

    def apply(self, build: BuildOptions, *, has_events: bool) -> BuildOptions:
        """The options with these of the method and of the fusion.

        Raises UsageError for a pair of another form, and for an option of the fusion without
        events, where it has no effect."""
        settings = assignments(list(self.pairs))
        flags = {"balanced": self.balanced, "normalize": self.normalize or None}
        for name, value in flags.items():
            if value is not None and settings.setdefault(name, value) != value:
                flag = f"--{name}" if value else f"--no-{name}"
                raise UsageError(f"--set {name} contradicts {flag}")
        names = {entry.name for entry in fields(FusionOptions)}
        fusion = {name: value for name, value in settings.items() if name in names}
        method_options = {name: value for name, value in settings.items() if name not in names}
        build = replace(build, method_options=method_options, fusion=FusionOptions(**fusion))
        if not has_events and fusion:
            raise UsageError(f"option {min(fusion)} needs --interactions")
        return build


@keeps_inputs("a bundle")
def build_codebook(
    items: Annotated[
        Path, "Catalog: JSONL, CSV, TSV, Parquet, RecBole .item or MiniOneRec item.json."
    ],
    out: options.Out,
    catalog: TextNames,
    build: BuildOptions,
    encoder: Encoder | None,
    inputs: VectorInputs,
    settings: QuantizerSettings,
    workers: WorkerOptions = WorkerOptions(),
    writing: options.Writing = options.Writing(),
) -> None:
    """Build a codebook and the item-SID map of a catalog, as one bundle."""
    inputs.check_workers(workers)
    if inputs.by_row and not inputs.embeddings:
        raise UsageError("--by-row requires --embeddings")
    sources = [_parse_source(text) for text in inputs.embeddings]
    build = replace(build, weights=tuple(weight for _, weight in sources))
    build = settings.apply(build, has_events=inputs.interactions is not None)
    build_inputs: dict[str, Any] = {
        "catalog": catalog,
        "encoder": encoder,
        "embeddings": [path for path, _ in sources],
        "by_row": inputs.by_row,
        "interactions": inputs.interactions,
        "memory_limit": inputs.memory_limit,
    }
    refuse_existing(out, writing.force, BUNDLE)  # before workers start
    if writing.dry_run:
        read, _, _ = tokenizer.open_inputs(items, build, **build_inputs)
        sizes = build.sizes_for(len(read))
        return writing.plan(
            f"would build {'x'.join(map(str, sizes))} for {len(read)} items at {out}\n"
            f"text of {read.ids[0]}: {read.texts[0]}",
            bundle=str(out),
            items=len(read),
            example={read.ids[0]: read.texts[0]},
            options=asdict(replace(build, sizes=sizes)),
        )
    with progress("embed", "quantize", "encode") as stages, cluster.connected(workers) as run:
        bundle = tokenizer.build_codebook(
            items, out, build, run=run, force=writing.force, progress=stages, **build_inputs
        )
    if build.sizes is None and not writing.json:
        say(f"levels: {bundle.space.spelled_sizes}, by the number of items ({len(bundle):,})")
    manifest = bundle.manifest
    if writing.json:
        report = dict(manifest.report)
        say_json({"bundle": str(out), "digest": manifest.digest, "report": report})
    elif manifest.codebook_report is not None:
        say_report(manifest.codebook_report)
    return next_step("sidtool extend-model MODEL {out} -o MODEL+sid", out=out)


def _parse_source(text: str) -> tuple[Path, float]:
    """A file of vectors and its weight: "FILE=WEIGHT", or "FILE" with weight 1.

    A path may contain "=" itself, if no number follows.
    """
    path, equals, weight = text.rpartition("=")
    try:
        return (Path(path), float(weight)) if equals else (Path(text), 1.0)
    except ValueError:
        return Path(text), 1.0


def say_report(report: CodebookReport) -> None:
    """Print a codebook report as a table and two lines."""
    columns = ["level", "codes", "utilization", "entropy", "perplexity", "gini"]
    columns += ["residual variance", "neighbors"]
    # an appended level quantizes nothing, so it has no residual variance
    variances = dict(enumerate(report.residual_variance))
    rows = []
    for level, use in enumerate(report.levels):
        variance = variances.get(level, "-")
        figures = (use.size, use.utilization, use.entropy, use.perplexity, use.gini, variance)
        rows.append((LETTERS[level], *figures, report.neighbors.jaccard[level]))
    say_table(columns, rows)
    before = report.collisions.before
    say(
        f"collisions: {before.items} items in {before.groups} groups (largest {before.largest}) "
        f"before, {report.collisions.after.items} after; {report.reassigned} of {report.items} "
        "items reassigned",
        f"neighbors: Jaccard@{report.neighbors.k} of embedding and SID-prefix neighbors over "
        f"{report.neighbors.queries} items",
    )
