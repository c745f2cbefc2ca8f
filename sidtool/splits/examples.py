"""Evaluation examples and training events as JSON Lines, read one line at a time.

    test.jsonl      {"user": "u1", "history": ["i1", "i2"], "item": "i3", "position": 2}
    train.jsonl     {"user": "u1", "items": ["i1", "i2"], "positions": [0, 1]}

Writers do not write atomically: use them within `output.new_file` or `output.new_dir`."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from sidtool.data.json_tables import json_lines
from sidtool.errors import DataError
from sidtool.splits.split import Example, UserSequence


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
        if type(position) is not int or position < 0:
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
        if not isinstance(positions, list) or not all(
            type(position) is int for position in positions
        ):
            raise DataError(f"{path}, line {number}: 'positions' is no list of numbers")
        if len(positions) != len(items):
            raise DataError(
                f"{path}, line {number}: {len(items)} items and {len(positions)} positions"
            )
        yield UserSequence(_id(path, number, row, "user"), items, tuple(positions))


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _id(path: Path, number: int, row: dict[str, Any], key: str) -> str:
    if not _is_id(row.get(key)):
        raise DataError(f"{path}, line {number}: {key!r} is {row.get(key)!r}, not an id")
    return str(row[key])


def _ids(path: Path, number: int, row: dict[str, Any], key: str) -> tuple[str, ...]:
    value = row.get(key)
    if not isinstance(value, list) or not all(_is_id(member) for member in value):
        raise DataError(f"{path}, line {number}: {key!r} is no list of ids")
    return tuple(str(member) for member in value)


def _is_id(value: Any) -> bool:
    return (isinstance(value, str) and value != "") or type(value) is int
