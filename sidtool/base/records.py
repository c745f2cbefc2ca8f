"""Frozen dataclasses that are stored as JSON objects. docs/build_schema.py makes JSON Schemas of
their types."""

import re
import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from types import NoneType, UnionType
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    Self,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from sidtool.base.errors import CompatibilityError, DataError

_SCALARS: dict[type, str] = {
    str: "a text",
    bool: "true or false",
    int: "a whole number",
    float: "a number",
}


@dataclass(frozen=True)
class Rule:
    """What a value keeps beside its type: the type of a field is `Annotated` with it."""

    meaning: str
    """As in "it is -1, not a number from 0"."""
    pattern: str | None = None
    """Of a text, the whole of it."""
    minimum: float | None = None
    maximum: float | None = None

    def check(self, value: Any, key: str) -> None:
        """Raise TypeError that names the key for a value that breaks the rule."""
        is_met = self.pattern is None or re.fullmatch(self.pattern, value) is not None
        is_met &= self.minimum is None or value >= self.minimum
        is_met &= self.maximum is None or value <= self.maximum
        if not is_met:
            raise _mismatch(key, self.meaning, value)


@dataclass(frozen=True)
class ReadAs:
    """An object is stored as it is, with keys that are unknown here, but can be read as a
    record."""

    record: "type[JsonRecord]"
    or_empty: bool = False
    """An empty object stands for no record."""

    def check(self, value: Any, key: str) -> None:
        """Raise TypeError that names the key for an object that cannot be read as the record."""
        if value or not self.or_empty:
            _record(self.record, value, key)


Digest = Annotated[str, Rule("a SHA-256 in lowercase hexadecimal", "[0-9a-f]{64}")]
Count = Annotated[int, Rule("a number from 0", minimum=0)]
Number = Annotated[int, Rule("a number from 1", minimum=1)]
VERSION = re.compile(r"(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})")
VersionNumber = Annotated[str, Rule("two numbers with a dot", VERSION.pattern)]


def version_key(version: str) -> tuple[int, int]:
    """The sort key of a version: "1.10" -> (1, 10). Raises DataError if it is not two numbers in
    the digits 0 to 9, without leading zeros, of at most 9 digits: equal versions have equal
    spellings."""
    if not VERSION.fullmatch(version):
        raise DataError(f"{version[:40]!r} is not a version: two numbers separated by a dot")
    major, _, minor = version.partition(".")
    return int(major), int(minor)


def is_number(value: object) -> bool:
    """Whether a JSON value is a finite number (true and false are none)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max  # false for NaN


class JsonRecord:
    """Base of a dataclass with fields of JSON values, tuples and other records.

    In a union of records, each has a field `kind` whose default names it."""

    __dataclass_fields__: ClassVar[dict[str, Any]]  # subclasses are dataclasses
    REQUIRED: ClassVar[tuple[str, ...]] = ()
    """Fields that every stored record has, though they have a default."""
    OMITTED: ClassVar[tuple[str, ...]] = ()
    """Fields that are not stored where they have their default."""

    def to_json(self) -> dict[str, Any]:
        """The JSON object that is stored: the fields by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for field in fields(self):
            if field.name in self.OMITTED and values[field.name] == _default(field):
                del values[field.name]
        return {name: _plain(value) for name, value in values.items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The record that `to_json` wrote; unknown keys are ignored. Raises TypeError, which names
        the key, if one is missing or has a value of another type than its field. Nothing is
        converted: true is no number, and 1.0 is no whole number."""
        if not isinstance(value, Mapping):
            raise TypeError(f"expected an object, not {shortened(value)}")
        hints = _hints(cls)  # type: ignore[arg-type]  # mypy: a class is hashable
        values = {}
        for field in fields(cls):
            if field.name in value:
                values[field.name] = _typed(hints[field.name], value[field.name], field.name)
            elif is_required(cls, field):
                raise TypeError(f"{field.name} is missing")
        return cls(**values)


def refuse_newer(value: Any, newest: int, what: str) -> None:
    """Raise CompatibilityError if a stored object has the number of a newer format than `newest`;
    the error calls it `what`."""
    number = value.get("format") if isinstance(value, Mapping) else None
    if type(number) is int and number > newest:
        raise CompatibilityError(
            f"{what} has format {number}, this version of sidtool reads up to {newest}",
            hint="upgrade sidtool",
        )


def is_required(record: type[JsonRecord], field: Field[Any]) -> bool:
    """Whether a stored record must have a field."""
    has_default = field.default is not MISSING or field.default_factory is not MISSING
    return not has_default or field.name in record.REQUIRED


def _default(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


def _plain(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return value.to_json()
    if isinstance(value, Mapping):
        return {key: _plain(member) for key, member in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(member) for member in value]
    return value


def _typed(hint: Any, value: Any, key: str) -> Any:
    """A JSON value as the type of its field. Raises TypeError that names the key."""
    origin = get_origin(hint)
    if hint is Any:
        return value
    if origin is Annotated:
        typed = _typed(get_args(hint)[0], value, key)
        hint.__metadata__[0].check(typed, key)
        return typed
    if origin in (Union, UnionType):
        return _member_of_union(get_args(hint), value, key)
    if origin is Literal:
        if not isinstance(value, str) or value not in get_args(hint):
            raise TypeError(f"{key} is {shortened(value)}, not one of {', '.join(get_args(hint))}")
        return value
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise _mismatch(key, "a list", value)
        member_types = get_args(hint)
        if member_types[-1] is Ellipsis:
            member_types = (member_types[0],) * len(value)
        if len(member_types) != len(value):
            raise TypeError(f"{key} has {len(value)} members, not {len(member_types)}")
        pairs = zip(member_types, value, strict=True)
        return tuple(
            _typed(member_type, member, f"{key}[{i}]")
            for i, (member_type, member) in enumerate(pairs)
        )
    if hasattr(hint, "from_json"):
        return _record(hint, value, key)
    if origin is not None:  # a mapping
        if not isinstance(value, Mapping):
            raise _mismatch(key, "an object", value)
        key_type, value_type = get_args(hint)
        return {
            _typed(key_type, name, f"a key of {key}"): _typed(value_type, member, f"{key}.{name}")
            for name, member in value.items()
        }
    matches = is_number(value) if hint is float else type(value) is hint
    if not matches:
        raise _mismatch(key, _SCALARS[hint], value)
    return value


def _record(kind: Any, value: Any, key: str) -> Any:
    try:
        return kind.from_json(value)
    except TypeError as error:
        raise TypeError(f"{key}: {error}") from error


def _member_of_union(hints: tuple[Any, ...], value: Any, key: str) -> Any:
    choices = [hint for hint in hints if hint is not NoneType]
    if value is None and len(choices) < len(hints):
        return None
    if len(choices) > 1:
        if not isinstance(value, Mapping):
            raise _mismatch(key, "an object", value)
        choices = [choice for choice in choices if choice.kind == value.get("kind")]
        if not choices:
            raise TypeError(f"{key} has no kind {shortened(value.get('kind'))}")
    return _typed(choices[0], value, key)


def _mismatch(key: str, expected: str, value: Any) -> TypeError:
    return TypeError(f"{key} is {shortened(value)}, not {expected}")


def flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    members: dict[str, Any] = {}
    for key, member in value.items():
        if isinstance(member, Mapping):
            members |= flat(member, f"{prefix}{key}.")
        else:
            members[f"{prefix}{key}"] = member
    return members


def shortened(value: Any) -> str:
    """A JSON value for a message of one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
