"""The protocols: what a model may learn from and what it is asked. The one place that knows what is
held out.

    leave-one-out   a user's last event is test, the one before valid, the rest train
    temporal        one cut in time for everybody: train before it, then valid, then test
    given           files that others have split and windowed

An event is (user, item, position), the position being its index in the user's whole sequence, so a
repeated item is another event. Repeats are kept. Knows nothing of semantic IDs: examples name
items, so any bundle can be asked them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from sidtool.data.interactions import Interactions
from sidtool.data.tables import digest_strings
from sidtool.data.windows import Window, positions, read_windows
from sidtool.errors import DataError, UsageError

Event = tuple[str, str, int]
"""User, item, position."""
FRACTIONS = (0.8, 0.1, 0.1)


@dataclass(frozen=True)
class UserSequence:
    """A user's training events in time order."""

    user: str
    items: tuple[str, ...]
    positions: tuple[int, ...]


@dataclass(frozen=True)
class Example:
    """A question with its answer: after this history, which item?"""

    user: str
    history: tuple[str, ...]
    item: str
    position: int
    """Index of the item in the user's whole sequence."""


@dataclass(frozen=True)
class Split:
    """What a protocol makes of the events."""

    protocol: str
    train: tuple[UserSequence, ...]
    valid: tuple[Example, ...]
    test: tuple[Example, ...]
    facts: dict[str, Any]
    """What the lineage of training rows records, JSON-able."""
    windows: tuple[Example, ...] | None = None
    """Training rows as the files give them (protocol `given`): training uses exactly these."""

    @cached_property
    def held_out(self) -> frozenset[Event]:
        """The events that valid and test ask for."""
        return frozenset(
            (asked.user, asked.item, asked.position) for asked in (*self.valid, *self.test)
        )


def scan(split: Split, rows_events: Iterable[Event]) -> int:
    """Number of held-out events among the events that training rows show: must be 0."""
    return sum(event in split.held_out for event in rows_events)


def leave_one_out(
    interactions: Interactions, *, min_length: int = 3, hold_back: int | None = None
) -> Split:
    """Last event test, second last valid, the rest train; all train for users with fewer than
    `min_length` events.

    The history of a test question ends with an event that is in no training row; that of a valid
    question ends with the last one of its row. With `hold_back`, only so many users are valid,
    evenly spread over those of four events or more, and the third last event of each is in no row
    either: valid histories then end as test histories do. Targets still differ: a last event may
    have less to do with the one before it (benchmarks/ablation.md)."""
    if min_length < 3:
        raise UsageError(f"leave-one-out needs users of 3 events or more, not {min_length}")
    if hold_back is not None and hold_back < 1:
        raise UsageError(f"a number of users to hold back is positive, not {hold_back}")
    least = min_length if hold_back is None else max(min_length, 4)
    asked = [user for user, start, stop in _users(interactions) if stop - start >= least]
    if hold_back is not None and hold_back < len(asked):
        asked = [asked[at * len(asked) // hold_back] for at in range(hold_back)]
    validating = set(asked)
    train, valid, test = [], [], []
    for user, start, stop in _users(interactions):
        items = tuple(interactions.items[start:stop].tolist())
        n = len(items)
        seen = n if n < min_length else n - 3 if hold_back and user in validating else n - 2
        train.append(UserSequence(user, items[:seen], tuple(range(seen))))
        if user in validating:
            valid.append(Example(user, items[: n - 2], items[n - 2], n - 2))
        if seen < n:
            test.append(Example(user, items[: n - 1], items[n - 1], n - 1))
    facts = {
        "min_length": min_length,
        "short_users": len(train) - len(test),
        "interactions": interactions.digest,
    }
    held = {} if hold_back is None else {"held_back": len(valid)}
    return _split("leave-one-out", train, valid, test, facts | held)


def temporal(
    interactions: Interactions,
    *,
    valid_from: float | None = None,
    test_from: float | None = None,
    fractions: tuple[float, float, float] = FRACTIONS,
) -> Split:
    """One cut in time for everybody: valid asks for events from `valid_from` on, test for those
    from `test_from` on.

    Without cuts, they are placed so that the fractions of all events lie before, between and after
    them; events of one moment stay together. The history is everything of the user before the
    target. A target without history asks nothing: it is left out of valid and test (and counted),
    and is in no training row either."""
    if valid_from is None or test_from is None:
        if (valid_from is None) != (test_from is None):
            raise UsageError("a temporal split takes both cuts or none")
        valid_from, test_from = _cuts(interactions, fractions)
    if valid_from > test_from:
        raise UsageError(f"valid starts at {valid_from}, after test, which starts at {test_from}")
    train, valid, test, without_history = [], [], [], 0
    for user, start, stop in _users(interactions):
        items, order = (
            tuple(interactions.items[start:stop].tolist()),
            interactions.order[start:stop],
        )
        first, second = (int(cut) for cut in np.searchsorted(order, [valid_from, test_from]))
        if first:
            train.append(UserSequence(user, items[:first], tuple(range(first))))
        elif items:
            without_history += 1
        valid += [Example(user, items[:at], items[at], at) for at in range(max(first, 1), second)]
        test += [
            Example(user, items[:at], items[at], at) for at in range(max(second, 1), len(items))
        ]
    facts = {
        "valid_from": valid_from,
        "test_from": test_from,
        "order_column": interactions.order_column,
        "targets_without_history": without_history,
        "interactions": interactions.digest,
    }
    return _split("temporal", train, valid, test, facts)


def given(train: Path, valid: Path, test: Path) -> Split:
    """Files that others have split and windowed, as MiniOneRec's train, valid and test CSV.

    Training uses the windows as they are, but for those that show an event which valid or test asks
    for: they are left out and counted. The training events of a user, for what counts
    co-occurrence, are all that the windows show; where they stand in the whole sequence is told in
    `windows.positions`."""
    parts = [read_windows(path) for path in (train, valid, test)]
    placed = iter(positions([window for part in parts for window in part]))
    shown, asked_valid, asked_test = (
        [_example(window, next(placed)) for window in part] for part in parts
    )
    held_out = {
        (example.user, example.item, example.position) for example in (*asked_valid, *asked_test)
    }
    windows = tuple(example for example in shown if held_out.isdisjoint(window_events(example)))
    facts = {
        "windows": len(windows),
        "windows_left_out": len(shown) - len(windows),
        "longest_history": max(len(window.history) for part in parts for window in part),
        "interactions": _windows_digest(parts),
    }
    return _split("given", _sequences(windows), asked_valid, asked_test, facts, windows)


def window_events(window: Example) -> Iterator[Event]:
    """Every event that an example shows, target included."""
    items = (*window.history, window.item)
    return (
        (window.user, item, window.position - len(items) + 1 + place)
        for place, item in enumerate(items)
    )


def _users(interactions: Interactions) -> Iterator[tuple[str, int, int]]:
    """User, start and stop of each user's run of events."""
    users = interactions.users
    starts = np.flatnonzero(np.concatenate([[True], users[1:] != users[:-1]]))
    stops = np.append(starts[1:], len(users))
    return (
        (users[start], start, stop)
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)
    )


def _cuts(interactions: Interactions, fractions: tuple[float, float, float]) -> tuple[float, float]:
    if min(fractions) <= 0 or abs(sum(fractions) - 1) > 1e-6:
        raise UsageError(
            f"fractions of train, valid and test are positive and add up to 1, not {fractions}"
        )
    moments, n = np.sort(interactions.order), len(interactions)
    # rounded before the floor, or 0.8 + 0.1 of ten events would be 8.999...
    first, second = (
        int(round(share * n, 6)) for share in (fractions[0], fractions[0] + fractions[1])
    )
    return float(moments[first]), float(moments[second])


def _example(window: Window, position: int) -> Example:
    return Example(window.user, window.history, window.item, position)


def _sequences(windows: Iterable[Example]) -> list[UserSequence]:
    """Each user's events, once each, by position."""
    shown: dict[str, set[tuple[int, str]]] = {}
    for window in windows:
        shown.setdefault(window.user, set()).update(
            (at, item) for _, item, at in window_events(window)
        )
    sequences = []
    for user, events in shown.items():
        ordered = sorted(events)
        sequences.append(
            UserSequence(user, tuple(item for _, item in ordered), tuple(at for at, _ in ordered))
        )
    return sequences


def _windows_digest(parts: Iterable[tuple[Window, ...]]) -> str:
    columns = []
    for part in parts:
        columns += [
            [w.user for w in part],
            [w.item for w in part],
            ["\t".join(w.history) for w in part],
        ]
    return digest_strings(*columns)


def _split(
    protocol: str,
    train: list[UserSequence],
    valid: list[Example],
    test: list[Example],
    facts: dict[str, Any],
    windows: tuple[Example, ...] | None = None,
) -> Split:
    counts = {
        "users": len(train),
        "train_events": sum(len(sequence.items) for sequence in train),
        "valid": len(valid),
        "test": len(test),
    }
    if not (train and valid and test):
        raise DataError(
            f"{protocol} leaves {counts['train_events']} training events, {len(valid)} valid "
            f"and {len(test)} test "
            "examples: each needs some",
            hint="try another protocol, or other cuts",
        )
    return Split(
        protocol,
        tuple(train),
        tuple(valid),
        tuple(test),
        {"protocol": protocol, **counts, **facts},
        windows,
    )
