"""Evaluation examples and training events as JSON Lines, read one line at a time.

    test.jsonl      {"user": "u1", "history": ["i1", "i2"], "item": "i3", "position": 2}
    train.jsonl     {"user": "u1", "items": ["i1", "i2"], "positions": [0, 1]}

Where sessions are held out, an example has the further targets of its session in `rest`; where they
are recorded, a line of training events has the indexes at which they start in `sessions`.

Writers do not write atomically: use them within `output.new_file` or `output.new_dir`."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from sidtool.base.errors import DataError
from sidtool.data.fields.fields import NO_FIELDS, Fields
from sidtool.data.split.values import MAX_POSITION, Example, FurtherTarget, UserSequence
from sidtool.data.tables.json_tables import is_id, json_lines


def write_examples(path: Path, examples: Iterable[Example]) -> None:
    """One line per example."""
    with path.open("w", encoding="utf-8", newline="\n") as stream:
        for example in examples:
            value: dict[str, Any] = {"user": example.user, "history": example.history}
            value |= {"item": example.item, "position": example.position}
            if example.fields != NO_FIELDS:
                value["fields"] = example.fields.to_json()
            if example.feedback:
                value["feedback"] = example.feedback
            if example.rest:
                value["rest"] = [_target_json(target) for target in example.rest]
            stream.write(json.dumps(value, ensure_ascii=False) + "\n")


def _target_json(target: FurtherTarget) -> dict[str, Any]:
    parts = {"feedback": target.feedback, "context": target.context, "time": target.time}
    filled = {name: part for name, part in parts.items() if part not in (None, {})}
    return {"item": target.item, "position": target.position, **filled}


def read_examples(path: Path) -> Iterator[Example]:
    """The examples of a file. Without a position, it is the length of the history.

    Raises DataError, with the line, for a malformed example.
    """
    for number, row in json_lines(path):
        with _named_line(path, number):
            history = _ids(row, "history")
            position = row.get("position", len(history))
            if not _is_position(position):
                raise DataError(f"the position is {position!r}")
            ids = (_id(row, "user"), history, _id(row, "item"))
            fields = _fields(row, len(history))
            feedback = Fields.from_json({"context": row.get("feedback")}, 0).context
            further_targets = _further_targets(row, position)
        yield Example(*ids, position, fields, feedback, further_targets)


def _further_targets(row: Mapping[str, Any], position: int) -> tuple[FurtherTarget, ...]:
    """The further targets of an example. Raises DataError unless their positions ascend from that
    of the first one."""
    value = row.get("rest", [])
    if not isinstance(value, list) or not all(isinstance(target, dict) for target in value):
        raise DataError("'rest' is no list of targets")
    targets = []
    for target in value:
        if not _is_position(target.get("position")) or target["position"] <= position:
            raise DataError("the positions of its targets do not ascend")
        position = target["position"]
        parts = {name: target.get(name) for name in ("feedback", "context", "time")}
        fields = Fields.from_json(parts, 0)
        item = _id(target, "item")
        targets.append(FurtherTarget(item, position, fields.feedback, fields.context, fields.time))
    return tuple(targets)


def read_events(path: Path) -> Iterator[UserSequence]:
    """The training events of each user. Raises DataError, with the line, for a malformed one."""
    for number, row in json_lines(path):
        with _named_line(path, number):
            items = _ids(row, "items")
            positions, sessions = row.get("positions"), row.get("sessions", [])
            if not isinstance(positions, list) or not all(map(_is_position, positions)):
                raise DataError("'positions' is no list of positions")
            # older versions gave two events one position where windows of one user disagree
            if any(later < earlier for earlier, later in pairwise(positions)):
                raise DataError("'positions' do not ascend")
            if len(positions) != len(items):
                raise DataError(f"{len(items)} items and {len(positions)} positions")
            if not isinstance(sessions, list) or not all(map(_is_position, sessions)):
                raise DataError("'sessions' is no list of indexes")
            ascend = all(earlier < later for earlier, later in pairwise(sessions))
            if sessions and not (sessions[0] == 0 and ascend and sessions[-1] < len(items)):
                raise DataError(f"the sessions {sessions[:5]} do not divide {len(items)} events")
            user, fields = _id(row, "user"), _fields(row, len(items))
        yield UserSequence(user, items, tuple(positions), fields, tuple(sessions))


@contextmanager
def _named_line(path: Path, number: int) -> Iterator[None]:
    """Put file and line before what is wrong."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}, line {number}: {error}") from error


def _fields(row: Mapping[str, Any], n_events: int) -> Fields:
    """The fields of a JSON object for its `n_events` events, none where it has none."""
    value = row.get("fields")
    return NO_FIELDS if value is None else Fields.from_json(value, n_events)


def _is_position(value: Any) -> bool:
    return type(value) is int and 0 <= value < MAX_POSITION


def _id(row: Mapping[str, Any], key: str) -> str:
    if not is_id(row.get(key)):
        raise DataError(f"{key!r} is {row.get(key)!r}, not an id")
    return str(row[key])


def _ids(row: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = row.get(key)
    if not isinstance(value, list) or not all(is_id(member) for member in value):
        raise DataError(f"{key!r} is no list of ids")
    return tuple(str(member) for member in value)
