"""The ranked SIDs that a search returns for one prompt."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError


class BeamResult(NamedTuple):
    """The best SIDs of one prompt, best first."""

    leaves: NDArray[np.int64]
    """(m,) leaves of the trie."""
    scores: NDArray[np.float32]
    """(m,) sums of log-probabilities; with a memory, what ranks the SIDs by the mixture."""
    model_scores: NDArray[np.float32]
    """(m,) sums of the model's log-probabilities; with a memory, those of one item of the SID."""
    survived: int = 0
    """Number of levels after which the prefix of the target was among the beams; 0 without a
    target."""


EMPTY_RESULT = BeamResult(
    np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.float32)
)


def best_leaves(
    leaves: NDArray[np.int64],
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
    return BeamResult(leaves[order], scores[order], model_scores[order])


def check_scores(scores: NDArray[np.float32]) -> None:
    """Raise DataError if a score is NaN, as all are of a model that has diverged."""
    if np.isnan(scores).any():
        raise DataError(
            "the model's logits are not numbers (NaN)",
            hint="load it in float32 or bfloat16, or train it with a lower learning rate",
        )
