"""Splits of grown data: what a model learned from an earlier split stays usable with a later one.

A later split has new events, items and users, so its digest differs. It extends the earlier split
if nothing that it holds out was seen in training or in validation there."""

import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from sidtool.base.errors import CompatibilityError, SidtoolWarning
from sidtool.data.split.split import Split
from sidtool.data.split.values import Example, UserSequence

ItemEvent = tuple[Any, ...]
"""An item, and the time of the event if both splits record times."""


def extended(split: Split, earlier: Split) -> Split:
    """`split`, with a record that it extends `earlier`, and the splits that `earlier` extends if
    that one has all their events.

    Raises CompatibilityError if an event that `split` holds out may have been a training event of
    `earlier`, or one that it holds out for test a training or validation event there. Cuts in time
    can rule that out; otherwise positions may differ, because events can be added anywhere, and
    `_learned` says which events may be the same. That `split` lacks training events of most users
    of `earlier` is a SidtoolWarning: a file of the new events alone was probably split.
    """
    reference = earlier.reference
    cuts = reference.comparable_cuts(split.reference)
    if cuts is None or not cuts[0].is_before(cuts[1]):
        _check_seen(split, earlier)
    # where `earlier` lacks events of a split before it, `split` may hold out one of them
    before = () if earlier.origin.drops_events else reference.extends
    origin = split.origin
    extends = tuple(dict.fromkeys((*origin.extends, reference.digest, *before)))
    drops_events = origin.drops_events or _drops_events(split, earlier)
    return replace(split, origin=replace(origin, extends=extends, drops_events=drops_events))


def _check_seen(split: Split, earlier: Split) -> None:
    targets = {*_targets(split.valid), *_targets(split.test)}
    events = ((each.user, item) for each in earlier.train for item in each.items)
    repeated = {event for event in chain(events, _targets(earlier.valid)) if event in targets}
    users = {user for user, _ in repeated}
    in_order = split.windows is None and earlier.windows is None
    in_order &= split.reference.order == earlier.reference.order
    timed = _are_timed(split, earlier)
    logs, earlier_logs = (_logs(each, users, timed) for each in (split, earlier))
    # what follows the last target of a user is in no part
    shows_all = not split.fields.target
    for user in users:
        log, old = logs[user], earlier_logs[user]
        for parts, learned, held_out in (
            ("training", old.train, log.valid | log.test),
            ("training or validation", old.train | old.valid, log.test),
        ):
            seen = _learned(old.events, learned, log.events, held_out, in_order, shows_all)
            if seen is not None:
                raise CompatibilityError(
                    f"split {split.reference} holds out item {seen[0]!r} of user {user!r}, which "
                    f"may be a {parts} event of the earlier split: a model of that one may have "
                    "learned it",
                    hint="an extending split needs later events of the same users, or new users; "
                    "if both are made with --times, repeats of an item are distinguished",
                )


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
    for sequence in split.train:
        if log := logs.get(sequence.user):
            log.events.update(zip(sequence.positions, _train_events(sequence, timed), strict=True))
            log.train.update(sequence.positions)
    for name, part in (("valid", split.valid), ("test", split.test)):
        for example in part:
            if log := logs.get(example.user):
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


def _item_events(items: Sequence[str], times: Sequence[float] | None) -> list[ItemEvent]:
    return [*zip(items, times, strict=True)] if times is not None else [(item,) for item in items]


def _learned(
    old: Mapping[int, ItemEvent],
    learned: Collection[int],
    new: Mapping[int, ItemEvent],
    asked: Collection[int],
    in_order: bool,
    shows_all: bool,
) -> ItemEvent | None:
    """The first event `asked` of a user's `new` ones that may be an event `learned` of the `old`
    ones, given by position; None without one.

    If all old events are, in order, among the new ones, an event may be one with as many old events
    before it as that one has, and as many behind it if the new ones are all of the user's.
    Otherwise events were dropped, which may be any, or the splits do not show the order, and events
    of one item may be the same."""
    old_places, new_places = sorted(old), sorted(new)
    olds = [old[place] for place in old_places]
    news = [new[place] for place in new_places]
    before = _found(olds, news)
    behind = _found(olds[::-1], news[::-1])[::-1]
    is_whole = in_order and before[-1] == len(olds)
    for at, event in enumerate(news):
        if new_places[at] not in asked:
            continue
        for index, earlier in enumerate(olds):
            if earlier != event or old_places[index] not in learned:
                continue
            n_behind = len(olds) - 1 - index if shows_all else 0
            if not is_whole or (before[at] >= index and behind[at + 1] >= n_behind):
                return event
    return None


def _found(sought: Sequence[ItemEvent], events: Sequence[ItemEvent]) -> list[int]:
    """(events + 1): how many of the first `sought` are, in order, among the first 0, 1, 2 ...
    events."""
    counts = [0]
    for event in events:
        count = counts[-1]
        counts.append(count + (count < len(sought) and sought[count] == event))
    return counts


def _drops_events(split: Split, earlier: Split) -> bool:
    """Whether `split` lacks training events of `earlier`, or events that this one trains or
    validates on. Warns if it lacks training events of most users."""
    timed = _are_timed(split, earlier)
    rows = {sequence.user: row for row, sequence in enumerate(split.train)}
    valid = _targets_by_user(split.valid, timed)
    earlier_valid = _targets_by_user(earlier.valid, timed)
    n_users = 0
    n_lost_train = 0
    n_lost = 0
    for sequence in earlier.train:
        row = rows.get(sequence.user)
        train = Counter(() if row is None else _train_events(split.train[row], timed))
        earlier_train = Counter(_train_events(sequence, timed))
        n_users += 1
        n_lost_train += not earlier_train <= train
        train.update(valid.get(sequence.user, ()))
        earlier_train.update(earlier_valid.pop(sequence.user, ()))
        n_lost += not earlier_train <= train
    if 2 * n_lost_train > n_users:
        warnings.warn(
            f"training events of {n_lost_train} of the {n_users} users of the earlier split are "
            "missing: a split is made from all events, old and new",
            SidtoolWarning,
            stacklevel=3,
        )
    # the rest are users without training events there
    return n_lost_train > 0 or n_lost > 0 or len(earlier_valid) > 0


def _train_events(sequence: UserSequence, timed: bool) -> list[ItemEvent]:
    return _item_events(sequence.items, sequence.fields.times if timed else None)


def _targets_by_user(examples: Iterable[Example], timed: bool) -> dict[str, list[ItemEvent]]:
    events: dict[str, list[ItemEvent]] = defaultdict(list)
    for example in examples:
        events[example.user] += (
            (target.item, target.time) if timed else (target.item,) for target in example.targets
        )
    return dict(events)


def _targets(examples: Iterable[Example]) -> Iterator[tuple[str, str]]:
    return ((example.user, item) for example in examples for item in example.items)
