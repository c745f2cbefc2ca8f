"""Groups of options: a parameter of a command that is a dataclass becomes the flags of its fields,
and the command is called with the dataclass. Its body names no flag twice. A parameter of its own
is `Annotated[type, help]`, or `Annotated[type, help, metavar]`."""

import functools
import inspect
import keyword
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from sidtool.base.errors import UsageError
from sidtool.base.options import Option, meanings, options_of, required


@dataclass(frozen=True)
class Given:
    """Annotates a parameter that is the mapping of the options of a dataclass that were given, by
    field; the others are those of `defaults`, as the help shows them."""

    defaults: Any


@dataclass(frozen=True)
class Flag:
    """One option of a group."""

    group: Any
    """a dataclass, one that may be None, or `Given`"""
    field: Field[Any]
    option: Option
    hint: Any
    is_needed: bool
    """whether the command needs the group"""

    @property
    def spelling(self) -> str:
        """The flag; that of one letter is short."""
        if len(self.field.name) == 1:
            return f"-{self.field.name}"
        return self.option.flag or f"--{self.field.name.replace('_', '-')}"

    @property
    def name(self) -> str:
        """The name of its parameter."""
        name = self.spelling.lstrip("-").replace("-", "_")
        return f"{name}_" if keyword.iskeyword(name) else name

    @property
    def default(self) -> Any:
        """The default of the field, MISSING without one."""
        if self.field.default_factory is not MISSING:
            return self.field.default_factory()
        return self.field.default

    @property
    def shown(self) -> Any:
        """The default of the flag: None for what the command line spells otherwise or repeats, and
        for what it does not need."""
        if isinstance(self.group, Given) or (self.default is MISSING and not self.is_needed):
            return None
        is_spelled = self.option.reads is None and self.default not in ((), frozenset())
        if self.default is MISSING or is_spelled:
            return self.default
        return self.option.default_text

    @property
    def type(self) -> Any:
        """The type of the flag: that of what is read, a list for a tuple."""
        if self.option.reads is not None:
            return self.option.read_kind
        inner = required(self.hint)
        if get_origin(inner) in (tuple, frozenset):
            return list[get_args(inner)[0]]  # type: ignore[misc]
        # of the types that callers may give, a path or a text is what a command line has
        return next((kind for kind in (Path, str) if kind in get_args(inner)), inner)

    @property
    def meaning(self) -> str:
        """The help."""
        text = meanings(_kind(self.group)).get(self.field.name, "")
        if not isinstance(self.group, Given):
            return text
        default = getattr(self.group.defaults, self.field.name)
        return text if default is None else f"{text} Default: {default}."

    def parameter(self) -> inspect.Parameter:
        """A keyword parameter with the flag, without its help."""
        is_switch = required(self.hint) is bool and self.field.default is not False
        spelling = f"{self.spelling}/--no-{self.spelling[2:]}" if is_switch else self.spelling
        names = self.option.completes
        declared = typer.Option(
            *([] if self.option.short is None else [self.option.short]),
            spelling,
            metavar=self.option.metavar,
            rich_help_panel=self.option.panel,
            autocompletion=None
            if names is None
            else lambda incomplete: [name for name in names() if name.startswith(incomplete)],
        )
        return inspect.Parameter(
            self.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if self.shown is MISSING else self.shown,
            annotation=Annotated[self.type | None if self.shown is None else self.type, declared],
        )

    def is_given(self, value: Any) -> bool:
        """Whether a value is not the default."""
        return value not in (self.shown, None, [], ())

    def read(self, value: Any) -> Any:
        """The value of the field, of that of the flag. Raises UsageError if it is out of bounds."""
        if not self.is_given(value):
            return None if self.default is MISSING else self.default
        if self.option.reads is not None:
            value = self.option.reads(value)
        several = get_origin(required(self.hint))
        value = several(value) if several in (tuple, frozenset) else value
        self.option.check(self.spelling, value, self.hint)
        return value


def with_flags(
    command: Callable[..., Any], extra: Iterable[inspect.Parameter] = ()
) -> Callable[..., Any]:
    """The function of a command with the flags of its groups in place of them, and with `extra`
    parameters, which it does not see. A group `X | None` is None unless one of its flags is
    given."""
    hints = get_type_hints(command, include_extras=True)
    groups = {name: _group(kind) for name, kind in hints.items() if _group(kind) is not None}
    parameters: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            for flag in _flags(groups[name]):  # groups share a flag of one name
                parameters.setdefault(flag.name, flag.parameter())
        else:
            declared = _declared(parameter, hints[name])
            kind = inspect.Parameter.KEYWORD_ONLY
            parameters[name] = parameter.replace(annotation=declared, kind=kind)
    for parameter in extra:
        parameters.setdefault(parameter.name, parameter)

    @functools.wraps(command)
    def run(**values: Any) -> Any:
        arguments = {name: values[name] for name in hints if name in values and name not in groups}
        options = {name: _make(kind, values) for name, kind in groups.items()}
        return command(**arguments, **options)

    run.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    run.__annotations__ = {name: flag.annotation for name, flag in parameters.items()}
    run.groups = tuple(groups.values())  # type: ignore[attr-defined]
    return run


def _declared(parameter: inspect.Parameter, hint: Any) -> Any:
    """The annotation of a parameter. The texts in `Annotated[type, text, metavar]` are those of an
    option if there is a default, else of an argument."""
    texts = [part for part in getattr(hint, "__metadata__", ()) if isinstance(part, str)]
    if not texts:
        return hint
    text, metavar = (*texts, None)[:2]
    if parameter.default is inspect.Parameter.empty:
        return Annotated[hint.__origin__, typer.Argument(help=text, metavar=metavar)]
    flag = f"--{parameter.name.replace('_', '-')}"
    return Annotated[hint.__origin__, typer.Option(flag, help=text, metavar=metavar)]


def flag_meanings(command: Callable[..., Any]) -> dict[str, str]:
    """The help of each flag of a command's groups, by the name of its parameter. It is read from
    the source when it is shown, which most calls of a command do not."""
    groups = reversed(getattr(command, "groups", ()))
    return {flag.name: flag.meaning for group in groups for flag in _flags(group)}


def _flags(group: Any, *, is_needed: bool = True) -> Iterator[Flag]:
    """The flags of a group and of the groups in it."""
    kind = _kind(group)
    is_needed = is_needed and kind is group
    hints = get_type_hints(kind)
    for field, declared in options_of(kind):
        if declared.is_group:
            yield from _flags(hints[field.name], is_needed=is_needed)
        else:
            yield Flag(group, field, declared, hints[field.name], is_needed)


def _make(group: Any, values: Mapping[str, Any]) -> Any:
    """The dataclass of a group, of the values of its flags. Raises UsageError for a value out of
    bounds, and for flags of an optional group without the one that it requires."""
    kind = _kind(group)
    hints = get_type_hints(kind)
    fields: dict[str, Any] = {}
    spellings: dict[str, str] = {}
    missing = []
    for field, declared in options_of(kind):
        if declared.is_group:
            flag = next(_flags(hints[field.name]))
            fields[field.name] = _make(hints[field.name], values)
            default = None if field.default_factory is MISSING else field.default_factory()
            is_given = fields[field.name] != default
        else:
            flag = Flag(group, field, declared, hints[field.name], kind is group)
            fields[field.name] = flag.read(values[flag.name])
            is_given = flag.is_given(values[flag.name])
            missing += [flag.spelling] if flag.default is MISSING and not is_given else []
        spellings |= {field.name: flag.spelling} if is_given else {}
    if isinstance(group, Given):
        return {name: fields[name] for name in spellings}
    if kind is not group and not spellings:
        return None
    if missing:
        raise UsageError(f"{next(iter(spellings.values()))} requires {missing[0]}")
    return kind(**fields)


def _group(hint: Any) -> Any:
    """The group of a parameter: a dataclass, one that may be None, or `Given`; None for a parameter
    of another kind."""
    for annotation in getattr(hint, "__metadata__", ()):
        if isinstance(annotation, Given):
            return annotation
    return hint if is_dataclass(required(hint)) else None


def _kind(group: Any) -> Any:
    """The dataclass of a group."""
    return type(group.defaults) if isinstance(group, Given) else required(group)
