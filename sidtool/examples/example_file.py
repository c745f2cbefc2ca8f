"""The JSON Lines form of training examples: its writer and its reader.

An example is `{task, prompt, completion}` or `{task, text}`; `user` is the user whose events it
shows, if it shows events; `catalog` lists the character spans of catalog text, which never becomes
SID or special tokens. `weight` is the weight of the loss: one number, or one for each SID of the
example."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sidtool.base.documents import parse_json
from sidtool.base.errors import DataError
from sidtool.base.records import is_number
from sidtool.data.tables.containers import require_regular
from sidtool.examples.example_context import TrainingExample
from sidtool.model.prompt.segments import Segment, Span, segments_to_text, text_to_segments
from sidtool.tokenizer.sid import SidSpace

FORMS = (("text",), ("prompt", "completion"))
"""The texts that an example has."""
LARGEST_WEIGHT = float(np.finfo(np.float32).max)


def example_json(
    space: SidSpace, example: TrainingExample, weight: float | list[float] | None = None
) -> dict[str, Any]:
    """The JSON object of an example, with its weight if it has one."""
    sides = {"text": example.completion}
    if example.prompt:
        sides = {"prompt": example.prompt, "completion": example.completion}
    value: dict[str, Any] = {"task": example.task}
    if example.events:
        value["user"] = example.events[0][0]
    spans: dict[str, list[Span]] = {}
    for side, segments in sides.items():
        value[side], catalog_spans = segments_to_text(space, segments)
        if catalog_spans:
            spans[side] = catalog_spans
    if spans:
        value["catalog"] = spans
    if weight is not None:
        value["weight"] = weight
    return value


def prompt_and_completion(
    example: Mapping[str, Any], space: SidSpace
) -> tuple[list[Segment], list[Segment]]:
    """The segments of an example's JSON object; the prompt of a text is empty.

    Raises DataError if the object has neither form."""
    spans = example.get("catalog", {})
    if isinstance(example.get("text"), str):
        return [], text_to_segments(space, example["text"], spans.get("text", ()))
    sides: list[list[Segment]] = []
    for side in ("prompt", "completion"):
        text = example.get(side)
        if not isinstance(text, str):
            raise DataError(
                f"an example has the keys {sorted(example)}, not prompt and completion, or text"
            )
        sides.append(text_to_segments(space, text, spans.get(side, ())))
    prompt, completion = sides
    return prompt, completion


def read_training_examples(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, one per line. Raises DataError if the file cannot be read, or
    with the line number if a line is no training example."""
    if path.exists():
        require_regular(path)
    try:
        stream = path.open("rb")
    except OSError as error:
        raise DataError(
            f"cannot read training examples {path}: {error.strerror}",
            hint="sidtool make-sft writes them",
        ) from error
    with stream:
        for number, line in enumerate(stream, start=1):
            try:
                example = parse_json(line)
            except ValueError as error:
                raise DataError(f"{path}:{number} is not valid JSON: {error}") from error
            if not isinstance(example, dict):
                raise DataError(f"{path}:{number} is not a JSON object")
            if problem := _problem(example):
                raise DataError(f"{path}:{number} {problem}")
            yield example


def _problem(example: Mapping[str, Any]) -> str:
    """Why a JSON object is no training example; empty if it is one."""
    if not isinstance(example.get("task"), str):
        return "has no task"
    if not isinstance(example.get("user", ""), str):
        return f"has user {example['user']!r}, not an id"
    if not any(_has_texts(example, sides) for sides in FORMS):
        return f"has the keys {sorted(example)}, not prompt and completion, or text"
    if not _is_weight(example.get("weight", 1)):
        return "has a weight that is neither a number from 0 nor a list of such numbers"
    catalog = example.get("catalog", {})
    if not isinstance(catalog, dict):
        return "has a catalog that is no object of spans"
    for side, spans in catalog.items():
        text = example.get(side)
        if not isinstance(text, str) or not _are_spans(spans, len(text)):
            return f"has catalog spans that are not in the order of its {side!r}, or outside of it"
    return ""


def _has_texts(example: Mapping[str, Any], sides: Sequence[str]) -> bool:
    return all(isinstance(example.get(side), str) for side in sides)


def _is_weight(value: Any) -> bool:
    numbers = value if isinstance(value, list) else [value]
    return all(is_number(number) and 0 <= number <= LARGEST_WEIGHT for number in numbers)


def _are_spans(spans: Any, length: int) -> bool:
    """Whether a JSON value is a list of spans in order, within a text of `length` characters."""
    if not isinstance(spans, list):
        return False
    position = 0
    for span in spans:
        if not isinstance(span, list) or [type(number) for number in span] != [int, int]:
            return False
        start, stop = span
        if not position <= start <= stop <= length:
            return False
        position = stop
    return True
