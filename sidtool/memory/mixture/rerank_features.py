"""The features of the re-ranker: what is known of an item for a request, beyond the two
probabilities that are mixed.

docs/ranking.md defines them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

LOG_FLOOR = -30.0
"""Log-probabilities below this, as those of items that the memory lacks, count as this."""
SCORE_FLOOR = 1e-4
"""Added to an event or content score before its logarithm."""


@dataclass(frozen=True, eq=False)
class ListedItems:
    """The first c items of n requests, in the order of the mixture; (n, c) each, undefined where
    there is no item."""

    rows: NDArray[np.int64]
    """the memory's, -1 for items that it lacks"""
    events: NDArray[np.int64]
    """training events"""
    log_model: NDArray[np.float64]
    log_memory: NDArray[np.float64]
    log_mixture: NDArray[np.float64]
    """logs of the probabilities by each, at least LOG_FLOOR"""
    in_memory: NDArray[np.bool_]
    model_ranks: NDArray[np.int64]
    memory_ranks: NDArray[np.int64]
    """from 0"""
    log_length: NDArray[np.float64]
    """(n, 1) log of 1 + the items of the history"""
    log_last: NDArray[np.float64]
    """(n, 1) log of 1 + the training events of the last of them"""
    event_scores: NDArray[np.float32] = field(init=False)
    content_scores: NDArray[np.float32] = field(init=False)
    followed: NDArray[np.float32] = field(init=False)
    """how often the item came after the last item of the history, as pairs are counted"""
    preceded: NDArray[np.float32] = field(init=False)
    last_cosine: NDArray[np.float32] = field(init=False)
    """with the last item of the history"""
    largest_cosine: NDArray[np.float32] = field(init=False)
    mean_cosine: NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        for name, entry in self.__dataclass_fields__.items():
            if not entry.init:
                object.__setattr__(self, name, np.zeros(self.rows.shape, dtype=np.float32))


class Feature(NamedTuple):
    """A number of each item for a request."""

    name: str
    values: Callable[[ListedItems], NDArray[Any]]
    """(n, c), or (n, 1) if it is the same for all items of a request"""
    meaning: str


RERANK_FEATURES = (
    Feature("log p_model", lambda x: x.log_model, "probability by the model"),
    Feature("log p_memory", lambda x: x.log_memory, "probability by the memory"),
    Feature("log mixture", lambda x: x.log_mixture, "mixed probability"),
    Feature("in memory", lambda x: x.in_memory, "1 if the memory gives a probability"),
    Feature("log rank by model", lambda x: np.log1p(x.model_ranks), "within the list"),
    Feature("log rank by memory", lambda x: np.log1p(x.memory_ranks), "within the list"),
    Feature("log event score", lambda x: np.log(x.event_scores + SCORE_FLOOR), "all neighbors"),
    Feature("log content score", lambda x: np.log(x.content_scores + SCORE_FLOOR), "the same"),
    Feature("event score, share of best", lambda x: _share_of_best(x.event_scores), "of the list"),
    Feature("content score, share of best", lambda x: _share_of_best(x.content_scores), "the same"),
    Feature("followed the last item", lambda x: np.log1p(x.followed), "as pairs are counted"),
    Feature("preceded the last item", lambda x: np.log1p(x.preceded), "as pairs are counted"),
    Feature("training events", lambda x: np.log1p(x.events), "of the item"),
    Feature("cosine with last item", lambda x: x.last_cosine, "of the items' vectors"),
    Feature("largest cosine", lambda x: x.largest_cosine, "with the last 20 items"),
    Feature("mean cosine", lambda x: x.mean_cosine, "with these, weighted by their ages"),
    Feature("history length", lambda x: x.log_length, "items that the bundle has"),
    Feature("events of last item", lambda x: x.log_last, "training events"),
    Feature("history length x log p_model", lambda x: x.log_length * x.log_model, "product"),
    Feature("history length x log p_memory", lambda x: x.log_length * x.log_memory, "product"),
    Feature("events of last item x log p_model", lambda x: x.log_last * x.log_model, "product"),
    Feature("events of last item x log p_memory", lambda x: x.log_last * x.log_memory, "product"),
)
"""A stored re-ranker reads the first of them, as many as there were when it was fitted, so a new
one goes last."""
N_FEATURES = len(RERANK_FEATURES)
TRAINING_EVENTS = [feature.name for feature in RERANK_FEATURES].index("training events")


def _share_of_best(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n, c) scores over the largest of their row."""
    best = scores.max(axis=1, keepdims=True, initial=0)
    return np.divide(scores, best, out=np.zeros_like(scores), where=best > 0)
