"""Terminal output that all commands share: results on stdout, everything else on stderr, errors as
one line with an exit code.

Text from data (ids, titles, file names, messages of libraries) is literal: square brackets are not
markup, and characters that steer a terminal are shown as escapes. JSON keeps its exact values."""

import json
import os
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, TextIO

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from sidtool.base.errors import EXIT_INTERRUPTED, SidtoolError, SidtoolWarning, UsageError
from sidtool.base.extras import missing_package
from sidtool.base.visible import STEERING, visible

QUIET, NORMAL, VERBOSE = range(3)
"""How much is printed on stderr."""
_verbosity = NORMAL
_warnings: dict[str, bool] = {}
"""Warnings that are printed below the results, and whether they were printed before, too."""
LONGEST_MESSAGE = 1 << 12
"""Characters of an error, which may quote a value of a file of any size."""
MOST_DIGITS = 20
"""Characters of the longest number that a table keeps in one line."""
_step_warnings: list[str] | None = None
"""The warnings of a command that runs as a step of another one; None outside of one."""
_all_step_warnings: set[str] = set()
"""The warnings of all steps of the command, each of which is printed once."""
_TyperUsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""The base of the errors that Typer raises for the words of a command line; it exports the one
below it only."""


class Commands(TyperGroup):
    """The command group: an error becomes one line and an exit code, a warning one line."""

    def __init__(self, *words: Any, **settings: Any) -> None:
        super().__init__(*words, **settings)
        self.help = joined_lines(self.help)

    def get_params(self, ctx: Any) -> Any:
        """The options before a command's name, among them those that Typer adds."""
        parameters: list[Any] = super().get_params(ctx)
        for parameter in parameters:
            # SIDTOOL_INSTALL_COMPLETION or SIDTOOL_VERSION must not stop every command
            parameter.allow_from_autoenv = False
        return parameters

    def make_context(self, info_name: Any, args: list[str], *positional: Any, **extra: Any) -> Any:
        """Parse what stands before the command's name; without any word, Typer prints the help."""
        with one_line_errors() if args else nullcontext():
            return super().make_context(info_name, args, *positional, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run a command. `SIDTOOL_DEBUG=1` shows tracebacks."""
        with one_line_errors(), warnings.catch_warnings():
            set_verbosity(quiet=False, verbose=False)
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", SidtoolWarning)
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            finally:
                _print_warnings()


def joined_lines(text: str | None) -> str:
    """A text without the line breaks within its paragraphs, which rich would print."""
    return "\n\n".join(" ".join(part.split()) for part in (text or "").split("\n\n"))


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
        usage: Any = error
        is_value = isinstance(error, typer.BadParameter) or usage.ctx is None
        # the libraries that check values write several lines
        message = " ".join(usage.format_message().split()).replace("Value error, ", "")
        if problems := getattr(error.__cause__, "errors", None):
            message = message.replace("Input", f"{problems()[0]['input']!r:.80}", 1)
        # the help lists what exists; a bad value's message says itself what is right
        _print_error(message, None if is_value else f"{usage.ctx.command_path} --help")
        raise typer.Exit(UsageError.exit_code) from None
    except (SidtoolError, OSError, MemoryError, UnicodeError, ImportError, RuntimeError) as error:
        # TRL raises a RuntimeError for a package that it cannot import
        is_other = isinstance(error, ImportError | RuntimeError)
        expected = missing_package(error) if is_other else error
        if expected is None or os.environ.get("SIDTOOL_DEBUG") == "1":
            raise
        hint = getattr(expected, "shell_hint", None)
        _print_error(str(expected) or type(expected).__name__, hint)
        raise typer.Exit(getattr(expected, "exit_code", SidtoolError.exit_code)) from None


def _print_error(message: str, hint: str | None) -> None:
    if len(message) > LONGEST_MESSAGE:
        message = f"{message[:LONGEST_MESSAGE]}…"
    _print_line(message, "error:", "bold red")
    if hint:
        _print_line(hint, "hint:", "bold")


def set_verbosity(*, quiet: bool, verbose: bool) -> None:
    """What stderr has from now on: `quiet` leaves results, warnings and errors; `verbose` adds
    details and the messages of libraries. Raises UsageError for both."""
    global _verbosity
    if quiet and verbose:
        raise UsageError("give either -q or -v")
    if _step_warnings is not None:
        return
    _all_step_warnings.clear()
    _verbosity = QUIET if quiet else VERBOSE if verbose else NORMAL
    if verbose:
        warnings.simplefilter("default")
        return
    # the progress bars and the advice of other libraries, unless the user set the variables
    for name, value in {
        "TOKENIZERS_PARALLELISM": "false",
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    }.items():
        os.environ.setdefault(name, value)


def is_verbose() -> bool:
    """Whether details are printed."""
    return _verbosity == VERBOSE


def is_quiet() -> bool:
    """Whether only results, warnings and errors are printed."""
    return _verbosity == QUIET


def detail(text: str) -> None:
    """A line on stderr with -v only."""
    if is_verbose():
        note(text, style="dim")


def note(text: str, *, label: str = "", style: str = "") -> None:
    """A line on stderr, after a styled label; nothing with -q, unless it is an error or a
    warning."""
    if _verbosity > QUIET:
        _print_line(text, label, style)


def _print_line(text: str, label: str, style: str) -> None:
    line = Text.assemble((label, style), " " if label else "", visible(text))
    Console(stderr=True, soft_wrap=True, highlight=False).print(line)


def warn(text: str, *, label: str = "warning:", style: str = "yellow") -> None:
    """A warning on stderr, with -q too."""
    if _step_warnings is not None:
        _step_warnings.append(text)
        if text in _all_step_warnings:
            return
        _all_step_warnings.add(text)
    _print_line(text, label, style)


def next_step(command: str, **words: object) -> None:
    """The last line on stderr: the next command, in which `words` (the user's own paths) are put
    for {their names}, quoted for a shell."""
    _print_warnings()
    if _step_warnings is not None:
        return
    if words:
        quoted = {name: shlex.quote(str(word)) for name, word in words.items()}
        command = command.format(**quoted)
    note(command, label="next:", style="dim")


@contextmanager
def as_step() -> Iterator[list[str]]:
    """Commands in the block are steps of another one: as loud as that one, and without a next
    command. Yields the list of their warnings, which grows."""
    global _step_warnings
    _step_warnings = []
    try:
        yield _step_warnings
    finally:
        _step_warnings = None


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
    typer.echo(STEERING.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


def say_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    title: str | None = None,
    aside: bool = False,
) -> None:
    """A table on stdout, or on stderr (`aside`, and not with -q) when stdout has JSON; columns of
    numbers are aligned to the right, and - stands for None."""
    if aside and _verbosity == QUIET:
        return
    console = Console(highlight=False, stderr=aside)
    if not console.is_terminal:
        console.width = 160
    table = Table(header_style="bold", box=None, pad_edge=False)
    spelled = []
    width = 0
    for index, column in enumerate(columns):
        cells = ["-" if row[index] is None else row[index] for row in rows]
        floats = [cell for cell in cells if isinstance(cell, float)]
        largest = max(map(abs, floats), default=0.0)
        decimals = 4 if largest < 10 else 2 if largest < 1000 else 0  # of all in the column
        texts = [
            f"{cell:.{decimals}f}" if isinstance(cell, float) else visible(str(cell))
            for cell in cells
        ]
        spelled.append(map(Text, texts))
        numeric = all(isinstance(cell, int | float) or cell == "-" for cell in cells)
        # a number in two lines would be two numbers; its column's name may have several
        words = texts if numeric else filter(_is_number, " ".join(texts).split())
        min_width = max(map(len, words), default=1)
        width += min_width + 2
        table.add_column(
            Text(visible(column)),
            justify="right" if cells and numeric else "left",
            overflow="fold",
            min_width=min_width,
        )
    console.width = max(console.width, width)  # a narrower terminal breaks the lines itself
    for row_texts in zip(*spelled, strict=True):
        table.add_row(*row_texts)
    if title is not None:
        console.print(Text(visible(title), style="italic"), soft_wrap=True)
    console.print(table, crop=False)


def _is_number(word: str) -> bool:
    """Whether a word of a cell is a number, an interval like 0.72-0.94, a share, or ends with one,
    as an id and the name of a metric may."""
    return word.removesuffix("%")[-1:].isdigit() and len(word) <= MOST_DIGITS


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Hold a warning back until the results are printed."""
    _warnings.setdefault(str(message), False)


def warn_early() -> None:
    """Print the warnings that are new, too, long before the results of a command."""
    for text in [text for text, is_printed in _warnings.items() if not is_printed]:
        _print_line(text, "warning:", "yellow")
        _warnings[text] = True


def _print_warnings() -> None:
    """Print all warnings below the results, and forget them."""
    for text in _warnings:
        warn(text)
    _warnings.clear()


def standard_input() -> TextIO:
    """Standard input. Raises UsageError if it is closed."""
    if sys.stdin is None:
        raise UsageError("standard input is closed")
    return sys.stdin
