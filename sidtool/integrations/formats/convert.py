"""Import another system's map as a bundle, and export a bundle's map for another system."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from sidtool.base.errors import SidtoolWarning, UsageError
from sidtool.base.options import option
from sidtool.base.output import refuse_existing
from sidtool.base.output_name import (
    BINARY_FILE,
    BUNDLE,
    FOLDER,
    JSON_FILE,
    NPZ_FILE,
    PARQUET_FILE,
    OutputKind,
    check_suffix,
)
from sidtool.data import CatalogNames, Items, read_items
from sidtool.integrations.formats.flashrec import infers_layout, sid_option, write_flashrec
from sidtool.integrations.formats.grid import read_grid
from sidtool.integrations.formats.imported_codebook import CodebookFile, with_codebook
from sidtool.integrations.formats.minionerec import (
    Keys,
    minionerec_entries,
    read_minionerec,
    write_minionerec,
)
from sidtool.integrations.formats.openonerec import read_openonerec, write_openonerec
from sidtool.integrations.formats.static import write_static
from sidtool.integrations.formats.token_ids import ModelTokens
from sidtool.integrations.formats.xllm import write_xllm
from sidtool.tokenizer.bundle import Bundle

System = Literal["minionerec", "openonerec", "flashrec", "static", "xllm"]

Source = Literal["minionerec", "openonerec", "grid"]
"""Systems whose maps can be imported."""

SUFFIXES: dict[str, Source] = {
    ".json": "minionerec",
    ".parquet": "openonerec",
    ".pt": "grid",
}
"""Systems by the suffix of their maps."""

EXPORTS: dict[System, OutputKind] = {
    "minionerec": FOLDER,
    "openonerec": PARQUET_FILE,
    "flashrec": JSON_FILE,
    "static": NPZ_FILE,
    "xllm": BINARY_FILE,
}
"""What an export writes."""

WITH_TOKENS: tuple[System, ...] = ("flashrec", "static", "xllm")
"""Systems whose export depends on a model's token ids."""


@dataclass(frozen=True)
class CatalogFile(CatalogNames):
    """A catalog file, and its columns of ids and titles; None: those that a bundle records, or
    guessed."""

    path: Path = option(flag="--items")
    """Catalog of the items: their order and their titles."""

    def read(self, *, fields: Sequence[str] = (), bundle: Bundle | None = None) -> Items:
        """The items, with further columns as `fields`; `bundle` may record the columns of their ids
        and titles. Items without text cause no warning, because texts are not used here."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SidtoolWarning)
            return read_items(
                self.path,
                id_column=self.id_column,
                title_column=self.title_column,
                fields=list(fields),
                recorded=None if bundle is None else bundle.manifest.made_from.columns,
            )


@dataclass(frozen=True)
class Exported:
    """The files of an export, and FlashRec's `--sid` option."""

    files: tuple[Path, ...]
    flashrec_sid: str | None = None
    """None if FlashRec infers the token layout, or if `flashrec_needs_model`"""
    flashrec_needs_model: bool = False
    """FlashRec needs `--sid`, which depends on the model's token ids"""


def import_map(
    source: str | Path,
    out: str | Path,
    *,
    items: CatalogFile | None = None,
    info: str | Path | None = None,
    sizes: tuple[int, ...] | None = None,
    keys: Keys = "id",
    codebook: CodebookFile | None = None,
    force: bool = False,
) -> Bundle:
    """Write another system's map to `out` as a bundle; it encodes if there is its `codebook`.

    `source` is an index.json (see interop/minionerec.py for `info` and `keys`), a pid2sid.parquet
    or GRID's .pt. Level sizes default to those of the codebook, or to the powers of two that hold
    the codes. Raises UsageError for options that do not apply or an existing output, DataError for
    a malformed file, RefusedError if the codebook is not that of the map (`with_codebook`).

    Examples:
        >>> bundle = sidtool.open_bundle("shop.zarr")
        >>> exported = sidtool.export_map(bundle, "maps", "minionerec")
        >>> sidtool.import_map("maps/index.json", "imported.zarr").sids() == bundle.sids()
        True
    """
    out = Path(out)
    refuse_existing(out, force, BUNDLE)
    name = out.name.removesuffix(".zip").removesuffix(".zarr")
    bundle = read_map(
        Path(source),
        name=name,
        items=items,
        info=info,
        sizes=sizes,
        keys=keys,
        codebook=codebook,
    )
    bundle.save(out, force=force)
    return Bundle.open(out)


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
    system = SUFFIXES.get(source.suffix)
    if system is None:
        raise UsageError(
            f"{source}: no known map has the suffix {source.suffix!r}",
            hint=f"known suffixes are {', '.join(SUFFIXES)}",
        )
    if system != "minionerec" and (info is not None or keys != "id"):
        raise UsageError(f"--info and --keys line apply to an index.json, not to {source}")
    catalog = items.read() if items is not None else None
    # with a codebook, the level sizes are its own
    map_sizes = sizes if codebook is None else None
    if system == "openonerec":
        bundle = read_openonerec(source, name=name, sizes=map_sizes, items=catalog)
    elif system == "grid":
        bundle = read_grid(source, name=name, sizes=map_sizes, items=catalog)
    else:
        bundle = read_minionerec(
            source,
            name=name,
            sizes=map_sizes,
            items=catalog,
            info=None if info is None else Path(info),
            keys=keys,
        )
    if codebook is None:
        return bundle
    catalog_ids = None if catalog is None else catalog.ids
    return with_codebook(bundle, codebook, sizes=sizes, catalog_ids=catalog_ids)


def export_map(
    bundle: Bundle,
    out: str | Path,
    to: System,
    *,
    items: CatalogFile | None = None,
    keys: Keys = "id",
    tokens: ModelTokens | None = None,
    force: bool = False,
) -> Exported:
    """Write the map of a bundle's active items for another system.

    `out` is a folder for minionerec, a .parquet, .json, .npz or .bin file for the others. `items`
    and `keys` apply to minionerec. `tokens`, the token ids of a model (`model_tokens`), apply to
    flashrec, which may need them for its --sid option; to static, whose table is then over token
    ids; and to xllm, which requires them. Raises UsageError for options that do not apply, a bundle
    without active items or an existing output.

    Examples:
        >>> bundle = sidtool.open_bundle("shop.zarr")
        >>> [path.name for path in sidtool.export_map(bundle, "sids.json", "flashrec").files]
        ['sids.json']
    """
    out = Path(out)
    check_export_options(to, items=items, keys=keys, has_model=tokens is not None)
    check_suffix(out, EXPORTS[to])
    _count_exported(bundle)
    if to == "minionerec":
        catalog = items.read(bundle=bundle) if items is not None else None
        files = write_minionerec(bundle, out, items=catalog, keys=keys, force=force)
        return Exported(tuple(files))
    if to == "flashrec":
        return _export_flashrec(bundle, out, tokens, force)
    if to == "openonerec":
        write_openonerec(bundle, out, force=force)
    elif to == "static":
        write_static(bundle, out, tokens, force=force)
    else:
        assert tokens is not None  # checked above
        write_xllm(bundle, out, tokens, force=force)
    return Exported((out,))


def check_export_options(
    to: System, *, items: CatalogFile | None, keys: Keys, has_model: bool
) -> None:
    """Raise UsageError for options that do not apply to a system, or that it lacks."""
    if to not in get_args(System):
        raise UsageError(f"unknown system {to!r}", hint=f"one of {', '.join(get_args(System))}")
    if to != "minionerec" and (items is not None or keys != "id"):
        raise UsageError(f"--items and --keys apply to --to minionerec, not to {to}")
    if to not in WITH_TOKENS and has_model:
        raise UsageError(f"--model applies to --to {', '.join(WITH_TOKENS)}, not to {to}")
    if to == "xllm" and not has_model:
        raise UsageError("--to xllm writes token ids, and they depend on the model", hint="--model")


def plan_export(
    bundle: Bundle, to: System, *, items: CatalogFile | None = None, keys: Keys = "id"
) -> int:
    """The number of items that an export would write. Raises as `export_map` for a bundle without
    active items, and for keys and a catalog that do not fit."""
    n_items = _count_exported(bundle)
    if to == "minionerec":
        catalog = items.read(bundle=bundle) if items is not None else None
        minionerec_entries(bundle, catalog, keys)
    return n_items


def _count_exported(bundle: Bundle) -> int:
    """The number of items that an export writes. Raises UsageError if every item is retired."""
    if not len(bundle.active):
        raise UsageError(
            f"bundle {bundle.manifest.name!r} has no items to export: all {len(bundle)} are retired"
        )
    return len(bundle.active)


def _export_flashrec(
    bundle: Bundle, out: Path, tokens: ModelTokens | None, force: bool
) -> Exported:
    inferred = infers_layout(bundle.space)
    sid = sid_option(bundle.space, tokens) if tokens is not None else None
    write_flashrec(bundle, out, force=force)
    if inferred:
        return Exported((out,))
    return Exported((out,), flashrec_sid=sid, flashrec_needs_model=sid is None)
