"""Lists as targets: which training events of a user follow one another as the answer to one
request. OneRec (arXiv:2502.18965) learns the items of a session at once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

from sidtool.base.options import check_options, option
from sidtool.base.records import JsonRecord
from sidtool.data.fields.fields import FieldTypes
from sidtool.data.split.values import Event, UserSequence

LENGTH = 10
"""The largest number of items in a list, unless it is given."""
MAX_LENGTH = 1 << 10
"""The largest number of items in a list."""


@dataclass(frozen=True)
class TargetList:
    """One list: the user's events before `start` are its history."""

    start: int
    targets: tuple[int, ...]
    """The indexes of its events, in the order of the answer; at least one"""


@dataclass(frozen=True)
class ListTargets(JsonRecord):
    """How lists are made of training events. Raises UsageError for a number below 1."""

    length: int = option(LENGTH, minimum=1, maximum=MAX_LENGTH, flag="--list-length")
    """Items of a list at most (task list)."""
    stride: int | None = option(None, minimum=1, flag="--list-stride")
    """Targets between the starts of two lists (task list). Default: --list-length, so that no two
    lists overlap."""
    order: str | None = option(None, flag="--list-order", metavar="FIELD")
    """Feedback that orders the items of a list, the largest first (task list). Default: the order
    of the events."""

    def __post_init__(self) -> None:
        check_options(self)

    def check(self, types: FieldTypes) -> None:
        """Raise UsageError unless the split has the feedback of the order, as numbers."""
        if self.order is not None:
            types.need_numbers(self.order, "--list-order")

    def lists_of(
        self, sequence: UserSequence, counts: Callable[[Event], bool] | None = None
    ) -> Iterator[TargetList]:
        """The lists of a user's training events, oldest first.

        A list has the next targets of one session, or of all events where the split records no
        sessions. The history of a session's first list ends where the session begins, as when a
        session is held out. Events for which `counts` is false are in no list; an item that comes
        again within one is in it once. The first event is in no list, since it has no history."""
        events = zip(repeat(sequence.user), sequence.items, sequence.positions, strict=False)
        is_counted = [counts is None or counts(event) for event in events]
        starts = sequence.sessions or (0,)
        for session_start, stop in zip(starts, (*starts[1:], len(sequence.items)), strict=True):
            behind_first = range(max(session_start, 1), stop)
            targets = [
                index
                for index in behind_first
                if is_counted[index] and sequence.fields.is_target(index)
            ]
            for first in range(0, len(targets), self.stride or self.length):
                list_targets = targets[first : first + self.length]
                start = max(session_start, 1) if first == 0 else list_targets[0]
                yield TargetList(start, tuple(_ordered(sequence, list_targets, self.order)))


def _ordered(sequence: UserSequence, targets: Sequence[int], order: str | None) -> list[int]:
    """The targets without repeated items, in the order of the list."""
    first_by_item = {sequence.items[index]: index for index in reversed(targets)}
    distinct = sorted(first_by_item.values())
    if order is None:
        return distinct
    values = sequence.fields.event[order]

    def descending(index: int) -> float:
        value = values[index]
        return -value if isinstance(value, int | float) else float("inf")

    # a stable sort keeps the order of the events where values are equal; missing ones come last
    return sorted(distinct, key=descending)
