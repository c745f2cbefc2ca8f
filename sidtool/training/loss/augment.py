"""Augmentation: histories that vary from epoch to epoch, which keeps a model from memorizing a
small catalog.

An example follows from the seed, the epoch and its number alone, so a resumed run and several
processes see the same examples. Items are never masked: the vocabulary has no mask token, and
another token would have a different meaning at inference."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TrainerCallback

from sidtool.examples import TokenizedExample, TokenizedExamples
from sidtool.model.vocabulary import SidTokens
from sidtool.training.loss.item_fields import BARE_SIDS, ItemFields


@dataclass(frozen=True)
class Augmentation:
    """How histories vary. Reversing and shuffling apply to item sequences in which nothing but the
    tokens of `item_fields` stands between SIDs, and whose answer is an item."""

    item_dropout: float = 0.0
    """probability that an item is left out of a history"""
    reverse_prob: float = 0.0
    """probability that a sequence is reversed. It falls to 0 over the epochs, so that a model first
    learns which items co-occur, as symmetric item-kNN does, and then which comes next. (BERT4Rec,
    F. Sun et al., CIKM 2019, reads both sides of an item at once; this is for causal models.)"""
    shuffle_span: float = 0.0
    """distance that items may move, as a share of the sequence's length: a random number between 0
    and that distance is added to each position, and items are sorted by the sums. Neighbors change
    places, distant items keep their order. (CL4SRec reorders a part of the history.)"""
    item_fields: ItemFields = BARE_SIDS
    """the field tokens that belong to each item of a sequence, and move with it"""

    @property
    def is_active(self) -> bool:
        """Whether any history varies."""
        return any((self.item_dropout, self.reverse_prob, self.shuffle_span))

    def __call__(
        self, example: TokenizedExample, tokens: SidTokens, rng: np.random.Generator
    ) -> TokenizedExample:
        """A varied example: whole items, in a different order or with items left out.

        The answer stays, and at least one item before it. In another order, the same places are
        targets, and each item keeps its weight. An item that is left out takes along its fields or
        else the text behind it, up to the next item. Running text is unchanged: there an item is
        more than its SID."""
        ids, targets, weights = example.ids, example.targets, example.weights
        spans = item_spans(ids, tokens)
        before = slice(0, spans[-1, 0] if len(spans) else 0)
        if (targets[before] & ~tokens.is_sid_token(ids[before])).any():
            return example  # a target before the last item is text
        # the answer is the last item of a sequence, else all from the first target on
        is_target = [bool(targets[start:stop].any()) for start, stop in spans.tolist()]
        n_answers = 0
        if any(is_target[-1:]):
            n_answers = 1 if example.is_sequence else len(spans) - is_target.index(True)
        n_history = len(spans) - n_answers
        are_adjacent = self.item_fields.fit(ids, spans)
        order, is_reversed = self._order(len(spans), rng)
        if are_adjacent and n_answers and order is not None:
            sources, flag_sources = self.item_fields.in_order(len(ids), spans, order)
            ids, targets, weights = ids[sources], targets[flag_sources], weights[sources]
            spans = item_spans(ids, tokens)
            example = example._replace(is_reversed=is_reversed)
        if n_history < 2:
            return example._replace(ids=ids, targets=targets, weights=weights)
        rng.random()  # unused: keeps the later draws of a seed as they were in measured runs
        item_mask = rng.random(n_history) >= self.item_dropout
        item_mask[-1] |= not item_mask.any()  # the newest if none does
        # text behind the last item may be the question, and a text as answer may be about it
        has_text = bool((spans[1:n_history, 0] > spans[: n_history - 1, 1]).any())
        item_mask[-1] |= n_answers == 0 or (has_text and not are_adjacent)
        token_mask = np.ones(len(ids), dtype=np.bool_)
        for start, stop in self._blocks(spans, n_history, are_adjacent)[~item_mask]:
            token_mask[start:stop] = False
        ids = ids[token_mask]
        targets = targets[token_mask]
        targets[0] = False  # nothing comes before the first token
        return example._replace(ids=ids, targets=targets, weights=weights[token_mask])

    def _blocks(
        self, spans: NDArray[np.int64], n_history: int, are_adjacent: bool
    ) -> NDArray[np.int64]:
        """(n_history, 2) int64: start and stop of what an item of the history takes along if it is
        left out: up to where the next item begins, with its own fields if nothing else stands
        between items. The last one before text has its SID only."""
        before = self.item_fields.before if are_adjacent else 0
        starts = spans[:, 0] - before
        stops = np.append(starts[1:], spans[-1, 1])
        if not are_adjacent:
            stops[n_history - 1] = spans[n_history - 1, 1]
        return np.stack([starts, stops], axis=1)[:n_history]

    def _order(
        self, n_items: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.intp] | None, bool]:
        """(n_items,) the order of the items of a sequence, None if it stays as it is; and whether
        it is reversed."""
        order = np.arange(n_items)
        is_reversed = self.reverse_prob > 0 and rng.random() < self.reverse_prob
        if is_reversed:
            order = order[::-1]
        if self.shuffle_span:
            distance = self.shuffle_span * n_items
            order = order[np.argsort(np.arange(n_items) + distance * rng.random(n_items))]
        return order if is_reversed or self.shuffle_span else None, is_reversed


def item_spans(ids: NDArray[np.int32], tokens: SidTokens) -> NDArray[np.int64]:
    """(items, 2) int64: start and stop of every SID, begin and end tokens included."""
    starts = np.flatnonzero(tokens.is_code(ids, 0))
    edge = int(tokens.space.has_begin_end_tokens)
    return np.stack([starts - edge, starts + tokens.space.levels + edge], axis=1)


class PrefixExamples:
    """Training examples whose item sequences end with one of their target items, the only target
    then: prefixes, known as sliding windows. Other examples are unchanged.

    A causal model learns every item of a sequence from what precedes it, in one example. An
    encoder-decoder has one prompt and one answer per example. No prefix is stored: it is cut when
    it is read.

    With `every`, each prefix is an example of its own; otherwise each sequence is one example,
    whose prefix is drawn."""

    def __init__(self, examples: TokenizedExamples, tokens: SidTokens, *, every: bool) -> None:
        self._examples = examples
        self._levels = tokens.space.levels
        self._edge = int(tokens.space.has_begin_end_tokens)
        self._every = every
        starts = np.flatnonzero(tokens.is_code(examples.ids, 0))  # (items,)
        owners = np.searchsorted(examples.offsets, starts, side="right") - 1  # (items,)
        places = starts[:, None] + np.arange(tokens.space.levels)  # (items, levels)
        # a prefix of a SID in running text may be cut short by the end
        places = np.minimum(places, len(examples.ids) - 1)
        is_target = (examples.targets & (examples.weights > 0))[places].all(axis=1)  # (items,)
        is_leading = np.ones(len(starts), dtype=np.bool_)
        is_leading[1:] = owners[1:] != owners[:-1]
        # what may end a prefix: a target of a sequence, but for its first item, which nothing
        # precedes
        may_end = is_target & ~is_leading & examples.is_sequence[owners]
        starts = (starts - examples.offsets[owners])[may_end]
        owners = owners[may_end]
        is_sequence = np.zeros(len(examples), dtype=np.bool_)
        is_sequence[owners] = True
        others = np.flatnonzero(~is_sequence)
        # -1: the example as it is
        numbers = np.concatenate([owners, others])
        cuts = np.concatenate([starts, np.full(len(others), -1)])
        order = np.argsort(numbers, kind="stable")
        self._numbers = numbers[order]
        """(prefixes,) the example of each, ascending"""
        self._cuts = cuts[order]
        """(prefixes,) where in the example its target item starts"""
        self._first = np.searchsorted(self._numbers, np.arange(len(examples) + 1))
        """(n + 1,) the prefixes of example i are first[i]:first[i + 1]"""

    def __len__(self) -> int:
        return len(self._numbers) if self._every else len(self._examples)

    def draw(self, number: int, rng: np.random.Generator) -> TokenizedExample:
        """An example; which prefix of a sequence it is follows from `number` with `every`, else
        from `rng`."""
        prefix = number
        if not self._every:
            first, stop = self._first[number : number + 2]
            prefix = int(rng.integers(first, stop)) if stop - first > 1 else int(first)
        example = self._examples[int(self._numbers[prefix])]
        start = int(self._cuts[prefix])
        if start < 0:
            return example
        end = start + self._levels
        # whole items, end token included: augmentation reorders them
        stop = end + self._edge
        targets = np.zeros(stop, dtype=np.bool_)
        targets[start:end] = True
        return TokenizedExample(example.ids[:stop], targets, example.weights[:stop])


class AugmentedExamples:
    """Tokenized examples as varied in the current epoch, cut first if they are prefixes."""

    def __init__(
        self,
        examples: TokenizedExamples | PrefixExamples | Sequence[TokenizedExample],
        augmentation: Augmentation,
        tokens: SidTokens,
        seed: int,
    ) -> None:
        self._examples = examples
        self._augmentation = augmentation
        self._tokens = tokens
        self._seed = seed
        # in shared memory, because data loader workers may outlive an epoch
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._order_strength = torch.ones(()).share_memory_()

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, number: int) -> TokenizedExample:
        rng = np.random.default_rng([self._seed, int(self._epoch), number])
        strength = float(self._order_strength)
        augmentation = replace(
            self._augmentation,
            reverse_prob=self._augmentation.reverse_prob * strength,
            shuffle_span=self._augmentation.shuffle_span * strength,
        )
        if isinstance(self._examples, PrefixExamples):
            example = self._examples.draw(number, rng)
        else:
            example = self._examples[number]
        return augmentation(example, self._tokens, rng)

    def vary(self, epoch: int, epochs: int) -> None:
        """Switch to an epoch, from 0. (accelerate calls `set_epoch` in a single process only.)"""
        self._epoch.fill_(epoch)
        self._order_strength.fill_(max(0.0, 1 - epoch / max(epochs - 1, 1)))


class EpochCallback(TrainerCallback):
    """Switches augmented examples, or the order of parts, to the epoch that begins or resumes;
    `vary` is their method."""

    def __init__(self, vary: Callable[[int, int], None]) -> None:
        self._vary = vary

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Switch before the first batch of an epoch is made."""
        self._vary(int(state.epoch or 0), math.ceil(state.num_train_epochs))
