"""Runs sidtool on hostile input and judges what comes back.

A *case* is one hostile input that is given to one command (`run`, then `classify`) or to one
function (`call`). Each case is counted for the family, that is the test module, that tries it.

    @cases(200)
    @given(damage=damages())
    def test_a_damaged_file_is_refused(files: Path, damage: Damage) -> None:
        path = write(files, damage)
        outcome = classify(run("verify", path))
        assert outcome.refused                # results are checked too, not only the manners
        assert call(read_file, path) is None  # None: it raised a SidtoolError
"""

import io
import os
import sys
import unicodedata
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

import typer
from hypothesis import HealthCheck, Phase, Verbosity, settings

from sidtool.base.errors import SidtoolError
from sidtool.cli.main import app
from tests.hostile.limits import (
    IMPORTING,
    MEMORY,
    MEMORY_PER_BYTE,
    SECONDS,
    OutOfTime,
    Usage,
    check_seconds,
    limited,
)
from tests.hostile.summary import counts, family_of

FIXED_CASES = 7_100
"""Cases of all families together in `make test-slow`, measured; `make test` runs a tenth."""
TOTAL_CASES = int(os.environ.get("SIDTOOL_HOSTILE_CASES", FIXED_CASES // 10))
"""Cases of all families together in this run."""
NEW_SEEDS = TOTAL_CASES > FIXED_CASES
"""Whether each run tries other cases, as `make test-hostile` does."""
FEWEST_CASES = 3

EXIT_CODES = range(4)
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
"""Characters that change the direction of the text that follows."""
CARELESS = ("Traceback", "MemoryError", "Unable to allocate", "bad allocation", "bad_alloc")
"""Words of an error that sidtool did not see coming."""

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """The result of a command: exit code and streams. `code` is None if it ran out of time."""

    arguments: tuple[str, ...]
    code: int | None
    out: str
    err: str
    usage: Usage = field(compare=False)

    @property
    def refused(self) -> bool:
        return self.code != 0


def cases(default: int, *, most: int = 10_000_000) -> settings:
    """The Hypothesis settings of a test with `default` examples in `make test-slow`.

    `make test` runs a tenth of them, at least FEWEST_CASES. `make test-hostile` runs more in
    proportion to SIDTOOL_HOSTILE_CASES, at most `most`, from new seeds; the others always run the
    same ones.
    """
    too_large = (HealthCheck.data_too_large, HealthCheck.large_base_example)
    scaled = min(most, max(FEWEST_CASES, default * TOTAL_CASES // FIXED_CASES))
    return settings(
        max_examples=scaled,
        derandomize=not NEW_SEEDS,
        database=None,
        deadline=None,
        verbosity=Verbosity.quiet if NEW_SEEDS else Verbosity.normal,
        print_blob=NEW_SEEDS,
        phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.target, Phase.shrink),
        suppress_health_check=[
            *too_large,
            HealthCheck.too_slow,
            HealthCheck.function_scoped_fixture,
        ],
    )


def run(*arguments: object, seconds: float = SECONDS) -> Outcome:
    """Run a command in this process, as the console script does, under the limits.

    An exception that the command does not handle is raised, as a defect of the command.
    """
    words = tuple(str(argument) for argument in arguments)
    out, err = _stream(), _stream()
    # variables that would set options of a command
    option_variables = [name for name in os.environ if name.startswith("SIDTOOL_")]
    hidden = {name: os.environ.pop(name) for name in option_variables}
    streams = sys.stdin, sys.stdout, sys.stderr
    sys.stdin, sys.stdout, sys.stderr = _stream(), out, err
    try:
        with limited(seconds) as used:
            code = _exit_code(words)
    finally:
        sys.stdin, sys.stdout, sys.stderr = streams
        os.environ.update(hidden)
    return Outcome(words, code, _text(out), _text(err), used[0])


def classify(outcome: Outcome, *, seconds: float = SECONDS) -> Outcome:
    """Fail unless a command did its work or refused as it should; returns the outcome.

    It must exit with 0 to 3; with anything but 0 it must write one error line, at most one hint
    line, and no result. It must stay within `seconds` of processor time and MEMORY bytes.
    """
    assert outcome.code is not None, f"out of time: {outcome.arguments}"
    assert outcome.code in EXIT_CODES, outcome
    for word in CARELESS:
        assert word not in outcome.err, outcome
    assert is_printable(outcome.err), f"control characters: {outcome}"
    if outcome.refused:
        lines = outcome.err.rstrip("\n").split("\n")
        lines = [line for line in lines if not line.startswith("warning: ")]
        assert lines, outcome
        assert lines[0].startswith("error: "), outcome
        assert len(lines) == 1 or (len(lines) == 2 and lines[1].startswith("hint: ")), outcome
    else:
        assert "error: " not in [line[:7] for line in outcome.err.split("\n")], outcome
    _check_usage(outcome.usage, 0, seconds, MEMORY, outcome.arguments)
    count(refused=outcome.refused)
    return outcome


def call(
    function: Callable[..., T],
    *arguments: Any,
    input_bytes: int = 0,
    seconds: float = SECONDS,
    memory: int = MEMORY,
    **options: Any,
) -> T | None:
    """The result of a library function, or None if it raised a SidtoolError, under the limits.

    Fails if any other exception leaves it.
    """
    result, error = None, None
    try:
        with limited(seconds) as used, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = function(*arguments, **options)
    except SidtoolError as refusal:
        error = refusal
    except OutOfTime:
        raise AssertionError(f"out of time: {function}") from None
    if error is not None:
        assert str(error).strip(), f"an error without a message: {error!r}"
        for word in CARELESS:
            assert word not in str(error), error
    _check_usage(used[0], input_bytes, seconds, memory, function)
    count(refused=error is not None)
    return result


def count(*, refused: bool) -> None:
    """Count a case of the family whose test runs; `run` with `classify`, and `call`, do it."""
    family = family_of(os.environ.get("PYTEST_CURRENT_TEST", ""))
    counts[family] += (refused, not refused, 0)


def is_printable(text: str) -> bool:
    """Whether a terminal shows a text as it is: without control characters but the line feed,
    without lone surrogates, and without characters that change its direction."""
    if text.isascii():
        return text.replace("\n", "").isprintable()
    categories = {unicodedata.category(character) for character in set(text) - {"\n"}}
    return not categories & {"Cc", "Cs"} and not set(text) & set(BIDI)


def _check_usage(usage: Usage, input_bytes: int, seconds: float, memory: int, what: object) -> None:
    factor = IMPORTING if usage.imported else 1
    allowed = factor * (memory + MEMORY_PER_BYTE * input_bytes)
    check_seconds(usage, factor * seconds)
    assert usage.memory <= allowed, f"{usage.memory >> 20} MiB for {input_bytes} bytes: {what}"


@cache
def _command() -> Any:
    return typer.main.get_command(app)


def _exit_code(words: tuple[str, ...]) -> int | None:
    try:
        _command().main(args=list(words), prog_name="sidtool")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except OutOfTime:
        return None
    return 0


def _stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="\n", write_through=True)


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    data = stream.buffer.getvalue()  # type: ignore[attr-defined]
    return data.decode()
