"""Which local files a table is in: a path, a pattern, a folder of Parquet files, or a URL.

A file at a URL is copied once per process: readers check a file before they read it, and need it
whole for that."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from glob import has_magic
from pathlib import Path

from sidtool.base.errors import DataError, SidtoolError, UsageError
from sidtool.data.tables.opening import PARQUET, one_line

URL = re.compile(r"([a-z][a-z0-9+]+):/+(?=[^/])")
"""The start of a URL; a Path has lost its second slash."""


@dataclass(frozen=True)
class TableFiles:
    """The local files of a table, in the order of their names."""

    files: tuple[Path, ...]
    url: str = ""
    """Folder that the files were copied from, if they were."""
    folder: str = ""
    """Local folder of the copies."""

    @contextmanager
    def named_errors(self) -> Iterator[None]:
        """Name the URL in errors, not the copy."""
        try:
            yield
        except SidtoolError as error:
            if not self.url:
                raise
            message = str(error).replace(self.folder, self.url)
            raise type(error)(message, hint=error.shell_hint) from error


def table_files(path: Path) -> TableFiles:
    """The files that a path stands for. A path that exists, or that names nothing, is itself.

    Raises DataError for a pattern without a match, or a URL that cannot be read."""
    if URL.match(str(path)):
        return _copied(as_url(path))
    if has_magic(str(path)) and not path.exists():
        pattern = path.relative_to(path.anchor).as_posix()
        matches = tuple(sorted(Path(path.anchor).glob(pattern)))
        if not matches:
            raise DataError(f"no file matches {path}")
        return TableFiles(matches)
    return TableFiles(parquet_files(path) or (path,))


def as_url(path: str | Path) -> str:
    """A path, or the URL that a Path was made of."""
    text = URL.sub(r"\1://", str(path), count=1)
    # a local file has no host, so its URL has a third slash
    return text.replace("file://", "file:///", 1) if text.startswith("file://") else text


def parquet_files(path: Path) -> tuple[Path, ...]:
    """The Parquet files in a folder whose name does not say that it has some; none for others."""
    if not path.is_dir() or path.name.lower().endswith(PARQUET):
        return ()
    return tuple(sorted(file for suffix in PARQUET for file in path.rglob(f"*{suffix}")))


@cache
def _copied(url: str) -> TableFiles:
    """Copies of the files at a URL. Raises DataError, UsageError if the client is missing."""
    import fsspec

    try:
        filesystem, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UsageError(
            f"{url} cannot be opened: {one_line(error)}", hint="pip install 'sidtool[s3]' for s3://"
        ) from error
    folder = Path(_copies().name) / str(len(list(Path(_copies().name).iterdir())))
    folder.mkdir()
    try:
        is_folder = filesystem.isdir(root)
        common = root if is_folder else root.rpartition("/")[0]
        if has_magic(root):
            remote = sorted(filesystem.glob(root))
        elif is_folder:
            names = filesystem.find(root)
            remote = sorted(name for name in names if name.lower().endswith(PARQUET))
        else:
            remote = [root] if filesystem.exists(root) else []
        for name in remote:
            target = folder / _below(name, common)
            target.parent.mkdir(parents=True, exist_ok=True)
            filesystem.get_file(name, str(target))
    except Exception as error:  # clients of stores have no common class
        raise DataError(f"{url} cannot be read: {one_line(error)}") from error
    if not remote:
        raise DataError(f"{url} does not exist, or holds no Parquet files")
    files = tuple(folder / _below(name, common) for name in remote)
    return TableFiles(files, filesystem.unstrip_protocol(common), str(folder))


def _below(name: str, folder: str) -> str:
    """The path of a remote file below a folder, or its name alone. No step of it leads upward."""
    relative = name.removeprefix(folder).lstrip("/")
    return relative if ".." not in relative.split("/") else name.rpartition("/")[2]


@cache
def _copies() -> "tempfile.TemporaryDirectory[str]":
    """A folder for copies, removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="sidtool-")
