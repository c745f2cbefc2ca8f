"""Inputs that several commands parse: files of ids, and `key=value` pairs."""

import math
from pathlib import Path
from typing import Any

from sidtool.documents import parse_yaml
from sidtool.errors import DataError, UsageError


def read_ids(path: Path) -> list[str]:
    """Item ids, one per line. Raises DataError if the file cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return [line.strip() for line in lines if line.strip()]


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
