"""Options, declared once: a field of a dataclass with its type, default, bounds and meaning becomes
a flag of a command, a key of `--config` and `--set`, a field of a call's body and a row of the
pages."""

import ast
import inspect
import itertools
import math
import numbers
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from typing import Any, Literal, TypeVar, get_args, get_origin

from sidtool.base.errors import UsageError

_KEY = "option"
Options = TypeVar("Options")


@dataclass(frozen=True)
class Option:
    """What a field that users set has beside its type, default and docstring."""

    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    """The value must be larger than this."""
    below: float | None = None
    flag: str | None = None
    """The long flag, if it is not spelled like the field."""
    short: str | None = None
    """A short flag beside the long one."""
    metavar: str | None = None
    panel: str | None = None
    """Of the help, if it is not that of `cli.command.PANELS`."""
    reads: Callable[[Any], Any] | None = None
    """Makes the value of what the command line takes, which has the type of its parameter."""
    default_text: Any = None
    """What `reads` makes the default of, if the help shows it."""
    completes: Callable[[], Iterable[str]] | None = None
    """The values that a shell offers."""
    is_group: bool = False
    """The field holds a dataclass of options; one that may be None is None unless an option of it
    is given."""

    def check(self, name: str, value: Any, kind: Any) -> None:
        """Raise UsageError for a value out of bounds or of another type than `kind`."""
        rule = _type_error(value, kind) or self._bound_error(value)
        if value is not None and rule is not None:
            raise UsageError(f"{name} must be {rule}, not {value!r}")

    def _bound_error(self, value: Any) -> str | None:
        """The bound that a number does not keep."""
        if value is None or not _is_number(value):
            return None
        if self.minimum is not None and not value >= self.minimum:
            return f"at least {self.minimum}"
        if self.above is not None and not value > self.above:
            return f"more than {self.above}"
        if self.maximum is not None and not value <= self.maximum:
            return f"at most {self.maximum}"
        if self.below is not None and not value < self.below:
            return f"less than {self.below}"
        return None if abs(value) < math.inf else "a finite number"


def option(default: Any = MISSING, **declared: Any) -> Any:
    """A field that users set; `declared` are those of `Option`."""
    is_factory = inspect.isfunction(default) or inspect.isclass(default)
    return field(
        **{"default_factory" if is_factory else "default": default},
        metadata={_KEY: Option(**declared)},
    )


def group(default: Any = None) -> Any:
    """A field with a dataclass of options, made by `default`; None unless one of them is given."""
    return option(default, is_group=True)


def options_of(kind: type) -> Iterator[tuple[Field[Any], Option]]:
    """The fields of a dataclass that users set."""
    for entry in fields(kind):
        if _KEY in entry.metadata:
            yield entry, entry.metadata[_KEY]


def options_from(kind: type[Options], options: Options | None, given: Mapping[str, Any]) -> Options:
    """The options of a function that takes them as a dataclass or as keywords, those `given`, by
    the names of the fields or of their flags: `tasks` or `task`. Keywords of a group are those of
    its fields. A text for a field of another type is read as that of a flag.

    Raises UsageError for both, for a keyword that is no option, and for a value out of range."""
    if options is not None and given:
        raise UsageError(f"options and the keyword {next(iter(given))} are both given: use one")
    known = dict.fromkeys(keywords_of(kind))
    for name in given:
        if name not in known:
            raise UsageError(f"there is no option {name}, known are {', '.join(known)}")
    return options or _from_keywords(kind, given)


def keywords_of(kind: type) -> Iterator[str]:
    """The keywords of the fields of a dataclass and of its groups."""
    for entry in fields(kind):
        yield from (entry.name, _flag_keyword(entry))
        if _declared(entry).is_group:
            yield from keywords_of(_required(entry.type))


def _from_keywords(kind: type[Options], given: Mapping[str, Any]) -> Options:
    values = {}
    for entry in fields(kind):  # type: ignore[arg-type]
        declared, flag = _declared(entry), _flag_keyword(entry)
        value = given.get(entry.name, given.get(flag))
        member = _required(entry.type)
        if declared.is_group and not isinstance(value, member):
            if not given.keys().isdisjoint(keywords_of(member)):
                values[entry.name] = _from_keywords(member, given)
        elif entry.name in given or flag in given:
            if isinstance(value, str) and declared.reads is not None:
                value = declared.reads(value)
            values[entry.name] = value
    return kind(**values)


def _declared(entry: Field[Any]) -> Option:
    return entry.metadata.get(_KEY, Option())


def _flag_keyword(entry: Field[Any]) -> str:
    """The keyword that is spelled like the flag of a field."""
    flag = _declared(entry).flag or entry.name
    return flag.removeprefix("--").replace("-", "_")


def _required(kind: Any) -> Any:
    """X of `X | None`, others unchanged."""
    return get_args(kind)[0] if type(None) in get_args(kind) else kind


def settings_from(
    kind: type[Options],
    options: Options | None,
    others: Mapping[str, Any] | None,
    given: Mapping[str, Any],
) -> tuple[Options, dict[str, Any]]:
    """As `options_from`, for a function that also takes the settings of a library, `others`: what
    is no field of `kind` is one of these."""
    names = {entry.name for entry in fields(kind)}  # type: ignore[arg-type]
    of_kind = {name: value for name, value in given.items() if name in names}
    of_library = {name: value for name, value in given.items() if name not in names}
    return options_from(kind, options, of_kind), {**(others or {}), **of_library}


def check_options(options: Any) -> None:
    """Raise UsageError for the first value of a dataclass that is out of its bounds or not of its
    type: numbers and texts of choices."""
    for entry, declared in options_of(type(options)):
        declared.check(entry.name, getattr(options, entry.name), entry.type)


def _type_error(value: Any, kind: Any) -> str | None:
    """What a number or a choice must be, None if it is that."""
    kind = _required(kind)
    if get_origin(kind) is Literal:
        return None if value in get_args(kind) else f"one of {', '.join(map(str, get_args(kind)))}"
    if kind is int and not (_is_number(value) and isinstance(value, numbers.Integral)):
        return "a whole number"
    if kind is float and not _is_number(value):
        return "a number"
    if kind is bool and not isinstance(value, bool):
        return "true or false"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


@cache
def meanings(kind: type) -> Mapping[str, str]:
    """The docstring below each field of a dataclass and of its bases, on one line."""
    texts: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        (definition,) = ast.parse(inspect.getsource(base)).body
        assert isinstance(definition, ast.ClassDef)
        for named, text in itertools.pairwise(definition.body):
            if isinstance(named, ast.AnnAssign) and isinstance(text, ast.Expr):
                texts[ast.unparse(named.target)] = " ".join(ast.literal_eval(text.value).split())
    return texts
