"""What the protocol of a split implies about its parts.

The digest of a split covers training events and targets. Histories follow from them: without this
check, a changed history in a folder whose file digests were recomputed would be read."""

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import IntegrityError
from sidtool.base.ranges import consecutive
from sidtool.data.fields.fields import TARGET
from sidtool.data.split.logs import UserLogs, user_logs
from sidtool.data.split.packed import PackedExamples, PackedSequences
from sidtool.data.split.packing import parts_of_windows
from sidtool.data.split.split import MIN_LENGTH, Split


def check_parts(split: Split, *, is_whole: bool = True) -> UserLogs | None:
    """The logs of a split, None under `given`. Raises IntegrityError unless its parts could have
    been made by its protocol. One that is not whole, of some of the users, may lack a part."""
    if is_whole and not (len(split.train) and len(split.valid) and len(split.test)):
        raise IntegrityError("a part of the split is empty")
    repeated = np.flatnonzero(np.bincount(split.train.user_codes) > 1)
    if len(repeated):
        raise IntegrityError(f"train has user {split.train.store.users[repeated[0]]!r} twice")
    _check_sessions(split)
    if split.windows is not None:
        _check_windows(split, split.windows)
        return None
    _check_positions(split)
    logs = user_logs(split)
    _check_targets(split, logs)
    if split.protocol != "temporal":
        _check_examples_of_users(split)
    return logs


def _check_sessions(split: Split) -> None:
    """Check that training events have sessions exactly if the split records them, and only
    held-out sessions have several targets."""
    train = split.train
    has_sessions = split.origin.sessions is not None
    counts = np.zeros(len(train), dtype=np.int64)
    if train.sessions is not None:
        counts = train.sessions.lengths
    wrong = np.flatnonzero((counts > 0) != has_sessions)
    if len(wrong):
        raise IntegrityError(
            f"train: user {train.users[wrong[0]]!r} has {counts[wrong[0]]} sessions, the split "
            f"records {'some' if has_sessions else 'none'}"
        )
    for name, part in (("valid", split.valid), ("test", split.test)):
        several = np.flatnonzero(part.targets.lengths > 1)
        if len(several) and split.protocol != "last-session":
            raise IntegrityError(
                f"{name}: user {part.users[several[0]]!r} has several targets in one example, "
                "which only a last-session split has"
            )


def _check_positions(split: Split) -> None:
    """Check that the training events of each user are the first ones."""
    train = split.train
    empty = np.flatnonzero(train.items.lengths == 0)
    if len(empty):
        raise IntegrityError(f"train: user {train.users[empty[0]]!r} has no event")
    if train.positions is not None:
        counted = consecutive(np.zeros(len(train), dtype=np.int64), train.items.lengths)
        place = int(np.flatnonzero(train.event_positions != counted)[0])
        row = int(np.searchsorted(np.cumsum(train.items.lengths), place, side="right"))
        raise IntegrityError(
            f"train: the positions of user {train.users[row]!r} are not 0, 1, 2 ... of each event"
        )


def _check_targets(split: Split, logs: UserLogs) -> None:
    """Check that targets follow training events, validation before test, and that histories end
    where they should."""
    # a held-out session may begin with an event that is no target
    has_gaps = split.protocol == "last-session" and bool(split.fields.target)
    for name, part in (("valid", split.valid), ("test", split.test)):
        first = part.positions
        ends = part.histories.lengths
        is_apart = ends > first if has_gaps else ends != first
        _refuse(name, part, is_apart, "a history that does not end at its targets")
        before = logs.n_train[part.user_codes]
        if name == "test":
            before = before + logs.n_valid[part.user_codes]
        _refuse(name, part, first < before, "a target among the events of an earlier part")
        if split.protocol == "last-session":
            _refuse(name, part, ends < before, "a history that ends before that of an earlier part")
        else:
            _refuse(name, part, ends == 0, "a target without a history")
    if not split.fields.target:
        _check_all_are_targets(split, logs)


def _check_all_are_targets(split: Split, logs: UserLogs) -> None:
    """Check that each event behind the training events is a target, apart from a first event."""
    totals = logs.totals
    n_targets = np.zeros_like(totals)
    for part in (split.valid, split.test):
        n_targets += np.bincount(part.event_users, minlength=len(totals))
    expected = totals - logs.n_train
    if split.protocol == "temporal":  # an event without a history is in no part
        expected = np.where(logs.n_train == 0, np.maximum(expected - 1, 0), expected)
    has_gap = logs.last_positions + 1 != totals
    wrong = np.flatnonzero((n_targets != expected) | has_gap)
    if len(wrong):
        raise IntegrityError(
            f"user {logs.store.users[wrong[0]]!r} has {n_targets[wrong[0]]} targets, "
            f"which are not all {expected[wrong[0]]} events behind the training events"
        )


def _refuse(name: str, part: PackedExamples, is_wrong: NDArray[np.bool_], what: str) -> None:
    rows = np.flatnonzero(is_wrong)
    if len(rows):
        row = int(rows[0])
        raise IntegrityError(
            f"{name}: user {part.users[row]!r} has {what}, at position {part.positions[row]} after "
            f"a history of {part.histories.lengths[row]} events"
        )


def _check_examples_of_users(split: Split) -> None:
    """Check that a user has one validation and one test example, or none and too few targets, or
    sessions, for them. A split that extends another one may have none for a user, or no validation
    example."""
    n_users = len(split.valid.store.users)
    n_valid, n_test = (
        np.bincount(part.user_codes, minlength=n_users) for part in (split.valid, split.test)
    )
    if (n_valid > 1).any():
        user = split.valid.store.users[np.flatnonzero(n_valid > 1)[0]]
        raise IntegrityError(f"valid has two examples of user {user!r}")
    if split.origin.extends and (n_valid <= n_test).all() and (n_test <= 1).all():
        return
    if not np.array_equal(n_valid, n_test):
        raise IntegrityError("valid and test do not have one example of each user")
    train, by_session = split.train, split.protocol == "last-session"
    counts = _countable(train, by_session)
    has_none = n_valid[train.user_codes] == 0
    wrong = np.flatnonzero(has_none & (counts >= MIN_LENGTH))
    if len(wrong):
        what = "sessions" if by_session else "targets"
        raise IntegrityError(
            f"user {train.users[wrong[0]]!r} has {counts[wrong[0]]} {what} and no example"
        )


def _countable(train: PackedSequences, by_session: bool) -> NDArray[np.int64]:
    """(n,): how many targets, or sessions with targets, each user's training events have."""
    lengths = train.items.lengths
    if not by_session and TARGET not in train.store.fields:
        return lengths
    is_target = train.target_marks
    users = np.repeat(np.arange(len(train)), lengths)
    if by_session and train.sessions is not None:
        firsts = np.cumsum(lengths) - lengths
        starts = train.sessions.joined + np.repeat(firsts, train.sessions.lengths)
        target_sessions = np.searchsorted(starts, np.flatnonzero(is_target), side="right") - 1
        users = users[starts[np.unique(target_sessions)]]
    else:
        users = users[is_target]
    return np.bincount(users, minlength=len(train))


def _check_windows(split: Split, windows: PackedExamples) -> None:
    """Check that the training events are those of the windows, and that none is held out."""
    for name, part in (("windows", windows), ("valid", split.valid), ("test", split.test)):
        _refuse(name, part, part.positions < part.histories.lengths, "a target before its history")
    window_sequences = parts_of_windows(windows, split.valid, split.test).train
    implied = {sequence.user: sequence for sequence in window_sequences}
    stored = {sequence.user: sequence for sequence in split.train}
    for user in implied.keys() | stored.keys():
        if implied.get(user) != stored.get(user):
            raise IntegrityError(f"the windows show other events of user {user!r} than train has")
    if split.leaked_events:
        raise IntegrityError(f"{split.leaked_events} training events are held out")
