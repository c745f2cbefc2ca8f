"""Terminal output that all commands share: results on stdout, everything else on stderr, errors as
one line with an exit code; and the `--config` file.

Text from data (ids, titles, file names, messages of libraries) is literal: square brackets are not
markup, and characters that steer a terminal are shown as escapes. JSON keeps its exact values."""

import json
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from sidtool.documents import parse_yaml
from sidtool.errors import EXIT_INTERRUPTED, SidtoolError, SidtoolWarning, UsageError
from sidtool.extras import missing_package

Progress = Callable[[int, int], None]


_TyperUsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""The base of the errors that Typer raises for the words of a command line; it exports the one
below it only."""

_STEERING = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff]"
)
"""Control characters, line separators, changes of the direction of writing, and lone surrogates."""


def visible(text: str) -> str:
    """The text with an escape such as `\\x1b` in place of each character that would steer a
    terminal, break the line or not encode."""
    return _STEERING.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


class Commands(TyperGroup):
    """The command group: an error becomes one line and an exit code, a warning one line."""

    def make_context(self, info_name: Any, args: list[str], *rest: Any, **extra: Any) -> Any:
        """Parse what stands before the command's name; without any word, Typer prints the help."""
        with one_line_errors() if args else nullcontext():
            return super().make_context(info_name, args, *rest, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run a command. `SIDTOOL_DEBUG=1` shows tracebacks."""
        _silence_libraries()
        with one_line_errors(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", SidtoolWarning)
            warnings.showwarning = _show_warning
            return super().invoke(ctx)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print an expected error as one line, and its hint, and exit with its code."""
    try:
        yield
    except KeyboardInterrupt:
        note("interrupted")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    except BrokenPipeError:
        raise
    except _TyperUsageError as error:
        # Typer would print a box with the command's usage
        _print_error(_usage_message(error), _usage_hint(error))
        raise typer.Exit(UsageError.exit_code) from None
    except (SidtoolError, OSError, MemoryError, UnicodeError, ImportError) as error:
        expected = missing_package(error) if isinstance(error, ImportError) else error
        if expected is None or os.environ.get("SIDTOOL_DEBUG") == "1":
            raise
        _print_error(str(expected) or type(expected).__name__, getattr(expected, "hint", None))
        raise typer.Exit(getattr(expected, "exit_code", SidtoolError.exit_code)) from None


def _usage_message(error: Any) -> str:
    # the libraries that check values write several lines
    return " ".join(error.format_message().split()).replace("Value error, ", "")


def _usage_hint(error: Any) -> str | None:
    """The help that lists what exists; a bad value's message says itself what is right."""
    if isinstance(error, typer.BadParameter) or error.ctx is None:
        return None
    return f"{error.ctx.command_path} --help"


def _print_error(message: str, hint: str | None) -> None:
    note(message, label="error:", style="bold red")
    if hint:
        note(hint, label="hint:", style="bold")


def note(text: str, *, label: str = "", style: str = "") -> None:
    """A line on stderr, after a styled label."""
    line = Text.assemble((label, style), " " if label else "", visible(text))
    Console(stderr=True, soft_wrap=True, highlight=False).print(line)


def warn(text: str) -> None:
    """A warning on stderr."""
    note(text, label="warning:", style="yellow")


def next_step(command: str) -> None:
    """The last line on stderr: the next command, with the user's own paths."""
    note(command, label="next:", style="dim")


def say(*lines: object) -> None:
    """Result lines on stdout."""
    for line in lines:
        typer.echo(visible(str(line)))


def say_cells(*cells: str) -> None:
    """A result line of cells that are separated by tabs."""
    typer.echo("\t".join(map(visible, cells)))


def say_json(value: object) -> None:
    """One JSON value on one line of stdout; parsed, it is the value exactly."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    # within strings, where JSON has an escape for each of these
    typer.echo(_STEERING.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def say_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str | None = None,
    aside: bool = False,
) -> None:
    """A table on stdout, or on stderr (`aside`) when stdout has JSON; columns of numbers are
    aligned to the right."""
    table = Table(header_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        cells = [row[index] for row in rows]
        numeric = bool(cells) and all(isinstance(c, int | float) or c == "-" for c in cells)
        table.add_column(
            Text(visible(column)), justify="right" if numeric else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(_spell_cell(cell)) for cell in row))
    console = Console(highlight=False, stderr=aside)
    if not console.is_terminal:
        console.width = 160
    if title is not None:
        console.print(Text(visible(title), style="italic"), soft_wrap=True)
    console.print(table)


def _spell_cell(cell: object) -> str:
    return f"{cell:.4f}" if isinstance(cell, float) else visible(str(cell))


@contextmanager
def progress(*stages: str) -> Iterator[Mapping[str, Progress]]:
    """A progress bar per stage on a terminal, and nothing elsewhere: stage -> report(done,
    total)."""
    if not sys.stderr.isatty():
        yield {}
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks = {
            stage: bars.add_task(visible(stage), total=None, start=False, visible=False)
            for stage in stages
        }

        def reporter(stage: str) -> Progress:
            def report(done: int, total: int) -> None:
                bars.start_task(tasks[stage])
                bars.update(tasks[stage], completed=done, total=total, visible=True)

            return report

        yield {stage: reporter(stage) for stage in stages}


def read_config(ctx: typer.Context, path: Path | None) -> Path | None:
    """Callback of `--config FILE.yaml`: its keys are defaults of this command's options. An unknown
    key is an error."""
    if path is None:
        return None
    try:
        values = parse_yaml(path.read_text(encoding="utf-8-sig")) or {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} must have a mapping of options, not {type(values).__name__}")
    options = _options_by_key(ctx)
    settings = {}
    for spelled, value in values.items():
        key = str(spelled).replace("-", "_")
        if key not in options:
            raise UsageError(
                f"{path}: {ctx.info_name} has no option {key!r}",
                hint=f"it has {', '.join(sorted(options))}",
            )
        if options[key].name in settings:
            raise UsageError(f"{path}: the option {key!r} occurs twice")
        settings[options[key].name] = _as_command_line(path, options[key], value)
    ctx.default_map = {**(ctx.default_map or {}), **settings}
    return path


def _options_by_key(ctx: typer.Context) -> dict[str, Any]:
    """The parameters of a command by their key in a file: the long flag without dashes."""
    options = {}
    for parameter in ctx.command.params:
        flags = (name for name in parameter.opts if name.startswith("--"))
        flag = next(flags, parameter.name or "")
        options[flag.lstrip("-").replace("-", "_")] = parameter
    return options


def _as_command_line(path: Path, parameter: Any, value: Any) -> Any:
    """A YAML value as the command line spells it: a mapping is a list of `key=value`."""
    repeatable = getattr(parameter, "multiple", False) or parameter.nargs != 1
    if isinstance(value, list | dict) and not repeatable:
        raise UsageError(
            f"{path}: {parameter.opts[0]} takes one value, not a {type(value).__name__}"
        )
    if isinstance(value, dict):
        return [
            f"{key}={item if isinstance(item, str) else json.dumps(item, default=str)}"
            for key, item in value.items()
        ]
    if repeatable and value is not None and not isinstance(value, list):
        value = [value]
    return [str(item) for item in value] if isinstance(value, list) else value


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    warn(str(message))


def _silence_libraries() -> None:
    """Turn off other libraries' progress bars and advice, unless the user set the variables."""
    for name, value in {
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    }.items():
        os.environ.setdefault(name, value)
