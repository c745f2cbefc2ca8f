"""Records as JSON objects: nested records, tuples and unions survive a round trip, and nothing of
another type is taken."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.json_record import MAX_DEPTH, JsonRecord, parse_json


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


@dataclass(frozen=True)
class Everything(JsonRecord):
    text: str = "a"
    flag: bool = True
    count: int = 1
    share: float = 0.5
    choice: Literal["one", "two"] = "one"
    optional: int | None = None
    many: tuple[int, ...] = (1, 2)
    pair: tuple[str, int] = ("a", 1)
    names: Mapping[str, str] = field(default_factory=lambda: {"a": "b"})
    free: Mapping[str, Any] = field(default_factory=lambda: {"a": [1, None, {}]})
    shape: Circle | Square = Circle(1.0)


SAMPLES: tuple[Any, ...] = (None, "x", True, 1, 1.5, [], {}, [1], ["a", 1], {"a": 1}, {"a": "b"})
ACCEPTED: dict[str, tuple[Any, ...]] = {
    "text": ("x",),
    "flag": (True,),
    "count": (1,),
    "share": (1, 1.5),
    "choice": (),
    "optional": (None, 1),
    "many": ([], [1]),
    "pair": (["a", 1],),
    "names": ({}, {"a": "b"}),
    "free": ({}, {"a": 1}, {"a": "b"}),
    "shape": (),
}


@pytest.mark.parametrize("key", ACCEPTED)
@pytest.mark.parametrize("value", SAMPLES, ids=json.dumps)
def test_a_field_takes_values_of_its_own_type_only(key: str, value: Any) -> None:
    # True == 1 == 1.0 in Python, so types are compared too
    accepted = any(value == each and type(value) is type(each) for each in ACCEPTED[key])
    stored = {**Everything().to_json(), key: value}
    if accepted:
        assert Everything.from_json(stored).to_json() == stored
    else:
        with pytest.raises(TypeError, match=rf"^{key}\b"):
            Everything.from_json(stored)


@pytest.mark.parametrize("value", SAMPLES, ids=json.dumps)
def test_only_an_object_is_a_record(value: Any) -> None:
    if isinstance(value, dict):
        assert Everything.from_json(value) == Everything()
    else:
        with pytest.raises(TypeError, match="expected an object"):
            Everything.from_json(value)


def test_a_malformed_member_is_named() -> None:
    stored = {"shapes": [{"radius": 1.5, "kind": "circle"}, {"side": "long", "kind": "square"}]}
    with pytest.raises(TypeError) as caught:
        Drawing.from_json(stored)
    assert str(caught.value) == "shapes[1]: side is 'long', not a number"
    with pytest.raises(TypeError, match=r"^shapes is missing$"):
        Drawing.from_json({"title": "x"})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e300, 1e300) | st.text(),
    lambda members: st.lists(members) | st.dictionaries(st.text(), members),
    max_leaves=20,
)


@given(json_values, st.booleans())
def test_documents_are_parsed_as_they_were_written(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert parse_json(text) == value
    assert parse_json(text.encode()) == value


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b'{"a": 1, "b": 2, "a": 1}', "the key 'a' is repeated"),
        (b'[{"b": {"a": 1, "a": 2}}]', "the key 'a' is repeated"),
        (b"NaN", "NaN is not a finite number"),
        (b"[-Infinity]", "-Infinity is not a finite number"),
        (b"1e999", "1e999 is not a finite number"),
        (b"1" * 5000, "4300 digits"),
        (b'"\\ud800"', "surrogates not allowed"),
        (b'{"\\uDC00": 1}', "surrogates not allowed"),
        (b'"\xff"', "can't decode byte 0xff"),
        ('{"a": 1}'.encode("utf-16"), "can't decode byte"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1), "nested deeper than 64"),
        (b'{"a": ' * 100 + b"1" + b"}" * 100, "nested deeper than 64"),
        (b"[" * 100_000, "nested deeper than 64"),
        (b"{} {}", "Extra data"),
        (b"", "Expecting value"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_ambiguous_documents_are_refused(document: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(document)


def test_the_depth_is_that_of_the_deepest_value() -> None:
    deepest = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_json(f"[{', '.join(['[]'] * 1000)}]") == [[]] * 1000
    assert parse_json(deepest)
