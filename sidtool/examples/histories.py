"""User histories: the training events of a split whose items are in the bundle, and the windows of
them that sequences show."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sidtool.base.ranges import consecutive
from sidtool.data import NO_FIELDS, Fields, Texts
from sidtool.data.split import Event, Split, UserSequence
from sidtool.tokenizer.bundle import Bundle


@dataclass(frozen=True)
class HistorySlice:
    """Consecutive events of one user: indexes of the items in the bundle, ids and positions."""

    user: str
    indexes: Sequence[int]
    item_ids: Sequence[str]
    positions: Sequence[int]
    fields: Fields
    """The fields of all events of the user that this is cut from"""
    first: int = 0
    """The index of the first event among all of them"""

    def __len__(self) -> int:
        return len(self.indexes)

    def cut(self, start: int, stop: int) -> "HistorySlice":
        """The events from `start` up to, excluding, `stop`."""
        span = slice(start, stop)
        parts = (self.indexes[span], self.item_ids[span], self.positions[span])
        return HistorySlice(self.user, *parts, self.fields, self.first + start)

    def newest(self, n: int) -> "HistorySlice":
        """The last n events."""
        return self.cut(len(self) - n, len(self))

    @property
    def last(self) -> int:
        """The index of the last event among all of the user."""
        return self.first + len(self) - 1

    @property
    def events(self) -> tuple[Event, ...]:
        """The events as (user, item, position)."""
        pairs = zip(self.item_ids, self.positions, strict=True)
        return tuple((self.user, item_id, position) for item_id, position in pairs)


@dataclass(frozen=True)
class Histories:
    """Histories of a split whose items have these `names`."""

    bundle: Bundle
    history_length: int
    names: Texts

    @cached_property
    def rows(self) -> NDArray[np.int32]:
        """(names,): the index of each item in the bundle, -1 if it lacks the item."""
        return self.names.places_in(self.bundle.items.id_texts)

    @cached_property
    def item_index(self) -> dict[str, int]:
        """The index of each item of the split that is in the bundle, by its id."""
        pairs = zip(self.names, self.rows.tolist(), strict=True)
        return {item_id: row for item_id, row in pairs if row >= 0}

    def of_user(self, sequence: UserSequence) -> HistorySlice:
        """The whole history of a user."""
        return self._slice(sequence.user, sequence.items, sequence.positions, sequence.fields)

    def with_target(self, split: Split, *, only_targets: bool = True) -> Iterator[HistorySlice]:
        """Every training event that has a history, and that is a target if `only_targets`: the
        event last, at most `history_length` events before it.

        A split by given windows has one such event per window."""
        max_events = self.history_length + 1
        if split.windows is None:
            for sequence in split.train:
                history = self.of_user(sequence)
                for stop in range(2, len(history) + 1):
                    if history.fields.is_target(stop - 1) or not only_targets:
                        yield history.cut(max(0, stop - max_events), stop)
            return
        for window in split.windows:
            item_ids = (*window.history, window.item)
            # a window stores the position of its target; its history comes right before it
            first = window.position + 1 - len(item_ids)
            positions = range(first, window.position + 1)
            history = self._slice(window.user, item_ids, positions, window.all_fields)
            # the bundle may lack the target's item, or all items before it
            if len(history) > 1 and history.positions[-1] == window.position:
                yield history.newest(min(len(history), max_events))

    def _slice(
        self, user: str, item_ids: Sequence[str], positions: Sequence[int], fields: Fields
    ) -> HistorySlice:
        places = [place for place, item_id in enumerate(item_ids) if item_id in self.item_index]
        if fields is not NO_FIELDS:
            fields = fields.take(places)
        ids = [item_ids[place] for place in places]
        indexes = [self.item_index[item_id] for item_id in ids]
        return HistorySlice(user, indexes, ids, [positions[place] for place in places], fields)


class Windows(NamedTuple):
    """Parts of histories, one example each: an item is a target once, and all targets but those of
    an earlier window are shown before the first target."""

    owners: NDArray[np.int64]
    """(windows,) the history of each"""
    starts: NDArray[np.int64]
    """(windows,) its first item"""
    targets: NDArray[np.int64]
    """(windows,) its first target"""
    stops: NDArray[np.int64]
    """(windows,) the end of its targets"""


def sequence_windows(lengths: NDArray[np.int64], history_length: int) -> Windows:
    """Cut (n,) histories of these lengths into examples, oldest first, so that every item is a
    target once.

    An example has `history_length` items and the next one, as a prompt has when serving. The last
    example ends where the history ends. Examples overlap, so that every target but those of the
    first example has at least half of `history_length` before it."""
    size = history_length + 1
    stride = max(1, history_length // 2)
    # the first one, and one more for every `stride` items that are left, or fewer
    n_windows = (lengths > 0) + np.maximum(0, -(-(lengths - size) // stride))
    owners = np.repeat(np.arange(len(lengths)), n_windows)
    place = consecutive(np.zeros_like(n_windows), n_windows)  # among the windows of its history
    n_later = n_windows[owners] - 1 - place
    stops = lengths[owners] - stride * n_later
    is_first = place == 0
    starts = np.where(is_first, 0, stops - size)
    targets = np.where(is_first, 0, stops - stride)
    return Windows(owners, starts, targets, stops)
