"""The report of any artifact: which page it gets, and the file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sidtool.base.artifact import describe
from sidtool.base.errors import DataError, UsageError
from sidtool.base.extras import require
from sidtool.base.inputs import keeps_inputs
from sidtool.base.options import check_options, option, options_from
from sidtool.base.output import new_file, refuse_existing
from sidtool.base.output_name import HTML_FILE
from sidtool.cli.reports.bundle_page import bundle_page
from sidtool.cli.reports.evaluation_page import evaluation_page, read_evaluation
from sidtool.cli.reports.render import render
from sidtool.cli.reports.training_page import read_training, training_page
from sidtool.data.split import open_split
from sidtool.integrations.formats import CatalogFile
from sidtool.registry import open_bundle, open_parent

Kind = Literal["bundle", "training output", "evaluation"]


@dataclass(frozen=True)
class ReportOptions:
    """What a page shows beside the artifact itself."""

    items: str | Path | None = option(None)
    """Catalog: with the column --field for bundles, with titles for evaluations."""
    field: str | None = option(None)
    """Catalog column whose values prefixes are compared by, like brand."""
    id_column: str | None = option(None)
    """Catalog column of item ids; guessed by default."""
    embeddings: str | Path | None = option(None)
    """Vectors of a bundle's items (.npy with ids, Parquet or Zarr): shows which of an item's
    neighbors by vector are near by SID, too."""
    split: str | Path | None = option(None, metavar="SPLIT")
    """Split folder, or events (split by leave-one-out): shows how a bundle's prefixes agree with
    its training events."""
    seed: int = option(0, minimum=0)
    """Seed of all random numbers."""

    def check(self, kind: Kind, path: str | Path) -> None:
        """Raise UsageError if a catalog, its columns, vectors or events would not be used, and as
        `check_options`."""
        check_options(self)
        if self.id_column is not None and self.items is None:
            raise UsageError("--id-column requires --items")
        if kind == "training output" and self.items is not None:
            raise UsageError(f"--items does not apply to a training output like {path}")
        for name in ("field", "embeddings", "split"):
            if kind != "bundle" and getattr(self, name) is not None:
                raise UsageError(f"--{name} applies to bundles, and {path} is the kind: {kind}")
        if kind == "bundle" and (self.items is None) != (self.field is None):
            raise UsageError(
                "--items and --field belong together for a bundle", hint="give both or neither"
            )


@keeps_inputs()
def report(
    what: str | Path | Sequence[str | Path],
    out: str | Path,
    options: ReportOptions | None = None,
    *,
    force: bool = False,
    **keywords: Any,
) -> None:
    """Write the HTML page of a bundle, a model folder that `train` wrote, or the JSON of
    `evaluate --json`; of several of one kind, a page that compares them. A published bundle is
    compared with the version that it was made from. The options may also be given as keywords.

    Raises UsageError for artifacts of different kinds, DataError for one that cannot be read,
    MissingPackageError without Jinja2.

    Examples:
        >>> sidtool.report("shop.zarr", "shop.html")
        >>> sidtool.report(["shop.zarr", "other.zarr"], "both.html", seed=1)
    """
    options = options_from(ReportOptions, options, keywords)
    paths = [what] if isinstance(what, str | Path) else list(what)
    refuse_existing(Path(out), force, HTML_FILE)
    require("report")
    kind = _common_kind(paths)
    options.check(kind, paths[0])
    names = _names(paths)
    file = None
    if options.items is not None:
        file = CatalogFile(Path(options.items), id_column=options.id_column)
    if kind == "evaluation":
        titles = None
        if file is not None:
            catalog = file.read(fields=["title"])  # refused without titles, which are asked for
            titles = dict(zip(catalog.ids, catalog.titles, strict=True))
        evaluations = {name: read_evaluation(Path(path)) for name, path in names.items()}
        page = evaluation_page(evaluations, titles)
    elif kind == "training output":
        page = training_page({name: read_training(Path(path)) for name, path in names.items()})
    else:
        bundles = {name: open_bundle(str(path)) for name, path in names.items()}
        first = next(iter(names))
        values = None
        field = options.field or ""
        if file is not None:
            catalog = file.read(fields=[field], bundle=bundles[first])
            values = dict(zip(catalog.ids, catalog.fields[field], strict=True))
        parent = open_parent(names[first], bundles[first])
        columns = bundles[first].manifest.made_from.event_columns
        users = None if options.split is None else open_split(options.split, recorded=columns).train
        page = bundle_page(
            bundles,
            values,
            field,
            parent=parent,
            embeddings=options.embeddings,
            users=users,
            seed=options.seed,
        )
    with new_file(Path(out), force=force) as path:
        path.write_text(render(page), encoding="utf-8")


def _common_kind(paths: Sequence[str | Path]) -> Kind:
    """The kind of all artifacts. Raises UsageError if they differ, or without any, DataError if a
    path does not exist."""
    if not paths:
        raise UsageError("there is nothing to report on")
    for path in paths:
        is_reference = "://" in str(path) or "@" in Path(path).name
        if not is_reference and not Path(path).exists():
            raise DataError(f"{path} does not exist")
    named: dict[str | None, Kind] = {
        "a model with a SID vocabulary": "training output",
        "a file": "evaluation",
    }
    kinds = [named.get(describe(path), "bundle") for path in paths]
    for path, kind in zip(paths, kinds, strict=True):
        if kind != kinds[0]:
            raise UsageError(
                f"{paths[0]} is the kind: {kinds[0]}, and {path} is the kind: {kind}",
                hint="a page compares artifacts of one kind",
            )
    return kinds[0]


def _names(paths: Sequence[str | Path]) -> dict[str, str | Path]:
    """The artifacts by short names: the last part of the path, or the whole path where two have the
    same. Raises UsageError for a path that is given twice."""
    texts = [str(path) for path in paths]
    for text in texts:
        if texts.count(text) > 1:
            raise UsageError(f"{text} is given twice")
    last = [text.rstrip("/").rpartition("/")[2] or text for text in texts]
    short = [name.removesuffix(".json") or name for name in last]
    unique = len(set(short)) == len(short)
    return dict(zip(short if unique else texts, paths, strict=True))
