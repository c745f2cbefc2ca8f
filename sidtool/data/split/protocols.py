"""The protocols that split events into training, validation and test.

    leave-one-out   a user's last event is test, the one before it validation, the rest training
    last-session    a user's last session is test, the one before it validation, the rest training
    temporal        two moments divide the events of all users into training, validation and test
    given           three files of windows that another system has split

With a condition of what is a target (`--target`), other events stay in histories: leave-one-out
holds out the last two targets of a user, and what lies between them or behind them is in no
training event."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sidtool.base.digests import digest_strings
from sidtool.base.errors import DataError, UsageError
from sidtool.data.fields.fields import EventStore
from sidtool.data.interactions import Interactions
from sidtool.data.split.packed import PackedExamples, PackedSequences, Ragged
from sidtool.data.split.packing import pack_parts, parts_of_windows
from sidtool.data.split.record import Cuts, Protocol, SplitCounts
from sidtool.data.split.sessions import SessionTable
from sidtool.data.split.split import MIN_LENGTH, Split, SplitOrigin
from sidtool.data.split.values import Example
from sidtool.data.split.windows import join_windows, read_windows

TRAIN_SHARE = 0.8
"""Under temporal without cuts: share of the events before the first cut."""
VALID_SHARE = 0.1
"""Under temporal without cuts: share of the events between the two cuts."""


@dataclass(frozen=True, eq=False)
class SplitEvents:
    """All events of all users, and the parts of a split as arrays that refer to them."""

    interactions: Interactions
    fields: EventStore | None = None
    """The same with their fields, and which of them are targets; None: all are"""
    sessions: SessionTable | None = None
    """Their sessions, if the split records them"""

    def leave_one_out(self, learned: NDArray[np.int64] | None = None) -> Split:
        """Split off the last target of each user for test and the one before it for validation.

        Users with fewer than MIN_LENGTH targets are trained on and not evaluated. `learned` is
        (users,): as `learned_targets`, which are training events."""
        targets = None if self.fields is None else self.targets
        return self.without_last("leave-one-out", targets, learned)

    def last_session(self, learned: NDArray[np.int64] | None = None) -> Split:
        """Split off the last session of each user for test and the one before it for validation.

        Sessions without a target are not counted; users with fewer than MIN_LENGTH others are
        trained on and not evaluated. All events before the validation session are training events.
        A history ends where the session of its targets begins. `learned` is as in
        `leave_one_out`."""
        sessions = self.sessions
        assert sessions is not None  # as `SplitOptions` requires
        with_targets = np.unique(np.searchsorted(sessions.starts, self.targets, side="right") - 1)
        return self.without_last("last-session", sessions.starts[with_targets], learned)

    def temporal(self, cuts: Cuts | None = None) -> Split:
        """Divide the events of all users at two moments: `cuts.valid_from` and `cuts.test_from`.

        Without cuts, they are placed so that 80%, 10% and 10% of all events are training,
        validation and test; events of one moment stay together. The history of an example is
        everything of the user before its target. The first event of a user without training events
        has no history, so it is in no part; such users are counted (`SplitCounts.left_out`). Raises
        UsageError if validation would start after test."""
        interactions = self.interactions
        if cuts is None:
            moments = np.sort(interactions.order)
            # rounded before the floor, or 0.8 + 0.1 of ten events would be 8.999...
            first_valid = int(round(TRAIN_SHARE * len(moments), 6))
            first_test = int(round((TRAIN_SHARE + VALID_SHARE) * len(moments), 6))
            cuts = Cuts(float(moments[first_valid]), float(moments[first_test]))
        if cuts.valid_from > cuts.test_from:
            raise UsageError(
                f"validation starts at {cuts.valid_from}, after test, which starts at "
                f"{cuts.test_from}"
            )
        starts, targets = interactions.starts, self.targets
        # the order of a user's events ascends, so those before a cut are the first ones
        valid_start, test_start = (
            starts + np.add.reduceat(interactions.order < cut, starts, dtype=np.int64)
            for cut in (cuts.valid_from, cuts.test_from)
        )
        trained = np.flatnonzero(valid_start > starts)
        train = self.sequences(trained, valid_start[trained])
        target_users = interactions.users.codes[targets]
        # the first event of a user is no example, which needs a history
        is_held_out = targets >= np.maximum(valid_start, starts + 1)[target_users]
        is_test = targets >= test_start[target_users]
        valid, test = (
            self.examples(target_users[is_in_part], targets[is_in_part])
            for is_in_part in (is_held_out & ~is_test, is_held_out & is_test)
        )
        n_untrained = len(starts) - len(trained)
        return self.split("temporal", train, valid, test, left_out=n_untrained, cuts=cuts)

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """(targets,): indexes of the events that may be held out, ascending"""
        if self.fields is None:
            return np.arange(len(self.interactions))
        return np.flatnonzero(self.fields.is_target)

    @cached_property
    def store(self) -> EventStore:
        """The events, to which all parts refer."""
        events = self.interactions
        return self.fields or EventStore(events.users.names, events.items.names, events.items.codes)

    def sequences(self, users: NDArray[np.int64], stops: NDArray[np.int64]) -> PackedSequences:
        """(n,) users' events before (n,) indexes, as training events."""
        starts = self.interactions.starts[users]
        items = Ragged(self.store.items, starts, stops)
        sessions = self._sessions(starts, stops)
        return PackedSequences(self.store, users.astype(np.int32), items, None, sessions)

    def _sessions(self, starts: NDArray[np.int64], stops: NDArray[np.int64]) -> Ragged | None:
        """The starts of the sessions in (n,) ranges of events, counted from the user's first."""
        if self.sessions is None:
            return None
        first_events = self.sessions.starts
        user_starts = self.interactions.starts[self.interactions.users.codes[first_events]]
        bounds = (np.searchsorted(first_events, ends) for ends in (starts, stops))
        return Ragged(first_events - user_starts, *bounds)

    def examples(self, users: NDArray[np.int64], events: NDArray[np.int64]) -> PackedExamples:
        """(n,) events by their indexes, each after all events of its user before it."""
        starts = self.interactions.starts[users]
        histories = Ragged(self.store.items, starts, events)
        users, positions = users.astype(np.int32), (events - starts).astype(np.int32)
        return PackedExamples(self.store, users, histories, Ragged.single(events), positions)

    def session_examples(
        self, users: NDArray[np.int64], firsts: NDArray[np.int64]
    ) -> PackedExamples:
        """(n,) sessions by the indexes of their first events, each with its targets, after all
        events of its user before the session."""
        starts, sessions = self.interactions.starts, self.sessions
        assert sessions is not None  # as in `last_session`
        all_stops = np.append(sessions.starts[1:], len(self.interactions))
        stops = all_stops[np.searchsorted(sessions.starts, firsts)]
        bounds = (np.searchsorted(self.targets, ends) for ends in (firsts, stops))
        return PackedExamples(
            self.store,
            users.astype(np.int32),
            Ragged(self.store.items, starts[users], firsts),
            Ragged(self.targets, *bounds),
            self.targets - starts[self.interactions.users.codes[self.targets]],
        )

    def without_last(
        self,
        protocol: Protocol,
        firsts: NDArray[np.int64] | None,
        learned: NDArray[np.int64] | None,
    ) -> Split:
        """The split in which the last two examples of each user with MIN_LENGTH or more of them are
        held out; what is before them is trained on. Examples begin at the events `firsts`, which
        ascend; None: at all. With 1 in `learned` the first is trained on instead, with 2 both
        are."""
        starts, stops = self.interactions.starts, self.interactions.stops
        # the examples of each user are at places first:last of all
        first, last = starts, stops
        if firsts is not None:
            first, last = np.searchsorted(firsts, starts), np.searchsorted(firsts, stops)
        evaluated = np.flatnonzero(last - first >= MIN_LENGTH)
        valid, test = last[evaluated] - 2, last[evaluated] - 1
        if firsts is not None:
            valid, test = firsts[valid], firsts[test]
        n_learned = np.zeros(len(evaluated)) if learned is None else learned[evaluated]
        has_valid, has_test = n_learned == 0, n_learned < 2
        train_stops = stops.copy()
        train_stops[evaluated[has_test]] = test[has_test]
        train_stops[evaluated[has_valid]] = valid[has_valid]
        train = self.sequences(np.arange(len(stops)), train_stops)
        examples = self.session_examples if protocol == "last-session" else self.examples
        valid_part = examples(evaluated[has_valid], valid[has_valid])
        test_part = examples(evaluated[has_test], test[has_test])
        n_from_test_on = (stops[evaluated] - test)[has_test]
        left_out = int(n_from_test_on.sum() - test_part.targets.lengths.sum())
        return self.split(protocol, train, valid_part, test_part, left_out)

    def split(
        self,
        protocol: Protocol,
        train: PackedSequences,
        valid: PackedExamples,
        test: PackedExamples,
        left_out: int,
        cuts: Cuts | None = None,
    ) -> Split:
        """The split of these parts, with the numbers of repeated targets and of tied ones."""
        events = self.interactions
        users, moments = events.users.codes, events.order
        is_tied = np.zeros(len(users), dtype=np.bool_)
        is_tied[1:] = (users[1:] == users[:-1]) & (moments[1:] == moments[:-1])
        origin = SplitOrigin(
            events.digest,
            events.columns,
            cuts,
            left_out,
            valid.repeated_targets + test.repeated_targets,
            sum(int(is_tied[part.targets.joined].sum()) for part in (valid, test)),
            fields=None if self.fields is None else self.fields.types,
            sessions=None if self.sessions is None else self.sessions.rule,
        )
        return Split(protocol, train, valid, test, None, origin)


def given(train: Path, valid: Path, test: Path) -> Split:
    """Read a split from three files of windows, such as MiniOneRec's train, valid and test CSV.

    Training windows that may show an event which is a target of validation or test are left out and
    counted (`SplitCounts.left_out`). A user's training events are all that the remaining windows
    show; `windows.join_windows` says which position each of them gets. Raises what
    `read_windows` and `join_windows` raise."""
    parts = [read_windows(path) for path in (train, valid, test)]
    positions, leaking = join_windows(*parts)
    windows, valid_examples, test_examples = (
        [
            Example(window.user, window.history, window.item, positions[window])
            for window in part
            if part is not parts[0] or window not in leaking
        ]
        for part in parts
    )
    columns: list[list[str]] = []
    for part in parts:
        columns.append([window.user for window in part])
        columns.append([window.item for window in part])
        columns.append(["\t".join(window.history) for window in part])
    packed = pack_parts((), valid_examples, test_examples, windows)
    assert packed.windows is not None
    joined = parts_of_windows(packed.windows, packed.valid, packed.test)
    origin = SplitOrigin(
        digest_strings(*columns),
        left_out=len(parts[0]) - len(windows),
        repeated_targets=joined.valid.repeated_targets + joined.test.repeated_targets,
    )
    return Split("given", joined.train, joined.valid, joined.test, joined.windows, origin)


def refuse_empty(protocol: Protocol, counts: SplitCounts) -> None:
    """Raise DataError if a part of a split is empty."""
    if not (counts.train_events and counts.valid and counts.test):
        raise DataError(
            f"{protocol} leaves {counts.train_events} training events, {counts.valid} valid "
            f"and {counts.test} test examples: no part may be empty",
            hint="try another protocol, or other cuts",
        )
