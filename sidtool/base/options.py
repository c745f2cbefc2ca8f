"""Options, declared once: a field of a dataclass with its type, default, bounds and meaning becomes
a flag of a command, a key of `--config` and `--set`, a field of a call's body and a row of the
pages."""

import ast
import inspect
import itertools
import math
import operator
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache, cached_property
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from sidtool.base.documents import parse_yaml, read_document
from sidtool.base.errors import DataError, UsageError

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

    @cached_property
    def read_kind(self) -> Any:
        """The type of what `reads` takes."""
        assert self.reads is not None
        return next(iter(inspect.signature(self.reads).parameters.values())).annotation

    @property
    def has_other_unit(self) -> bool:
        """Whether the flag takes a number that is not the value."""
        return self.reads is not None and self.read_kind is float

    def held(self, value: Any, kind: Any) -> Any:
        """What a field of type `kind` holds for a value as callers give it: numbers and columns of
        NumPy or pandas are those of Python, texts are read as the flag reads them, and one text may
        stand for several."""
        value = plain(value)
        kind = required(kind)
        is_text = isinstance(value, str | Path)
        values = [value] if is_text else value
        several = get_origin(kind) if get_origin(kind) in (tuple, frozenset) else None
        if self.reads is not None and not self.has_other_unit:
            takes_list = get_origin(self.read_kind) is list
            if is_text or (takes_list and _are_texts(values)):
                return self.reads(values if takes_list else value)
        elif kind is Path and is_text:
            return Path(value)
        elif kind == tuple[Path, ...] and _are_texts(values):
            return tuple(map(Path, values))
        return several(values) if several and isinstance(values, Iterable) else value

    def check(self, name: str, value: Any, kind: Any) -> None:
        """Raise UsageError for a value out of bounds or of another type than `kind`."""
        rule = _type_error(value, kind)
        if rule is None and _is_number(value):
            bounds = (
                (self.minimum, operator.ge, "at least"),
                (self.above, operator.gt, "more than"),
                (self.maximum, operator.le, "at most"),
                (self.below, operator.lt, "less than"),
            )
            for bound, compare, words in bounds:
                if bound is not None and not compare(value, bound):
                    rule = f"{words} {bound}"
                    break
            else:
                rule = None if abs(value) < math.inf else "a finite number"
        may_be_none = required(kind) != kind
        if rule is not None and not (value is None and may_be_none):
            raise UsageError(f"{name} must be {rule}, not {value!r}")


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


def options_from(
    kind: type[Options],
    options: Options | None,
    keywords: Mapping[str, Any],
    others: Iterable[type] = (),
) -> Options:
    """The options of a function that takes them as a dataclass or as `keywords`, by the names
    of the fields or of their flags: `tasks` or `task`. Keywords of a group are those of
    its fields. A text for a field of another type is read as that of a flag. Raises UsageError for
    both, for options of another type, a keyword that is no option and a value out of range; known
    are then also the flags of `others`, which `argument_options` took."""
    if options is not None and keywords:
        raise UsageError(f"options and the keyword {next(iter(keywords))} are both given: use one")
    if options is not None and not isinstance(options, kind):
        raise UsageError(f"options are {kind.__name__} or keywords, not {type(options).__name__}")
    names = dict.fromkeys(keywords_of(kind))
    for name in keywords:
        if name not in names:
            names |= {flag: None for other in others for flag in _flag_keywords(other)}
            raise UsageError(f"there is no option {name}, known are {', '.join(names)}")
    return options or _from_keywords(kind, keywords)


def take_options(
    kind: type[Options], options: Options | None, keywords: dict[str, Any]
) -> Options | None:
    """As `options_from`, for a function with several kinds of options: the keywords of this kind
    are taken out of `keywords`. Without any, `options` as they are."""
    names = keywords.keys() & set(keywords_of(kind))
    values = {name: keywords.pop(name) for name in names}
    return options_from(kind, options, values) if values else options


def argument_options(
    kind: type[Options], value: Options | str | Path | None, keywords: dict[str, Any]
) -> Options | None:
    """The options of one argument of a function that also has others: a dataclass, or a text that
    stands for its first field. Those that `keywords` have by their flags are taken out of them;
    without any and without `value`, None. Raises UsageError as `options_from`."""
    flags = _flag_keywords(kind)
    values = {name: keywords.pop(name) for name in flags if name in keywords}
    if isinstance(value, str | Path):
        if flags[0] in values:
            raise UsageError(f"{flags[0]} is given twice: {str(value)!r} and {values[flags[0]]!r}")
        values[flags[0]], value = str(value), None
    if value is not None and values:
        keyword = next(iter(values))
        raise UsageError(f"{kind.__name__} and the keyword {keyword} are both given: use one")
    return options_from(kind, value, values) if values or value is not None else None


def _flag_keywords(kind: type) -> list[str]:
    return [_flag_keyword(entry) for entry, _ in options_of(kind)]


def keywords_of(kind: type) -> Iterator[str]:
    """The keywords of the fields of a dataclass and of its groups."""
    for entry in fields(kind):
        yield from (entry.name, _flag_keyword(entry))
        if _declared(entry).is_group:
            yield from keywords_of(required(entry.type))


def _from_keywords(kind: type[Options], keywords: Mapping[str, Any]) -> Options:
    values = {}
    names = {entry.name for entry in fields(kind)}  # type: ignore[arg-type]
    for entry in fields(kind):  # type: ignore[arg-type]
        declared, flag = _declared(entry), _flag_keyword(entry)
        flag = entry.name if flag in names else flag  # `order` names a column, not what orders
        if flag != entry.name and keywords.keys() >= {flag, entry.name}:
            raise UsageError(f"{entry.name} and {flag} are one option: give one of them")
        value = keywords.get(entry.name, keywords.get(flag))
        field_type = required(entry.type)
        if declared.is_group:
            of_group = [name for name in keywords_of(field_type) if name in keywords]
            if isinstance(value, field_type):
                if others := [name for name in of_group if name != entry.name]:
                    raise UsageError(f"{entry.name} and {others[0]} are both given: use one")
                values[entry.name] = value
            elif of_group:
                values[entry.name] = _from_keywords(field_type, keywords)
            elif value is not None:
                raise UsageError(
                    f"{entry.name} must be {field_type.__name__}, not {type(value).__name__}"
                )
        elif entry.name in keywords or flag in keywords:
            if declared.has_other_unit and entry.name not in keywords and _is_number(value):
                value = declared.reads(value)  # type: ignore[misc]
            values[entry.name] = value
    for entry in fields(kind):  # type: ignore[arg-type]
        if MISSING is entry.default is entry.default_factory and entry.name not in values:
            raise UsageError(f"the option {_flag_keyword(entry)} is missing")
    return kind(**values)


def _declared(entry: Field[Any]) -> Option:
    return entry.metadata.get(_KEY, Option())


def _flag_keyword(entry: Field[Any]) -> str:
    """The keyword that is spelled like the flag of a field."""
    flag = _declared(entry).flag or entry.name
    return flag.removeprefix("--").replace("-", "_")


def required(kind: Any) -> Any:
    """X of the type `X | None`, others unchanged."""
    if get_origin(kind) not in (Union, types.UnionType):
        return kind
    others = [part for part in get_args(kind) if part is not type(None)]
    return Union[tuple(others)]  # noqa: UP007


def plain(value: Any) -> Any:
    """Numbers and columns of NumPy or pandas, and those in a mapping, as those of Python."""
    if isinstance(value, dict):
        return {key: plain(member) for key, member in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value


def settings_from(
    kind: type[Options],
    options: Options | None,
    others: Mapping[str, Any] | None,
    keywords: Mapping[str, Any],
) -> tuple[Options, dict[str, Any]]:
    """As `options_from`, for a function that also takes the settings of a library, `others`: what
    is no field of `kind` is one of these."""
    names = {entry.name for entry in fields(kind)}  # type: ignore[arg-type]
    option_values = {name: value for name, value in keywords.items() if name in names}
    library_settings = {name: value for name, value in keywords.items() if name not in names}
    return options_from(kind, options, option_values), plain({**(others or {}), **library_settings})


def check_options(options: Any) -> None:
    """Put what a field holds (`Option.held`) in place of each value of a dataclass. Raise
    UsageError for the first one that is out of its bounds or not of its type: numbers and texts of
    choices."""
    for entry, declared in options_of(type(options)):
        value = declared.held(getattr(options, entry.name), entry.type)
        object.__setattr__(options, entry.name, value)
        declared.check(entry.name, value, entry.type)


def _type_error(value: Any, kind: Any) -> str | None:
    """What a number or a choice must be, None if it is that."""
    kind = required(kind)
    if get_origin(kind) is Literal:
        return None if value in get_args(kind) else f"one of {', '.join(map(str, get_args(kind)))}"
    if kind is int and not (_is_number(value) and isinstance(value, Integral)):
        return "a whole number"
    if kind is float and not _is_number(value):
        return "a number"
    if kind is bool and not isinstance(value, bool):
        return "true or false"
    return None


def _are_texts(values: Any) -> bool:
    kinds = {type(value) for value in values} if isinstance(values, list | tuple) else ()
    return bool(kinds) and all(issubclass(kind, str | Path) for kind in kinds)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


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


MAX_SEED = (1 << 64) - 1
"""The largest seed of torch."""
MAX_TRAINING_SEED = (1 << 32) - 1
"""That of the trainers of transformers, who seed numpy's old generator, too."""
MAX_ID_BYTES = 1 << 28
"""Bytes of a file of ids: some ten million of them."""

_DECIMAL = {f"{prefix}B": 1000**power for power, prefix in enumerate(("", "k", "M", "G", "T"))}
_BINARY = {f"{prefix}iB": 1024**power for power, prefix in enumerate(("K", "M", "G", "T"), 1)}
UNITS = {"": 1, **_DECIMAL, **_BINARY}
"""Bytes by unit."""


def variable_name(command: str, flag: str) -> str:
    """The variable of the environment that stands for a flag, like SIDTOOL_BUILD_MEMORY_OUT."""
    return f"SIDTOOL_{command}_{flag.removeprefix('--')}".replace("-", "_").upper()


def parse_bytes(text: str) -> int:
    """A size in bytes: "4GiB" -> 4294967296. Raises UsageError."""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]+)?) ?([A-Za-z]*)", text.strip())
    units = {name.lower(): factor for name, factor in UNITS.items()}
    if not match or match[2].lower() not in units:
        raise UsageError(
            f"{text[:40]!r} is not a size like 4GiB",
            hint=f"units are {', '.join(filter(None, UNITS))}",
        )
    return int(float(match[1]) * units[match[2].lower()])


def read_ids(path: Path) -> tuple[str, ...]:
    """Item ids, one per line, exactly as they stand there; empty lines are skipped. Only a line
    feed, or a carriage return before it, ends a line: spaces and other separators are part of an
    id. Raises DataError if the file cannot be read."""
    try:
        content = read_document(Path(path), MAX_ID_BYTES)  # a function is given texts, too
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path}, line {line}: not UTF-8") from error
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return tuple(line for line in lines if line)


def given_ids(ids: Iterable[str] | str | Path) -> tuple[str, ...]:
    """Ids in any collection, or those of a file, as an option that reads ids holds them."""
    held: tuple[str, ...] = Option(reads=read_ids).held(ids, tuple[str, ...])
    return held


def assignments(pairs: list[str], *, option: str = "--set") -> dict[str, Any]:
    """`key=value` pairs as a mapping; a value is read as YAML, so that numbers are numbers."""
    values = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.strip()
        if not (key and equals):
            raise UsageError(f"{option} takes key=value, not {pair!r}")
        try:
            values[key] = parse_yaml(value)
        except ValueError:
            values[key] = value
    return values


def numbers(pairs: list[str], *, option: str) -> dict[str, float]:
    """`key=number` pairs as a mapping. Raises UsageError for a value that is no number."""
    values = {}
    for key, value in assignments(pairs, option=option).items():
        try:  # YAML reads 1e-3 as text
            values[key] = math.nan if isinstance(value, bool) else float(value)
        except (TypeError, ValueError, OverflowError):
            values[key] = math.nan
        if not math.isfinite(values[key]):
            raise UsageError(f"{option} takes a number for {key}, not {value!r}")
    return values
