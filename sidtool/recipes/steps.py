"""Runs sidtool commands as steps that resume.

A step is done if its output exists and the same command made it from the same inputs.
`FOLDER/steps` has a record of each step: what made the output, the output's digest, the seconds
that it took and its warnings. The record is written before the work, so an output that exists
beside the record of its command is whole: commands write outputs whole or not at all."""

import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from sidtool import __version__
from sidtool.base.digests import file_digest
from sidtool.base.documents import parse_json
from sidtool.base.errors import SidtoolError
from sidtool.base.inputs import check_read_files
from sidtool.base.options import variable_name
from sidtool.base.output import remove, write_whole
from sidtool.base.output_lock import hold_lock
from sidtool.data.tables import table_files

SIDTOOL = (sys.executable, "-m", "sidtool")
RECORDS = "steps"
"""The folder of the records."""


class Ran(NamedTuple):
    """How a command ended."""

    code: int
    """Its exit code."""
    warnings: Sequence[str] = ()


RunCommand = Callable[[list[str], TextIO], Ran]
"""Runs the arguments of a sidtool command with this standard output."""


class StepError(SidtoolError):
    """A step that failed, or an output that something else made; with the command's exit code."""

    def __init__(self, message: str, code: int = SidtoolError.exit_code) -> None:
        super().__init__(message)
        self.exit_code = code


@dataclass(frozen=True)
class Step:
    """One sidtool command and its output."""

    name: str
    command: tuple[object, ...]
    """Its words; a `Path` is the output or an input, whose content decides whether the step is
    done. One that stands behind other characters, as in NAME=PATH, is a tuple with them."""
    output: Path
    saves_stdout: bool = False
    """Whether the output is what the command prints."""
    unrecorded: tuple[str, ...] = ()
    """Further words, which neither its record nor a script has: limits of time, say."""

    @property
    def words(self) -> list[object]:
        """The words, each part of a tuple by itself."""
        parts = (word if isinstance(word, tuple) else (word,) for word in self.command)
        return list(chain.from_iterable(parts))

    @property
    def arguments(self) -> list[str]:
        """The words as a command line has them."""
        return [
            "".join(map(str, word)) if isinstance(word, tuple) else str(word)
            for word in self.command
        ]

    @property
    def variables(self) -> list[str]:
        """NAME=VALUE of each variable that may stand for an option of the command and change its
        output. A file that one names counts by its path."""
        command = str(self.command[0])
        prefix = variable_name(command, "")
        verbosity = {variable_name(command, flag) for flag in ("--quiet", "--verbose")}
        return sorted(
            f"{name}={value}"
            for name, value in os.environ.items()
            if value and name.startswith(prefix) and name not in verbosity
        )


def run_process(arguments: list[str], stdout: TextIO) -> Ran:
    """Run one command in its own process."""
    target: TextIO | None = stdout
    try:
        stdout.fileno()
    except OSError:  # a notebook captures the cell: its errors go where those of this process go
        target = sys.__stderr__
    return Ran(subprocess.run([*SIDTOOL, *arguments], stdout=target, check=False).returncode)


@dataclass
class Steps:
    """The steps of one folder."""

    folder: Path
    run_command: RunCommand | None = None
    """By default each command runs in its own process."""
    replaces: bool = False
    """Whether an output that another command or other inputs made is made again; else it is an
    error."""
    log: Callable[[str], None] = lambda name: None
    """Called with the name of an output before its command runs."""
    clock: Callable[[], float] = time.monotonic
    _digests: dict[Path, str] = field(default_factory=dict)
    _records: dict[Path, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder = self.folder.resolve()

    def run(self, output: Path, *command: object, saves_stdout: bool = False) -> Path:
        """As `do`, without a name."""
        return self.do(Step(str(command[0]), command, output, saves_stdout))

    def do(self, step: Step) -> Path:
        """Run the command of a step unless it is done, and return its output. Runs beside each
        other in one folder share a step: one does it, and the others wait.

        Raises StepError if the command fails, or without `replaces` if something else made the
        output; UsageError if replacing the output would remove an input."""
        output = step.output.resolve()
        file = self.folder / RECORDS / f"{output.relative_to(self.folder)}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        with hold_lock(file, waits=True):
            self._do(step, output, file)
        return step.output

    def _do(self, step: Step, output: Path, file: Path) -> None:
        """As `do`, with the file of the step's record."""
        made = self.fingerprint(step)
        record = dict(parse_json(file.read_bytes())) if file.exists() else {}
        is_current = record.get("made") == made
        if is_current and "output" in record:
            is_current = record["output"] == content_digest(output)
        elif self.replaces:  # killed behind the command, whose warnings are lost
            is_current = False
        if output.exists() and not is_current:
            if not self.replaces:
                raise StepError(_difference(step.output, record.get("made"), made))
            inputs = [word for word in step.words if isinstance(word, Path)]
            others = [path for path in inputs if path.resolve() != output]
            check_read_files(step.output, {"inputs": others})
            remove(output)
            record = {}
        if not output.exists():
            before = record.get("seconds", []) if record.get("made") == made else []
            self.log(str(output.relative_to(self.folder)))
            record = {"made": made, "seconds": before, "warnings": []}
            self._execute(step, output, file, record)
        if "output" not in record:
            record["output"] = content_digest(output)
            _write_record(file, record)
        self._digests[output] = record["output"]
        self._records[output] = record

    def seconds(self, *prefixes: str) -> float:
        """Wall-clock seconds of the steps whose outputs start with one of the prefixes; of all
        without prefixes. Time that a `kill -9` interrupted is not counted."""
        return sum(
            sum(record["seconds"])
            for output, record in self._records.items()
            if output.relative_to(self.folder).as_posix().startswith(prefixes or "")
        )

    @property
    def warnings(self) -> list[str]:
        """What the commands warned of, each text once, also of steps that were done before."""
        texts = (text for record in self._records.values() for text in record.get("warnings", ()))
        return list(dict.fromkeys(texts))

    def _execute(self, step: Step, output: Path, file: Path, record: dict[str, Any]) -> None:
        """Run a command between two writings of its record, the second with its seconds, also if
        it fails."""
        output.parent.mkdir(parents=True, exist_ok=True)
        _write_record(file, record)
        started = self.clock()
        run_command = self.run_command or run_process
        partial = output.with_name(f"{output.name}.partial")
        # what other steps print goes to stderr: only the result of all belongs on stdout
        saved = (
            partial.open("w", encoding="utf-8") if step.saves_stdout else nullcontext(sys.stderr)
        )
        try:
            with saved as stream:
                ran = run_command([*step.arguments, *step.unrecorded], stream)
            record["warnings"] = list(ran.warnings)
        finally:
            record["seconds"] = [*record["seconds"], round(self.clock() - started, 1)]
            _write_record(file, record)
        if ran.code != 0:
            command = " ".join(step.arguments)
            raise StepError(f"sidtool {command} ended with exit code {ran.code}", ran.code)
        if step.saves_stdout:
            partial.replace(output)

    def fingerprint(self, step: Step) -> list[Any]:
        """The command of a step as JSON, with the digest of every input, sidtool's version and the
        variables that stand for options."""
        output = step.output.resolve()
        parts: list[Any] = [f"sidtool {__version__}", *step.variables]
        for word in step.words:
            if not isinstance(word, Path):
                parts.append(str(word))
                continue
            path = word.resolve()
            if path == output:
                parts.append("OUTPUT")
                continue
            inside = path.is_relative_to(self.folder)
            name = path.relative_to(self.folder).as_posix() if inside else path.name
            digest = self._digests.get(path) or _input_digest(word)
            parts.append({"path": name, "digest": digest})
        return parts


def content_digest(path: Path) -> str:
    """SHA-256 of a file, or of the names and contents of the files in a folder; "" if there is
    neither."""
    if path.is_file():
        return file_digest(path)
    state = hashlib.sha256()
    files = sorted(file for file in path.rglob("*") if file.is_file())
    for file in files:
        state.update(f"{file.relative_to(path).as_posix()}\0{file_digest(file)}\n".encode())
    return state.hexdigest() if files else ""


def _input_digest(path: Path) -> str:
    """As `content_digest`; the versions of files at a URL, the digests of those of a pattern."""
    if path.exists():
        return content_digest(path)
    table = table_files(path)
    return " ".join(table.versions or map(content_digest, table.files))


def _write_record(path: Path, record: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps(record, indent=1) + "\n")


def _difference(output: Path, recorded: list[Any] | None, made: list[Any]) -> str:
    if recorded is None:
        return f"{output} exists, but no step made it: remove it or use another folder"
    if recorded == made:
        return f"{output} was changed since it was made: remove it or use another folder"
    before = [part for part in recorded if part not in made]
    now = [part for part in made if part not in recorded]
    return (
        f"{output} was made with {before}, but this run has {now}: "
        "remove it or use another work folder"
    )


HEAD = """#!/usr/bin/env bash
# {title}
# Run it in the folder where `sidtool fit` ran, by which its paths are relative.
set -euo pipefail
"""


def shell_script(steps: Sequence[Step], title: str) -> str:
    """The script; a step whose command does not replace its output has it removed first."""
    lines = [HEAD.format(title=title)]
    made: set[Path] = set()
    for step in steps:
        lines.append(f"# {step.name}")
        output, folder = shlex.quote(str(step.output)), step.output.parent
        if folder not in made:
            lines.append(f"mkdir -p {shlex.quote(str(folder))}")
            made.add(folder)
        command = shlex.join(["sidtool", *step.arguments])
        if step.variables:
            command = f"{shlex.join(['env', *step.variables])} {command}"
        if step.saves_stdout:
            lines += [f"{command} > {output}.partial", f"mv {output}.partial {output}"]
        else:
            lines += [] if "--force" in step.arguments else [f"rm -rf {output}"]
            lines.append(command)
    return "\n".join(lines) + "\n"
