"""Histories: a split's training events as stretches of items that the bundle knows.

Knows users, events and how a long history is cut; knows nothing of tasks or of how an item is
shown."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sidtool.bundle.bundle import Bundle
from sidtool.data.splits import Event, Split, UserSequence


@dataclass(frozen=True)
class HistorySlice:
    """A user's training events whose items the bundle knows: rows of the item map, ids and
    positions."""

    user: str
    rows: Sequence[int]
    items: Sequence[str]
    positions: Sequence[int]

    def cut(self, start: int, stop: int) -> "HistorySlice":
        """The events from `start` to before `stop`."""
        span = slice(start, stop)
        return HistorySlice(self.user, self.rows[span], self.items[span], self.positions[span])

    @property
    def events(self) -> tuple[Event, ...]:
        """As (user, item, position)."""
        return tuple(
            (self.user, item, place) for item, place in zip(self.items, self.positions, strict=True)
        )


class Histories:
    """The histories of a split, by the rows of a bundle's item map; `row` maps an id to its row."""

    def __init__(self, bundle: Bundle, history_length: int) -> None:
        self.row = {item_id: row for row, item_id in enumerate(bundle.items.ids)}
        self._length = history_length

    def of(self, sequence: UserSequence) -> HistorySlice:
        """A user's whole history."""
        return self._seen(sequence.user, sequence.items, sequence.positions)

    def questions(self, split: Split) -> Iterator[HistorySlice]:
        """Every training event with what came before it, `history_length` items at most; it comes
        last."""
        length = self._length + 1
        if split.windows is None:
            for sequence in split.train:
                seen = self.of(sequence)
                yield from (
                    seen.cut(max(0, stop - length), stop) for stop in range(2, len(seen.rows) + 1)
                )
            return
        for window in split.windows:
            items = (*window.history, window.item)
            seen = self._seen(
                window.user, items, range(window.position + 1 - len(items), window.position + 1)
            )
            if len(seen.rows) > 1 and seen.positions[-1] == window.position:
                yield seen.cut(max(0, len(seen.rows) - length), len(seen.rows))

    def _seen(self, user: str, items: Sequence[str], positions: Sequence[int]) -> HistorySlice:
        known = [place for place, item in enumerate(items) if item in self.row]
        return HistorySlice(
            user,
            [self.row[items[place]] for place in known],
            [items[place] for place in known],
            [positions[place] for place in known],
        )


def windows(length: int, history_length: int) -> list[tuple[int, int, int]]:
    """Cut a history into rows (start, first target, stop), so that every item is a target once.

    A served prompt holds at most `history_length` items and asks for one more: rows have that many.
    The last row ends with the history's end; rows overlap, so that no target of a long history has
    less than half a history before it."""
    size, stride = history_length + 1, max(1, history_length // 2)
    spans, stop = [], length
    while stop > size:
        spans.append((stop - size, stop - stride, stop))
        stop -= stride
    return [(0, 0, stop), *reversed(spans)] if length else []
