"""Import another system's map as a bundle, and export a bundle's map for another system."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.base.inputs import keeps_inputs
from sidtool.base.locations import opened
from sidtool.base.options import Option, option
from sidtool.base.output import refuse_existing
from sidtool.base.output_name import (
    BINARY_FILE,
    BUNDLE,
    FOLDER,
    JSON_FILE,
    JSON_LINES,
    PARQUET_FILE,
    OutputKind,
    check_suffix,
)
from sidtool.data import CatalogNames, Items, read_items
from sidtool.data.tables import parquet_files
from sidtool.integrations.formats.grid import read_grid
from sidtool.integrations.formats.imported_codebook import CodebookFile, with_codebook
from sidtool.integrations.formats.inference_engines import (
    flashrec_rows,
    sid_gr_rows,
    write_flashrec,
    write_sid_gr,
    write_vllm_gr,
    write_xllm,
    xllm_rows,
)
from sidtool.integrations.formats.maps import Export, Exported, Keys
from sidtool.integrations.formats.minionerec import (
    minionerec_rows,
    read_minionerec,
    write_minionerec,
)
from sidtool.integrations.formats.openonerec import read_openonerec, write_openonerec
from sidtool.model.vocabulary import SidTokens
from sidtool.tokenizer.bundle import Bundle


@dataclass(frozen=True)
class CatalogFile(CatalogNames):
    """A catalog file, and its columns of ids and titles; None: those that a bundle records, or
    guessed."""

    path: Path = option(flag="--items")
    """Catalog of the items: their order and their titles."""

    def read(self, *, fields: Sequence[str] = (), bundle: Bundle | None = None) -> Items:
        """The items, with further columns as `fields`; `bundle` may record the columns of their ids
        and titles. No text is made of them."""
        return read_items(
            self.path,
            id_column=self.id_column,
            title_column=self.title_column,
            text_template="",
            fields=list(fields),
            recorded=None if bundle is None else bundle.manifest.made_from.columns,
        )


@dataclass(frozen=True)
class Format:
    """The map of another system: how its file is read, how one is written, or both."""

    read: Callable[..., Bundle] | None = None
    """(source, name=, sizes=, items=) -> bundle; with `has_catalog` also (info=, keys=)"""
    suffix: str = ""
    """Of the files that `read` reads."""
    write: Callable[[Bundle, Path, Export], Exported] | None = None
    rows: Callable[[Bundle, Export], NDArray[np.int64]] = lambda bundle, _: bundle.active
    """The rows that `write` writes; raises what `write` raises before it writes."""
    output: OutputKind = FOLDER
    """What `write` writes."""
    has_catalog: bool = False
    """Whether the map refers to a catalog: --items, --info and --keys."""
    tokens: Literal["no", "may", "must"] = "no"
    """Whether a model's token ids are written, with --model."""


System = Literal["minionerec", "openonerec", "vllm-gr", "sid-gr", "flashrec", "xllm"]
"""The systems that a map can be exported for."""
FORMATS: dict[str, Format] = {
    "minionerec": Format(
        read_minionerec, ".json", write_minionerec, minionerec_rows, has_catalog=True
    ),
    "openonerec": Format(read_openonerec, ".parquet", write_openonerec, output=PARQUET_FILE),
    "grid": Format(read_grid, ".pt"),
    "vllm-gr": Format(write=write_vllm_gr, output=JSON_FILE),
    "sid-gr": Format(write=write_sid_gr, rows=sid_gr_rows, output=JSON_LINES, tokens="must"),
    "flashrec": Format(write=write_flashrec, rows=flashrec_rows, output=JSON_FILE, tokens="may"),
    "xllm": Format(write=write_xllm, rows=xllm_rows, output=BINARY_FILE, tokens="must"),
}
"""The maps of other systems by name. A new one is a file with its reader or writer, a line, and a
name in `System` if it is written."""


def map_format(source: Path) -> Format | None:
    """The format of a map by its suffix, that of Parquet for a folder of such; None for others."""
    return _readable().get(".parquet" if parquet_files(source) else source.suffix)


def _readable() -> dict[str, Format]:
    """The formats that can be read, by the suffix of their files."""
    return {form.suffix: form for form in FORMATS.values() if form.read is not None}


def outputs() -> str:
    """What is written for each system: minionerec a folder, openonerec a .parquet file ..."""
    return ", ".join(
        f"{name} {form.output.spelled}" for name, form in FORMATS.items() if form.write is not None
    )


@keeps_inputs("a bundle")
def import_map(
    source: str | Path,
    out: str | Path,
    *,
    items: CatalogFile | str | Path | None = None,
    info: str | Path | None = None,
    sizes: tuple[int, ...] | None = None,
    keys: Keys = "id",
    codebook: CodebookFile | str | Path | None = None,
    force: bool = False,
) -> Bundle:
    """Write another system's map to `out` as a bundle; it encodes if there is its `codebook`.

    `source` is an index.json (see minionerec.py for `info` and `keys`), a pid2sid.parquet or a
    folder of such, or GRID's .pt. Level sizes default to those of the codebook, or to the powers of
    two that hold the codes. Raises UsageError for options that do not apply or an existing output,
    DataError for a malformed file, RefusedError if the codebook is not that of the map
    (`with_codebook`).

    Examples:
        >>> bundle = sidtool.open_bundle("shop.zarr")
        >>> exported = sidtool.export_map(bundle, "maps", "minionerec")
        >>> sidtool.import_map("maps/index.json", "imported.zarr").sids() == bundle.sids()
        True
    """
    out = Path(out)
    refuse_existing(out, force, BUNDLE)
    name = out.name.removesuffix(".zip").removesuffix(".zarr")
    items = _catalog_file(items)
    if isinstance(codebook, str | Path):
        codebook = CodebookFile(codebook)
    bundle = read_map(
        Path(source), name=name, items=items, info=info, sizes=sizes, keys=keys, codebook=codebook
    )
    bundle.save(out, force=force)
    return Bundle.open(out)


def _catalog_file(items: CatalogFile | str | Path | None) -> CatalogFile | None:
    return CatalogFile(Path(items)) if isinstance(items, str | Path) else items


def read_map(
    source: Path,
    *,
    name: str,
    items: CatalogFile | None = None,
    info: str | Path | None = None,
    sizes: tuple[int, ...] | None = None,
    keys: Keys = "id",
    codebook: CodebookFile | None = None,
) -> Bundle:
    """The bundle that `import_map` writes, with a name. Raises as `import_map` does."""
    Option().check("keys", keys, Keys)
    form = map_format(source)
    if form is None or form.read is None:
        raise UsageError(
            f"{source}: no known map has the suffix {source.suffix!r}",
            hint=f"known suffixes are {', '.join(_readable())}",
        )
    catalog_options: dict[str, Any] = {}
    if form.has_catalog:
        catalog_options = {"info": None if info is None else Path(info), "keys": keys}
    elif info is not None or keys != "id":
        raise UsageError(f"--info and --keys line apply to an index.json, not to {source}")
    catalog = items.read() if items is not None else None
    bundle = form.read(source, name=name, sizes=sizes, items=catalog, **catalog_options)
    if codebook is None:
        return bundle
    catalog_ids = None if catalog is None else catalog.ids
    return with_codebook(bundle, codebook, sizes=sizes, catalog_ids=catalog_ids)


@keeps_inputs()
def export_map(
    bundle: Bundle | str | Path,
    out: str | Path,
    to: System,
    *,
    items: CatalogFile | str | Path | None = None,
    keys: Keys = "id",
    tokens: SidTokens | None = None,
    force: bool = False,
) -> Exported:
    """Write the map of the active items of a bundle, a value or where it is, for another system.

    `out` is a file or folder as FORMATS says. `items` and `keys` apply to minionerec. `tokens`, the
    token ids of a model (`model_tokens`), apply to flashrec, which may need them for its --sid
    option, and to sid-gr and xllm, which require them.
    Raises UsageError for options that do not apply, a bundle without active items or an existing
    output, CompatibilityError for tokens of other levels.

    Examples:
        >>> bundle = sidtool.open_bundle("shop.zarr")
        >>> [path.name for path in sidtool.export_map(bundle, "sids.json", "flashrec").files]
        ['sids.json']
    """
    out, items = Path(out), _catalog_file(items)
    bundle = opened(bundle, "open_source")
    check_export_options(to, items=items, keys=keys, has_model=tokens is not None)
    form = FORMATS[to]
    assert form.write is not None  # checked above
    check_suffix(out, form.output)
    return form.write(bundle, out, _export(bundle, items, keys, tokens, force=force))


def check_export_options(
    to: System, *, items: CatalogFile | None, keys: Keys, has_model: bool
) -> None:
    """Raise UsageError for options that do not apply to a system, or that it lacks."""
    writers = {name: form for name, form in FORMATS.items() if form.write is not None}
    if to not in writers:
        raise UsageError(f"unknown system {to!r}", hint=f"one of {', '.join(writers)}")
    form = writers[to]
    Option().check("keys", keys, Keys)
    if not form.has_catalog and (items is not None or keys != "id"):
        with_catalog = ", ".join(name for name in writers if writers[name].has_catalog)
        raise UsageError(f"--items and --keys apply to --to {with_catalog}, not to {to}")
    if form.tokens == "no" and has_model:
        with_tokens = ", ".join(name for name in writers if writers[name].tokens != "no")
        raise UsageError(f"--model applies to --to {with_tokens}, not to {to}")
    if form.tokens == "must" and not has_model:
        raise UsageError(
            f"--to {to} writes token ids, and they depend on the model",
            hint="`export --model MODEL`, or tokens=sidtool.model_tokens(MODEL, bundle)",
        )


def plan_export(
    bundle: Bundle,
    to: System,
    *,
    items: CatalogFile | None = None,
    keys: Keys = "id",
    tokens: SidTokens | None = None,
) -> int:
    """The number of items that an export would write. Raises as `export_map`."""
    return len(FORMATS[to].rows(bundle, _export(bundle, items, keys, tokens)))


def _export(
    bundle: Bundle,
    items: CatalogFile | None,
    keys: Keys,
    tokens: SidTokens | None,
    *,
    force: bool = False,
) -> Export:
    """Raises UsageError if every item is retired, CompatibilityError for tokens of other levels."""
    if tokens is not None and tokens.space.sizes != bundle.space.sizes:
        raise CompatibilityError(
            f"the tokens are those of {tokens.space.spelled_sizes} codes, and the bundle has "
            f"{bundle.space.spelled_sizes}",
            hint="sidtool.model_tokens(MODEL, bundle) gives those of a model of the bundle",
        )
    if not len(bundle.active):
        raise UsageError(
            f"bundle {bundle.manifest.name!r} has no items to export: all {len(bundle)} are retired"
        )
    return Export(items.read(bundle=bundle) if items is not None else None, keys, tokens, force)
