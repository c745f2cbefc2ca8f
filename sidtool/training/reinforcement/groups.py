"""The groups of items that a policy is trained on: G distinct items of the catalog for each prompt,
by beam search or drawn without replacement."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from sidtool.recommendation import Query, QuerySession
from sidtool.recommendation.search import AllowList, sample_leaves
from sidtool.tokenizer.bundle import Trie
from sidtool.tokenizer.sid import ItemRows, Leaves, SidPositions
from sidtool.training.reinforcement.example_fields import ExampleFields, example_prompt
from sidtool.training.reinforcement.examples import RlExamples
from sidtool.training.reinforcement.policy import Policy, pad_left


@dataclass(frozen=True)
class GroupOptions:
    """How groups are made."""

    size: int
    """G, the items of a group"""
    method: Literal["beam", "gumbel"] = "beam"
    """the best items by beam search, or drawn without replacement"""
    add_target: bool = False
    """put the target into every group"""
    exclude_seen: bool = False
    """leave out the items of the history"""
    prefix_curriculum: bool = False
    """give the first codes of a target that the beam misses; only with the method `beam`"""


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
    n_given: NDArray[np.int64]
    """(n,): the codes of the target that the policy was given"""


@dataclass(frozen=True, eq=False)
class GroupMaker:
    """Makes groups for examples by their number."""

    session: QuerySession
    policy: Policy
    examples: RlExamples
    options: GroupOptions
    fields: ExampleFields | None = None
    """those of the examples' events; None if no prompt shows any"""

    def target_leaves(self, numbers: NDArray[np.int64]) -> Leaves:
        """(n,): the leaf of each example's target."""
        trie = self.session.trie
        return trie.leaves(trie.positions_of(ItemRows(self.examples.targets[numbers])))

    def prompt(self, number: int) -> list[int]:
        """The token ids of the prompt of an example: what the model is asked in serving, before the
        event that followed."""
        return example_prompt(self.session, self.examples, self.fields, number)

    def make(self, model: Any, numbers: NDArray[np.int64], generator: torch.Generator) -> Rollouts:
        """The groups of examples, under a model that holds no gradient meanwhile."""
        histories = [self.examples.history(number) for number in numbers.tolist()]
        prompts = list(map(self.prompt, numbers.tolist()))
        if self.options.method == "gumbel":
            return self._sample(model, numbers, histories, prompts, generator)
        return self._search(model, numbers, histories, prompts)

    def _search(
        self,
        model: Any,
        numbers: NDArray[np.int64],
        histories: Sequence[ItemRows],
        prompts: list[list[int]],
    ) -> Rollouts:
        denied = [[history] if self.options.exclude_seen else [] for history in histories]
        queries = [
            Query(prompt, self.session.leaf_filter(None, items))
            for prompt, items in zip(prompts, denied, strict=True)
        ]
        leaves = self._beams(model, queries)
        targets = self.target_leaves(numbers)
        n_given = np.zeros(len(numbers), dtype=np.int64)
        if self.options.prefix_curriculum:
            self._give_prefixes(model, prompts, denied, targets, leaves, n_given)
        if self.options.add_target:
            missed = np.flatnonzero(~(leaves == targets[:, None]).any(axis=1))
            # in the first free place, else in that of the last item
            places = np.minimum((leaves[missed] >= 0).sum(axis=1), self.options.size - 1)
            leaves[missed, places] = targets[missed]
        valid = leaves >= 0
        return Rollouts(prompts, Leaves(np.maximum(leaves, 0)), valid, None, None, n_given)

    def _beams(self, model: Any, queries: Sequence[Query]) -> NDArray[np.int64]:
        """(n, G) leaves, -1 where there are no more."""
        leaves = np.full((len(queries), self.options.size), -1, dtype=np.int64)
        results = self.session.search(
            model, queries, k=self.options.size, num_beams=self.options.size
        )
        for row, result in zip(leaves, results, strict=True):
            row[: len(result.leaves)] = result.leaves
        return leaves

    def _give_prefixes(
        self,
        model: Any,
        prompts: Sequence[list[int]],
        denied: Sequence[list[ItemRows]],
        targets: NDArray[np.int64],
        leaves: NDArray[np.int64],
        n_given: NDArray[np.int64],
    ) -> None:
        """Replace each group without a hit by one below a prefix of the target, the shortest whose
        group has the target and another item (prefix curriculum of SINGER)."""
        trie = self.session.trie
        for depth in range(1, trie.levels):
            missed = np.flatnonzero(~(leaves == targets[:, None]).any(axis=1))
            queries = [
                Query(
                    prompts[row],
                    self.session.leaf_filter(
                        AllowList.of(trie, below_prefix(self.session, targets[row], depth)),
                        denied[row] or [ItemRows(np.zeros(0, dtype=np.int64))],
                    ),
                )
                for row in missed.tolist()
            ]
            below = self._beams(model, queries)
            has_hit = (below == targets[missed, None]).any(axis=1) & (below[:, 1] >= 0)
            leaves[missed[has_hit]] = below[has_hit]
            n_given[missed[has_hit]] = depth

    def _sample(
        self,
        model: Any,
        numbers: NDArray[np.int64],
        histories: Sequence[ItemRows],
        prompts: list[list[int]],
        generator: torch.Generator,
    ) -> Rollouts:
        targets = self.target_leaves(numbers)
        excluded = [self._seen_leaves(history) for history in histories]
        n_drawn = self.options.size
        if self.options.add_target:
            # the target is in every group, the others are drawn from all other items
            n_drawn -= 1
            pairs = zip(excluded, targets, strict=True)
            excluded = [Leaves(np.append(target, seen)) for seen, target in pairs]
        trie = self.session.trie
        samples = sample_leaves(
            model,
            prompts,
            trie,
            self.session.tokens,
            size=n_drawn,
            excluded=excluded,
            generator=generator,
        )
        leaves = np.full((len(numbers), self.options.size), -1, dtype=np.int64)
        probabilities = np.zeros(leaves.shape)
        inclusion = np.ones(leaves.shape)
        for row, sample in enumerate(samples):
            places = slice(len(sample.leaves))
            leaves[row, places] = sample.leaves
            probabilities[row, places] = np.exp(sample.log_probs)
            inclusion[row, places] = sample.inclusion
        excluded_probs = self._probabilities(model, prompts, excluded)  # (n, most excluded)
        if self.options.add_target:
            leaves[:, -1] = targets
            probabilities[:, -1] = excluded_probs[:, 0]
            excluded_probs = excluded_probs[:, 1:]
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
            np.zeros(len(numbers), dtype=np.int64),
        )

    def _seen_leaves(self, history: ItemRows) -> Leaves:
        """The leaves that may not be drawn: those of which every item was seen."""
        denied = [history] if self.options.exclude_seen else []
        leaf_filter = self.session.leaf_filter(None, denied)
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


def below_prefix(session: QuerySession, leaf: int, depth: int) -> ItemRows:
    """(m,): the rows of all items whose SIDs share the first `depth` codes with a leaf."""
    codes = session.trie.leaf_codes(Leaves(np.array([leaf])))[0, :depth]
    first, stop = session.bundle.items.rows_under(codes.tolist())
    return ItemRows(np.arange(first, stop, dtype=np.int64))


def first_items(trie: Trie, leaves: Leaves) -> ItemRows:
    """(...) leaves -> the bundle's row of the first item of each."""
    positions = leaves if trie.leaf_start is None else trie.leaf_start[leaves].astype(np.int64)
    return trie.item_rows(SidPositions(positions))
