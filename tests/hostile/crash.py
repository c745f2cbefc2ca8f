"""Runs commands in forked processes that die, or whose disk is full, at one event of the file
system.

Events are what Python does to files in one folder: open for writing, each write, fsync, rename,
unlink, mkdir, rmdir, truncate. A fork costs milliseconds, because the parent has imported
everything.
"""

import builtins
import datetime
import errno
import gc
import importlib
import io
import json
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

from tests.cli.road import run
from tests.waiting import DEADLOCK

KILLED = 137
"""Exit status of a process that was killed at its event."""

Fault = Literal["none", "kill", "full", "read-only", "pause"]
GROWING = ("open", "write", "mkdir", "fsync", "pwrite")
"""Events that fail on a full disk."""
CREATING = ("open", "mkdir")
"""Events that fail in a folder without permission."""


@dataclass(frozen=True)
class Ended:
    """How a command in a forked process ended."""

    code: int
    """exit code; KILLED if it died at its event"""
    err: str = ""
    events: int = 0
    growing: int = 0
    """events that fail on a full disk"""
    creating: int = 0
    """events that fail in a folder without permission"""

    @property
    def error(self) -> str:
        """The line of the error, and the one of the hint."""
        lines = self.err.splitlines()
        return "\n".join(line for line in lines if line.startswith(("error: ", "hint: ")))


@dataclass(frozen=True)
class Forked:
    """A command in a forked process."""

    pid: int
    result: int
    """where it writes how it ended"""
    paused: int
    """where it writes that it has paused, if that is its fault"""
    resume: int
    """where it reads that it may go on"""

    def wait_for_pause(self) -> bool:
        """Wait until the command pauses; False if it ended without a pause."""
        return bool(os.read(self.paused, 1))

    def wait(self) -> Ended:
        """Let the command go on, and wait for its end."""
        with suppress(BrokenPipeError):
            os.write(self.resume, b"1")
        with os.fdopen(self.result, "rb") as stream:
            if not select.select([stream], [], [], DEADLOCK)[0]:
                os.kill(self.pid, signal.SIGKILL)
                raise AssertionError("the command hangs")
            text = stream.read()
        os.waitpid(self.pid, 0)
        os.close(self.paused)
        os.close(self.resume)
        return Ended(*json.loads(text)) if text else Ended(KILLED)


def run_forked(
    arguments: tuple[object, ...], folder: Path, fault: Fault = "none", at: int = 0
) -> Ended:
    """Run a command that writes in `folder`, with a fault from its event number `at` on, from
    1."""
    return start_forked(arguments, folder, fault, at).wait()


def make_forked(make: Callable[[Path], None], folder: Path) -> None:
    """Call a function in a forked process, and import here what it imported.

    Its threads end with it: a process with threads that work must not fork."""
    result, write_result = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            make(folder)
            os.write(write_result, json.dumps(sorted(sys.modules)).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    os.close(write_result)
    with os.fdopen(result, "rb") as stream:
        text = stream.read()
    os.waitpid(child, 0)
    assert text, "the inputs cannot be made"
    for name in json.loads(text):
        with suppress(Exception):
            importlib.import_module(name)


def dies_at(at: int, folder: Path, work: Callable[[], object]) -> bool:
    """Call a function in a forked process that dies at its event number `at` in a folder, from 1;
    whether it died, and did not finish before."""
    child = os.fork()
    if child == 0:
        try:
            Faults(folder, "kill", at).install()
            work()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) == KILLED


def start_forked(
    arguments: tuple[object, ...], folder: Path, fault: Fault = "none", at: int = 0
) -> Forked:
    """Start a command as `run_forked` runs it."""
    result, write_result = os.pipe()
    paused, write_paused = os.pipe()
    read_resume, resume = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            for descriptor in (result, paused, resume):
                os.close(descriptor)
            gc.disable()  # a collection would copy the parent's memory
            faults = Faults(folder, fault, at, write_paused, read_resume)
            ended = _in_child(arguments, faults)
            os.write(write_result, json.dumps(ended).encode()[: 1 << 15])
        finally:
            os._exit(0)
    for descriptor in (write_result, write_paused, read_resume):
        os.close(descriptor)
    return Forked(child, result, paused, resume)


def _in_child(arguments: tuple[object, ...], faults: "Faults") -> tuple[object, ...]:
    _stop_clocks()
    faults.install()
    try:
        ran = run(*arguments)
    except BaseException as error:  # a defect: the command has no handler for it
        return -1, f"Traceback: {error!r}", *faults.counts
    return ran.code, ran.err, *faults.counts


def _stop_clocks() -> None:
    """Make what is written independent of the time, so that outputs are compared by bytes."""
    import sidtool.tokenizer.bundle.manifest as manifest

    then = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    clock = SimpleNamespace(now=lambda zone: then)
    manifest.datetime = SimpleNamespace(datetime=clock, UTC=datetime.UTC)  # type: ignore[assignment]
    time.perf_counter = lambda: 0.0


class Faults:
    """Counts events below a folder and lets one of them, or all from it on, fail."""

    def __init__(
        self, folder: Path, fault: Fault, at: int, paused: int = -1, resume: int = -1
    ) -> None:
        self.folder = str(folder)
        self.fault = fault
        self.at = at
        self.paused = paused
        self.resume = resume
        self.counts = [0, 0, 0]
        """all events, those of growing and those of creating something"""

    def event(self, kind: str, data: bytes = b"", raw: io.FileIO | None = None) -> None:
        """An event is about to happen; `data` is about to be written to `raw`."""
        happens = (True, kind in GROWING, kind in CREATING)
        self.counts = [count + now for count, now in zip(self.counts, happens, strict=True)]
        which = {"full": 1, "read-only": 2}.get(self.fault, 0)
        number = self.counts[which]
        if self.fault == "none" or not happens[which] or number < self.at:
            return
        if self.fault == "pause":
            if number == self.at:
                os.write(self.paused, b"1")
                os.read(self.resume, 1)
            return
        if raw is not None and number == self.at:
            io.FileIO.write(raw, data[: len(data) // 2])
        if self.fault == "kill":
            os._exit(KILLED)
        code = errno.EROFS if self.fault == "read-only" else errno.ENOSPC
        raise OSError(code, os.strerror(code))

    def is_inside(self, path: Any) -> bool:
        """Whether a path is in the folder; one that is relative to an open folder counts, because
        only removing trees has these."""
        try:
            text = os.fsdecode(path)
        except TypeError:
            return False
        return os.path.abspath(text).startswith(self.folder)  # noqa: PTH100

    def install(self) -> None:
        """Replace the functions of this process."""
        for name in ("mkdir", "rename", "replace", "unlink", "remove", "rmdir", "link", "symlink"):
            setattr(os, name, self._on_path(name, getattr(os, name)))
        for name in ("fsync", "ftruncate", "pwrite"):
            setattr(os, name, self._on_descriptor(name, getattr(os, name)))
        plain_open = os.open

        def os_open(path: Any, flags: int, *more: Any, **named: Any) -> int:
            if flags & os.O_CREAT and self.is_inside(path):
                self.event("open")
            return plain_open(path, flags, *more, **named)

        os.open = os_open
        io.open = builtins.open = self._opener(io.open)  # type: ignore[assignment]

    def _on_path(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def replaced(path: Any, *more: Any, **named: Any) -> Any:
            relative = named.get("dir_fd") is not None
            if relative or self.is_inside(path):
                self.event(kind)
            return function(path, *more, **named)

        return replaced

    def _on_descriptor(self, kind: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def replaced(*arguments: Any) -> Any:
            self.event(kind)
            return function(*arguments)

        return replaced

    def _opener(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        faults = self

        class CountedFile(io.FileIO):
            def write(self, data: Any) -> int:
                faults.event("write", bytes(data), self)
                return super().write(data)

        def replaced(
            file: Any,
            mode: str = "r",
            buffering: int = -1,
            encoding: str | None = None,
            errors: str | None = None,
            newline: str | None = None,
            closefd: bool = True,
            opener: Any = None,
        ) -> Any:
            if not set(mode) & set("wax+") or not self.is_inside(file):
                return plain(file, mode, buffering, encoding, errors, newline, closefd, opener)
            self.event("open")
            raw = CountedFile(file, mode.replace("b", "").replace("t", ""), closefd, opener)
            buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            if "b" in mode:
                return buffered
            return io.TextIOWrapper(buffered, encoding, errors, newline)

        return replaced
