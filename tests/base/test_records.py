import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from sidtool.base.records import JsonRecord, ReadAs, Rule, is_number


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
    level: Annotated[int, Rule("1 or 2", minimum=1, maximum=2)] = 1
    round: Annotated[Mapping[str, Any], ReadAs(Circle)] = field(
        default_factory=lambda: {"radius": 1}
    )
    circle: Annotated[Mapping[str, Any], ReadAs(Circle, or_empty=True)] = field(
        default_factory=dict
    )


SAMPLES: tuple[Any, ...] = (None, "x", True, 1, 1.5, [], {}, [1], ["a", 1], {"a": 1}, {"a": "b"})
SAMPLES += (0, 2, 3, {"radius": 2})
NUMBERS = (0, 1, 2, 3)
OBJECTS = tuple(sample for sample in SAMPLES if isinstance(sample, dict))
ACCEPTED: dict[str, tuple[Any, ...]] = {"text": ("x",), "flag": (True,), "count": NUMBERS}
ACCEPTED |= {"share": (*NUMBERS, 1.5), "choice": (), "optional": (None, *NUMBERS)}
ACCEPTED |= {"many": ([], [1]), "pair": (["a", 1],), "names": ({}, {"a": "b"}), "free": OBJECTS}
ACCEPTED |= {"shape": (), "level": (1, 2)}
ACCEPTED |= {"round": ({"radius": 2},), "circle": ({}, {"radius": 2})}


@pytest.mark.parametrize("key", ACCEPTED)
def test_a_field_takes_values_of_its_own_type_only(key: str) -> None:
    for value in SAMPLES:
        # True == 1 == 1.0 in Python, so types are compared too
        accepted = any(value == other and type(value) is type(other) for other in ACCEPTED[key])
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


def test_only_finite_numbers_are_numbers() -> None:
    assert all(map(is_number, (0, -3, 1.5, 1.7e308, 10**308)))
    assert not any(map(is_number, (True, None, "1", float("nan"), float("inf"), 10**309, [1])))
