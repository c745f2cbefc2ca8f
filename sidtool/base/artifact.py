"""What a path holds, for the error of a command that was given another kind of artifact."""

from contextlib import suppress
from pathlib import Path
from zipfile import BadZipFile
from zipfile import Path as ZipPath
from zlib import error as ZlibError

from sidtool.base.documents import parse_json

MARKERS = {
    "zarr.json": "a Zarr group",
    "split.json": "a split",
    "sid.json": "a model with a SID vocabulary",
    "refs.json": "a registry",
    "modules.json": "an encoder of sentence-transformers",
    "adapter_config.json": "a PEFT adapter without a SID vocabulary",
    "config.json": "a model without a SID vocabulary",
}
"""Kinds of folders by the file that only they have; the first that exists decides."""

GROUPS = {"bundle": "a bundle", "memory": "a memory"}
"""Kinds of Zarr groups by the `kind` in their manifest; without one it is a bundle."""

MAX_ROOT_BYTES = 1 << 23
"""A larger root document of a Zarr group is refused: about 70,000 objects."""

LINEAGE_SUFFIX = ".meta.json"
"""What training examples have beside them, after their own name."""

EXAMPLES = "a file of training examples"
"""The kind of a file with a lineage beside it."""


def describe(location: str | Path) -> str | None:
    """The kind of artifact at a path with an article, like "a split"; None if it is none. Reads
    names of files, and the attributes of a Zarr group."""
    path = Path(location)
    with suppress(OSError, ValueError, BadZipFile):  # no path
        if path.name.endswith(".partial"):
            return "the work folder of an unfinished run"
        if path.is_file():
            if path.with_name(path.name + LINEAGE_SUFFIX).is_file():
                return EXAMPLES
            return _stored_kind(path) if path.suffix == ".zip" else "a file"
        for name, kind in MARKERS.items():
            if (path / name).is_file():
                return (_stored_kind(path) or kind) if name == "zarr.json" else kind
        if any(path.glob(f"*{LINEAGE_SUFFIX}")):
            return "a folder of training examples"
    return None


def _stored_kind(path: Path) -> str | None:
    """The kind of Zarr group in a folder or zip, None if it is not of sidtool."""
    place = ZipPath(path) if path.is_file() else path
    not_read = (OSError, EOFError, RuntimeError, ZlibError)
    with suppress(*not_read, ValueError, KeyError, TypeError, AttributeError):
        with (place / "zarr.json").open("rb") as stream:
            data = stream.read(MAX_ROOT_BYTES + 1)
        root = parse_json(data if len(data) <= MAX_ROOT_BYTES else b"")
        return GROUPS[root["attributes"]["sidtool"].get("kind", "bundle")]
    return None
