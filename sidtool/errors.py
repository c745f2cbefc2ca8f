"""The errors that sidtool raises, each with the exit code of a command that meets it.

Knows how a failure is named and told; knows nothing of what failed.

    SidtoolError                exit 1   the work failed ├── UsageError              exit 2   a
    flag, a configuration key or a combination of them makes no sense ├── DataError
    exit 1   an input file is missing, malformed or inconsistent └── RefusedError            exit 3
    the answer is no
        ├── IntegrityError               a stored object is not what its digest says
        ├── CompatibilityError           a bundle, a model and rows do not belong together
        └── ThresholdError               a metric is below the asked minimum

    SidtoolWarning                       something that the caller should know and that is no
    failure

An error is one line: what is wrong, the two values that disagree, what to do next. The last part is
`hint`."""

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_REFUSED = 3
EXIT_INTERRUPTED = 130


class SidtoolError(Exception):
    """Any failure that sidtool foresees: one line, an exit code and, where there is one, what to do
    next."""

    exit_code = EXIT_FAILED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(SidtoolError):
    """A flag, a configuration key or a combination of them makes no sense."""

    exit_code = EXIT_USAGE


class DataError(SidtoolError):
    """An input file is missing, malformed or inconsistent."""


class RefusedError(SidtoolError):
    """The answer is no: nothing broke, but going on would be wrong."""

    exit_code = EXIT_REFUSED


class IntegrityError(RefusedError):
    """A stored object is not what its digest says."""


class CompatibilityError(RefusedError):
    """A bundle, a model and rows do not belong together."""


class ThresholdError(RefusedError):
    """A metric is below the asked minimum."""


class SidtoolWarning(UserWarning):
    """Something that the caller should know and that is no failure."""
