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

An error is one line: what is wrong and the two values that disagree; `hint` is what to do next.
"""

import re

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3
EXIT_INTERRUPTED = 130

_SWITCH = re.compile(r"--(force|resume|trust-remote-code|allow-unknown)\b")


class SidtoolError(Exception):
    """Any failure that sidtool expects: one line, an exit code, and optionally what to do next.

    A hint that names a switch is also a note of the exception, which a traceback shows, with the
    keyword in place of the switch: `force=True`."""

    exit_code = EXIT_FAILED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint
        if hint is not None and _SWITCH.search(hint):
            self.add_note(_SWITCH.sub(_as_keyword, hint))


def _as_keyword(switch: re.Match[str]) -> str:
    """The keyword of a function that is a switch of its command."""
    return f"{switch[1].replace('-', '_')}=True"


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
