"""A memory as a teacher: its distribution over the items that may come next, code by code, without
what the example's own user contributed to it."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sidtool.memory import Memory
from sidtool.model.vocabulary import SidTokens
from sidtool.recommendation.search import Part, token_columns, trie_arrays
from sidtool.tokenizer.bundle import Trie
from sidtool.tokenizer.sid import ItemRows, Leaves, SidPositions

SMALLEST = 1e-6
"""Below it, what is left of a score may be the rounding of stored similarities alone."""
NO_MASS = 1e-30
"""The mass of a code of which the memory knows no item."""


class MemoryTeacher:
    """The distributions of a memory in place of a model's logits, for causal models.

    The SIDs of an example before a target are its history. Pairs of items that the example has are
    taken out of the memory's counts, since they contain the answer: what is left was counted of
    other users. A reversed example has the memory that looks back. Where the memory has no item of
    a prefix, the target itself is taught."""

    def __init__(self, memory: Memory, tokens: SidTokens, trie: Trie) -> None:
        from scipy import sparse

        self._settings, self._window = memory.manifest.settings, memory.manifest.window
        self._tokens, self._trie = tokens, trie
        # by leaves of the trie: the history names SIDs, and items may share one
        rows = ItemRows(np.arange(memory.manifest.items))
        positions = trie.positions_of(rows)
        active = np.flatnonzero(positions >= 0)
        leaves = trie.leaves(SidPositions(positions[active]))
        shape = (len(rows), trie.n_leaves)
        leaf_matrix = sparse.csr_matrix((np.ones(len(leaves)), (active, leaves)), shape=shape)
        n_items = np.maximum(np.bincount(leaves, minlength=trie.n_leaves), 1)
        similarity = leaf_matrix.T @ memory.neighbors.to_scipy() @ leaf_matrix
        forward = (sparse.diags(1 / n_items) @ similarity).tocsr()
        self._similarity = {False: forward, True: forward.T.tocsr()}
        self._events = leaf_matrix.T @ memory.events.astype(np.float64)
        self._codes = trie.leaf_codes(Leaves(np.arange(trie.n_leaves))).astype(np.int64)
        self._places = []
        """For each level the (leaves, columns) matrix of the column of each leaf's code."""
        columns = token_columns(tokens, "cpu").levels
        for level, size in enumerate(tokens.space.sizes):
            places = columns[level].places(torch.from_numpy(self._codes[:, level])).numpy()
            entries = np.ones(len(places)), (np.arange(len(places)), places)
            self._places.append(sparse.csr_matrix(entries, shape=(len(places), size)))

    def blocks(
        self,
        inputs: Mapping[str, torch.Tensor],
        parts: Sequence[Part],
        is_reversed: Sequence[torch.Tensor],
    ) -> list[torch.Tensor]:
        """The logits of each level, (n, columns), at the (n,) places of a part in the flattened
        batch; (n,) bool for each part say whether the examples there are reversed."""
        from scipy import sparse

        ids = inputs["input_ids"].cpu().numpy()
        bounds = _bounds(inputs, ids.shape)
        starts, leaves = self._items(ids.ravel())
        # the numbers of the items that have a target in each part, and in any
        in_parts = [
            np.searchsorted(starts, places.cpu().numpy() + 1 - level)
            for level, (places, _) in enumerate(parts)
        ]
        targets = np.unique(np.concatenate(in_parts))
        backward = np.zeros(len(starts) + 1, dtype=np.bool_)
        for numbers, flags in zip(in_parts, is_reversed, strict=True):
            backward[numbers] = flags.cpu().numpy()
        scores: list[Any] = [sparse.csr_matrix((0, len(self._codes)))]  # a batch without targets
        for first, stop in pairwise(np.searchsorted(starts, bounds).tolist()):
            example_targets = targets[(targets >= first) & (targets < stop)]
            if len(example_targets):
                is_backward = bool(backward[example_targets[0]])
                example_leaves = leaves[first:stop]
                scores.append(self._scores(example_leaves, example_targets - first, is_backward))
        joined = sparse.vstack(scores, format="csr")
        logits = [
            self._logits(joined[np.searchsorted(targets, numbers)], leaves[numbers], level)
            for level, numbers in enumerate(in_parts)
        ]
        return [block.to(inputs["input_ids"].device) for block in logits]

    def _items(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(items,) each: where the SIDs of a flat batch start, and their leaves; -1 for one that no
        item has."""
        levels = self._tokens.space.levels
        starts = np.flatnonzero(self._tokens.is_code(ids, 0))
        places = np.minimum(starts[:, None] + np.arange(levels), len(ids) - 1)
        columns = token_columns(self._tokens, "cpu")
        token_levels, codes = columns.locate(torch.from_numpy(ids[places]))
        leaves, exist = trie_arrays(self._trie, "cpu").descend(codes)
        is_item = exist & (token_levels == torch.arange(levels)).all(-1)
        return starts, torch.where(is_item, leaves, -1).numpy()

    def _scores(self, items: NDArray[np.int64], targets: NDArray[np.int64], backward: bool) -> Any:
        """(n, leaves) CSR: the scores before n of the items of an example, without what the
        example contributed to them."""
        from scipy import sparse

        ages = targets[:, None] - 1 - np.arange(len(items))
        is_read = (ages >= 0) & (ages < self._window)
        weights = np.where(is_read, self._settings.recency ** np.maximum(ages, 0.0), 0.0)
        distinct = np.unique(items[items >= 0])
        is_item = (items[:, None] == distinct).astype(np.float64)  # (items, distinct)
        similarity: Any = self._similarity[backward][distinct]
        contributed = self._contributed(distinct, is_item)
        # neighbors that were cut off have nothing that could be taken out
        contributed = np.minimum(contributed, similarity[:, distinct].toarray())
        n = len(distinct)
        entries = contributed.ravel(), (np.repeat(np.arange(n), n), np.tile(distinct, n))
        net_similarity = similarity - sparse.csr_matrix(entries, shape=similarity.shape)
        scores = sparse.csr_matrix(weights @ is_item) @ net_similarity
        scores.data[scores.data < SMALLEST] = 0
        scores.eliminate_zeros()
        return scores

    def _contributed(
        self, distinct: NDArray[np.int64], is_item: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """(n, n): what an example contributed to the similarities of its n distinct items;
        `is_item` (items, n) says which of them each item is."""
        settings = self._settings
        numbers = np.arange(len(is_item))
        gaps = np.abs(numbers[:, None] - numbers)
        # (items, items): what the pair of two items counts; below the diagonal it is reversed
        counts = settings.distance ** np.maximum(gaps - 1.0, 0.0)
        counts[gaps > self._window] = 0
        counts[np.tril_indices_from(counts)] *= settings.reverse
        event_products = np.outer(self._events[distinct], self._events[distinct])
        contributed: NDArray[np.float64] = is_item.T @ counts @ is_item
        contributed /= event_products**settings.normalization + settings.shrinkage
        np.fill_diagonal(contributed, 0)
        return contributed

    def _logits(self, scores: Any, answers: NDArray[np.int64], level: int) -> torch.Tensor:
        """(n, columns) float32: logarithms of the sums of (n, leaves) CSR scores behind each code
        that follows the answers' prefixes; where there are none, of the answer's code alone."""
        # of each score in the CSR matrix: the row, and whether its leaf has the answer's prefix
        rows = np.repeat(np.arange(len(answers)), np.diff(scores.indptr))
        prefixes = self._codes[answers[rows], :level]
        has_prefix = (self._codes[scores.indices, :level] == prefixes).all(1)
        below_prefix = scores.copy()
        below_prefix.data *= has_prefix
        sums = (below_prefix @ self._places[level]).toarray()  # (n, columns)
        is_empty = sums.sum(1) == 0
        sums[is_empty] = self._places[level][answers[is_empty]].toarray()
        return torch.from_numpy(np.log(sums + NO_MASS)).float()


def _bounds(inputs: Mapping[str, torch.Tensor], shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Where the examples of a batch start in its flat tokens, and where the last one ends; padding
    may count as an example."""
    n_tokens = shape[0] * shape[1]
    if "position_ids" not in inputs:
        return np.arange(0, n_tokens + 1, shape[1])
    positions = inputs["position_ids"].cpu().numpy().ravel()
    return np.append(np.flatnonzero(positions == 0), n_tokens)
