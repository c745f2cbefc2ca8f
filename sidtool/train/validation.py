"""Validation by what the model is for: constrained HR@K and NDCG@K on held-out next items.

Knows how a validation user becomes a prompt and a ranked item a score; knows nothing of training.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.bundle.bundle import Bundle
from sidtool.bundle.trie import Trie
from sidtool.data.splits import Example
from sidtool.errors import DataError
from sidtool.evaluate.metrics import find_targets, metric_values
from sidtool.prompt.assemble import history_prompt_ids
from sidtool.prompt.prompts import HistoryPrompt
from sidtool.prompt.tokens import SidTokens
from sidtool.recommend.filters import LeafFilter
from sidtool.recommend.partial_head import Normalize


class Validator:
    """Asks a model for the next items of a seeded sample of users; `rank` and `ranks` share them
    among processes."""

    def __init__(
        self,
        examples: Sequence[Example],
        bundle: Bundle,
        history_prompt: HistoryPrompt,
        tokenizer: Any,
        tokens: SidTokens,
        *,
        users: int,
        width: int,
        k: int,
        seed: int,
        normalize: Normalize = "level",
        exclude_seen: bool = False,
    ) -> None:
        if not examples:
            raise DataError("the validation file holds no user")
        self._trie, self._tokens, self._width, self.k = bundle.trie(), tokens, max(width, k), k
        self._normalize: Normalize = normalize
        if users and users < len(examples):
            chosen = np.sort(
                np.random.default_rng(seed).choice(len(examples), users, replace=False)
            )
            examples = [examples[place] for place in chosen.tolist()]
        self._prompts = [
            _prompt(example, bundle, history_prompt, tokenizer, tokens) for example in examples
        ]
        trie = self._trie
        self._filters: list[LeafFilter | None] = [None] * len(examples)
        if exclude_seen:
            self._filters = [
                LeafFilter.of(trie, None, bundle.items.rows(example.history))
                for example in examples
            ]
        targets = bundle.items.rows([example.item for example in examples])
        # a target that the bundle lacks or has retired has no leaf, and nothing can hit it
        self._targets = np.array([_leaf(trie, row) for row in targets.tolist()], dtype=np.int64)
        # items behind each leaf; the last entry is that of -1, where the beam found no more
        self._sizes = np.array(
            [*(len(trie.leaf_rows(leaf)) for leaf in range(trie.n_leaves)), 0], dtype=np.int64
        )

    def sums(self, model: Any, rank: int = 0, ranks: int = 1) -> NDArray[np.float64]:
        """(3,) float64: hits, discounted gains and users over every `ranks`-th user from `rank` on."""
        from sidtool.recommend.beam import beam_search

        mine = slice(rank, None, ranks)
        prompts, targets, filters = self._prompts[mine], self._targets[mine], self._filters[mine]
        how = {"width": self._width, "k": self.k, "normalize": self._normalize, "filters": filters}
        found = beam_search(model, prompts, self._trie, self._tokens, **how) if prompts else []
        ranked = np.full((len(prompts), self.k), -1, dtype=np.int64)
        for row, (leaves, _) in zip(ranked, found, strict=True):
            row[: len(leaves)] = leaves
        values = metric_values(find_targets(ranked, targets, self._sizes[ranked]), [self.k])[
            :, :2
        ]  # hr, ndcg
        return np.array([*values.sum(axis=0), len(prompts)])


def _leaf(trie: Trie, row: int) -> int:
    positions = trie.positions(np.array([row], dtype=np.int64))
    return int(trie.leaves(positions)[0]) if len(positions) else -1


def _prompt(
    example: Example,
    bundle: Bundle,
    history_prompt: HistoryPrompt,
    tokenizer: Any,
    tokens: SidTokens,
) -> list[int]:
    rows = bundle.items.rows(example.history)
    rows = rows[rows >= 0]
    titles = (
        [bundle.items.title(row) for row in rows.tolist()]
        if history_prompt.history_as == "title"
        else None
    )
    return history_prompt_ids(history_prompt, tokenizer, tokens, bundle.items.codes[rows], titles)
