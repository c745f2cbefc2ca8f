"""What searches return for one prompt: ranked SIDs, a list, or items of the mixture with a memory;
and what scores are normalized over.

p(item) = (1 - w) p_model(item) + w p_memory(item), as kNN-LM mixes over tokens (Khandelwal et al.,
2020). `beam.MixtureArrays` is its part in the beam."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, UsageError
from sidtool.memory.mixture import NO_PRIOR, Prior
from sidtool.recommendation.search.filters import LeafFilter
from sidtool.tokenizer.bundle import Trie
from sidtool.tokenizer.sid import Leaves, SidPositions

Normalize = Literal["level", "trie", "vocabulary"]
"""What each step's log-probabilities are normalized over: all codes of the level, the valid next
codes of the trie, or the whole vocabulary (as `generate` does)."""


class BeamResult(NamedTuple):
    """The best SIDs of one prompt, best first."""

    leaves: Leaves
    """(m,) leaves of the trie."""
    scores: NDArray[np.float32]
    """(m,) sums of log-probabilities; with a memory, what ranks the SIDs by the mixture."""
    model_scores: NDArray[np.float32]
    """(m,) sums of the model's log-probabilities; with a memory, those of one item of the SID."""
    survived: int = 0
    """Number of levels after which the prefix of the target was among the beams; 0 without a
    target."""


EMPTY_RESULT = BeamResult(
    Leaves(np.zeros(0, dtype=np.int64)),
    np.zeros(0, dtype=np.float32),
    np.zeros(0, dtype=np.float32),
)


def best_leaves(
    leaves: Leaves,
    scores: NDArray[np.float32],
    k: int,
    model_scores: NDArray[np.float32] | None = None,
) -> BeamResult:
    """The k best of (m,) leaves, equal scores in SID order; a score of minus infinity is dropped.
    `model_scores` are the scores themselves by default.

    Raises DataError if a score is NaN."""
    check_scores(scores)
    order = np.lexsort((leaves, -scores))[:k]
    order = order[np.isfinite(scores[order])]
    model_scores = scores if model_scores is None else model_scores
    return BeamResult(Leaves(leaves[order]), scores[order], model_scores[order])


def check_scores(scores: NDArray[np.floating[Any]]) -> None:
    """Raise DataError if a score is NaN, as all are of a model that has diverged."""
    if np.isnan(scores).any():
        raise DataError(
            "the model's logits are not numbers (NaN)",
            hint="load it in float32 or bfloat16, or train it with a lower learning rate",
        )


@dataclass(frozen=True, eq=False)
class ItemList:
    """n distinct items, in the order in which the model wrote them."""

    positions: SidPositions
    """(n,) positions of the items in SID order"""
    leaves: Leaves
    """(n,) leaves of their SIDs; items that share a SID have one leaf"""
    scores: NDArray[np.float32]
    """(n,) log-probability of each SID after the prompt and the SIDs before it"""

    @classmethod
    def of(
        cls, leaves: Leaves, scores: NDArray[np.float32], trie: Trie, leaf_filter: LeafFilter | None
    ) -> "ItemList":
        """Items for (n,) leaves: a leaf that is there for the i-th time stands for the i-th of its
        items that pass the filter."""
        positions = SidPositions(leaves.copy())
        if trie.leaf_start is not None:
            for leaf in np.unique(leaves).tolist():
                places = np.flatnonzero(leaves == leaf)
                below = trie.leaf_positions(leaf)
                if leaf_filter is not None:
                    below = SidPositions(below[leaf_filter.passes(below)])
                positions[places] = below[: len(places)]
        return cls(positions, leaves, scores)


EMPTY_LIST = ItemList(
    SidPositions(np.zeros(0, dtype=np.int64)),
    Leaves(np.zeros(0, dtype=np.int64)),
    np.zeros(0, dtype=np.float32),
)


@dataclass(frozen=True, eq=False)
class RankedQueries:
    """The best SIDs or items of n queries, best first."""

    leaves: Leaves
    """(n, k): the SIDs, or those of the items; -1 where there are no more"""
    survived: NDArray[np.int64]
    """(n,): number of levels after which the prefix of the query's target was among the beams"""
    positions: SidPositions | None = None
    """(n, k): the items, -1 where there are no more; None where SIDs were ranked"""
    mixture: SidPositions | None = None
    """(n, k): the items as the mixture ranks them, where they were ranked again"""

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Those of all queries of the parts, which all rank items or all SIDs."""
        positions = [part.positions for part in parts if part.positions is not None]
        mixture = [part.mixture for part in parts if part.mixture is not None]
        return cls(
            Leaves(np.concatenate([part.leaves for part in parts])),
            np.concatenate([part.survived for part in parts]),
            SidPositions(np.concatenate(positions)) if positions else None,
            SidPositions(np.concatenate(mixture)) if mixture else None,
        )


def padded_lists(
    rows: Sequence[NDArray[Any]], width: int, fill: float = -1, dtype: Any = np.int64
) -> NDArray[Any]:
    """(n, width): the first values of the rows, filled up."""
    table = np.full((len(rows), width), fill, dtype=dtype)
    for row, values in zip(table, rows, strict=True):
        row[: len(values)] = values[:width]
    return table


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
    """(r, features) standardized features of the first items, those that a re-ranker ordered"""

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
