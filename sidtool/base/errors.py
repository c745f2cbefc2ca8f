"""The errors that sidtool raises, each with the exit code of a command that fails with it.

    SidtoolError                     exit 1   the work failed
    ├── UsageError                   exit 2   a flag, a configuration key or a combination is wrong
    ├── DataError                    exit 1   an input is missing, malformed or inconsistent
    ├── MissingPackageError          exit 1   an optional package is not installed
    └── RefusedError                 exit 3   refused
        ├── IntegrityError               a stored object differs from its digest
        ├── CompatibilityError           a bundle, a model and examples do not fit together
        └── ThresholdError               a metric is below the required minimum

    SidtoolWarning                   a message for the user that is not a failure

An error is one line: what is wrong and the two values that disagree; `hint` is what to do next, in
the words of Python.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3
EXIT_INTERRUPTED = 130

_SWITCHES = "force|resume|fix|trust-remote-code|allow-unknown|allow-worse-slices"
_CHOICES = "random|plain|float32|lexical|minilm|reassign|xllm|line|id|drop|row|hf://[A-Z/]+"
"""Words that are the value of a flag in a hint."""
_FLAG = re.compile(
    rf"--(?:(?P<switch>{_SWITCHES})|no-(?P<off>[a-z-]+)|(?P<name>[a-z][a-z-]*)"
    rf"(?: (?P<share>[a-z-]+=\d)| (?P<word>{_CHOICES})\b| (?P<value>[A-Z]+|[\d.e-]+)\b)?)"
)
_COMMAND = re.compile(r"`|\b(sidtool|torchrun|(make|extend|tune|build|init|add)-[a-z]+)\b")
"""A part of a hint with one of these is for a shell."""


_CREDENTIALS = re.compile(r"(?<=:/)(/?)[^/@\s:]*:[^/\s]*@")
"""The user and the password of a URL, also of one that a Path has shortened."""


def without_credentials(text: str) -> str:
    """A text whose URLs have *** in place of user and password."""
    return _CREDENTIALS.sub(r"\1***@", text)


class SidtoolError(Exception):
    """Any failure that sidtool expects: one line, an exit code, and optionally what to do next.

    `hint` is that in Python's words, `force=True`; it is also a note of the exception, which a
    traceback shows. `shell_hint` has the flags of the commands, `--force`."""

    exit_code = EXIT_FAILED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(without_credentials(message))
        hint = None if hint is None else without_credentials(hint)
        self.shell_hint = hint
        self.hint: str | None = None
        if hint is not None:
            hint = re.sub(r"^-o (?=\S+$)", "out=", hint)
            # a list of flags stays whole: a command may come before its first
            parts = re.split(r"(?<=;) |(?<=,) (?!(?:or with )?--)", hint)
            self.hint = " ".join(
                part if _COMMAND.search(part) else _FLAG.sub(_keyword, part) for part in parts
            )
            self.add_note(self.hint)


def _keyword(flag: re.Match[str]) -> str:
    """The keyword of a function that is a flag of its command."""
    name = (flag["switch"] or flag["off"] or flag["name"]).replace("-", "_")
    name = "order_by" if name == "order" else name  # the keyword `order` names a column
    if flag["share"]:
        key, _, weight = flag["share"].partition("=")
        return f'{name}={{"{key}": {weight}}}'
    if flag["word"]:
        return f'{name}="{flag["word"]}"'
    value = flag["value"] or ("True" if flag["switch"] else "False" if flag["off"] else None)
    return name if value is None else f"{name}={value}"


class UsageError(SidtoolError):
    """A flag, a configuration key or a combination of them is wrong."""

    exit_code = EXIT_USAGE


class DataError(SidtoolError):
    """An input is missing, malformed or inconsistent."""


class MissingPackageError(SidtoolError):
    """An optional package is not installed."""


class RefusedError(SidtoolError):
    """The answer is no: nothing failed, but continuing would be wrong."""

    exit_code = EXIT_REFUSED


class IntegrityError(RefusedError):
    """A stored object differs from its digest."""


class CompatibilityError(RefusedError):
    """A bundle, a model and training examples do not fit together."""


class ThresholdError(RefusedError):
    """A metric is below the required minimum."""


class SidtoolWarning(UserWarning):
    """A message for the user that is not a failure."""


def first_line(error: BaseException) -> str:
    """What an error says, on one line without control characters."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    text = next((line for line in lines if line), type(error).__name__)
    if isinstance(error, KeyError):
        text = f"there is no {text}"
    if isinstance(error, MemoryError | RecursionError):
        text = "it is too large or too deeply nested"
    return "".join(character if character.isprintable() else " " for character in text)[:300]


@contextmanager
def raised_as(
    kind: type[SidtoolError],
    problem: str,
    hint: str | None = None,
    *,
    errors: tuple[type[Exception], ...] = (Exception,),
) -> Iterator[None]:
    """Raise an error of this kind for other `errors`, whose first line follows the problem; for any
    of a library whose errors have no common class."""
    try:
        yield
    except SidtoolError:
        raise
    except errors as error:
        raise kind(f"{problem}: {first_line(error)}", hint=hint) from error
