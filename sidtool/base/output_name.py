"""Which paths can be outputs: no URL, no name of unfinished work or of another file type, no place
where the output would change what is published, no device, no folder of another program."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from sidtool.base.artifact import GROUPS, MARKERS, MAX_ROOT_BYTES, describe
from sidtool.base.errors import UsageError

RESERVED = (".partial", ".partial.d", ".partial.lock", ".removed", ".replaced")
"""Endings of unfinished work and locks: sidtool removes files and folders of such names."""


FILE_SUFFIXES = (
    *(".zarr.zip", ".zarr", ".zip", ".gz", ".npy", ".npz", ".parquet", ".pq", ".csv", ".tsv"),
    *(".jsonl", ".ndjson", ".json", ".yaml", ".yml", ".txt", ".html", ".item", ".inter", ".user"),
    *(".safetensors", ".gguf"),
)
"""Endings of names that say what a file is."""


@dataclass(frozen=True)
class OutputKind:
    """What is written, and the endings that say so; a name without any of FILE_SUFFIXES is good for
    everything."""

    content: str
    suffixes: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    """In a folder that no other command replaces, because users make such folders, too."""

    @property
    def spelled(self) -> str:
        """A folder, or a file of the first of the suffixes: "a .json file"."""
        return f"a {self.suffixes[0]} file" if self.suffixes else self.content

    @property
    def is_file(self) -> bool:
        """Whether it is a file whatever its name."""
        return bool(self.suffixes) and ".zarr" not in self.suffixes


FOLDER = OutputKind("a folder")
CSV_FOLDER = OutputKind("a folder", files=("items.csv", "events.csv"))
PARQUET_FOLDER = OutputKind("a folder", files=("items.parquet", "events.parquet"))
BUNDLE = OutputKind("a bundle", (".zarr", ".zip"))
MEMORY = OutputKind("a memory", (".zarr", ".zip"))
JSON_LINES = OutputKind("JSON Lines", (".jsonl", ".ndjson", ".json"))
RESULTS = OutputKind("JSON Lines or Parquet", (*JSON_LINES.suffixes, ".parquet", ".pq"))
PARQUET_FILE = OutputKind("Parquet", (".parquet", ".pq"))
JSON_FILE = OutputKind("JSON", (".json",))
HTML_FILE = OutputKind("an HTML page", (".html", ".htm"))
BINARY_FILE = OutputKind("a binary vocabulary", (".bin",))

FOLDERS = (
    ("split.json", "*"),
    ("sid.json", "*"),
    ("_lineage.json", "*"),
    ("prepare.json", *PARQUET_FOLDER.files),
    ("zarr.json", "items", "codebook", "encoder", "index", "pairs", "neighbors", "content"),
    ("index.json", "info.txt"),
    (
        *("config.json", "generation_config.json", "model*.safetensors"),
        *("model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json"),
    ),
)
"""The names in each kind of folder that commands write. The first is in every one."""


def check_suffix(path: Path, kind: OutputKind) -> None:
    """Raise UsageError if the name ends like a file of another type than what is written."""
    name = path.name.lower()
    suffix = next((suffix for suffix in FILE_SUFFIXES if name.endswith(suffix)), None)
    if suffix is None or name.endswith(kind.suffixes):
        return
    right = path.name[: -len(suffix)]
    right += "" if right.lower().endswith(kind.suffixes) else next(iter(kind.suffixes), "")
    hint = f"-o {path.parent / right}" if right else None
    raise UsageError(f"{path} ends with {suffix}, but {kind.content} is written", hint=hint)


def check_name(path: Path) -> None:
    """Raise UsageError for a URL, and for a path that names nothing."""
    if re.match(r"[a-z][a-z0-9+]+:/", str(path)):  # Path drops the second slash
        raise UsageError(
            f"{path} is a URL, but outputs are written to disk",
            hint="sidtool push publishes a bundle",
        )
    if path.name in ("", ".."):
        raise UsageError(f"{str(path)!r} names no file or folder to write", hint="-o FOLDER/NAME")


def check_place(path: Path) -> None:
    """Raise UsageError for an output that sidtool itself would remove or that would damage
    something: a reserved name, a path in a Zarr group or a registry, a registry, a device, a mount
    point, a git checkout, the working folder."""
    if path.name.endswith(RESERVED):
        suffix = next(suffix for suffix in RESERVED if path.name.endswith(suffix))
        raise UsageError(f"{path} ends with {suffix}, which marks unfinished work")
    check_parents(path)
    if _is_registry(path):
        raise UsageError(f"{path} is a registry: its published versions are never replaced")
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise UsageError(f"{path} is neither a file nor a folder")
    is_folder = path.is_dir() and not path.is_symlink()  # of a link to one, the link is replaced
    if is_folder and path.is_mount():
        raise UsageError(f"{path} is a mount point: no output replaces it", hint=f"-o {path}/NAME")
    if is_folder and ((path / ".git").exists() or _has_working_folder(path)):
        raise UsageError(
            f"{path} is a git checkout or has the working folder in it: no output replaces it"
        )


_ARTIFACTS = (
    *GROUPS.values(),
    *(MARKERS[name] for name in ("split.json", "sid.json", "refs.json")),
)
"""What is not removed with a folder that somebody put it into."""
_BESIDE = (".DS_Store", "Thumbs.db", ".nfs*")
"""What systems put into folders."""


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def check_replaced(path: str | Path, names: Iterable[str], kind: OutputKind | None = None) -> None:
    """Raise UsageError unless a folder with these names is empty or an output of sidtool that has
    no other artifact in it."""
    names = sorted(name for name in names if not _matches(name, _BESIDE))
    of_kind = [kind.files] if kind is not None and kind.files else []
    are_written = any(
        layout[0] in names and all(_matches(name, layout) for name in names)
        for layout in (*FOLDERS, *of_kind)
    )
    if names and (not are_written or _is_foreign_group(path)):
        raise UsageError(
            f"{path} exists already, and is no output of sidtool: it has {names[0]}",
            hint="--force replaces no other folder: write to another path, or remove it",
        )
    copies = ("sid.zarr", "memory.zarr") if "sid.json" in names else ()
    for name in names:
        if name not in copies and (inside := describe(Path(path) / name)) in _ARTIFACTS:
            hint = f"move {name} to another place first, or write to another path"
            raise UsageError(f"{path} exists already, and has {inside} in it: {name}", hint=hint)


def _is_foreign_group(path: str | Path) -> bool:
    """Whether there is a Zarr group of another program; a damaged one of sidtool has its name."""
    if describe(path) != "a Zarr group":
        return False
    with (Path(path) / "zarr.json").open("rb") as stream:
        return re.search(rb'"sidtool"\s*:\s*\{', stream.read(MAX_ROOT_BYTES)) is None


def check_parents(path: Path) -> None:
    """Raise UsageError for a path in a Zarr group, which `verify` would then call damaged, or in a
    registry."""
    for folder in path.absolute().parents:
        if (folder / "zarr.json").is_file():
            raise UsageError(f"{path} is inside of the Zarr group {folder}")
        if _is_registry(folder):
            raise UsageError(f"{path} is inside of the registry {folder}")


def _has_working_folder(path: Path) -> bool:
    try:
        return Path.cwd().is_relative_to(path.resolve())
    except FileNotFoundError:  # it was removed
        return False


def _is_registry(folder: Path) -> bool:
    return (folder / "refs.json").is_file() and (folder / "versions").is_dir()
