"""Run sidtool commands as resumable steps.

A step is skipped when its output exists and the same command with the same inputs made it. When
anything else made it, the step stops with an error."""

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

SIDTOOL = (sys.executable, "-m", "sidtool")


class StepError(Exception):
    """A step that failed, or an output that a different command made."""


class Steps:
    """The steps of one work folder. `WORK/steps` holds a record of each: what made it, and how
    long it took."""

    run_command: Callable[[list[str], TextIO], int]
    """Runs a command's arguments with this standard output; returns the exit code."""

    def __init__(self, work: Path) -> None:
        self.work = work.resolve()
        self.run_command = run_sidtool
        self._made: dict[Path, str] = {}
        self._seconds: dict[Path, float] = {}

    def run(self, output: Path, *command: object, save_stdout: bool = False) -> Path:
        """Run `sidtool COMMAND` unless `output` exists, and return `output`.

        Arguments that are paths must be `Path` objects: the record holds the digests of their
        contents. With `save_stdout`, the command's standard output becomes `output`.
        Raises StepError if the command fails, or if other inputs made the existing output."""
        made = self._describe(output, command)
        record_file = self.work / "steps" / f"{output.relative_to(self.work)}.json"
        record = _read_record(record_file)
        self._made[output] = _digest(made)
        if output.exists():
            _check_same(output, record.get("made"), made)
        else:
            seconds = record["seconds"] if record.get("made") == made else []
            print(f"--- {output.relative_to(self.work)}", file=sys.stderr, flush=True)
            record = {"made": made, "seconds": seconds}
            _timed(record_file, record, lambda: self._execute(output, command, save_stdout))
        self._seconds[output] = sum(record["seconds"])
        return output

    def seconds(self, *prefixes: str) -> float:
        """Wall-clock seconds of the steps whose outputs start with one of the prefixes. Time that
        a `kill -9` interrupted is not counted."""
        total = 0.0
        for output, seconds in self._seconds.items():
            if output.relative_to(self.work).as_posix().startswith(prefixes):
                total += seconds
        return total

    def _execute(self, output: Path, command: tuple[object, ...], save_stdout: bool) -> None:
        output.parent.mkdir(parents=True, exist_ok=True)
        arguments = [str(part) for part in command]
        if save_stdout:
            partial = output.with_name(f"{output.name}.partial")
            with partial.open("w", encoding="utf-8") as stream:
                status = self.run_command(arguments, stream)
        else:
            # what a step prints goes to stderr: only the final table belongs on stdout
            status = self.run_command(arguments, sys.stderr)
        if status != 0:
            raise StepError(f"sidtool {' '.join(arguments)} ended with exit code {status}")
        if save_stdout:
            partial.replace(output)

    def _describe(self, output: Path, command: tuple[object, ...]) -> list[Any]:
        """The command as JSON, with the digest of every input."""
        parts: list[Any] = []
        for part in command:
            if part == output:
                parts.append("OUTPUT")
            elif isinstance(part, Path):
                parts.append(self._describe_path(part))
            else:
                parts.append(str(part))
        return parts

    def _describe_path(self, path: Path) -> dict[str, str]:
        inside = path.resolve().is_relative_to(self.work)
        name = path.resolve().relative_to(self.work).as_posix() if inside else path.name
        if path in self._made:
            return {"path": name, "made_by": self._made[path]}
        if path.is_file():
            return {"path": name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        return {"path": name}


def run_sidtool(arguments: list[str], stdout: TextIO) -> int:
    """Run one command in its own process, and return its exit code."""
    return subprocess.run([*SIDTOOL, *arguments], stdout=stdout, check=False).returncode


def _timed(record_file: Path, record: dict[str, Any], work: Callable[[], None]) -> None:
    """Write the record before the work, and again with its seconds, also when the work fails."""
    _write_record(record_file, record)
    started = time.monotonic()
    try:
        work()
    finally:
        record["seconds"].append(round(time.monotonic() - started, 1))
        _write_record(record_file, record)


def _read_record(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _write_record(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def _check_same(output: Path, recorded: list[Any] | None, made: list[Any]) -> None:
    if recorded == made:
        return
    if recorded is None:
        raise StepError(f"{output} exists, but no step made it: remove it or use another folder")
    before = [part for part in recorded if part not in made]
    now = [part for part in made if part not in recorded]
    raise StepError(
        f"{output} was made with {before}, but this run has {now}: "
        "remove it or use another work folder"
    )


def _digest(made: list[Any]) -> str:
    return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()
