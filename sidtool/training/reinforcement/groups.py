"""The groups of items that a policy is trained on: G distinct items of the catalog for each prompt,
by beam search or drawn without replacement."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sidtool.recommendation import Query, QuerySession
from sidtool.recommendation.search import sample_leaves
from sidtool.tokenizer.bundle import Trie
from sidtool.tokenizer.sid import ItemRows, Leaves, SidPositions
from sidtool.training.reinforcement.examples import RlExamples
from sidtool.training.reinforcement.policy import Policy, pad_left
from sidtool.training.reinforcement.settings import RlOptions


@dataclass(frozen=True, eq=False)
class Rollouts:
    """n groups of G leaves of the trie, in each the one that the policy prefers first."""

    prompts: list[list[int]]
    """n prompts as token ids"""
    leaves: Leaves
    """(n, G): an arbitrary leaf where not `valid`"""
    valid: NDArray[np.bool_]
    """(n, G): False behind the last item of a group, where fewer than G could be recommended"""
    probabilities: NDArray[np.float64] | None
    """(n, G): of sampled leaves under the policy, given that a seen item is not recommended; those
    of all leaves that may be recommended sum to 1. None for beam search"""
    inclusion: NDArray[np.float64] | None
    """(n, G): as in `LeafSample`; None for beam search"""


@dataclass(frozen=True, eq=False)
class GroupMaker:
    """Makes groups for examples by their number."""

    session: QuerySession
    policy: Policy
    examples: RlExamples
    size: int
    """G, the items of a group"""
    options: RlOptions

    def target_leaves(self, numbers: NDArray[np.int64]) -> Leaves:
        """(n,): the leaf of each example's target."""
        trie = self.session.trie
        return trie.leaves(trie.positions_of(ItemRows(self.examples.targets[numbers])))

    def make(self, model: Any, numbers: NDArray[np.int64], generator: torch.Generator) -> Rollouts:
        """The groups of examples, under a model that holds no gradient meanwhile."""
        histories = [self.examples.history(number) for number in numbers.tolist()]
        prompts = [self.examples.prompt(self.session, number) for number in numbers.tolist()]
        if self.options.rollouts == "gumbel":
            return self._sample(model, histories, prompts, generator)
        return self._search(model, histories, prompts)

    def _search(
        self, model: Any, histories: Sequence[ItemRows], prompts: list[list[int]]
    ) -> Rollouts:
        queries = [
            Query(prompt, self.session.leaf_filter(None, self._denied(history)))
            for prompt, history in zip(prompts, histories, strict=True)
        ]
        leaves = np.full((len(queries), self.size), -1, dtype=np.int64)
        results = self.session.search(model, queries, k=self.size, num_beams=self.size)
        for row, result in zip(leaves, results, strict=True):
            row[: len(result.leaves)] = result.leaves
        return Rollouts(prompts, Leaves(np.maximum(leaves, 0)), leaves >= 0, None, None)

    def _denied(self, history: ItemRows) -> list[ItemRows]:
        """The items that may not be in a group."""
        return [history] if self.options.exclude_seen else []

    def _sample(
        self,
        model: Any,
        histories: Sequence[ItemRows],
        prompts: list[list[int]],
        generator: torch.Generator,
    ) -> Rollouts:
        excluded = [self._seen_leaves(history) for history in histories]
        samples = sample_leaves(
            model,
            prompts,
            self.session.trie,
            self.session.tokens,
            size=self.size,
            excluded=excluded,
            generator=generator,
        )
        leaves = np.full((len(prompts), self.size), -1, dtype=np.int64)
        probabilities = np.zeros(leaves.shape)
        inclusion = np.ones(leaves.shape)
        for row, sample in enumerate(samples):
            places = slice(len(sample.leaves))
            leaves[row, places] = sample.leaves
            probabilities[row, places] = np.exp(sample.log_probs)
            inclusion[row, places] = sample.inclusion
        excluded_probs = self._probabilities(model, prompts, excluded)  # (n, most excluded)
        # by rounding, it may seem to be less than the group's own
        unseen_mass = np.maximum(1 - excluded_probs.sum(axis=1), probabilities.sum(axis=1))
        probabilities /= np.maximum(unseen_mass, np.finfo(np.float64).tiny)[:, None]
        # best first, as rewards by rank expect; places without an item last
        order = np.argsort(np.where(leaves >= 0, -probabilities, np.inf), axis=1, kind="stable")
        leaves = np.take_along_axis(leaves, order, axis=1)
        return Rollouts(
            prompts,
            Leaves(np.maximum(leaves, 0)),
            leaves >= 0,
            np.take_along_axis(probabilities, order, axis=1),
            np.take_along_axis(inclusion, order, axis=1),
        )

    def _seen_leaves(self, history: ItemRows) -> Leaves:
        """The leaves that may not be drawn: those of which every item was seen."""
        leaf_filter = self.session.leaf_filter(None, self._denied(history))
        if leaf_filter is None:
            return Leaves(np.zeros(0, dtype=np.int64))
        return leaf_filter.denied_leaves

    def _probabilities(
        self, model: Any, prompts: Sequence[Sequence[int]], leaves: Sequence[Leaves]
    ) -> NDArray[np.float64]:
        """(n, m): probabilities of up to m leaves of each prompt, 0 where it has fewer."""
        device = model.device
        lengths = np.array(list(map(len, leaves)))
        is_leaf = np.arange(lengths.max()) < lengths[:, None]  # (n, m)
        if not is_leaf.any():
            return np.zeros(is_leaf.shape)
        ids, mask = pad_left([torch.tensor(prompt) for prompt in prompts])
        padded = np.zeros(is_leaf.shape, dtype=np.int64)
        padded[is_leaf] = np.concatenate(leaves)
        codes = self.session.trie.leaf_codes(Leaves(padded.ravel())).astype(np.int64)
        with torch.no_grad():
            scores = self.policy.scores(
                model,
                ids.to(device),
                mask.to(device),
                torch.from_numpy(codes.reshape(*padded.shape, -1)).to(device),
            )
        log_probs = scores.log_probs.double().sum(-1)
        return np.where(is_leaf, log_probs.exp().cpu().numpy(), 0.0)


def first_items(trie: Trie, leaves: Leaves) -> ItemRows:
    """(...) leaves -> the bundle's row of the first item of each."""
    positions = leaves if trie.leaf_start is None else trie.leaf_start[leaves].astype(np.int64)
    return trie.item_rows(SidPositions(positions))
