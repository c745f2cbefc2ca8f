"""Splits of grown data: what a model learned from an earlier split stays usable with a later one.

A later split has new events, items and users, so its digest differs. It extends the earlier split
if nothing that it holds out was seen in training or in validation there. Where the last events of a
user are held out, those that were learned stay training events: the next event of a user with two,
which are trained on, would hold out the second one."""

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import CompatibilityError, SidtoolWarning
from sidtool.data.coded import Texts
from sidtool.data.split.packed import PackedExamples, PackedSequences
from sidtool.data.split.split import Split

ItemEvent = tuple[Any, ...]
"""An item, and the time of the event if both splits record times."""


def extended(split: Split, earlier: Split) -> Split:
    """`split`, with a record that it extends `earlier`, and the splits that `earlier` extends if
    that one has all their events.

    Raises CompatibilityError if an event that `split` holds out may have been a training event of
    `earlier`, or one that it holds out for test a training or validation event there. Cuts in time
    can rule that out; otherwise positions may differ, because events can be added anywhere, and
    `_learned` says which events may be the same. That `split` lacks training events of most users
    of `earlier` is a SidtoolWarning: a file of the new events alone was probably split. So is that
    it lacks any, since later splits then have to extend those before `earlier` themselves.
    """
    reference = earlier.reference
    cuts = reference.comparable_cuts(split.reference)
    # where neither cut is later, what was before it then is before it now
    is_later = cuts is not None and (
        cuts[0].valid_from <= cuts[1].valid_from and cuts[0].test_from <= cuts[1].test_from
    )
    seen = None if is_later else next(_seen(split, earlier), None)
    if seen is not None:
        raise CompatibilityError(
            f"split {split.reference} holds out item {seen.event[0]!r} of user {seen.user!r}, "
            f"which may be a {seen.parts} event of the earlier split: a model of that one may have "
            "learned it",
            hint="an extending split needs later events of the same users, or new users; "
            "if both are made with --times, repeats of an item are distinguished",
        )
    # where `earlier` lacks events of a split before it, `split` may hold out one of them
    before = () if earlier.origin.drops_events else reference.extends
    origin = split.origin
    extends = tuple(dict.fromkeys((*origin.extends, reference.digest, *before)))
    drops_events = origin.drops_events or _drops_events(split, earlier)
    return replace(split, origin=replace(origin, extends=extends, drops_events=drops_events))


def learned_targets(split: Split, earlier: Sequence[Split]) -> NDArray[np.int64]:
    """(users,): 2 where an event that is held out for test may be a training or validation event of
    an `earlier` split, else 1 where one that is held out for validation may be a training event, 0
    elsewhere."""
    learned = np.zeros(len(split.valid.store.users), dtype=np.int64)
    for earlier_split in earlier:
        for seen in _seen(split, earlier_split):
            learned[seen.code] = max(learned[seen.code], 2 if seen.is_test else 1)
    return learned


class _Seen(NamedTuple):
    """An event that a split holds out, and that may be one of an earlier split."""

    user: str
    code: int
    """the user's in the split that holds it out"""
    event: ItemEvent
    parts: str
    """of the earlier split that may have it"""
    is_test: bool
    """whether it is held out for test, else for validation"""


def _seen(split: Split, earlier: Split) -> Iterator[_Seen]:
    """The events that `split` holds out and `earlier` may have seen: for each user, the first one
    of test that may be a training event, of validation that may be one, and of test that may be a
    training or validation event."""
    # users who hold out an item that they have in an earlier part: of others none was seen
    user_codes = np.union1d(
        _repeated(split, split.valid, [earlier.train]),
        _repeated(split, split.test, [earlier.train, earlier.valid]),
    )
    users = split.valid.store.users[user_codes].tolist()
    have_windows = split.windows is not None or earlier.windows is not None
    in_order = not have_windows and split.reference.order == earlier.reference.order
    timed = _are_timed(split, earlier)
    new_logs, old_logs = _logs(split, users, timed), _logs(earlier, users, timed)
    # what follows the last target of a user is in no part
    shows_all = not split.fields.target
    for code, user in zip(user_codes.tolist(), users, strict=True):
        new, old = new_logs[user], old_logs[user]
        for parts, learned, held_out in (
            ("training", old.train, new.test),
            ("training", old.train, new.valid),
            ("training or validation", old.train | old.valid, new.test),
        ):
            event = _learned(old.events, learned, new.events, held_out, in_order, shows_all)
            if event is not None:
                yield _Seen(user, code, event, parts, is_test=held_out is new.test)


def _repeated(
    split: Split, held_out: PackedExamples, seen: Sequence[PackedSequences | PackedExamples]
) -> NDArray[np.int64]:
    """The users of `held_out` targets whose items they have in parts of an earlier split."""
    targets = _EventRows.of([held_out])
    codes = _EventRows.concatenated([targets, _EventRows.of(seen, split)]).codes
    n_targets = len(targets.users)
    return targets.users[np.isin(codes[:n_targets], codes[n_targets:])]


def _are_timed(split: Split, earlier: Split) -> bool:
    """Whether both splits have times, of one column, which distinguish events of one item."""
    times = split.fields.times and earlier.fields.times
    return times and split.reference.order == earlier.reference.order


@dataclass
class _Log:
    """What a split has of a user's events, by their positions."""

    events: dict[int, ItemEvent] = field(default_factory=dict)
    train: set[int] = field(default_factory=set)
    valid: set[int] = field(default_factory=set)
    test: set[int] = field(default_factory=set)


def _logs(split: Split, users: Collection[str], timed: bool) -> dict[str, _Log]:
    logs = {user: _Log() for user in users}
    for sequence in _of_users(split.train, users):
        log = logs[sequence.user]
        item_events = _item_events(sequence.items, sequence.fields.times if timed else None)
        log.events.update(zip(sequence.positions, item_events, strict=True))
        log.train.update(sequence.positions)
    for name, part in (("valid", split.valid), ("test", split.test)):
        for example in _of_users(part, users):
            log = logs[example.user]
            items = (*example.history, *example.items)
            times = example.all_fields.times if timed else None
            targets = [target.position for target in example.targets]
            positions = (*range(len(example.history)), *targets)
            # the history of a window may begin anywhere
            first = 0 if split.windows is None else len(example.history)
            item_events = _item_events(items, times)
            log.events.update(list(zip(positions, item_events, strict=True))[first:])
            getattr(log, name).update(targets)
    return logs


def _of_users(part: Any, users: Collection[str]) -> Any:
    """The sequences or examples of some users."""
    names = set(users)
    is_named = np.array([user in names for user in part.store.users.tolist()], dtype=np.bool_)
    return part.take(np.flatnonzero(is_named[part.user_codes]))


def _item_events(items: Sequence[str], times: Sequence[float] | None) -> list[ItemEvent]:
    return [*zip(items, times, strict=True)] if times is not None else [(item,) for item in items]


def _learned(
    old: Mapping[int, ItemEvent],
    learned: Collection[int],
    new: Mapping[int, ItemEvent],
    held_out: Collection[int],
    in_order: bool,
    shows_all: bool,
) -> ItemEvent | None:
    """The first event `held_out` of a user's `new` ones that may be an event `learned` of the `old`
    ones, given by position; None without one.

    If all old events are, in order, among the new ones, an event may be one with as many old events
    before it as that one has, and as many behind it if the new ones are all of the user's.
    Otherwise events were dropped, which may be any, or the splits do not show the order, and events
    of one item may be the same."""
    old_places, new_places = sorted(old), sorted(new)
    olds = [old[place] for place in old_places]
    news = [new[place] for place in new_places]
    before = _matched(olds, news)
    behind = _matched(olds[::-1], news[::-1])[::-1]
    is_whole = in_order and before[-1] == len(olds)
    for at, event in enumerate(news):
        if new_places[at] not in held_out:
            continue
        for index, earlier in enumerate(olds):
            if earlier != event or old_places[index] not in learned:
                continue
            n_behind = len(olds) - 1 - index if shows_all else 0
            if not is_whole or (before[at] >= index and behind[at + 1] >= n_behind):
                return event
    return None


def _matched(sought: Sequence[ItemEvent], events: Sequence[ItemEvent]) -> list[int]:
    """(events + 1): how many of the first `sought` are, in order, among the first 0, 1, 2 ...
    events."""
    counts = [0]
    for event in events:
        count = counts[-1]
        counts.append(count + (count < len(sought) and sought[count] == event))
    return counts


def _drops_events(split: Split, earlier: Split) -> bool:
    """Whether `split` lacks training events of `earlier`, or events that this one trains or
    validates on; a SidtoolWarning says so."""
    timed = _are_timed(split, earlier)
    trained = _EventRows.of([earlier.train], split, timed=timed)
    n_users = len(np.unique(trained.users))
    n_lost_train = len(trained.users_that_lack(_EventRows.of([split.train], timed=timed)))
    both = _EventRows.of([earlier.train, earlier.valid], split, timed=timed)
    now = _EventRows.of([split.train, split.valid], timed=timed)
    if not n_lost_train and not len(both.users_that_lack(now)):
        return False
    message = (
        f"events that split {earlier.reference} learned from are missing: a later split that is to "
        "extend it, or what it extends, has to name each by --extends"
    )
    if 2 * n_lost_train > n_users:
        message = (
            f"training events of {n_lost_train} of the {n_users} users of the earlier split are "
            "missing: a split is made from all events, old and new"
        )
    warnings.warn(message, SidtoolWarning, stacklevel=3)
    return True


@dataclass(frozen=True, eq=False)
class _EventRows:
    """n events as columns."""

    users: NDArray[np.int64]
    items: NDArray[np.int64]
    times: NDArray[np.float64]
    """0 where times do not count"""

    @classmethod
    def of(
        cls,
        parts: Sequence[PackedSequences | PackedExamples],
        later: Split | None = None,
        *,
        timed: bool = False,
    ) -> "_EventRows":
        """The training events, or the targets, of parts of one split, by its codes, or by those of
        a later split: new codes follow for ids that this one lacks."""
        rows = []
        events: NDArray[Any]
        for part in parts:
            store = part.store
            if isinstance(part, PackedSequences):
                users = np.repeat(part.user_codes, part.items.lengths)
                events = part.items.places
            else:
                users, events = part.event_users, part.targets.joined
            times = np.zeros(len(users))
            if timed and store.times is not None:
                times = store.times[events].astype(np.float64)
            rows.append(cls(users.astype(np.int64), store.items[events].astype(np.int64), times))
        joined = cls.concatenated(rows)
        if later is None:
            return joined
        new, old = later.train.store, parts[0].store
        user_codes, item_codes = _codes(new.users, old.users), _codes(new.names, old.names)
        return cls(user_codes[joined.users], item_codes[joined.items], joined.times)

    @classmethod
    def concatenated(cls, parts: Sequence["_EventRows"]) -> "_EventRows":
        """The events of all parts."""
        return cls(
            np.concatenate([part.users for part in parts]),
            np.concatenate([part.items for part in parts]),
            np.concatenate([part.times for part in parts]),
        )

    def users_that_lack(self, others: "_EventRows") -> NDArray[np.int64]:
        """The users of events that occur here more often than among the others."""
        codes = _EventRows.concatenated([self, others]).codes
        n_distinct = int(codes.max(initial=-1)) + 1
        n_mine = len(self.users)
        counts = [np.bincount(part, minlength=n_distinct) for part in np.split(codes, [n_mine])]
        return np.unique(self.users[(counts[0] > counts[1])[codes[:n_mine]]])

    @property
    def codes(self) -> NDArray[np.int64]:
        """(n,): equal numbers for equal events."""
        events = self.users * (int(self.items.max(initial=0)) + 1) + self.items
        if self.times.any():
            # codes below n: their product with the number of times is an int64
            _, event_codes = np.unique(events, return_inverse=True)
            times, time_codes = np.unique(self.times, return_inverse=True)
            events = event_codes * len(times) + time_codes
        return np.unique(events, return_inverse=True)[1]


def _codes(names: Texts, others: Texts) -> NDArray[np.int64]:
    """(others,): the code of each among names, or a new one."""
    code_by_name = {name: code for code, name in enumerate(names)}
    codes = [code_by_name.setdefault(name, len(code_by_name)) for name in others]
    return np.array(codes, dtype=np.int64)
