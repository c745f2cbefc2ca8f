"""The mixture of a model's distribution over items with a memory's.

p(item) = (1 - w) p_model(item) + w p_memory(item), as kNN-LM mixes over tokens (Khandelwal et al.,
2020). `beam.MixtureArrays` is its part in the beam."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import UsageError
from sidtool.memory import NO_ITEMS, Gate, ItemDistribution, MemoryIndex
from sidtool.model import WeightedMemory
from sidtool.recommendation.search.filters import LeafFilter
from sidtool.recommendation.search.results import BeamResult, Normalize
from sidtool.tokenizer.bundle import Bundle, Trie
from sidtool.tokenizer.sid import ItemRows, SidPositions

LOG_ZERO = -700.0
"""Log of a model's share of 0: its order still decides among items of which the memory knows
nothing."""


@dataclass(frozen=True, eq=False)
class Prior:
    """A memory's distribution for one request, and its weight in the mixture."""

    distribution: ItemDistribution
    weight: float
    """From 0 to 1."""

    @property
    def is_mixed(self) -> bool:
        """Whether the memory has a share."""
        return self.weight > 0 and len(self.distribution) > 0

    @property
    def log_shares(self) -> tuple[float, float]:
        """Logs of the weights of model and memory; a memory without items leaves all to the
        model."""
        if not self.is_mixed:
            return 0.0, -np.inf
        model = np.log1p(-self.weight) if self.weight < 1 else LOG_ZERO
        return float(model), float(np.log(self.weight))


def check_normalize(normalize: Normalize) -> None:
    """Raise UsageError unless scores are a distribution over items."""
    if normalize != "trie":
        raise UsageError(
            f"a memory needs scores that are normalized over the trie, not the {normalize}",
            hint="a model trained with softmax_over=trie has them; recommend, evaluate and serve "
            "leave the memory out with --memory-weight 0",
        )


NO_PRIOR = Prior(NO_ITEMS, 1.0)


@dataclass(frozen=True, eq=False)
class Mixture:
    """A memory in use with one bundle."""

    index: MemoryIndex
    power: float
    weight: float
    gate: Gate | None = None
    """Gives each request its own weight, in place of `weight`."""

    @classmethod
    def of(
        cls, memory: WeightedMemory | None, bundle: Bundle, normalize: Normalize
    ) -> "Mixture | None":
        """None without a memory that is used. Raises UsageError unless scores are
        normalized over the trie, CompatibilityError if the memory is of another bundle."""
        if memory is None or not memory.is_used:
            return None
        check_normalize(normalize)
        index = MemoryIndex.of(memory.memory, bundle, memory.new_item_factor)
        return cls(index, memory.power, memory.weight, memory.gate)

    def priors(self, histories: Sequence[ItemRows | None]) -> list[Prior | None]:
        """The prior of each request by its history of bundle rows; None without a history."""
        present = [history for history in histories if history is not None]
        distributions = self.index.distributions(present, self.power)
        weights = [self.weight] * len(present)
        if self.gate is not None:
            weights = self.gate.weights(self.index.features(present, distributions)).tolist()
        priors = map(Prior, distributions, weights)
        return [None if history is None else next(priors) for history in histories]


@dataclass(frozen=True, eq=False)
class RankedItems:
    """The best items of one request by the mixture, best first."""

    positions: SidPositions
    """(m,) positions in SID order"""
    scores: NDArray[np.float64]
    """(m,) logs of the mixed probabilities"""
    memory_shares: NDArray[np.float64]
    """(m,) the part of each probability that comes from the memory"""
    model_scores: NDArray[np.float64]
    """(m,) logs of the model's probabilities"""
    survived: int = 0
    """as `BeamResult.survived`"""
    mixture_order: SidPositions | None = None
    """the best items by the mixture, best first, where a re-ranker ordered these; else None"""
    features: NDArray[np.float32] | None = None
    """(r, N_FEATURES) standardized features of the first items, those that a re-ranker ordered"""

    def take(self, places: NDArray[np.int64]) -> "RankedItems":
        """The items at these places, in their order."""
        return replace(
            self,
            positions=SidPositions(self.positions[places]),
            scores=self.scores[places],
            memory_shares=self.memory_shares[places],
            model_scores=self.model_scores[places],
        )


def rank_items(
    result: BeamResult, trie: Trie, leaf_filter: LeafFilter | None, prior: Prior | None, k: int
) -> RankedItems:
    """The k best items of the SIDs that a search with this prior found; items that share a SID are
    in SID order where nothing else decides."""
    positions, sizes = trie.items(result.leaves)
    model_scores = np.repeat(result.model_scores.astype(np.float64), sizes)
    if leaf_filter is not None:
        passes = leaf_filter.passes(positions)
        positions, model_scores = SidPositions(positions[passes]), model_scores[passes]
    ranked = mix(positions, model_scores, prior or NO_PRIOR, k)
    return replace(ranked, survived=result.survived)


def mix(
    positions: SidPositions, model_scores: NDArray[np.float64], prior: Prior, k: int
) -> RankedItems:
    """The k best of (n,) items by the mixture; `model_scores` are logs of the model's
    probabilities. Equal items are in SID order."""
    log_model, log_memory = prior.log_shares
    from_memory = log_memory + prior.distribution.log_probs_at(positions)
    scores = np.logaddexp(log_model + model_scores, from_memory)
    best = np.lexsort((positions, -scores))[:k]
    memory_shares = np.exp(from_memory[best] - scores[best])
    return RankedItems(
        SidPositions(positions[best]), scores[best], memory_shares, model_scores[best]
    )
