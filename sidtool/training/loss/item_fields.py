"""Field tokens beside the items of a sequence, which move with their items when a training example
is varied.

In `{gap:token}{sid}{event.rating:token}` each item is its SID with one token before and one behind
it. The last item of a sequence, the answer, has none behind it: its rating comes later."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sidtool.model.prompt import HistoryPrompt
from sidtool.model.vocabulary import FieldTokens


@dataclass(frozen=True)
class ItemFields:
    """How many field tokens stand before and behind a SID, and which token ids are field tokens."""

    gap_before: tuple[bool, ...] = ()
    """for each token before the SID: whether it is the time since the item before, which belongs to
    both"""
    after: int = 0
    ids: range = range(0)

    @classmethod
    def of(cls, prompt: HistoryPrompt, tokens: FieldTokens | None) -> Self | None:
        """The fields beside an item in the sequences of a prompt; None if it shows anything else
        there."""
        slots = prompt.item_slots
        if slots is None or not all(slot.as_token or slot.part == "sid" for slot in slots):
            return None
        parts = [slot.part for slot in slots]
        n_before = parts.index("sid")
        gap_before = tuple(part == "gap" for part in parts[:n_before])
        n_after = len(parts) - n_before - 1
        ids = range(tokens.start, tokens.stop) if tokens else range(0)
        return cls(gap_before, n_after, ids)

    @property
    def before(self) -> int:
        """Field tokens before a SID."""
        return len(self.gap_before)

    def fit(self, ids: NDArray[np.int32], spans: NDArray[np.int64]) -> bool:
        """Whether (items, 2) `spans`, starts and stops, are the SIDs of a sequence of such items:
        nothing but their fields stands between two of them."""
        if len(spans) < 2 or spans[0, 0] < self.before:
            return False
        n_between = self.before + self.after
        stops = spans[:-1, 1]  # (items - 1,)
        if (spans[1:, 0] - stops != n_between).any():
            return False
        between = ids[stops[:, None] + np.arange(n_between)]  # (items - 1, n_between)
        before_first = ids[spans[0, 0] - self.before : spans[0, 0]]
        field_ids = np.concatenate([before_first, between.ravel()])
        return bool(((field_ids >= self.ids.start) & (field_ids < self.ids.stop)).all())

    def in_order(
        self, n_tokens: int, spans: NDArray[np.int64], order: NDArray[np.intp]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where the m tokens of an example come from when its items stand in another order: (m,)
        int64 positions in the example of `n_tokens`; and (m,) int64 positions of the flags that say
        whether each is a target. Those of SIDs stay: the last item is the answer, whichever it is.

        An item takes its fields along, but for a gap: it stays between the two items that it lies
        between, if these are neighbors in the new order, too. The item that was last has no field
        behind it, and the one that is last loses it."""
        width = int(spans[0, 1] - spans[0, 0])
        starts = spans[:, :1] - self.before  # (items, 1): with the fields before
        columns = np.arange(self.before + width + self.after)
        sources = starts[order] + columns  # (items, tokens per item)
        # the gap between two neighbors stands before the later one, also where they are reversed
        gap_owners = np.maximum(order, np.concatenate([[0], order[:-1]]))  # (items,)
        gap_owners[0] = 0
        gaps = np.flatnonzero(self.gap_before)
        sources[:, gaps] = starts[gap_owners] + gaps
        flag_sources = sources.copy()
        sid = slice(self.before, self.before + width)
        flag_sources[:, sid] = starts + columns[sid]
        exists = np.ones(sources.shape, dtype=np.bool_)
        if self.after:
            exists[order == len(order) - 1, -self.after :] = False
            exists[-1, -self.after :] = False
        head = np.arange(starts[0, 0])
        tail = np.arange(spans[-1, 1], n_tokens)
        return (
            np.concatenate([head, sources[exists], tail]),
            np.concatenate([head, flag_sources[exists], tail]),
        )


BARE_SIDS = ItemFields()
"""SIDs that follow one another directly."""
