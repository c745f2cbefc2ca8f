"""Options, declared once: a field of a dataclass with its type, default, bounds and meaning becomes
a flag of a command, a key of `--config`, a field of a call's body and a row of the pages."""

import ast
import inspect
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from functools import cache
from typing import Any

from sidtool.base.errors import UsageError

_KEY = "option"


@dataclass(frozen=True)
class Option:
    """What a field that users set has beside its type, default and docstring."""

    minimum: float | None = None
    maximum: float | None = None
    above: float | None = None
    """The value must be larger than this."""
    flag: str | None = None
    """The long flag, if it is not spelled like the field."""
    metavar: str | None = None
    panel: str | None = None
    """Of the help, if it is not that of `cli.command.PANELS`."""
    shown_default: str | None = None
    """Of the help, where the default is chosen later."""
    is_file: bool = False
    """The command line takes a file with an entry per line."""

    def check(self, name: str, value: Any) -> None:
        """Raise UsageError for a number out of bounds."""
        if not isinstance(value, int | float):
            return
        wanted = None
        if self.minimum is not None and not value >= self.minimum:
            wanted = f"at least {self.minimum}"
        elif self.above is not None and not value > self.above:
            wanted = f"more than {self.above}"
        elif self.maximum is not None and not value <= self.maximum:
            wanted = f"at most {self.maximum}"
        elif value in (float("inf"), float("-inf")):
            wanted = "a finite number"
        if wanted is not None:
            raise UsageError(f"{name} must be {wanted}, not {value}")


def option(default: Any = MISSING, **declared: Any) -> Any:
    """A field that users set; `declared` are those of `Option`."""
    return field(default=default, metadata={_KEY: Option(**declared)})


def options_of(kind: type) -> Iterator[tuple[Field[Any], Option]]:
    """The fields of a dataclass that users set."""
    for each in fields(kind):
        if _KEY in each.metadata:
            yield each, each.metadata[_KEY]


def check_options(options: Any) -> None:
    """Raise UsageError for the first number of a dataclass that is out of its bounds."""
    for each, declared in options_of(type(options)):
        declared.check(each.name, getattr(options, each.name))


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
