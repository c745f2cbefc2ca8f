"""The options that say what is held out, and the split that they make: make-sft and build-codebook
share them."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sidtool.errors import UsageError

if TYPE_CHECKING:
    from sidtool.data.splits import Split

PROTOCOLS = ("leave-one-out", "temporal", "given")

Protocol = Annotated[str, typer.Option(help=f"What is held out: {', '.join(PROTOCOLS)}.")]
Valid = Annotated[Path | None, typer.Option(help="Validation windows, under `given`.")]
Test = Annotated[Path | None, typer.Option(help="Test windows, under `given`.")]
ValidFrom = Annotated[
    str | None, typer.Option(help="Under `temporal`: time or date where validation starts.")
]
TestFrom = Annotated[
    str | None, typer.Option(help="Under `temporal`: time or date where the test starts.")
]
HoldBack = Annotated[
    int | None,
    typer.Option(
        help="Under `leave-one-out`: validate on so many users alone, and train on one event "
        "less of each, so that "
        "their histories end with an event that training did not see, as those of the test do."
    ),
]
UserColumn = Annotated[str | None, typer.Option(help="Column of users in the events.")]
ItemColumn = Annotated[str | None, typer.Option(help="Column of item ids in the events.")]
OrderColumn = Annotated[str | None, typer.Option(help="Column of time or order in the events.")]


def read_optional(
    interactions: Path | None,
    protocol: str,
    files: tuple[Path | None, Path | None],
    cuts: tuple[str | None, str | None],
    columns: dict[str, str | None],
    hold_back: int | None = None,
) -> "Split | None":
    """`read_split`, or None without a file of events. Raises UsageError for an option that then
    says nothing."""
    if interactions is not None:
        return read_split(interactions, protocol, files, cuts, columns, hold_back)
    names = (
        "--valid",
        "--test",
        "--valid-from",
        "--test-from",
        *(f"--{name.replace('_', '-')}" for name in columns),
    )
    given = dict(zip(names, (*files, *cuts, *columns.values()), strict=True)) | {
        "--protocol": None if protocol == PROTOCOLS[0] else protocol,
        "--hold-back": hold_back,
    }
    if idle := [name for name, value in given.items() if value is not None]:
        raise UsageError(f"{idle[0]} needs --interactions")
    return None


def read_split(
    interactions: Path,
    protocol: str,
    files: tuple[Path | None, Path | None],
    cuts: tuple[str | None, str | None],
    columns: dict[str, str | None],
    hold_back: int | None = None,
) -> "Split":
    """The split of a file of events. `files` are those of `given`, `cuts` those of `temporal`,
    valid before test.

    Raises UsageError for what does not go together, and what the readers and protocols raise.
    """
    from sidtool.data import splits
    from sidtool.data.interactions import parse_time, read_interactions

    if protocol not in PROTOCOLS:
        raise UsageError(f"no protocol {protocol!r}", hint=f"there are {', '.join(PROTOCOLS)}")
    if (any(files) and protocol != "given") or (any(cuts) and protocol != "temporal"):
        raise UsageError(
            "--valid and --test go with given, --valid-from and --test-from with temporal, not "
            f"{protocol}"
        )
    if hold_back is not None and protocol != "leave-one-out":
        raise UsageError(f"--hold-back goes with leave-one-out, not {protocol}")
    if protocol == "given":
        valid, test = files
        if valid is None or test is None:
            raise UsageError("--protocol given needs --valid and --test")
        if idle := [name for name, column in columns.items() if column is not None]:
            raise UsageError(
                f"--{idle[0].replace('_', '-')} is of a file of events: windows are found by "
                "their names"
            )
        return splits.given(interactions, valid, test)
    events = read_interactions(interactions, **columns)
    if protocol == "leave-one-out":
        return splits.leave_one_out(events, hold_back=hold_back)
    try:
        valid_from, test_from = (None if cut is None else parse_time(cut) for cut in cuts)
    except ValueError as error:
        raise UsageError(f"a cut is a number or an ISO date: {error}") from error
    return splits.temporal(events, valid_from=valid_from, test_from=test_from)
