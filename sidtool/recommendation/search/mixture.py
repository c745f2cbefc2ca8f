"""The mixture of a model's distribution over items with a memory's.

p(item) = (1 - w) p_model(item) + w p_memory(item), as kNN-LM mixes over tokens (Khandelwal et al.,
2020). `beam.MixtureArrays` is its part in the beam."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import UsageError
from sidtool.memory import NO_PRIOR, Prior
from sidtool.recommendation.search.filters import LeafFilter
from sidtool.recommendation.search.results import BeamResult, Normalize
from sidtool.tokenizer.bundle import Trie
from sidtool.tokenizer.sid import SidPositions


def check_normalize(normalize: Normalize) -> None:
    """Raise UsageError unless scores are a distribution over items."""
    if normalize != "trie":
        raise UsageError(
            f"a memory needs scores that are normalized over the trie, not the {normalize}",
            hint="a model trained with softmax_over=trie has them; recommend, evaluate and serve "
            "leave the memory out with --memory-weight 0",
        )


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
