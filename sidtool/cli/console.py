"""Terminal output that all commands share: results on stdout, everything else on stderr, errors as
one line with an exit code; and the `--config` file."""

import json
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from sidtool.errors import EXIT_INTERRUPTED, SidtoolError, SidtoolWarning, UsageError

Progress = Callable[[int, int], None]


class Commands(TyperGroup):
    """The command group: an error becomes one line and an exit code, a warning one line."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command. `SIDTOOL_DEBUG=1` shows tracebacks."""
        debug = os.environ.get("SIDTOOL_DEBUG") == "1"
        _silence_libraries()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                warnings.simplefilter("always", SidtoolWarning)
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except SidtoolError as error:
            if debug:
                raise
            note(str(error), label="error:", style="bold red")
            if error.hint:
                note(error.hint, label="hint:", style="bold")
            raise typer.Exit(error.exit_code) from None
        except typer.BadParameter as error:
            # Typer would print a box with the command's usage
            message = " ".join(error.format_message().split())
            note(message.replace("Value error, ", ""), label="error:", style="bold red")
            raise typer.Exit(UsageError.exit_code) from None
        except KeyboardInterrupt:
            note("interrupted")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except (OSError, MemoryError, UnicodeError) as error:
            if debug or isinstance(error, BrokenPipeError):
                raise
            note(str(error) or type(error).__name__, label="error:", style="bold red")
            raise typer.Exit(SidtoolError.exit_code) from None


def note(text: str, *, label: str = "", style: str = "") -> None:
    """A line on stderr, after a styled label. Square brackets in the text are no markup."""
    line = Text.assemble((label, style), " " if label else "", text)
    Console(stderr=True, soft_wrap=True, highlight=False).print(line)


def next_step(command: str) -> None:
    """The last line on stderr: the next command, with the user's own paths."""
    note(command, label="next:", style="dim")


def say(*lines: object) -> None:
    """Result lines on stdout."""
    for line in lines:
        typer.echo(line)


def say_json(value: object, *, to: IO[str] | None = None) -> None:
    """One JSON value on one line of stdout, or of a file."""
    typer.echo(json.dumps(value, ensure_ascii=False, allow_nan=False), file=to)


def say_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str | None = None,
    aside: bool = False,
) -> None:
    """A table on stdout, or on stderr (`aside`) when stdout has JSON; columns of numbers are
    aligned to the right."""
    table = Table(
        title=None if title is None else Text(title),  # Text: brackets are not markup
        title_justify="left",
        header_style="bold",
        box=None,
        pad_edge=False,
    )
    for index, column in enumerate(columns):
        cells = [row[index] for row in rows]
        numeric = bool(cells) and all(isinstance(c, int | float) or c == "-" for c in cells)
        table.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_spell_cell(cell)) for cell in row))
    console = Console(highlight=False, stderr=aside)
    if not console.is_terminal:
        console.width = 160
    console.print(table)


def _spell_cell(cell: object) -> str:
    return f"{cell:.4f}" if isinstance(cell, float) else str(cell)


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
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        tasks = {
            stage: bars.add_task(stage, total=None, start=False, visible=False) for stage in stages
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
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise UsageError(f"{path} must have a mapping of options, not {type(values).__name__}")
    options = _options_by_key(ctx)
    defaults = {str(key).replace("-", "_"): value for key, value in values.items()}
    for key in defaults.keys() - options.keys():
        raise UsageError(
            f"{path}: {ctx.info_name} has no option {key!r}",
            hint=f"it has {', '.join(sorted(options))}",
        )
    settings = {
        options[key].name: _as_command_line(options[key], value) for key, value in defaults.items()
    }
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


def _as_command_line(parameter: Any, value: Any) -> Any:
    """A YAML value as the command line spells it: a mapping is a list of `key=value`."""
    if isinstance(value, dict):
        return [
            f"{key}={item if isinstance(item, str) else json.dumps(item)}"
            for key, item in value.items()
        ]
    repeatable = getattr(parameter, "multiple", False)
    if repeatable and value is not None and not isinstance(value, list):
        value = [value]
    return [str(item) for item in value] if isinstance(value, list) else value


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    note(str(message), label="warning:", style="yellow")


def _silence_libraries() -> None:
    """Turn off other libraries' progress bars and advice, unless the user set the variables."""
    for name, value in {
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    }.items():
        os.environ.setdefault(name, value)
