"""What the protocol last-session implies about the parts of a split: no event of a session is in
the history of the session's own targets, and none that is held out is a training event."""

from sidtool.base.errors import IntegrityError
from sidtool.data.fields.fields import FieldTypes
from sidtool.data.split.sessions import session_of
from sidtool.data.split.split import MIN_LENGTH, Example, Split, UserSequence


def check_recorded_sessions(split: Split) -> None:
    """Raise IntegrityError unless training events have sessions exactly if the split records them,
    and only examples of held-out sessions have further targets, with the fields of the split."""
    has_sessions = split.origin.sessions is not None
    for sequence in split.train:
        if bool(sequence.sessions) != has_sessions:
            raise IntegrityError(
                f"train.jsonl: user {sequence.user!r} has {len(sequence.sessions)} sessions, the "
                f"split records {'some' if has_sessions else 'none'}"
            )
    for example in (*split.valid, *split.test):
        if example.rest and split.protocol != "last-session":
            raise IntegrityError(
                f"user {example.user!r} has {len(example.items)} targets in one example, which "
                "only a last-session split has"
            )
        _check_fields(example, split.fields)


def check_held_out_sessions(split: Split) -> None:
    """Raise IntegrityError unless the history of a validation session is the user's training
    events, and that of a test session these and the validation session; each user has both."""
    training_items = {sequence.user: sequence.items for sequence in split.train}
    test_of = {example.user: example for example in split.test}
    every_event = not split.fields.target
    for valid in split.valid:
        if valid.history != training_items.get(valid.user):
            raise IntegrityError(
                f"valid.jsonl: the history of user {valid.user!r} is not the training events"
            )
        _check_targets("valid.jsonl", valid, every_event)
        _check_targets("test.jsonl", test_of[valid.user], every_event)
        _check_test_history(valid, test_of[valid.user], every_event)
    for sequence in split.train:
        n_sessions = _sessions_with_targets(sequence)
        if sequence.user not in test_of and n_sessions >= MIN_LENGTH:
            raise IntegrityError(f"user {sequence.user!r} has {n_sessions} sessions and no example")


def _check_fields(example: Example, types: FieldTypes) -> None:
    for target in example.rest:
        same = target.feedback.keys() == types.feedback.keys()
        same &= target.context.keys() == types.context.keys()
        if not same or (target.time is not None) != types.times:
            raise IntegrityError(
                f"user {example.user!r} has a target {target.item!r} with other fields than the "
                "split records"
            )


def _check_targets(name: str, example: Example, every_event: bool) -> None:
    """Check that targets come after the history: right behind it if every event is a target."""
    positions = [target.position for target in example.targets]
    first = len(example.history)
    consecutive = list(range(first, first + len(positions)))
    if positions[0] < first or (every_event and positions != consecutive):
        raise IntegrityError(
            f"{name}: user {example.user!r} has targets at positions {positions[:5]}, after a "
            f"history of {first} events"
        )


def _check_test_history(valid: Example, test: Example, every_event: bool) -> None:
    first = len(valid.history)
    session = dict(enumerate(test.history[first:], first))
    held_out = {target.position: target.item for target in valid.targets}
    # where some events are no targets, the session has more events than targets
    same = held_out == session if every_event else held_out.items() <= session.items()
    if test.history[:first] != valid.history or not same:
        raise IntegrityError(
            f"test.jsonl: the history of user {valid.user!r} is not that of valid.jsonl and its "
            "session"
        )


def _sessions_with_targets(sequence: UserSequence) -> int:
    """The number of sessions of a user's training events that have a target."""
    return len({session_of(sequence.sessions, index) for index in sequence.target_indexes})
