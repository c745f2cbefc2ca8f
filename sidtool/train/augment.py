"""Histories varied anew in every epoch, and codes hidden in every step: what keeps a small catalog
from being learnt by heart.

Knows where the items of a tokenized row are; knows nothing of tasks, files or models. What a row
looks like follows from the seed, the epoch and the row's number alone, so a resumed run and one on
several processes see the same rows. There is no masking of whole items: the vocabulary has no token
for it, and one with another meaning would change what that token means when the model is served.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TrainerCallback

from sidtool.prompt.tokens import SidTokens
from sidtool.train.dataset import TokenizedExample, TokenizedExamples


@dataclass(frozen=True)
class Augmentation:
    """How histories are varied, in this order.

    reverse_prob: the chance that a row of items alone, with nothing between them, is turned round in the
    first epoch; it
        falls evenly to none in the last. So a model learns first which items are met together, as a
        symmetric item-kNN is told, and then which comes next. (BERT4Rec, F. Sun et al., CIKM 2019,
        sees both sides of an item at once; this is for models that read to the right alone.)
    shuffle_span: how far items of such a row wander in the first epoch, as a share of its items: to the
    place of each, a
        number between 0 and this share of their number is added, and they stand in the order of the
        sums. It falls to none too. Neighbors change places, what is far apart stays so: item-kNN,
        which weighs a pair by how far apart it was met, is told no more. Short rows, whose order
        says most, hardly change. (CL4SRec reorders a part of the history.)
    item_dropout: the chance that an item of the history is left out; the next one then follows the
    one before it."""

    item_dropout: float = 0.0
    reverse_prob: float = 0.0
    shuffle_span: float = 0.0

    def __call__(
        self, row: TokenizedExample, tokens: SidTokens, rng: np.random.Generator
    ) -> TokenizedExample:
        """A row with part of its items, whole, in the order they had or, for items alone, in
        another.

        What is a target stays one, but in a row in another order: there the places that were
        targets are. The item that answers stays, and at least one item before it does: a row with a
        single item beside the answer, or none, loses nothing. Running text is left as it is: there
        an item is more than its SID. A row's first token is no target: nothing comes before it."""
        ids, targets = row
        spans = item_spans(ids, tokens)
        if len(spans) and _learns_text(row, int(spans[-1, 0]), tokens):
            return row
        answers = len(spans) > 0 and bool(targets[slice(*spans[-1])].any())
        history = spans[: len(spans) - answers]
        if self.reverse_prob and rng.random() < self.reverse_prob:
            ids = _ordered(ids, spans, np.arange(len(spans))[::-1])
        if self.shuffle_span:
            wandered = np.arange(len(spans)) + self.shuffle_span * len(spans) * rng.random(
                len(spans)
            )
            ids = _ordered(ids, spans, np.argsort(wandered))
        if len(history) < 2:
            return ids, targets
        kept = np.ones(len(ids), dtype=np.bool_)
        for start, stop in history[~self._kept(len(history), rng)]:
            kept[start:stop] = False
        ids, targets = ids[kept], targets[kept]
        targets[0] = False
        return ids, targets

    def _kept(self, items: int, rng: np.random.Generator) -> NDArray[np.bool_]:
        """(items,) bool: which items of a history stay, the newest if none did."""
        kept = np.ones(items, dtype=np.bool_)
        rng.random()  # unused: keeps the later draws of a seed as they were in measured runs
        kept &= rng.random(items) >= self.item_dropout
        kept[-1] |= not kept.any()
        return kept


def _ordered(
    ids: NDArray[np.int32], spans: NDArray[np.int64], order: NDArray[np.intp]
) -> NDArray[np.int32]:
    """The ids with their items in this order; as they are where anything stands between items, or
    there is only one."""
    if len(spans) < 2 or (spans[1:, 0] != spans[:-1, 1]).any():
        return ids
    items, ordered = slice(spans[0, 0], spans[-1, 1]), ids.copy()
    ordered[items] = ids[items].reshape(len(spans), -1)[order].ravel()
    return ordered


def _learns_text(row: TokenizedExample, stop: int, tokens: SidTokens) -> bool:
    """Whether a target before this place is no token of a SID."""
    ids, targets = row[0][:stop], row[1][:stop]
    return bool((targets & ((ids < tokens.start) | (ids >= tokens.stop))).any())


def item_spans(ids: NDArray[np.int32], tokens: SidTokens) -> NDArray[np.int64]:
    """(items, 2) int64: first token and stop of every SID in a row, markers included."""
    first = np.flatnonzero((ids >= tokens.start) & (ids < tokens.start + tokens.space.sizes[0]))
    edge = int(tokens.space.has_markers)
    return np.stack([first - edge, first + tokens.space.levels + edge], axis=1)


class AugmentedExamples:
    """`TokenizedExamples` as an epoch sees them. The epoch lies in shared memory, where workers that outlive one
    read it too."""

    def __init__(
        self, rows: TokenizedExamples, augmentation: Augmentation, tokens: SidTokens, seed: int
    ) -> None:
        self._rows, self._augmentation, self._tokens, self._seed = rows, augmentation, tokens, seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._ahead = torch.ones(()).share_memory_()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> TokenizedExample:
        rng = np.random.default_rng([self._seed, int(self._epoch), row])
        full, ahead = self._augmentation, float(self._ahead)
        now = replace(
            full, reverse_prob=full.reverse_prob * ahead, shuffle_span=full.shuffle_span * ahead
        )
        return now(self._rows[row], self._tokens, rng)

    def vary(self, epoch: int, epochs: int) -> None:
        """Show the rows as this one of so many epochs sees them.

        (accelerate would call `set_epoch`, but not on several processes.)
        """
        self._epoch.fill_(epoch)
        self._ahead.fill_(max(0.0, 1 - epoch / max(epochs - 1, 1)))


class EpochCallback(TrainerCallback):
    """Tells augmented rows which epoch begins, or goes on after a stop."""

    def __init__(self, rows: AugmentedExamples) -> None:
        self._rows = rows

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Before the first batch of an epoch is made."""
        self._rows.vary(int(state.epoch or 0), math.ceil(state.num_train_epochs))
