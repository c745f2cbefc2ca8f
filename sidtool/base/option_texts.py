"""Values of options as texts and files: sizes, `key=value` pairs, files of ids."""

import math
import re
from pathlib import Path
from typing import Any

from sidtool.base.documents import parse_yaml, read_document
from sidtool.base.errors import DataError, UsageError

MAX_ID_BYTES = 1 << 28
"""Bytes of a file of ids: some ten million of them."""

_DECIMAL = {f"{prefix}B": 1000**power for power, prefix in enumerate(("", "k", "M", "G", "T"))}
_BINARY = {f"{prefix}iB": 1024**power for power, prefix in enumerate(("K", "M", "G", "T"), 1)}
UNITS = {"": 1, **_DECIMAL, **_BINARY}
"""Bytes by unit."""


def parse_bytes(text: str) -> int:
    """A size in bytes: "4GiB" -> 4294967296. Raises UsageError."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]*)", text.strip())
    units = {name.lower(): factor for name, factor in UNITS.items()}
    if not match or match[2].lower() not in units:
        raise UsageError(
            f"{text!r} is not a size like 4GiB",
            hint=f"units are {', '.join(filter(None, UNITS))}",
        )
    return int(float(match[1]) * units[match[2].lower()])


def read_ids(path: Path) -> tuple[str, ...]:
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
    return tuple(line for line in lines if line)


def assignments(pairs: list[str], *, option: str = "--set") -> dict[str, Any]:
    """`key=value` pairs as a mapping; a value is read as YAML, so that numbers are numbers."""
    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not (key and equals):
            raise UsageError(f"{option} takes key=value, not {pair!r}")
        try:
            values[key] = parse_yaml(value)
        except ValueError:
            values[key] = value
    return values


def numbers(pairs: list[str], *, option: str) -> dict[str, float]:
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
