"""Validation by what the model is for: constrained HR@K and NDCG@K on held-out next items.

Knows how a validation user becomes a prompt and a ranked item a score; knows nothing of training.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.bundle.bundle import Bundle
from sidtool.catalog.splits import Example
from sidtool.errors import DataError
from sidtool.prompt.render import prompt_ids
from sidtool.prompt.serving import Serving
from sidtool.prompt.tokens import SidTokens


class Validator:
    """Asks a model for the next items of a seeded sample of users; `rank` and `ranks` share them among processes."""

    def __init__(
        self,
        examples: Sequence[Example],
        bundle: Bundle,
        serving: Serving,
        tokenizer: Any,
        tokens: SidTokens,
        *,
        users: int,
        width: int,
        k: int,
        seed: int,
    ) -> None:
        if not examples:
            raise DataError("the validation file holds no user")
        self._trie, self._tokens, self._width, self.k = bundle.trie(), tokens, max(width, k), k
        if users and users < len(examples):
            chosen = np.sort(np.random.default_rng(seed).choice(len(examples), users, replace=False))
            examples = [examples[place] for place in chosen.tolist()]
        self._prompts = [_prompt(example, bundle, serving, tokenizer, tokens) for example in examples]
        targets = bundle.items.rows([example.item for example in examples])
        self._targets = [self._leaf(row) for row in targets.tolist()]

    def _leaf(self, row: int) -> int:
        """The leaf of a target, -1 where it has none and nothing can hit it."""
        position = self._trie.positions(np.array([row], dtype=np.int64))
        return int(self._trie.leaves(position)[0]) if len(position) else -1

    def sums(self, model: Any, rank: int = 0, ranks: int = 1) -> NDArray[np.float64]:
        """(3,) float64: hits, discounted gains and users over every `ranks`-th user from `rank` on."""
        from sidtool.recommend.beam import beam_search

        prompts, targets = self._prompts[rank::ranks], self._targets[rank::ranks]
        found = beam_search(model, prompts, self._trie, self._tokens, width=self._width, k=self.k) if prompts else []
        totals = np.array([0.0, 0.0, len(prompts)])
        for (leaves, _), target in zip(found, targets, strict=True):
            totals[:2] += self._score(leaves.tolist(), target)
        return totals

    def _score(self, leaves: Sequence[int], target: int) -> tuple[float, float]:
        """Expected hit and gain of a target among the items that share its SID, over every order of them."""
        if target not in leaves:
            return 0.0, 0.0
        before = sum(len(self._trie.leaf_rows(leaf)) for leaf in leaves[: leaves.index(target)])
        group = len(self._trie.leaf_rows(target))
        ranks = range(before, min(before + group, self.k))
        return len(ranks) / group, sum(1 / np.log2(rank + 2) for rank in ranks) / group


def _prompt(example: Example, bundle: Bundle, serving: Serving, tokenizer: Any, tokens: SidTokens) -> list[int]:
    rows = bundle.items.rows(example.history)
    rows = rows[rows >= 0]
    titles = [bundle.items.title(row) for row in rows.tolist()] if serving.history_as == "title" else None
    return prompt_ids(serving, tokenizer, tokens, bundle.items.codes[rows], titles)
