"""Makes a split from files of events, by options."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sidtool.base.errors import SidtoolWarning, UsageError
from sidtool.base.given_options import given_flags
from sidtool.base.options import check_options, group, option
from sidtool.base.threads import release_arrow_memory
from sidtool.data.columns import EventColumns, EventNames
from sidtool.data.event_sort import Spill
from sidtool.data.fields.field_columns import FieldOptions, read_fields
from sidtool.data.interactions import read_interactions
from sidtool.data.split.extension import learned_targets
from sidtool.data.split.protocols import SplitEvents, given, refuse_empty
from sidtool.data.split.record import Cuts, Protocol, SessionRule
from sidtool.data.split.sessions import read_sessions
from sidtool.data.split.split import Split
from sidtool.data.times import parse_moment

MAX_REPEATED, MAX_REPEATED_SHARE = 50, 0.1
"""Events, and their share, above which a file may hold events twice."""


@dataclass(frozen=True)
class SplitOptions:
    """How events are split. Raises UsageError for options that do not belong to the protocol."""

    protocol: Protocol = option("leave-one-out")
    """leave-one-out: each user's last event is test, the one before validation. last-session: the
    same with whole sessions. temporal: two moments divide all events. given: the files are already
    split."""
    valid: Path | None = option(None, panel="Options")
    """Validation windows (protocol given)."""
    test: Path | None = option(None)
    """Test windows (protocol given)."""
    valid_from: str | float | None = option(None)
    """Time or date where validation starts (temporal). Default: after 80% of the events."""
    test_from: str | float | None = option(None)
    """Time or date where test starts (temporal). Default: after 90% of the events."""
    columns: EventNames = group(EventNames)
    """Columns of the events; not of windows, whose columns have fixed names."""
    fields: FieldOptions = group(FieldOptions)
    """Further columns of the events, a table of users, and what counts as a target."""
    extends: tuple[Path, ...] = option((), metavar="SPLIT")
    """Earlier split of the same data. Its bundles and models stay usable with the new split, which
    holds out nothing that was trained on. Repeatable."""
    sessions: SessionRule | None = group(None)
    """What a session is; required by last-session, recorded under leave-one-out and temporal."""

    def __post_init__(self) -> None:
        check_options(self)
        self._refuse_options_of("given", "--valid", self.valid, "--test", self.test)
        self._refuse_options_of(
            "temporal", "--valid-from", self.valid_from, "--test-from", self.test_from
        )
        flag = next(iter(given_flags(self.columns)), None)
        if self.protocol == "given" and flag is not None:
            raise UsageError(f"{flag} does not apply to windows, whose columns have fixed names")
        for content, is_given in (("fields", self.fields.any), ("sessions", self.sessions)):
            if self.protocol == "given" and is_given:
                raise UsageError(f"windows have no {content}: split the events to record some")
        gap = None if self.sessions is None else self.sessions.gap
        for flag, needs_times in (("--times", self.fields.times), ("--session-gap", gap)):
            if self.columns.order_by == "row" and needs_times:
                raise UsageError(
                    f"--order row and {flag}, which needs times, contradict each other"
                )
        if self.protocol == "last-session" and self.sessions is None:
            raise UsageError(
                "--protocol last-session requires --session-gap or --session-column",
                hint="like --session-gap 30m",
            )

    def _refuse_options_of(
        self, protocol: Protocol, first: str, one: object, second: str, other: object
    ) -> None:
        """Refuse a pair of options without its protocol, and one option of the pair alone."""
        if self.protocol != protocol and (one is not None or other is not None):
            raise UsageError(
                f"{first} and {second} require --protocol {protocol}, not {self.protocol}"
            )
        if (one is None) != (other is None):
            raise UsageError(f"{first} and {second} must be given together")
        if self.protocol == protocol == "given" and one is None:
            raise UsageError(f"--protocol given requires {first} and {second}")

    @property
    def further_columns(self) -> list[str]:
        """The columns of events that are read apart from ids and order."""
        names = [name.name for name in self.fields.event_fields]
        if self.sessions is not None and self.sessions.column is not None:
            names.append(self.sessions.column)
        return list(dict.fromkeys(names))

    def cuts(self, unit: float = 1) -> Cuts | None:
        """The cuts as numbers, dates in a unit of so many to a second; None if none are given.
        Raises UsageError."""
        if self.valid_from is None or self.test_from is None:
            return None
        return Cuts(*(parse_moment(str(cut), unit) for cut in (self.valid_from, self.test_from)))


def make_split(
    events: Path,
    options: SplitOptions | None = None,
    *,
    recorded: EventColumns | None = None,
    spill: Spill | None = None,
    threads: int = 1,
    is_subset: bool = False,
    earlier: Sequence[Split] = (),
) -> Split:
    """Split a file of events; under `given`, `events` holds the training windows. `recorded` are
    the columns of an earlier split of such events. With `spill`, events are sorted within a memory
    budget and lie in files. The split is the same for any number of threads. A part of it may be
    empty if the events are those of some users (`is_subset`). Where a user's last events are held
    out, those that `earlier` splits may have learned from are training events; a SidtoolWarning
    counts their users, and another one says that many events repeat others.

    Raises UsageError, DataError as the readers and the protocols do."""
    names = None if options is None else options.columns
    options = options or SplitOptions()
    if options.valid is not None and options.test is not None:
        split = given(events, options.valid, options.test)
        refuse_empty(split.protocol, split.counts)
        return split
    options.cuts()  # refused before the events are read
    options.fields.check_users()
    session_rule = options.sessions
    further = options.further_columns
    interactions = read_interactions(
        events, names, recorded=recorded, further=further, spill=spill, threads=threads
    )
    release_arrow_memory()
    n_repeated = 0 if is_subset else interactions.n_repeated
    if n_repeated > max(MAX_REPEATED, MAX_REPEATED_SHARE * len(interactions)):
        warnings.warn(
            f"{n_repeated / len(interactions):.0%} of events repeat user, item and time of another "
            "one: if files hold events twice, next items are easy to guess; `sidtool check ITEMS "
            "EVENTS --fix OUT` leaves repeats out",
            SidtoolWarning,
            stacklevel=2,
        )
    fields = None
    if options.fields.any:
        fields = read_fields(events, interactions, options.fields, is_subset=is_subset)
    sessions = read_sessions(events, interactions, session_rule) if session_rule else None
    split_events = SplitEvents(interactions, fields, sessions)
    if options.protocol == "temporal":
        split = split_events.temporal(options.cuts(interactions.unit or 1))
    else:
        split = _without_last(split_events, options.protocol, earlier)
    if not is_subset:
        refuse_empty(split.protocol, split.counts)
    return split


def _without_last(events: SplitEvents, protocol: Protocol, earlier: Sequence[Split]) -> Split:
    """The split that holds out the last targets of each user, or sessions by that protocol, but for
    those that `earlier` splits may have learned from; a SidtoolWarning counts their users."""
    hold_out = events.last_session if protocol == "last-session" else events.leave_one_out
    split = hold_out()
    learned = learned_targets(split, earlier)
    if not learned.any():
        return split
    extending = hold_out(learned)
    if not (extending.valid and extending.test):
        return split  # `extended` refuses it: nothing else is left to hold out
    warnings.warn(
        f"{np.count_nonzero(learned)} users have no validation target, and "
        f"{np.count_nonzero(learned > 1)} of them no test target: the earlier split "
        "may have trained on what would be held out",
        SidtoolWarning,
        stacklevel=3,
    )
    return extending
