"""What a path holds, for the error of a command that was given another kind of artifact."""

from contextlib import suppress
from pathlib import Path

from sidtool.base.documents import parse_json

MARKERS = {
    "zarr.json": "a Zarr group",
    "split.json": "a split",
    "sid.json": "a model with a SID vocabulary",
    "refs.json": "a registry of bundles",
    "modules.json": "an encoder of sentence-transformers",
    "adapter_config.json": "a PEFT adapter without a SID vocabulary",
    "config.json": "a model without a SID vocabulary",
}
"""Kinds of folders by the file that only they have; the first that exists decides."""

LINEAGE_SUFFIX = ".meta.json"
"""What training examples have beside them, after their own name."""


def describe(location: str | Path) -> str | None:
    """The kind of artifact at a path with an article, like "a split"; None if it is none. Reads
    names of files, and the attributes of a Zarr group."""
    path = Path(location)
    with suppress(OSError, ValueError):  # no path
        if path.name.endswith(".partial"):
            return "the work folder of an unfinished run"
        if path.is_file():
            return _describe_file(path)
        for name, kind in MARKERS.items():
            if (path / name).is_file():
                return _zarr_kind(path / name) or kind if name == "zarr.json" else kind
        if any(path.glob(f"*{LINEAGE_SUFFIX}")):
            return "a folder of training examples"
    return None


def _describe_file(path: Path) -> str | None:
    if path.with_name(path.name + LINEAGE_SUFFIX).is_file():
        return "a file of training examples"
    return None if path.suffix == ".zip" else "a file"


def _zarr_kind(root: Path) -> str | None:
    with suppress(OSError, ValueError, KeyError, TypeError):
        manifest = parse_json(root.read_bytes())["attributes"]["sidtool"]
        return f"a {manifest.get('kind', 'bundle')}"
    return None
