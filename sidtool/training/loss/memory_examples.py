"""Training examples with what a memory knows of their targets.

A target's probability is that of the memory after the items before it in the example, as the
example is varied, without the events of the example's own user (`LeaveOneOutMemory`)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import CompatibilityError, DataError
from sidtool.data.split import Split
from sidtool.examples import TokenizedExample, TokenizedExamples
from sidtool.memory import LeaveOneOutMemory, Memory
from sidtool.model.prompt import SidTokens
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import Codes, ItemRows, SidPositions
from sidtool.training.loss.augment import AugmentedExamples, item_spans


@dataclass(frozen=True, eq=False)
class MemoryOfUsers:
    """The memory without each user's own events, looked up by SID."""

    memory: LeaveOneOutMemory
    power: float
    numbers: dict[str, int]
    """The number of each user in the split"""
    bundle: Bundle

    @classmethod
    def of(cls, memory: Memory, power: float, split: Split, bundle: Bundle) -> "MemoryOfUsers":
        """Raises CompatibilityError unless the memory was built from this split and bundle, and the
        bundle's items have different SIDs."""
        keys = bundle.items.keys
        shared = np.flatnonzero(keys[1:] == keys[:-1])
        if len(shared):
            ids = bundle.items.ids
            first = int(shared[0])
            raise CompatibilityError(
                f"items {ids[first]!r} and {ids[first + 1]!r} share a SID, so a training example "
                "does not say which of them the memory is to read",
                hint="build the codebook without shared SIDs, or train without --memory",
            )
        numbers = {sequence.user: number for number, sequence in enumerate(split.train)}
        left_out = LeaveOneOutMemory.of(memory, bundle, split)
        return cls(left_out, power, numbers, bundle)

    def log_probs(self, user: str, codes: Codes, targets: NDArray[np.int64]) -> NDArray[np.float64]:
        """(t,) log-probabilities of the items at `targets` among the (k, levels) SIDs of a user's
        example, each after the items before it; NaN for one that the memory says nothing of: it has
        no neighbors of these items, or the target is not recommended.

        Raises DataError if a SID is not that of one of the user's training events."""
        first, stop = self.bundle.items.rows_at(codes)
        rows = np.full(len(codes), -1)
        if user in self.numbers:
            rows = self.memory.rows(self.numbers[user], first)
        if (rows < 0).any() or (first == stop).any():
            raise DataError(
                f"a training example shows an item that user {user!r} has no training event with",
                hint="make the training examples with the split that the memory was built from",
            )
        histories = [rows[:target] for target in targets.tolist()]
        log_probs = np.full(len(targets), np.nan)
        positions = self.bundle.trie().positions_of(ItemRows(first[targets]))
        for index, distribution in enumerate(self.memory.distributions(histories, self.power)):
            position = SidPositions(positions[index : index + 1])
            if len(distribution) and position >= 0:
                log_probs[index] = distribution.log_probs_at(position)[0]
        return log_probs


@dataclass(frozen=True, eq=False)
class MemoryExamples:
    """Tokenized examples with the log-probabilities that a memory gives to their targets."""

    examples: TokenizedExamples | AugmentedExamples
    users: Sequence[str]
    """(n,) the user of each example, "" for an example without one"""
    memory: MemoryOfUsers
    tokens: SidTokens

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def is_weighted(self) -> bool:
        """Whether a weight differs from 1."""
        return self.examples.is_weighted

    def __getitem__(self, number: int) -> TokenizedExample:
        example = self.examples[number]
        log_probs = np.full(len(example.ids), np.nan, dtype=np.float32)
        user = self.users[number]
        if user:
            places = self._code_places(example)  # (items, levels)
            # an item without all of its codes as targets is the first one: it has no history
            targets = np.flatnonzero(example.targets[places].all(axis=1))
            codes = self.tokens.codes(example.ids[places].astype(np.int64))
            item_log_probs = self.memory.log_probs(user, codes, targets)
            log_probs[places[targets]] = item_log_probs[:, None]
        return example._replace(memory_log_probs=log_probs)

    def _code_places(self, example: TokenizedExample) -> NDArray[np.int64]:
        """(items, levels): where the codes of the example's items are."""
        space = self.tokens.space
        starts = item_spans(example.ids, self.tokens)[:, 0] + int(space.has_begin_end_tokens)
        return starts[:, None] + np.arange(space.levels)
