"""The fields of training examples' events, which their file does not repeat: looked up in the split
that they were made from."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError
from sidtool.data import NO_FIELDS, Fields
from sidtool.data.split import Split, UserSequence
from sidtool.recommendation import QuerySession
from sidtool.tokenizer.bundle import Bundle
from sidtool.training.reinforcement.examples import RlExamples


def example_prompt(
    session: QuerySession, examples: RlExamples, fields: "ExampleFields | None", number: int
) -> list[int]:
    """The token ids of what a model is asked in serving, before the event that followed the history
    of an example."""
    known = NO_FIELDS if fields is None else fields.before(number)
    user = examples.users[number] or None
    return session.from_history(examples.history(number), known, user=user)


@dataclass(frozen=True, eq=False)
class ExampleFields:
    """What is known before each of n events, by the training events of its user."""

    examples: RlExamples
    bundle: Bundle
    context: tuple[str, ...]
    """names of the fields that are known before an event"""
    users: Mapping[str, UserSequence]

    @classmethod
    def of(cls, examples: RlExamples, split: Split, bundle: Bundle) -> "ExampleFields":
        """Of the split that the examples were made from."""
        named = set(examples.users)
        users = {user.user: user for user in split.train if user.user in named}
        return cls(examples, bundle, tuple(split.fields.context), users)

    def before(self, number: int) -> Fields:
        """The fields of the user, of the events up to the last one of the history, and the context
        of the target. Raises DataError if the user has no such events."""
        user = self.examples.users[number]
        sequence = self.users.get(user)
        if sequence is not None:
            rows = self.bundle.items.rows(sequence.items)
            in_bundle = np.flatnonzero(rows >= 0)
            places = self._places(number, self._firsts(rows[in_bundle]))
            if places is not None:
                stop, target = places
                up_to_target = sequence.fields.take(in_bundle[: target + 1].tolist())
                return up_to_target.before(target, self.context).until(stop)
        raise DataError(
            f"a training example shows events that user {user!r} has not in the split",
            hint="give the split that make-sft used",
        )

    def _places(self, number: int, rows: NDArray[np.int64]) -> tuple[int, int] | None:
        """The indexes among a user's rows at which the history of an example ends and at which its
        target is; None if they do not contain it. Where the history is found more than once, the
        target comes soonest behind it."""
        history = self._firsts(self.examples.history(number))
        (target,) = self._firsts(self.examples.targets[number : number + 1])
        if len(rows) <= len(history):
            return None
        windows = np.lib.stride_tricks.sliding_window_view(rows[:-1], len(history))
        stops = np.flatnonzero((windows == history).all(axis=1)) + len(history)
        targets = np.flatnonzero(rows == target)
        places = np.searchsorted(targets, stops)  # of the first target from each stop on
        has_target = places < len(targets)
        if not has_target.any():
            return None
        stops = stops[has_target]
        targets = targets[places[has_target]]
        soonest = (targets - stops).argmin()
        return int(stops[soonest]), int(targets[soonest])

    def _firsts(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first row with the SID of each row, which is what examples show."""
        first, _ = self.bundle.items.rows_at(self.bundle.items.codes[rows])
        return first
