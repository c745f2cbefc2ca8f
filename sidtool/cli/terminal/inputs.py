"""Inputs that several commands parse: files of ids, and `key=value` pairs."""

import math
import sys
from pathlib import Path
from typing import Any, TextIO

from sidtool.base.documents import parse_yaml, read_document
from sidtool.base.errors import DataError, UsageError

MAX_ID_BYTES = 1 << 28
"""Bytes of a file of ids: some ten million of them."""


def read_ids(path: Path) -> list[str]:
    """Item ids, one per line, exactly as they stand there; empty lines are skipped.

    Only a line feed, or a carriage return before it, ends a line: spaces and other separators are
    part of an id. Raises DataError if the file cannot be read."""
    try:
        content = read_document(path, MAX_ID_BYTES)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: not UTF-8") from error
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return [line for line in lines if line]


def standard_input() -> TextIO:
    """Standard input. Raises UsageError if it is closed."""
    if sys.stdin is None:
        raise UsageError("standard input is closed")
    return sys.stdin


def assignments(pairs: list[str] | None, *, option: str = "--set") -> dict[str, Any]:
    """`key=value` pairs as a mapping; a value is read as YAML, so that numbers are numbers."""
    values = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise UsageError(f"{option} takes key=value, not {pair!r}")
        try:
            values[key] = parse_yaml(value)
        except ValueError:
            values[key] = value
    return values


def numbers(pairs: list[str] | None, *, option: str) -> dict[str, float]:
    """`key=number` pairs as a mapping. Raises UsageError for a value that is no number."""
    values = {}
    for key, value in assignments(pairs, option=option).items():
        try:  # YAML reads 1e-3 as text
            values[key] = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            values[key] = math.nan
        if not math.isfinite(values[key]):
            raise UsageError(f"{option} takes a number for {key}, not {value!r}")
    return values
