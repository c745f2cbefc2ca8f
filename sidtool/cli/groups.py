"""Groups of options: a parameter of a command that is a dataclass becomes the flags of its fields,
and the command is called with the dataclass. Its body names no flag twice."""

import functools
import inspect
import keyword
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer

from sidtool.base.errors import UsageError
from sidtool.base.options import Option, meanings, options_of


@dataclass(frozen=True)
class Given:
    """Annotates a parameter that is the mapping of the options of a dataclass that were given, by
    field; the others are those of `defaults`, as the help shows them."""

    defaults: Any


def with_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """The function of a command with the flags of its groups in place of them. A group `X | None`
    is None unless one of its flags is given."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: _group(kind) for name, kind in hints.items() if _group(kind) is not None}
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
    run.groups = tuple(groups.values())  # type: ignore[attr-defined]
    return run


def flag_meanings(command: Callable[..., Any]) -> dict[str, str]:
    """The help of each flag of a command's groups, by the name of its parameter. It is read from
    the source when it is shown, which most calls of a command do not."""
    groups = getattr(command, "groups", ())
    return {name: text for each in reversed(groups) for name, text in _meanings(each)}


def _meanings(group: Any) -> Iterator[tuple[str, str]]:
    defaults = group.defaults if isinstance(group, Given) else None
    kind: Any = _required(group) if defaults is None else type(defaults)
    hints = get_type_hints(kind)
    for field, declared in options_of(kind):
        if declared.is_group:
            yield from _meanings(hints[field.name])
            continue
        text = meanings(kind).get(field.name, "")
        if defaults is not None:
            text += f" Default: {getattr(defaults, field.name)}."
        yield _name(field, declared), text


def _flags(group: Any, *, needed: bool = True) -> Iterator[inspect.Parameter]:
    """A keyword parameter for every option of a group; none is required if the group is not
    `needed`."""
    kind: Any = type(group.defaults) if isinstance(group, Given) else _required(group)
    needed = needed and kind is group
    hints = get_type_hints(kind)
    for field, declared in options_of(kind):
        if declared.is_group:
            yield from _flags(hints[field.name], needed=needed)
            continue
        complete = None if declared.completes is None else _completion(declared.completes)
        settings: dict[str, Any] = {
            "metavar": declared.metavar,
            "rich_help_panel": declared.panel,
            "autocompletion": complete,
        }
        flag = typer.Option(*_spellings(field, declared), **settings)
        default = _shown(_default(field), declared)
        if isinstance(group, Given):
            default = None
        hint = _type(hints[field.name], declared)
        if default is MISSING and not needed:
            default = None
        yield inspect.Parameter(
            _name(field, declared),
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if default is MISSING else default,
            annotation=Annotated[hint | None if default is None else hint, flag],
        )


def _make(group: Any, values: Mapping[str, Any]) -> Any:
    """The dataclass of a group, of the values of its flags. Raises UsageError for a value out of
    bounds, and for flags of an optional group without the one that it requires."""
    if isinstance(group, Given):
        return _given(type(group.defaults), values)
    kind = _required(group)
    hints = get_type_hints(kind)
    made: dict[str, Any] = {}
    given, missing = [], []
    for field, declared in options_of(kind):
        if declared.is_group:
            made[field.name] = value = _make(hints[field.name], values)
            is_given = value != _default(field)
            flag = _first_flag(_required(hints[field.name]))
        else:
            value = values[_name(field, declared)]
            flag = _flag(field, declared)
            is_given = value not in (_shown(_default(field), declared), None, [], ())
            if value is None and _default(field) is MISSING:
                missing.append(flag)
            made[field.name] = _read(field, declared, value, hints[field.name], is_given=is_given)
            declared.check(flag, made[field.name], hints[field.name])
        given += [flag] if is_given else []
    if kind is not group and not given:
        return None
    if missing:
        raise UsageError(f"{given[0]} requires {missing[0]}")
    return kind(**made)


def _given(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a dataclass that were given. Raises UsageError for a value out of bounds."""
    given = {}
    for field, declared in options_of(kind):
        value = values[_name(field, declared)]
        declared.check(_flag(field, declared), value, field.type)
        if value is not None:
            given[field.name] = value
    return given


def _group(hint: Any) -> Any:
    """The dataclass of options, or `Given`, of a parameter; None for a parameter of another
    kind."""
    given = [each for each in getattr(hint, "__metadata__", ()) if isinstance(each, Given)]
    if given:
        return given[0]
    return hint if is_dataclass(_required(hint)) else None


def _read(field: Field[Any], declared: Option, value: Any, hint: Any, *, is_given: bool) -> Any:
    """The value of a field, of what its flag was given."""
    if not is_given and _default(field) is not MISSING:
        return _default(field)
    if declared.reads is not None and value is not None:
        value = declared.reads(value)
    several = get_origin(_required(hint))
    return several(value) if several in (tuple, frozenset) and value is not None else value


def _completion(names: Callable[[], Any]) -> Callable[[str], list[str]]:
    return lambda incomplete: [name for name in names() if name.startswith(incomplete)]


def _spellings(field: Field[Any], declared: Option) -> tuple[str, ...]:
    """The flags of a field; that of one letter is short, and one that is true or not given has a
    negation."""
    if len(field.name) == 1:
        return (f"-{field.name}",)
    flag = declared.flag or f"--{field.name.replace('_', '-')}"
    is_switch = _required(field.type) is bool and field.default is not False
    return (f"{flag}/--no-{flag[2:]}" if is_switch else flag,)


def _flag(field: Field[Any], declared: Option) -> str:
    return _spellings(field, declared)[0].partition("/")[0]


def _first_flag(kind: type) -> str:
    field, declared = next(options_of(kind))
    return _flag(field, declared)


def _name(field: Field[Any], declared: Option) -> str:
    """The name of a flag's parameter."""
    name = _flag(field, declared).lstrip("-").replace("-", "_")
    return f"{name}_" if keyword.iskeyword(name) else name


def _default(field: Field[Any]) -> Any:
    """The default of a field, MISSING without one."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def _shown(default: Any, declared: Option) -> Any:
    """The default of a flag: None for what the command line spells otherwise, or several times."""
    if default is MISSING or (declared.reads is None and default not in ((), frozenset())):
        return default
    return declared.default_text


def _type(hint: Any, declared: Option) -> Any:
    """The type of a flag: that of what is read, a list for a tuple."""
    if declared.reads is not None:
        return next(iter(inspect.signature(declared.reads).parameters.values())).annotation
    inner = _required(hint)
    if get_origin(inner) in (tuple, frozenset):
        return list[get_args(inner)[0]]  # type: ignore[misc]
    # of the types that callers may give, a path or a text is what a command line has
    return next((kind for kind in (Path, str) if kind in get_args(inner)), inner)


def _required(hint: Any) -> Any:
    """X of `X | None`, others unchanged."""
    if get_origin(hint) not in (Union, types.UnionType):
        return hint
    others = [part for part in get_args(hint) if part is not type(None)]
    return Union[tuple(others)]  # noqa: UP007
