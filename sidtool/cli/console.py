"""What every command shares on the terminal: results to stdout, all else to stderr, errors as one
line.

Knows rich and exit codes; knows nothing of what a command does.
"""

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
from typer.core import TyperGroup

from sidtool.errors import EXIT_INTERRUPTED, SidtoolError, SidtoolWarning, UsageError

Progress = Callable[[int, int], None]


class Commands(TyperGroup):
    """The command group: turns errors into one line and an exit code, and warnings into one line
    each."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command. `SIDTOOL_DEBUG=1` shows tracebacks."""
        debug = os.environ.get("SIDTOOL_DEBUG") == "1"
        _quiet_libraries()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                warnings.simplefilter("always", SidtoolWarning)
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except SidtoolError as error:
            if debug:
                raise
            note(f"[bold red]error:[/] {_plain(str(error))}")
            if error.hint:
                note(f"[bold]hint:[/] {_plain(error.hint)}")
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            note("interrupted")
            raise typer.Exit(EXIT_INTERRUPTED) from None
        except (OSError, MemoryError, UnicodeError) as error:
            if debug or isinstance(error, BrokenPipeError):
                raise
            note(f"[bold red]error:[/] {_plain(str(error) or type(error).__name__)}")
            raise typer.Exit(SidtoolError.exit_code) from None


def note(text: str) -> None:
    """A line for people, on stderr."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(text)


def say(*lines: object) -> None:
    """Result lines on stdout, as they are."""
    for line in lines:
        typer.echo(line)


def say_json(value: object, *, to: IO[str] | None = None) -> None:
    """One JSON value on one line of stdout, or of a file."""
    typer.echo(json.dumps(value, ensure_ascii=False, allow_nan=False), file=to)


def say_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None
) -> None:
    """A table on stdout; numbers stand on the right."""
    _print_table(columns, rows, title, stderr=False)


def say_table_aside(
    columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None
) -> None:
    """A table on stderr, beside the JSON on stdout."""
    _print_table(columns, rows, title, stderr=True)


def _print_table(
    columns: Sequence[str], rows: Sequence[Sequence[object]], title: str | None, *, stderr: bool
) -> None:
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for index, column in enumerate(columns):
        numeric = all(isinstance(row[index], int | float) or row[index] == "-" for row in rows)
        table.add_column(column, justify="right" if numeric and rows else "left", overflow="fold")
    for row in rows:
        table.add_row(
            *(_plain(f"{cell:.4f}" if isinstance(cell, float) else str(cell)) for cell in row)
        )
    console = Console(highlight=False, stderr=stderr)
    if not console.is_terminal:
        console = Console(highlight=False, stderr=stderr, width=160)
    console.print(table)


def next_step(command: str) -> None:
    """The last line on stderr: what to run next, with the user's own paths."""
    note(f"[dim]next:[/] {_plain(command)}")


@contextmanager
def progress(*stages: str) -> Iterator[Mapping[str, Progress]]:
    """A bar for each stage on a terminal, and nothing elsewhere. Gives stage -> report(done,
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
        raise UsageError(f"{path} must hold a mapping of options, not {type(values).__name__}")
    known = _names(ctx)
    defaults = {str(key).replace("-", "_"): value for key, value in values.items()}
    for key in defaults.keys() - known.keys():
        raise UsageError(
            f"{path}: {ctx.info_name} has no option {key!r}",
            hint=f"it has {', '.join(sorted(known))}",
        )
    ctx.default_map = {
        **(ctx.default_map or {}),
        **{known[key].name: _as_option(known[key], value) for key, value in defaults.items()},
    }
    return path


def _names(ctx: typer.Context) -> dict[str, Any]:
    """What a file calls the options of a command, which is what their flags say -> the options."""
    names = {}
    for parameter in ctx.command.params:
        flag = next(
            (name for name in parameter.opts if name.startswith("--")), parameter.name or ""
        )
        names[flag.lstrip("-").replace("-", "_")] = parameter
    return names


def _as_option(parameter: Any, value: Any) -> Any:
    """A YAML value as the command line would give it: a mapping is a list of `key=value`, one of
    many a list of one."""
    if isinstance(value, dict):
        return [
            f"{key}={json.dumps(item) if not isinstance(item, str) else item}"
            for key, item in value.items()
        ]
    if getattr(parameter, "multiple", False) and value is not None and not isinstance(value, list):
        value = [value]
    return [str(item) for item in value] if isinstance(value, list) else value


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    note(f"[yellow]warning:[/] {_plain(str(message))}")


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


def _quiet_libraries() -> None:
    """Libraries print progress and advice of their own; the terminal is ours. Each variable can be
    set otherwise."""
    for name, value in {
        "TOKENIZERS_PARALLELIZM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    }.items():
        os.environ.setdefault(name, value)
