"""Validation of a model in training on held-out next items: the metrics of constrained
recommendations beside item-kNN, and the loss of the targets; and its judgment against the model
that it started from, also on slices of targets by training frequency."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.data.split import Example, UserSequence
from sidtool.evaluation.bootstrap import Difference, paired_differences
from sidtool.evaluation.groups import SLICES, example_groups
from sidtool.evaluation.metrics import (
    LIST_METRICS,
    Metrics,
    coverage,
    metric_names,
    metric_values,
    survival_names,
)
from sidtool.evaluation.ranking import (
    IndexedExamples,
    example_queries,
    first_items,
    item_ranks,
    sample_examples,
)
from sidtool.recommendation import Query, QuerySession, RankedQueries
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

    `users` is the size of the sample, 0 takes all. `item_knn` may be set to the metrics of
    item-kNN, which `figures` repeats. Raises DataError without examples."""

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
    ) -> None:
        sample = sample_examples(examples, users, seed)
        self.k = k
        self.item_knn: Metrics = {}
        self._num_beams = num_beams
        self._session = session
        self.examples = IndexedExamples.of(session.bundle, sample, exclude_seen=exclude_seen)
        self._queries = list(example_queries(session, self.examples, follow=False))
        # queries that may find one item only: their search scores the item, where there is a prompt
        trie = session.trie
        self._target_queries = [
            replace(query, leaf_filter=LeafFilter(trie, trie.positions(ItemRows(target))))
            for query, target in zip(self._queries, self.examples.targets[:, None], strict=True)
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
        values = metric_values(item_ranks(self.examples, ranked), [self.k])
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
            if name in self.item_knn:
                figures[name + OF_ITEM_KNN] = self.item_knn[name]
        if loss_users:
            figures["loss"] = loss / loss_users
        return figures


MIN_USERS = 10
"""A slice with fewer users is not judged: a bootstrap of so few underestimates its error."""


@dataclass(frozen=True, eq=False)
class Measurement:
    """A model on the validation users."""

    metrics: Mapping[str, float]
    """hr@K, ndcg@K, mrr@K, coverage@K, and the survival of the target's prefix in the beam after
    each level"""
    values: NDArray[np.float64]
    """(n, metrics): the first three for each user"""
    list_users: tuple[str, ...] = ()
    """those that are validated on lists"""
    list_values: NDArray[np.float64] | None = None
    """(n, 2): LIST_METRICS of each of these users"""

    def with_lists(self, users: tuple[str, ...], values: NDArray[np.float64]) -> "Measurement":
        """The same, with the means of lists among the metrics."""
        means = dict(zip(LIST_METRICS, values.mean(axis=0).tolist(), strict=True))
        metrics = {**self.metrics, **means}
        return replace(self, metrics=metrics, list_users=users, list_values=values)


@dataclass(frozen=True, eq=False)
class Judge:
    """Validation users, and the groups of their examples, the slices among them."""

    session: QuerySession
    examples: IndexedExamples
    groups: Mapping[str, NDArray[np.float64]]
    metric: str
    """that decides, as hr@10, or one of LIST_METRICS"""
    num_beams: int

    @classmethod
    def of(
        cls,
        session: QuerySession,
        examples: Sequence[Example],
        events: Sequence[UserSequence],
        *,
        metric: str,
        num_beams: int,
        exclude_seen: bool,
    ) -> "Judge":
        """On these examples; `events` count how frequent an item is in training."""
        indexed = IndexedExamples.of(session.bundle, examples, exclude_seen=exclude_seen)
        return cls(session, indexed, example_groups(examples, events), metric, num_beams)

    @property
    def k(self) -> int:
        """The cut-off of the metric of items."""
        return int(self.item_metric.partition("@")[2])

    @property
    def item_metric(self) -> str:
        """The metric of items on each slice."""
        return "ndcg@10" if self.metric in LIST_METRICS else self.metric

    @cached_property
    def _queries(self) -> list[Query]:
        """The query of each example, which every measurement repeats."""
        return list(example_queries(self.session, self.examples))

    def rank(self, model: Any, process: int = 0, processes: int = 1) -> RankedQueries:
        """The K best leaves for every `processes`-th user from `process` on."""
        queries = self._queries[process::processes]
        return self.session.rank(
            model, queries, k=self.k, num_beams=self.num_beams, window=max(1, len(queries))
        )

    def measure(self, ranked: Sequence[RankedQueries]) -> Measurement:
        """The measurement of what `rank` returned on each process, in their order."""
        n = len(self.examples.examples)
        leaves = Leaves(np.empty((n, self.k), dtype=np.int64))
        survived = np.empty(n, dtype=np.int64)
        for process, share in enumerate(ranked):
            leaves[process :: len(ranked)] = share.leaves
            survived[process :: len(ranked)] = share.survived
        values = metric_values(item_ranks(self.examples, leaves), [self.k])
        metrics = dict(zip(metric_names([self.k]), values.mean(axis=0).tolist(), strict=True))
        items = first_items(self.examples, leaves, self.k)
        metrics[f"coverage@{self.k}"] = coverage(items, len(self.session.bundle.active))
        names = survival_names(self.session.bundle.space.levels)
        for level, name in enumerate(names, start=1):
            metrics[name] = float((survived >= level).mean())
        return Measurement(metrics, values)

    def worse_slices(
        self, start: Measurement, current: Measurement
    ) -> dict[tuple[str, str], Difference]:
        """(metric, slice) -> difference, where a model is worse than the start beyond the 95%
        interval of the paired difference: the metric of items on the slices with enough users, and
        the recall of lists over all users."""
        users = [example.user for example in self.examples.examples]
        differences = paired_differences(
            metric_names([self.k]), current.values, start.values, users, self.groups
        )
        group_rows = {name: np.flatnonzero(group) for name, group in self.groups.items()}
        n_users = {name: len({users[row] for row in rows}) for name, rows in group_rows.items()}
        by_slice = {
            (self.item_metric, name): by_metric[self.item_metric]
            for name, by_metric in differences.items()
            if name in SLICES and n_users[name] >= MIN_USERS
        }
        if start.list_values is not None and current.list_values is not None:
            list_differences = paired_differences(
                LIST_METRICS, current.list_values, start.list_values, current.list_users
            )
            by_slice["list_recall", "all"] = list_differences["all"]["list_recall"]
        return {key: difference for key, difference in by_slice.items() if difference.high < 0}
