"""The report of any artifact: which page it gets, and the file."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from sidtool.base.artifact import describe
from sidtool.base.errors import UsageError
from sidtool.base.extras import require
from sidtool.base.output import new_file, refuse_existing
from sidtool.base.output_name import HTML_FILE
from sidtool.cli.reports.blocks import Page
from sidtool.cli.reports.bundle_page import bundle_page
from sidtool.cli.reports.evaluation_page import evaluation_page, read_evaluation
from sidtool.cli.reports.render import render
from sidtool.cli.reports.training_page import read_training, training_page
from sidtool.data.split import open_split
from sidtool.integrations.formats import CatalogFile
from sidtool.registry import open_bundle, open_parent

Kind = Literal["bundle", "training output", "evaluation"]


def report(
    what: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    items: str | Path | None = None,
    field: str | None = None,
    id_column: str | None = None,
    embeddings: str | Path | None = None,
    split: str | Path | None = None,
    seed: int = 0,
    force: bool = False,
) -> None:
    """Write the HTML page of a bundle, a model folder that `train` wrote, or the JSON of
    `evaluate --json`; of several of one kind, a page that compares them. A published bundle is
    compared with the version that it was made from.

    `items` is a catalog: its titles name the items of an evaluation, and its column `field` is
    compared with the prefixes of a bundle. `embeddings` is a file of the vectors of a bundle's
    items, for which of an item's neighbors are near by SID, too; `split` is a split folder or a
    file of events, whose training events are compared with a bundle's prefixes. The seed draws the
    items that are shown of a large bundle. Raises UsageError for artifacts of different kinds,
    DataError for one that cannot be read, MissingPackageError without Jinja2.

    Examples:
        >>> sidtool.report("shop.zarr", "shop.html")
        >>> sidtool.report(["shop.zarr", "other.zarr"], "both.html")
    """
    paths = [what] if isinstance(what, str | Path) else list(what)
    refuse_existing(Path(out), force, HTML_FILE)
    require("report")
    kind = _common_kind(paths)
    _check_options(kind, paths[0], items, field, embeddings, split)
    names = _names(paths)
    if kind == "evaluation":
        evaluations = {name: read_evaluation(Path(path)) for name, path in names.items()}
        page = evaluation_page(evaluations, None if items is None else _titles(items, id_column))
    elif kind == "training output":
        page = training_page({name: read_training(Path(path)) for name, path in names.items()})
    else:
        page = _bundle_page(names, items, field, id_column, embeddings, split, seed)
    with new_file(Path(out), force=force) as path:
        path.write_text(render(page), encoding="utf-8")


def _titles(items: str | Path, id_column: str | None) -> dict[str, str]:
    """Item id -> title, of a catalog."""
    catalog = CatalogFile(Path(items), id_column=id_column).read()
    return dict(zip(catalog.ids, catalog.titles, strict=True))


def _check_options(
    kind: Kind,
    path: str | Path,
    items: str | Path | None,
    field: str | None,
    embeddings: str | Path | None,
    split: str | Path | None,
) -> None:
    """Raise UsageError if a catalog, its column, vectors or events would not be used."""
    if kind == "training output" and items is not None:
        raise UsageError(f"--items does not apply to a training output like {path}")
    for option, value in (("--field", field), ("--embeddings", embeddings), ("--split", split)):
        if kind != "bundle" and value is not None:
            raise UsageError(f"{option} applies to bundles, and {path} is the kind: {kind}")
    if kind == "bundle" and (items is None) != (field is None):
        raise UsageError(
            "--items and --field belong together for a bundle", hint="give both or neither"
        )


def _bundle_page(
    names: Mapping[str, str | Path],
    items: str | Path | None,
    field: str | None,
    id_column: str | None,
    embeddings: str | Path | None,
    split: str | Path | None,
    seed: int,
) -> Page:
    bundles = {name: open_bundle(str(path)) for name, path in names.items()}
    values = None
    if items is not None and field is not None:
        catalog = CatalogFile(Path(items), id_column=id_column).read(fields=[field])
        values = dict(zip(catalog.ids, catalog.fields[field], strict=True))
    first = next(iter(names))
    parent = open_parent(names[first], bundles[first])
    columns = bundles[first].manifest.made_from.event_columns
    users = None if split is None else open_split(split, recorded=columns).train
    return bundle_page(
        bundles, values, field or "", parent=parent, embeddings=embeddings, users=users, seed=seed
    )


def _common_kind(paths: Sequence[str | Path]) -> Kind:
    """The kind of all artifacts. Raises UsageError if they differ, or without any."""
    if not paths:
        raise UsageError("there is nothing to report on")
    kinds = [_kind(path) for path in paths]
    for path, kind in zip(paths, kinds, strict=True):
        if kind != kinds[0]:
            raise UsageError(
                f"{paths[0]} is the kind: {kinds[0]}, and {path} is the kind: {kind}",
                hint="a page compares artifacts of one kind",
            )
    return kinds[0]


def _kind(path: str | Path) -> Kind:
    description = describe(path)
    if description == "a model with a SID vocabulary":
        return "training output"
    return "evaluation" if description == "a file" else "bundle"


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
