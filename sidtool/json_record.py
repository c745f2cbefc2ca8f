"""Frozen dataclasses that are stored as JSON objects."""

from collections.abc import Mapping
from dataclasses import fields
from types import NoneType, UnionType
from typing import Any, ClassVar, Self, Union, get_args, get_origin, get_type_hints


class JsonRecord:
    """Base of a dataclass with fields of JSON values, tuples and other records.

    In a union of records, each has a field `kind` whose default names it.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]  # subclasses are dataclasses

    def to_json(self) -> dict[str, Any]:
        """The JSON object that is stored: the fields by name."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The record that `to_json` wrote; unknown keys are ignored.

        Raises TypeError, KeyError or AttributeError if a key is missing or malformed.
        """
        hints = get_type_hints(cls)
        names = [field.name for field in fields(cls) if field.name in value]
        return cls(**{name: _typed(hints[name], value[name]) for name in names})


def _plain(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return value.to_json()
    if isinstance(value, Mapping):
        return {key: _plain(member) for key, member in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(member) for member in value]
    return value


def _typed(hint: Any, value: Any) -> Any:
    """A JSON value as the type of its field."""
    if get_origin(hint) in (Union, UnionType):
        choices = [choice for choice in get_args(hint) if choice is not NoneType]
        if value is None:
            return None
        if len(choices) > 1 and isinstance(value, Mapping):
            choices = [choice for choice in choices if choice.kind == value["kind"]]
            if not choices:
                raise TypeError(f"there is no kind {value['kind']!r}")
        hint = choices[0]
    if hasattr(hint, "from_json"):
        return hint.from_json(value)
    if get_origin(hint) is tuple:
        return tuple(_typed(get_args(hint)[0], member) for member in value)
    return value
