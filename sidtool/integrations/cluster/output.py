"""An output folder of parts, one per shard, at a path or URL.

A part is written under a name of its own and moved into place, so it is whole or absent, and a part
that is made twice replaces itself. The folder is named `OUT.partial` until all parts are there and
the lineage is written; an interrupted run is resumed from its parts."""

import json
import platform
import uuid
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

from sidtool.base.errors import DataError, UsageError, raised_as
from sidtool.base.output import disk_errors, locked, new_dir, refuse_existing, remove
from sidtool.base.output_name import check_replaced
from sidtool.base.work_folder import RUN_FILE, open_work_folder
from sidtool.data.tables import library_errors
from sidtool.integrations.cluster.shards import is_local, open_store

LINEAGE = "_lineage.json"
"""Readers of folders of Parquet ignore names that begin so."""
RESTART = "without --resume the run starts again"


@dataclass(frozen=True)
class PartReport:
    """What became of a shard."""

    name: str
    """Of its part, a file or a folder of files"""
    rows: int
    digest: str = ""
    """SHA-256 of the part's bytes, if a lineage lists it"""
    counts: Mapping[str, int] = field(default_factory=dict)
    """Whatever the work counts"""
    note: str = ""
    """What the user should know of it"""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else the run needs of it, as JSON values"""


def part_name(number: int) -> str:
    """The file name of a shard's part."""
    return f"part-{number:07d}.parquet"


@dataclass(frozen=True)
class PartFolder:
    """A folder of parts that workers write to."""

    url: str

    def report(self, number: int) -> PartReport | None:
        """The report of a finished part, None if there is none or the part is lost."""
        filesystem, root = open_store(self.url)
        path = f"{root}/.{part_name(number)}.json"
        with library_errors(Path(self.url)):
            if not filesystem.exists(path):
                return None
            report = PartReport(**json.loads(filesystem.cat_file(path)))
            return report if filesystem.exists(f"{root}/{report.name}") else None

    def add(self, number: int, report: PartReport, place: Path) -> None:
        """Copy the part of a shard from a local folder, then write its report, each file whole or
        not at all. Raises DataError."""
        part = place / report.name
        paths = [part]
        if part.is_dir():
            self.subfolder(report.name)
            paths = sorted(part.iterdir())
        for path in paths:
            self.put(path.relative_to(place).as_posix(), path)
        self.put(f".{part_name(number)}.json", json.dumps(asdict(report)).encode())

    def subfolder(self, name: str) -> "PartFolder":
        """A folder in the folder; one whose name begins with a dot is gone at the end."""
        filesystem, root = open_store(self.url)
        with _write_errors(self.url):
            filesystem.makedirs(f"{root}/{name}", exist_ok=True)
        return PartFolder(f"{self.url}/{name}")

    def finish(self, text: str, name: str = LINEAGE) -> None:
        """Keep nothing but the parts, and write the lineage, or what a folder of this kind has in
        its place."""
        filesystem, root = open_store(self.url)
        with _write_errors(self.url):
            for path in filesystem.ls(root, detail=False):
                name_in_folder = path.rstrip("/").rpartition("/")[2]
                # reports, subfolders of the run, and what killed workers left begin with a dot
                if name_in_folder.startswith(".") or name_in_folder == RUN_FILE:
                    filesystem.rm(path, recursive=True)
        self.put(name, text.encode())

    def put(self, name: str, content: bytes | Path) -> None:
        """Write a file of the folder, whole or not at all. Raises DataError."""
        filesystem, root = open_store(self.url)
        unfinished = f"{root}/.{uuid.uuid4().hex}"
        with _write_errors(self.url):
            if isinstance(content, Path):
                filesystem.put_file(str(content), unfinished)
            else:
                filesystem.pipe_file(unfinished, content)
            filesystem.mv(unfinished, f"{root}/{name}")


def _write_errors(url: str) -> AbstractContextManager[None]:
    """Raises DataError for any error of a store that is written."""
    return raised_as(DataError, f"{url} cannot be written")


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder of this node, which is removed at the end. Raises DataError, which names the node,
    if its disk is full."""
    node, hint = platform.node(), "free space there, or set TMPDIR"
    problem = f"temporary files on {node} cannot be written"
    with raised_as(DataError, problem, hint, errors=(FileNotFoundError,)):
        folder = Path(gettempdir())  # it tries to write there
    errors = disk_errors(folder, f"{folder} on {node}")
    with errors, TemporaryDirectory(prefix="sidtool-") as place:
        yield Path(place)


def refuse_existing_folder(out: str, *, force: bool) -> None:
    """Raise UsageError if an output exists, without `force`, or is no output of sidtool."""
    filesystem, root = open_store(out)
    if is_local(filesystem):
        refuse_existing(Path(root), force)
        return
    with library_errors(Path(out)):
        if not _is_half_moved(filesystem, root):
            _refuse_stored(filesystem, root, out, force=force)


def refuse_input(out: str, location: str) -> None:
    """Raise UsageError if making the output would remove an input."""
    filesystem, root = open_store(out)
    store, path = open_store(location)
    steps = _steps(store, path)
    removed = [_steps(filesystem, place) for place in (root, f"{root}.partial")]
    is_removed = any(steps[: len(folder)] == folder for folder in removed)
    if is_removed and type(store) is type(filesystem):
        raise UsageError(
            f"{out} is the input {location}, or contains it", hint="write to another path"
        )


def _steps(filesystem: Any, path: str) -> tuple[str, ...]:
    """The steps of a path, of a local one without links."""
    return (
        Path(path).resolve().parts if is_local(filesystem) else tuple(path.rstrip("/").split("/"))
    )


def _refuse_stored(filesystem: Any, root: str, out: str, *, force: bool) -> None:
    names = _names(filesystem, root)
    if not filesystem.isfile(root):
        check_replaced(out, names)
    if names and not force:
        raise UsageError(f"{out} exists already", hint="--force replaces it")


def _names(filesystem: Any, root: str) -> set[str]:
    """The names directly in a folder of a store; of a file, its own."""
    filesystem.invalidate_cache(root)
    try:
        paths = [path.rstrip("/") for path in filesystem.ls(root, detail=False)]
    except FileNotFoundError:
        return set()
    # a store may list the empty object that stands for a folder
    is_file = filesystem.isfile(root)
    return {path.rpartition("/")[2] for path in paths if path != root or is_file}


def _is_half_moved(filesystem: Any, root: str) -> bool:
    """Whether a folder has only parts that a killed run moved there: the lineage, which names them,
    is moved last."""
    names = _names(filesystem, root)
    lineage = f"{root}.partial/{LINEAGE}"
    if not names or not filesystem.exists(lineage):
        return False
    files = json.loads(filesystem.cat_file(lineage))["files"]
    return names <= {name.partition("/")[0] for name in files}


@contextmanager
def work_parts(path: Path, fingerprint: Mapping[str, Any], *, resume: bool) -> Iterator[PartFolder]:
    """The folder beside `path` with the parts of a run, while its lock is held; it is removed if
    the block ends well. Those of an earlier run are in it with `resume`, which must have the same
    `fingerprint` (UsageError)."""
    with locked(path) as work:
        yield _opened(work, fingerprint, resume=resume)
        remove(work)


def _opened(work: Path, fingerprint: Mapping[str, Any], *, resume: bool) -> PartFolder:
    if not resume:
        remove(work)
    open_work_folder(work, fingerprint, restart=RESTART)
    return PartFolder(str(work.absolute()))


@contextmanager
def part_folder(
    out: str, fingerprint: Mapping[str, Any], *, resume: bool, force: bool
) -> Iterator[PartFolder]:
    """The folder of an output while it is made; it appears as `out` if the block ends well, and
    stays for a later run if not.

    Raises UsageError if `out` exists, without `force`, or if the interrupted run that is to be
    resumed had another `fingerprint`."""
    filesystem, root = open_store(out)
    if is_local(filesystem):
        with new_dir(Path(root), force=force, resume=True) as work:
            yield _opened(work, fingerprint, resume=resume)
    else:
        yield from _remote(out.rstrip("/"), fingerprint, resume=resume, force=force)


def _remote(
    url: str, fingerprint: Mapping[str, Any], *, resume: bool, force: bool
) -> Iterator[PartFolder]:
    """A store has no folders to move: parts are moved one by one, the lineage last."""
    refuse_existing_folder(url, force=force)
    filesystem, root = open_store(url)
    work = f"{root}.partial"
    with _write_errors(url):
        stored = f"{work}/{RUN_FILE}"
        text = json.dumps(fingerprint, sort_keys=True).encode()
        resumes = resume and filesystem.exists(stored)
        if resumes and filesystem.cat_file(stored) != text:
            raise UsageError(f"{url}.partial is of a run with other settings", hint=RESTART)
        if _is_half_moved(filesystem, root):
            filesystem.rm(root, recursive=True)  # before the lineage, which says that it may be
        # without the settings, what is there may be of any run: one was killed as it removed this
        if not resumes and filesystem.exists(work):
            filesystem.rm(work, recursive=True)
        filesystem.makedirs(work, exist_ok=True)
        filesystem.pipe_file(stored, text)
    yield PartFolder(f"{url}.partial")
    with _write_errors(url):
        _refuse_stored(filesystem, root, url, force=force)
        if filesystem.exists(root):
            filesystem.rm(root, recursive=True)
        names = [path.removeprefix(work).lstrip("/") for path in filesystem.find(work)]
        if LINEAGE not in names:
            raise DataError(f"{url}.partial has no {LINEAGE}")
        for name in sorted(names, key=lambda name: name == LINEAGE):
            target = f"{root}/{name}"
            filesystem.makedirs(target.rpartition("/")[0], exist_ok=True)
            filesystem.mv(f"{work}/{name}", target)
        if filesystem.exists(work):
            filesystem.rm(work, recursive=True)
