"""Validation of a model in training: HR@K and NDCG@K of constrained recommendations on held-out
next items, beside item-kNN, and the loss of the targets."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.data.split import Example
from sidtool.evaluation.metrics import Metrics, metric_values
from sidtool.evaluation.ranking import IndexedExamples, example_queries, item_ranks, sample_examples
from sidtool.recommendation import QuerySession
from sidtool.recommendation.search import LeafFilter
from sidtool.tokenizer.sid import ItemRows, Leaves

LOSS_USERS = 256
"""Users whose target's loss is measured, of those that are validated on."""
TO_95_PERCENT = 1.96
"""Standard errors from a mean to the ends of its 95% interval."""
LOW, HIGH, OF_ITEM_KNN = "_low", "_high", "_item_knn"
"""What follows the name of a metric in the names of the figures beside it."""


class Validator:
    """Measures the model of a session on a seeded sample of users; `rank` and `ranks` divide them
    among processes.

    `users` is the size of the sample, 0 takes all. `item_knn` has the metrics of item-kNN, which
    `figures` repeats. Raises DataError without examples."""

    def __init__(
        self,
        examples: Sequence[Example],
        session: QuerySession,
        *,
        users: int,
        num_beams: int,
        k: int,
        seed: int,
        exclude_seen: bool = False,
        item_knn: Mapping[str, float] | None = None,
    ) -> None:
        examples = sample_examples(examples, users, seed)
        self.k = k
        self._item_knn = item_knn or {}
        self._num_beams = num_beams
        self._session = session
        self._examples = IndexedExamples.of(session.bundle, examples, exclude_seen=exclude_seen)
        self._queries = list(example_queries(session, self._examples, follow=False))
        # queries that may find one item only: their search scores the item, where there is a prompt
        trie = session.trie
        self._target_queries = [
            replace(query, leaf_filter=LeafFilter(trie, trie.positions(ItemRows(target))))
            for query, target in zip(self._queries, self._examples.targets[:, None], strict=True)
            if target[0] >= 0 and query.prompt
        ][:LOSS_USERS]

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(query.prompt) for query in self._queries)

    def sums(self, model: Any, rank: int = 0, ranks: int = 1) -> NDArray[np.float64]:
        """(7,) float64 over every `ranks`-th user from `rank` on: hits, discounted gains, the sums
        of their squares, and number of users; loss of targets, and number of such users."""
        share = slice(rank, None, ranks)
        queries = self._queries[share]
        # `item_ranks` takes all users: the rows of other shares stay empty
        ranked = Leaves(np.full((len(self._queries), self.k), -1, dtype=np.int64))
        ranked[share] = self._session.rank(
            model, queries, k=self.k, num_beams=self._num_beams, window=max(1, len(queries))
        ).leaves
        values = metric_values(item_ranks(self._examples, ranked), [self.k])
        metrics = values[share, :2]  # hit rate and NDCG
        squares = (metrics**2).sum(axis=0)
        losses = []
        if target_queries := self._target_queries[share]:
            target_results = self._session.search(model, target_queries, k=1, num_beams=1)
            losses = [-float(result.scores[0]) for result in target_results]
        return np.array([*metrics.sum(axis=0), *squares, len(queries), sum(losses), len(losses)])

    def figures(self, sums: Sequence[float]) -> Metrics:
        """HR@K and NDCG@K, each with the ends of its 95% interval (normal approximation) and the
        value of item-kNN if it is known, and the mean loss, from `sums` of all processes."""
        hits, gains, hits_squared, gains_squared, users, loss, loss_users = sums
        figures = {}
        for kind, total, squared in (("hr", hits, hits_squared), ("ndcg", gains, gains_squared)):
            name = f"{kind}@{self.k}"
            mean = total / users
            variance = max(0.0, squared / users - mean**2)
            half_width = TO_95_PERCENT * (variance / users) ** 0.5
            figures[name] = mean
            figures[name + LOW] = max(0.0, mean - half_width)
            figures[name + HIGH] = min(1.0, mean + half_width)
            if name in self._item_knn:
                figures[name + OF_ITEM_KNN] = self._item_knn[name]
        if loss_users:
            figures["loss"] = loss / loss_users
        return figures
