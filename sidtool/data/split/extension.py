"""Splits of grown data: what a model learned from an earlier split stays usable with a later one.

A later split has new events, items and users, so its digest differs. It extends the earlier split
if nothing that it holds out was seen in training or in validation there."""

import warnings
from collections import Counter, defaultdict
from collections.abc import Container, Iterable, Iterator
from dataclasses import replace

from sidtool.base.errors import CompatibilityError, SidtoolWarning
from sidtool.data.split.split import Example, Split, UserSequence

Occurrences = Counter[tuple[str, str]]
"""How often each user met each item."""


def extended(split: Split, earlier: Split) -> Split:
    """`split`, with a record that it extends `earlier`, and the splits that `earlier` extends if
    that one has all their events.

    Positions may differ, because events can be added anywhere, so events are counted by (user,
    item), unless the cuts of two temporal splits rule it out. Raises CompatibilityError if an event that `split` holds out may have been a training
    event of `earlier`, or one that it holds out for test a training or validation event there.
    That `split` lacks training events of most users of `earlier` is a SidtoolWarning: a file of
    the new events alone was probably split.
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
    held_out = {*_targets(split.valid), *_targets(split.test)}
    train = _occurrences(split.train, held_out)
    earlier_train = _occurrences(earlier.train, held_out)
    _check(split, (*split.valid, *split.test), "training", earlier_train, train)
    train.update(_targets(split.valid))
    earlier_train.update(_targets(earlier.valid))
    _check(split, split.test, "training or validation", earlier_train, train)


def _check(
    split: Split,
    held_out: Iterable[Example],
    parts: str,
    earlier: Occurrences,
    allowed: Occurrences,
) -> None:
    """Raise CompatibilityError if a held-out event occurs more often in `earlier` than `allowed`,
    the same parts of this split."""
    for user, item in _targets(held_out):
        if earlier[user, item] > allowed[user, item]:
            raise CompatibilityError(
                f"split {split.reference} holds out item {item!r} of user {user!r}, which is a "
                f"{parts} event of the earlier split: a model of that one may have learned it",
                hint="an extending split needs later events of the same users, or new users",
            )


def _drops_events(split: Split, earlier: Split) -> bool:
    """Whether `split` lacks training events of `earlier`, or events that this one trains or
    validates on. Warns if it lacks training events of most users."""
    rows = {sequence.user: row for row, sequence in enumerate(split.train)}
    valid = _items_by_user(split.valid)
    earlier_valid = _items_by_user(earlier.valid)
    n_users = 0
    n_lost_train = 0
    n_lost = 0
    for sequence in earlier.train:
        row = rows.get(sequence.user)
        train = Counter(() if row is None else split.train[row].items)
        earlier_train = Counter(sequence.items)
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


def _items_by_user(examples: Iterable[Example]) -> dict[str, list[str]]:
    items: dict[str, list[str]] = defaultdict(list)
    for user, item in _targets(examples):
        items[user].append(item)
    return dict(items)


def _occurrences(
    sequences: Iterable[UserSequence], counted: Container[tuple[str, str]]
) -> Occurrences:
    """How often each of the `counted` pairs occurs."""
    pairs = ((sequence.user, item) for sequence in sequences for item in sequence.items)
    return Counter(pair for pair in pairs if pair in counted)


def _targets(examples: Iterable[Example]) -> Iterator[tuple[str, str]]:
    return ((example.user, item) for example in examples for item in example.items)
