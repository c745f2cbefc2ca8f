"""What a split consists of, as objects: sequences of training events and evaluation examples.

An event is (user, item, position), where the position is the index in the user's whole sequence: a
repeated item is another event, and repeats are kept."""

from dataclasses import dataclass, field

from sidtool.data.fields.fields import NO_FIELDS, TARGET, TARGET_VALUES, Fields, Values

Event = tuple[str, str, int]
"""User, item, position."""
MAX_POSITION = 1 << 31
"""Positions of a user's events are smaller."""


@dataclass(frozen=True)
class UserSequence:
    """A user's training events in time order."""

    user: str
    items: tuple[str, ...]
    positions: tuple[int, ...]
    fields: Fields = field(default=NO_FIELDS, hash=False)
    """The fields of the user and of these events."""
    sessions: tuple[int, ...] = ()
    """The indexes of the events that begin a session; () where the split records no sessions."""


@dataclass(frozen=True)
class FurtherTarget:
    """A further target of the session whose first target an example has."""

    item: str
    position: int
    feedback: Values = field(default_factory=dict, hash=False)
    context: Values = field(default_factory=dict, hash=False)
    time: float | None = field(default=None, hash=False)
    """Seconds since 1970, None where the split has no times."""


@dataclass(frozen=True)
class Example:
    """An evaluation example: a user's history and the item that follows it.

    Where a whole session is held out, the history is everything before the session, and `rest` its
    targets after the first one."""

    user: str
    history: tuple[str, ...]
    item: str
    position: int
    """Index of the item in the user's whole sequence."""
    fields: Fields = field(default=NO_FIELDS, hash=False)
    """What is known before the event: the fields of the user and of the history, its context."""
    feedback: Values = field(default_factory=dict, hash=False)
    """The feedback of the event, known only after it."""
    rest: tuple[FurtherTarget, ...] = ()
    """The further targets of a held-out session, in its order."""

    @property
    def targets(self) -> tuple[FurtherTarget, ...]:
        """All targets: the item, and those of `rest`."""
        context_and_time = (self.fields.context, self.fields.time)
        return (
            FurtherTarget(self.item, self.position, self.feedback, *context_and_time),
            *self.rest,
        )

    @property
    def items(self) -> tuple[str, ...]:
        """The items of all targets."""
        return (self.item, *(target.item for target in self.rest))

    @property
    def all_fields(self) -> Fields:
        """The fields of the history and of the targets behind it, as events."""
        history_fields = self.fields
        if history_fields is NO_FIELDS:
            return NO_FIELDS
        target_fields = [
            {**target.feedback, **target.context, TARGET: TARGET_VALUES[True]}
            for target in self.targets
        ]
        event = {
            name: (*values, *(fields[name] for fields in target_fields))
            for name, values in history_fields.event.items()
        }
        if history_fields.times is None:
            return Fields(history_fields.user, event)
        times = [target.time for target in self.targets if target.time is not None]
        return Fields(history_fields.user, event, times=(*history_fields.times, *times))
