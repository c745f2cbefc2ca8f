"""What a path holds, for the error of a command that was given another kind of artifact."""

from contextlib import suppress
from pathlib import Path

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

LINEAGE_SUFFIX = ".meta.json"
"""What training examples have beside them, after their own name."""

EXAMPLES = "a file of training examples"
"""The kind of a file with a lineage beside it."""


def describe(location: str | Path) -> str | None:
    """The kind of artifact at a path with an article, like "a split"; None if it is none. Reads
    names of files, and the attributes of a Zarr group."""
    path = Path(location)
    with suppress(OSError, ValueError):  # no path
        if path.name.endswith(".partial"):
            return "the work folder of an unfinished run"
        if path.is_file():
            if path.with_name(path.name + LINEAGE_SUFFIX).is_file():
                return EXAMPLES
            return None if path.suffix == ".zip" else "a file"
        for name, kind in MARKERS.items():
            if not (path / name).is_file():
                continue
            if name == "zarr.json":
                with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
                    manifest = parse_json((path / name).read_bytes())["attributes"]["sidtool"]
                    kind = GROUPS[manifest.get("kind", "bundle")]
            return kind
        if any(path.glob(f"*{LINEAGE_SUFFIX}")):
            return "a folder of training examples"
    return None
