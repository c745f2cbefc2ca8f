"""Evaluation examples and training events as JSON Lines, read one line at a time.

    test.jsonl      {"user": "u1", "history": ["i1", "i2"], "item": "i3", "position": 2}
    train.jsonl     {"user": "u1", "items": ["i1", "i2"], "positions": [0, 1]}

Writers do not write atomically: use them within `output.new_file` or `output.new_dir`."""

import json
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from sidtool.data.json_tables import is_id, json_lines
from sidtool.errors import DataError
from sidtool.splits.split import Example, UserSequence

MAX_POSITION = 1 << 31
"""Positions of a user's events are smaller."""


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """One line per example."""
    _write(
        path,
        (
            {"user": e.user, "history": e.history, "item": e.item, "position": e.position}
            for e in examples
        ),
    )


def read_examples(path: Path) -> Iterator[Example]:
    """The examples of a file. Without a position, it is the length of the history.

    Raises DataError, with the line, for a malformed example.
    """
    for number, row in json_lines(path):
        history = _ids(path, number, row, "history")
        position = row.get("position", len(history))
        if not _is_position(position):
            raise DataError(f"{path}, line {number}: the position is {position!r}")
        yield Example(
            _id(path, number, row, "user"), history, _id(path, number, row, "item"), position
        )


def write_events(path: Path, sequences: Iterable[UserSequence]) -> None:
    """One line per user."""
    _write(path, ({"user": s.user, "items": s.items, "positions": s.positions} for s in sequences))


def read_events(path: Path) -> Iterator[UserSequence]:
    """The training events of each user. Raises DataError, with the line, for a malformed one."""
    for number, row in json_lines(path):
        items = _ids(path, number, row, "items")
        positions = row.get("positions")
        if not isinstance(positions, list) or not all(map(_is_position, positions)):
            raise DataError(f"{path}, line {number}: 'positions' is no list of positions")
        # windows of one user that disagree give two events one position
        if any(later < earlier for earlier, later in pairwise(positions)):
            raise DataError(f"{path}, line {number}: 'positions' do not ascend")
        if len(positions) != len(items):
            raise DataError(
                f"{path}, line {number}: {len(items)} items and {len(positions)} positions"
            )
        yield UserSequence(_id(path, number, row, "user"), items, tuple(positions))


def _is_position(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_POSITION


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _id(path: Path, number: int, row: dict[str, Any], key: str) -> str:
    if not is_id(row.get(key)):
        raise DataError(f"{path}, line {number}: {key!r} is {row.get(key)!r}, not an id")
    return str(row[key])


def _ids(path: Path, number: int, row: dict[str, Any], key: str) -> tuple[str, ...]:
    value = row.get(key)
    if not isinstance(value, list) or not all(is_id(member) for member in value):
        raise DataError(f"{path}, line {number}: {key!r} is no list of ids")
    return tuple(str(member) for member in value)
