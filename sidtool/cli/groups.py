"""Groups of options: a parameter of a command that is a dataclass becomes the flags of its fields,
and the command is called with the dataclass. Its body names no flag twice."""

import functools
import inspect
import keyword
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

from sidtool.base.options import Option, meanings, options_of
from sidtool.cli.terminal.inputs import read_ids


def with_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a command with the flags of its groups in place of them."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    parameters: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        alone = parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for flag in _flags(groups[name]) if name in groups else [alone]:
            parameters.setdefault(flag.name, flag)  # groups share a flag of one name

    @functools.wraps(command)
    def run(**values: Any) -> Any:
        alone = {name: values[name] for name in hints if name in values and name not in groups}
        made = {name: _make(kind, values) for name, kind in groups.items()}
        return command(**alone, **made)

    run.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    run.__annotations__ = {name: each.annotation for name, each in parameters.items()}
    return run


def _flags(kind: type) -> Iterator[inspect.Parameter]:
    """A keyword parameter for every option of a dataclass."""
    hints = get_type_hints(kind)
    for field, declared in options_of(kind):
        settings: dict[str, Any] = {
            "help": meanings(kind).get(field.name, ""),
            "metavar": declared.metavar,
            "rich_help_panel": declared.panel,
            "show_default": declared.shown_default or True,
        }
        yield inspect.Parameter(
            _name(field, declared),
            inspect.Parameter.KEYWORD_ONLY,
            default=_default(field),
            annotation=Annotated[
                _type(hints[field.name], declared),
                typer.Option(*_spellings(field, declared), **settings),
            ],
        )


def _make(kind: type, values: Mapping[str, Any]) -> Any:
    """A dataclass of the values of its flags."""
    hints = get_type_hints(kind)
    made: dict[str, Any] = {}
    for field, declared in options_of(kind):
        value = values[_name(field, declared)]
        if declared.is_file and value is not None:
            value = read_ids(value)
        several = get_origin(_required(hints[field.name]))
        if several in (tuple, frozenset):
            value = field.default if value is None else several(value)
        made[field.name] = value
    return kind(**made)


def _spellings(field: Field[Any], declared: Option) -> tuple[str, ...]:
    """The flags of a field; that of one letter is short."""
    if len(field.name) == 1:
        return (f"-{field.name}",)
    return (declared.flag or f"--{field.name.replace('_', '-')}",)


def _name(field: Field[Any], declared: Option) -> str:
    """The name of a flag's parameter."""
    name = _spellings(field, declared)[-1].lstrip("-").replace("-", "_")
    return f"{name}_" if keyword.iskeyword(name) else name


def _default(field: Field[Any]) -> Any:
    if field.default is MISSING:
        return inspect.Parameter.empty
    return None if field.default in ((), frozenset()) else field.default


def _type(hint: Any, declared: Option) -> Any:
    """The type of a flag: a file for its entries, a list for a tuple."""
    if declared.is_file:
        return Path | None
    inner = _required(hint)
    if get_origin(inner) in (tuple, frozenset):
        return list[get_args(inner)[0]] | None  # type: ignore[misc]
    return hint


def _required(hint: Any) -> Any:
    """X of `X | None`, others unchanged."""
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    others = [part for part in get_args(hint) if part is not type(None)]
    return others[0] if len(others) == 1 else hint
