"""The JSON Lines form of training examples: its writer and its reader.

An example is `{task, prompt, completion}` or `{task, text}`; `catalog` lists the character spans
that hold catalog text, which never becomes a SID or special token."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sidtool.errors import DataError
from sidtool.prompt.segments import Segment, Span, segments_to_text, text_to_segments
from sidtool.sft.training_examples import TrainingExample
from sidtool.sid import SidSpace


def example_json(space: SidSpace, row: TrainingExample) -> dict[str, Any]:
    """A row as its JSON object: {task, prompt, completion} or {task, text}, and where catalog text
    stands in it."""
    sides = (
        {"prompt": row.prompt, "completion": row.completion}
        if row.prompt
        else {"text": row.completion}
    )
    value: dict[str, Any] = {"task": row.task}
    spans: dict[str, list[Span]] = {}
    for side, segments in sides.items():
        value[side], found = segments_to_text(space, segments)
        spans |= {side: found} if found else {}
    return value | ({"catalog": spans} if spans else {})


def prompt_and_completion(
    row: Mapping[str, Any], space: SidSpace
) -> tuple[list[Segment], list[Segment]]:
    """What a row asks, which may be nothing, and what it answers. Raises DataError if it has
    neither form."""
    if isinstance(row.get("text"), str):
        return [], text_to_segments(space, row["text"], row.get("catalog", {}).get("text", ()))
    if not isinstance(row.get("prompt"), str) or not isinstance(row.get("completion"), str):
        raise DataError(f"a row has the keys {sorted(row)}, not prompt and completion, or text")
    spans = row.get("catalog", {})
    prompt, answer = (
        text_to_segments(space, row[side], spans.get(side, ())) for side in ("prompt", "completion")
    )
    return prompt, answer


def read_training_examples(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file as their JSON objects. Raises DataError, with the line, at one that is
    none."""
    return (
        parse_example(path, number, line)
        for number, line in enumerate(example_lines(path), start=1)
    )


def tasks_in(path: Path) -> frozenset[str]:
    """The tasks of the rows in a file."""
    return frozenset(row.get("task", "") for row in read_training_examples(path))


def example_lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as stream:
            yield from stream
    except OSError as error:
        raise DataError(
            f"cannot read rows {path}: {error.strerror}", hint="sidtool make-sft writes them"
        ) from error


def parse_example(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{path}:{number} is no JSON: {error}") from error
    if not isinstance(row, dict):
        raise DataError(f"{path}:{number} is no JSON object")
    return row
