import errno
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from sidtool.base import output
from sidtool.base.errors import DataError, SidtoolWarning, UsageError
from sidtool.base.output import (
    cache_array,
    cached_array,
    folder_beside,
    locked,
    new_dir,
    new_file,
    partial_path,
    publish,
    refuse_existing,
    remove,
    write_whole,
)
from tests.waiting import DEADLOCK


def half_written(path: Path, text: str = "half") -> None:
    path.write_text(text)
    raise OSError("the disk is full")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    with pytest.raises(OSError), new_file(out) as path:
        half_written(path)
    assert list(tmp_path.iterdir()) == []
    with new_file(out) as path:
        path.write_text("whole")
        assert not out.exists()
    assert out.read_text() == "whole"
    with pytest.raises(UsageError, match="exists already"), new_file(out):
        pass
    with new_file(out, force=True) as path:
        path.write_text("new")
        assert out.read_text() == "whole"
    assert out.read_text() == "new"


def test_resumable_work_is_reused(tmp_path: Path) -> None:
    out = tmp_path / "model"
    with pytest.raises(OSError), new_dir(out, resume=True) as folder:
        half_written(folder / "sid.json", "done")
    assert not out.exists()
    with new_dir(out, resume=True) as folder:
        assert (folder / "sid.json").read_text() == "done"
    assert (out / "sid.json").exists()
    assert not partial_path(out).exists()
    partial_path(out).mkdir()
    (partial_path(out) / "sid.json").touch()
    with new_dir(out, force=True) as folder:
        assert list(folder.iterdir()) == []


def test_an_array_of_another_shape_or_type_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    cache_array(path, np.arange(3, dtype=np.float32))
    assert cached_array(path, (3,), np.float32).tolist() == [0, 1, 2]  # type: ignore[union-attr]
    assert cached_array(path, (2,), np.float32) is None
    assert cached_array(path, (3,), np.int32) is None


def test_a_run_killed_between_the_two_moves_is_completed(tmp_path: Path) -> None:
    out, aside = tmp_path / "model", tmp_path / "model.replaced"
    aside.mkdir()
    (aside / "a").write_text("old")
    with (
        pytest.warns(SidtoolWarning, match=r"restored from model\.replaced.* check it"),
        pytest.raises(UsageError, match="exists already"),
    ):
        refuse_existing(out, force=False)
    assert (out / "a").read_text() == "old"
    assert not aside.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *((f"{protocol}//shop.zarr", "is a URL") for protocol in ("s3:", "memory:", "file:/")),
        *((name, "names no file") for name in ("..", "../..", "")),
    ],
)
def test_an_output_without_a_name_is_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        refuse_existing(Path(name), force=True)


# Two writers

WRITER = """
import sys, time
from pathlib import Path
from sidtool.base.output import new_file
with new_file(Path(sys.argv[1]), force=True) as path:
    path.write_text("first")
    print("writing", flush=True)
    sys.stdin.read()
"""


@contextmanager
def writing(out: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that writes the output until its stdin is closed."""
    line = [sys.executable, "-c", WRITER, str(out)]
    process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "writing\n"
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("second", [new_file, new_dir, locked])
def test_a_second_writer_is_refused_by_name(tmp_path: Path, second: object) -> None:
    out = tmp_path / "out"
    with writing(out) as process:
        with pytest.raises(UsageError) as refused, second(out):  # type: ignore[operator]
            pass
        holder = f"is being written by process {process.pid} on {socket.gethostname()} since "
        assert holder in str(refused.value)
        assert str(refused.value).endswith(f"-c {out}")
        process.communicate("")
        assert process.returncode == 0
    assert out.read_text() == "first"
    assert names(tmp_path) == ["out"]


def test_two_writers_of_one_process_are_told_apart(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with new_file(out) as path:
        with pytest.raises(UsageError, match=f"process {os.getpid()} "), new_file(out, force=True):
            pass
        path.write_text("first")
    assert out.read_text() == "first"


def test_the_lock_of_a_killed_writer_is_free(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with writing(out) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert names(tmp_path) == ["out.partial", "out.partial.lock"]
    with new_file(out) as path:
        path.write_text("second")
    assert (names(tmp_path), out.read_text()) == (["out"], "second")


def test_a_folder_beside_an_output_of_a_killed_run_is_removed_by_the_next(tmp_path: Path) -> None:
    out = tmp_path / "memory.zarr"
    child = os.fork()
    if child == 0:
        with folder_beside(out) as folder:
            (folder / "pairs").touch()
            os._exit(0)
    os.waitpid(child, 0)
    assert list(tmp_path.rglob("pairs"))
    with folder_beside(out) as folder:
        assert list(folder.iterdir()) == []
        with pytest.raises(UsageError, match="is being written by"), folder_beside(out):
            pass
    assert list(tmp_path.iterdir()) == []


def test_outputs_of_one_name_in_new_folders_are_written_at_once(tmp_path: Path) -> None:
    one, other = tmp_path / "one" / "split", tmp_path / "other" / "split"
    with folder_beside(one) as first, folder_beside(other) as second:
        (first / "events").touch()
        assert list(second.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


def write_both(partial: Path, out: Path) -> None:
    """Write an output and, as another program, the path where it will be."""
    (partial / "a" if partial.is_dir() else partial).write_text("mine")
    out.write_text("another program's")


def test_an_output_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    for number, new in enumerate((new_file, new_dir)):
        out = tmp_path / str(number)
        with pytest.raises(UsageError, match="exists already"), new(out) as path:
            write_both(path, out)
        assert out.read_text() == "another program's"


CONTENDER = """
import os, sys
from pathlib import Path
from sidtool.base.errors import UsageError
from sidtool.base.output import locked
out, inside = map(Path, sys.argv[1:])
entries = 0
while entries < 50:
    try:
        with locked(out):
            descriptor = os.open(inside, os.O_CREAT | os.O_EXCL)  # fails if another is inside
            os.close(descriptor)
            entries += 1
            inside.unlink()
    except UsageError:
        pass
"""


def test_a_lock_that_is_removed_and_made_again_has_one_holder(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CONTENDER, str(tmp_path / "out"), str(tmp_path / "inside")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        _, message = process.communicate(timeout=DEADLOCK)
        assert process.returncode == 0, message
    assert names(tmp_path) == []


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "out.partial.lock").symlink_to(victim)
    with pytest.raises(DataError, match="symbolic links"), new_file(tmp_path / "out"):
        pass
    assert victim.read_text() == "precious"


@pytest.mark.filterwarnings("default::sidtool.base.errors.SidtoolWarning")
def test_a_file_system_without_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", raising(OSError(errno.ENOLCK, "No locks available")))
    with pytest.warns(SidtoolWarning, match="has no locks"), new_file(tmp_path / "out") as path:
        path.write_text("whole")
    assert names(tmp_path) == ["out"]
    # another failure is an error
    monkeypatch.setattr(fcntl, "flock", raising(OSError(errno.EIO, "Input/output error")))
    with pytest.raises(DataError, match="input/output error"), new_file(tmp_path / "other"):
        pass
    assert "other" not in names(tmp_path)


# What a killed run leaves


def test_a_replaced_output_that_is_half_removed_never_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill while the replaced folder is removed; then the new one is removed by its user."""
    out = tmp_path / "model"
    for content in ("old", "new"):
        with monkeypatch.context() as patched, new_dir(out, force=True) as folder:
            (folder / "sid.json").write_text(content)
            (folder / "b").write_text(content)
            if content == "new":
                patched.setattr(shutil, "rmtree", lambda path: (path / "sid.json").unlink())
    assert (out / "sid.json").read_text() == "new"
    shutil.rmtree(out)
    refuse_existing(out, force=False)
    assert not out.exists()
    with new_dir(out) as folder:
        (folder / "sid.json").write_text("third")
    assert (names(tmp_path), names(out)) == (["model"], ["sid.json"])


@pytest.mark.parametrize("sibling", ["replaced", "partial"])
@pytest.mark.parametrize("moved", [True, False])
def test_what_a_run_did_not_remove_at_its_end_is_removed_by_the_same_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sibling: str, moved: bool
) -> None:
    out, left = tmp_path / "model", tmp_path / f"model.{sibling}"
    left.mkdir()
    (left / "a").touch()
    out.mkdir()
    if moved:
        with monkeypatch.context() as patched:
            patched.setattr(shutil, "rmtree", raising(KeyboardInterrupt()))
            with pytest.raises(KeyboardInterrupt):
                remove(left)
        assert names(tmp_path) == ["model", f"model.{sibling}.removed"]
    with pytest.raises(UsageError, match="exists already"):
        refuse_existing(out, force=False)
    # work that no run was removing may be that of a run with --force
    unfinished = ["model.partial"] if sibling == "partial" and not moved else []
    assert names(tmp_path) == ["model", *unfinished]


def test_unfinished_work_that_is_half_removed_is_not_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "model"
    work = partial_path(out)
    work.mkdir()
    for name in ("run.json", "step-1"):
        (work / name).write_text("done")
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "rmtree", lambda path: (path / "step-1").unlink())
        remove(work)
    with new_dir(out, resume=True) as folder:
        assert list(folder.iterdir()) == []
    assert names(tmp_path) == ["model"]


@pytest.mark.parametrize("old", ["file", "folder", "link", "broken link", "none"])
@pytest.mark.parametrize("new", ["file", "folder"])
def test_any_output_replaces_any_older_one(tmp_path: Path, old: str, new: str) -> None:
    out = tmp_path / "out"
    target = tmp_path / "target"
    target.mkdir()
    if old == "file":
        out.write_text("old")
    elif old == "folder":
        out.mkdir()
        (out / "split.json").write_text("old")
    elif old.endswith("link"):
        out.symlink_to(target if old == "link" else tmp_path / "nowhere")
    if old != "none":
        with pytest.raises(UsageError, match="exists already"):
            refuse_existing(out, force=False)
    writer = new_file if new == "file" else new_dir
    with writer(out, force=True) as path:
        (path if new == "file" else path / "b").write_text("new")
    assert (out if new == "file" else out / "b").read_text() == "new"
    assert names(tmp_path) == ["out", "target"]
    assert not out.is_symlink()
    assert names(target) == []


def test_state_is_written_whole_or_never(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    sync = os.fsync

    def note_sync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        sync(descriptor)

    state = tmp_path / "run.json"
    write_whole(state, "old")
    if sys.platform == "linux":
        monkeypatch.setattr(os, "fsync", note_sync)
        n_open = len(list(Path("/proc/self/fd").iterdir()))
        write_whole(state, "new")
        assert synced == ["run.json.partial", tmp_path.name]
        assert len(list(Path("/proc/self/fd").iterdir())) <= n_open
    monkeypatch.setattr(output, "publish", raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        write_whole(state, "newest")
    assert state.read_text() in ("old", "new")


# Full disks


def torch_save(folder: Path) -> None:
    """A large file of torch, which its own writer in C++ writes."""
    import torch

    torch.save({"weight": torch.zeros(1 << 18)}, folder / "optimizer.pt")


LARGE = np.zeros(1 << 18, dtype=np.float32)
SAVES: dict[str, Callable[[Path], object]] = {
    "torch": torch_save,
    "safetensors, in Rust": lambda folder: save_file({"a": LARGE}, folder / "model.safetensors"),
    "numpy": lambda folder: cache_array(folder / "a.npy", LARGE),
    "text": lambda folder: (folder / "a.txt").write_text("x" * (1 << 20)),
}


@pytest.mark.skipif(sys.platform == "win32", reason="no limits")
@pytest.mark.parametrize("save", SAVES.values(), ids=SAVES)
def test_a_file_that_cannot_be_written_whole_leaves_the_old_output(
    tmp_path: Path, save: Callable[[Path], object]
) -> None:
    """A limit on the size of files makes the writes of all libraries fail, as a full disk does."""
    import resource

    out = tmp_path / "model"
    with new_dir(out) as folder:
        (folder / "sid.json").write_text("old")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(DataError) as failed, new_dir(out, force=True) as folder:
            save(folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    reason = r"(file too large|a file was not written whole)"
    assert re.fullmatch(f"{re.escape(str(out))} cannot be written: {reason}", str(failed.value))
    assert (names(tmp_path), (out / "sid.json").read_text()) == (["model"], "old")


FULL = "no space left on device"
ERRORS = {
    "a write": (OSError(errno.ENOSPC, "No space left on device"), FULL),
    "a quota": (OSError(errno.EDQUOT, "Disk quota exceeded"), "disk quota exceeded"),
    "a broken disk": (OSError(errno.EIO, "Input/output error"), "input/output error"),
    "a library in Rust": (RuntimeError("while serializing: No space left (os error 28)"), FULL),
    "a copied tree": (shutil.Error([("in/a", "out/a", "[Errno 28] No space left")]), FULL),
    "an input of a copied tree": (shutil.Error([("in/a", "out/a", "[Errno 13] Denied")]), None),
    "an input": (FileNotFoundError(errno.ENOENT, "No such file", "items.jsonl"), None),
    "a locked input": (PermissionError(errno.EACCES, "Permission denied", "/etc/shadow"), None),
    "a bug": (TypeError("unsupported"), None),
}


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_of_the_disk_name_the_output(tmp_path: Path, kind: str) -> None:
    error, message = ERRORS[kind]
    with pytest.raises(Exception) as raised, new_file(tmp_path / "out"):
        raise error
    if message is None:
        assert raised.value is error
    else:
        assert isinstance(raised.value, DataError)
        assert str(raised.value) == f"{tmp_path / 'out'} cannot be written: {message}"
    assert names(tmp_path) == []


def test_a_folder_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    message = r"file/out cannot be written: (file exists|not a directory)"
    with pytest.raises(DataError, match=message), new_dir(tmp_path / "file" / "out"):
        pass


def test_a_failed_move_keeps_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    out.mkdir()
    rename = Path.rename

    def fail_second(path: Path, target: Path) -> Path:
        if path.name == "new":
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(path, target)

    new = tmp_path / "new"
    new.mkdir()
    monkeypatch.setattr(Path, "rename", fail_second)
    with pytest.raises(OSError):
        publish(new, out)
    assert names(tmp_path) == ["new", "out"]


def test_a_folder_in_use_is_removed_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network file system, where a mapped file stays."""
    work, removed = tmp_path / "out.partial", tmp_path / "out.partial.removed"
    work.mkdir()
    (work / "mapped").touch()
    with monkeypatch.context() as in_use:
        in_use.setattr(shutil, "rmtree", raising(OSError(errno.ENOTEMPTY, "not empty")))
        remove(work)
        assert removed.exists()
        work.mkdir()
        remove(work)
    assert not work.exists()
    with locked(tmp_path / "out"):
        pass
    assert not list(tmp_path.glob("*.removed"))
    work.mkdir()
    with monkeypatch.context() as broken:
        broken.setattr(shutil, "rmtree", raising(OSError(errno.EIO, "broken")))
        with pytest.raises(OSError, match="broken"):
            remove(work)


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise error

    return fail
