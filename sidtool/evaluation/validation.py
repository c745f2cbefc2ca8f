"""Validation of a model in training: HR@K and NDCG@K of constrained recommendations on held-out
next items."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError
from sidtool.data.split import Example
from sidtool.evaluation.metrics import find_targets, metric_values
from sidtool.evaluation.ranking import IndexedExamples, example_queries
from sidtool.model.prompt import HistoryPrompt, SidTokens, UserTokens
from sidtool.recommendation import QuerySession
from sidtool.recommendation.search import Normalize
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import Leaves


def sample_examples(examples: Sequence[Example], users: int, seed: int) -> Sequence[Example]:
    """A seeded sample of the examples in their order; `users` is its size, 0 takes all.

    Raises DataError without examples."""
    if not examples:
        raise DataError("the validation file has no users")
    if not users or users >= len(examples):
        return examples
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(len(examples), users, replace=False))
    return [examples[index] for index in chosen.tolist()]


class Validator:
    """Measures a model on a seeded sample of users; `rank` and `ranks` divide them among processes.

    `users` is the size of the sample, 0 takes all. Raises DataError without examples."""

    def __init__(
        self,
        examples: Sequence[Example],
        bundle: Bundle,
        history_prompt: HistoryPrompt,
        tokenizer: Any,
        tokens: SidTokens,
        *,
        users: int,
        num_beams: int,
        k: int,
        seed: int,
        normalize: Normalize = "level",
        exclude_seen: bool = False,
        user_tokens: UserTokens | None = None,
    ) -> None:
        examples = sample_examples(examples, users, seed)
        self.k = k
        self._num_beams = num_beams
        self._session = QuerySession(
            bundle, tokenizer, tokens, history_prompt, None, normalize, None, user_tokens
        )
        # the filters below exclude seen items; here that would make a seen target a miss even if
        # another item of its SID is recommended
        indexed = IndexedExamples.of(bundle, examples, exclude_seen=False)
        self._target_leaves = indexed.target_leaves
        self._queries = list(
            example_queries(self._session, indexed, exclude_seen=exclude_seen, follow=False)
        )

    @property
    def longest_prompt(self) -> int:
        """Tokens of the longest prompt."""
        return max(len(query.prompt) for query in self._queries)

    def sums(self, model: Any, rank: int = 0, ranks: int = 1) -> NDArray[np.float64]:
        """(3,) float64: hits, discounted gains and number of users, over every `ranks`-th user from
        `rank` on."""
        share = slice(rank, None, ranks)
        queries = self._queries[share]
        ranked = self._session.rank(
            model, queries, k=self.k, num_beams=self._num_beams, window=max(1, len(queries))
        ).leaves
        sizes = self._session.trie.items_per_leaf(ranked)
        targets = Leaves(self._target_leaves[share])
        values = metric_values(find_targets(ranked, targets, sizes), [self.k])
        hit_rate_and_ndcg = values[:, :2]
        return np.array([*hit_rate_and_ndcg.sum(axis=0), len(queries)])
