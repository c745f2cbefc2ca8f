"""Splits of grown data: what a model learned from an earlier split stays usable with a later one.

A later split has new events, items and users, so its digest differs. It extends the earlier split
if nothing that it holds out was seen in training or in validation there."""

import warnings
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import replace

from sidtool.errors import CompatibilityError, SidtoolWarning
from sidtool.splits.split import Example, Split, UserSequence

Occurrences = Counter[tuple[str, str]]
"""How often each user met each item."""


def extended(split: Split, earlier: Split) -> Split:
    """`split`, with a record that it extends `earlier` and the splits that `earlier` extends.

    Positions may differ, because events can be added anywhere, so events are counted by (user,
    item). Raises CompatibilityError if an event that `split` holds out may have been a training
    event of `earlier`, or one that it holds out for test a training or validation event there.
    That most users of `earlier` have fewer training events now is a SidtoolWarning: a file of the
    new events alone was probably split.
    """
    held_out = {*_targets(split.valid), *_targets(split.test)}
    train = _occurrences(split.train, held_out)
    earlier_train = _occurrences(earlier.train, held_out)
    _check(split, (*split.valid, *split.test), "training", earlier_train, train)
    train.update(_targets(split.valid))
    earlier_train.update(_targets(earlier.valid))
    _check(split, split.test, "training or validation", earlier_train, train)
    _warn_of_lost_events(split, earlier)
    reference = earlier.reference
    extends = tuple(dict.fromkeys((reference.digest, *reference.extends)))
    return replace(split, origin=replace(split.origin, extends=extends))


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


def _warn_of_lost_events(split: Split, earlier: Split) -> None:
    n_events = {sequence.user: len(sequence.items) for sequence in split.train}
    n_users = 0
    n_shorter = 0
    for sequence in earlier.train:
        n_users += 1
        n_shorter += n_events.get(sequence.user, 0) < len(sequence.items)
    if 2 * n_shorter > n_users:
        warnings.warn(
            f"{n_shorter} of the {n_users} users of the earlier split have fewer training events "
            "than there: a split is made from all events, old and new",
            SidtoolWarning,
            stacklevel=3,
        )


def _occurrences(
    sequences: Iterable[UserSequence], counted: Container[tuple[str, str]]
) -> Occurrences:
    """How often each of the `counted` pairs occurs."""
    pairs = ((sequence.user, item) for sequence in sequences for item in sequence.items)
    return Counter(pair for pair in pairs if pair in counted)


def _targets(examples: Iterable[Example]) -> Iterator[tuple[str, str]]:
    return ((example.user, item) for example in examples for item in example.items)
