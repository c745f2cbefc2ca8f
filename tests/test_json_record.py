"""Records as JSON objects: nested records, tuples and unions survive a round trip."""

import json
from dataclasses import dataclass
from typing import Literal

import pytest

from sidtool.json_record import JsonRecord


@dataclass(frozen=True)
class Circle(JsonRecord):
    radius: float
    kind: Literal["circle"] = "circle"


@dataclass(frozen=True)
class Square(JsonRecord):
    side: float
    kind: Literal["square"] = "square"


@dataclass(frozen=True)
class Drawing(JsonRecord):
    shapes: tuple[Circle | Square, ...]
    frame: Square | None = None
    title: str | None = None


DRAWING = Drawing((Circle(1.5), Square(2.0)), frame=Square(9.0))


def test_a_record_survives_json() -> None:
    stored = json.loads(json.dumps(DRAWING.to_json()))
    assert stored == DRAWING.to_json()
    assert Drawing.from_json(stored) == DRAWING


def test_unknown_keys_are_ignored_and_missing_ones_take_their_default() -> None:
    stored = {"shapes": [{"radius": 1.5, "kind": "circle", "color": "red"}], "scale": 2}
    assert Drawing.from_json(stored) == Drawing((Circle(1.5),))


@pytest.mark.parametrize(
    "stored", [{}, {"shapes": 3}, {"shapes": [{"side": 1.0, "kind": "triangle"}]}, {"shapes": [3]}]
)
def test_malformed_records_are_refused(stored: dict[str, object]) -> None:
    with pytest.raises((TypeError, KeyError, AttributeError)):
        Drawing.from_json(stored)
