"""What is checked before a call works for its output: that it replaces no input, and that no other
process writes it."""

import functools
import glob
import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, get_args, get_type_hints

from sidtool.base.artifact import describe
from sidtool.base.errors import UsageError
from sidtool.base.locations import URL
from sidtool.base.options import options_of, required
from sidtool.base.output import reserved
from sidtool.base.process_setting import is_first_process

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_HINT = "write to another path"
_TEXTS = ("out", "history", "prompt", "query", "texts", "user", "text_template", "fields")
"""Parameters and options that are texts, and no paths of inputs."""
_IDS = ("candidates", "allow", "deny")
"""Those that are ids in Python; on the command line they are files."""


def keeps_inputs(
    written: str | None = None,
) -> Callable[[Callable[Parameters, Result]], Callable[Parameters, Result]]:
    """Decorates a function that has `out` and `force`, as parameters or in options: a call that
    would replace one of its inputs, or whose output is being written, raises UsageError before it
    does anything. The output is reserved during the call.

    A bundle, memory, model or split may be replaced by its own next version, which only a function
    makes that has `written` its kind: "a bundle"."""

    def decorate(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
        @functools.wraps(function)
        def checked(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
            try:
                arguments = inspect.signature(function).bind(*args, **kwargs).arguments
            except TypeError:  # which the call raises, too
                return function(*args, **kwargs)
            no_ids = {name: value for name, value in arguments.items() if name not in _IDS}
            values = list(_values(no_ids, _hints(function)))
            named = dict(values)
            out, force = Path(named.get("out") or ""), named.get("force")
            if force:
                _refuse_inputs(out, values, lambda kind: bool(written and kind.startswith(written)))
            # without force an existing output is refused by the function
            is_written = not named.get("dry_run") and (force or not os.path.lexists(out))
            is_local = out.name and not URL.match(str(out))  # a store has no lock
            with reserved(out) if is_written and is_local and is_first_process() else nullcontext():
                return function(*args, **kwargs)

        return checked

    return decorate


def check_read_files(out: Path, parameters: Mapping[str, Any]) -> None:
    """Raise UsageError if replacing `out` would remove a file that parameters of a command line
    name, also one that is read before the command's function is called. Whether an artifact may be
    replaced by its next version is left to that function."""
    lists = {
        name: value if isinstance(value, list | tuple) else [value]
        for name, value in parameters.items()
    }
    values = [(name, member) for name, members in lists.items() for member in members]
    _refuse_inputs(out, values, lambda kind: kind != "a file")


def _refuse_inputs(
    out: Path, values: Iterable[tuple[str, Any]], may_replace: Callable[[str], bool]
) -> None:
    """Raise UsageError if one of the values names a path inside of an existing `out`, or `out`
    itself, unless what it is (`describe`) may be replaced by its next version."""
    if out.name in ("", "..") or out.is_symlink() or not out.exists():
        return  # refused elsewhere, or only a link is replaced, or nothing
    replaced = out.resolve()
    for path in (path for name, value in values for path in _paths(name, value)):
        if replaced in path.parents:
            raise UsageError(f"{out} contains the input {path}", hint=_HINT)
        if path == replaced and not may_replace(describe(out) or ""):
            raise UsageError(f"{out} is an input of this command", hint=_HINT)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """The types of the parameters of a function, and of its options, which may be keywords."""
    hints = get_type_hints(function)
    options = required(hints.get("options"))
    return {**(get_type_hints(options) if is_dataclass(options) else {}), **hints}


def _values(values: Mapping[str, Any], hints: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The switches, texts and paths among values, by name: also those in lists, in mappings and in
    dataclasses of options. Where an opened bundle or memory is stored stands for it."""
    for name, value in values.items():
        location = getattr(value, "location", None)
        if isinstance(location, str | Path):
            yield name, location
        elif isinstance(value, Mapping):
            yield from _values(value, hints)
        elif isinstance(value, list | tuple):
            for member in value:
                yield from _values({name: member}, hints)
        elif is_dataclass(value) and (declared := dict(options_of(type(value)))):
            # what an option reads is no path any more
            unread = {
                field.name: getattr(value, field.name)
                for field in fields(value)
                if field not in declared or declared[field].reads is None
            }
            yield from _values(unread, get_type_hints(type(value)))
        elif isinstance(value, bool) or (
            isinstance(value, str | Path) and _takes_text(hints.get(name, Any))
        ):
            yield name, value


def _takes_text(hint: Any) -> bool:
    """Whether a type is of any texts or paths, not of a few words."""
    return hint in (Any, str, Path) or any(_takes_text(part) for part in get_args(hint))


def _paths(name: str, value: Any) -> Iterator[Path]:
    """Every existing file and folder that a value names, by a pattern, too, without a version
    (PATH@VERSION), a weight (PATH=WEIGHT) or a key (KEY=PATH)."""
    if not isinstance(value, str | Path) or name in _TEXTS:
        return
    value_text = str(value)
    parts = (value_text.rpartition("@")[0], value_text.rpartition("=")[0])
    for text in (value_text, *parts, value_text.partition("=")[2]):
        with suppress(OSError, ValueError):  # no path
            # Path.glob takes no absolute pattern
            matches = glob.glob(text, recursive=True, include_hidden=True)  # noqa: PTH207
            for path in (text, *matches):
                if path and Path(path).exists():
                    yield Path(path).resolve()
