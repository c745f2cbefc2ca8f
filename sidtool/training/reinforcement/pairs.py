"""The pairs of lists that preference learning compares for each example, made once for a round, and
stored in checkpoints. Made again beside other examples, they would differ in the last bits, and a
resumed run in its weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from sidtool.recommendation import Query, QuerySession
from sidtool.training.reinforcement.examples import RlExamples
from sidtool.training.reinforcement.policy import Policy, pad_left
from sidtool.training.reinforcement.rewards.reward import NO_SPREAD, GroupReward, Matrix
from sidtool.training.reinforcement.settings import RlOptions


@dataclass(frozen=True, eq=False)
class ListPair:
    """Two lists for one example, the better first, and the list that really followed."""

    prompt: torch.Tensor
    """(P,) token ids"""
    codes: torch.Tensor
    """(3, m, L): of the better list, the worse one and the targets"""
    valid: torch.Tensor
    """(3, m) bool: False behind the last item"""
    reference: torch.Tensor
    """(2,): log-probability of either list under the model that wrote them"""
    rewards: torch.Tensor
    """(2,): equal rewards are no preference"""
    mean_reward: torch.Tensor
    """(): of all candidates"""


@dataclass(frozen=True, eq=False)
class ListWriter:
    """Writes lists with a model, and compares them."""

    session: QuerySession
    """of lists"""
    reward: GroupReward
    length: int
    """items per list"""
    options: RlOptions

    def write(
        self, model: Any, queries: Sequence[Query], *, num_beams: int, n_lists: int = 1
    ) -> NDArray[np.int64]:
        """(n, n_lists, length) bundle rows of the lists that a model writes for each query, -1
        where there is no item."""
        results = self.session.search_lists(
            model, queries, length=self.length, num_beams=num_beams, n_lists=n_lists
        )
        lists = np.full((len(queries), n_lists, self.length), -1, dtype=np.int64)
        for row, candidates in enumerate(results):
            for place, candidate in enumerate(candidates):
                rows = self.session.trie.item_rows(candidate.positions)
                lists[row, place, : len(rows)] = rows
        return lists

    @torch.no_grad()
    def pairs(
        self, policy: Policy, examples: RlExamples, numbers: Sequence[int]
    ) -> dict[int, ListPair]:
        """The pairs of examples of lists by their number, from lists that a policy writes."""
        model = policy.network
        queries = [examples.query(self.session, number) for number in numbers]
        n_lists = self.options.candidate_lists
        lists = self.write(model, queries, num_beams=n_lists, n_lists=n_lists)
        groups = examples.groups(numbers, lists)
        # a place without a list is neither the best nor the worst
        rewards = np.where((lists >= 0).any(axis=-1), self.reward(groups), np.nan)
        rows = self._chosen(lists, rewards, list(groups.targets))  # (n, 3, m) rows
        codes = self.session.bundle.items.codes[np.maximum(rows, 0)].astype(np.int64)
        code_tensor = torch.from_numpy(codes)  # (n, 3, m, L)
        valid = torch.from_numpy(rows >= 0)
        prompts = [torch.tensor(query.prompt) for query in queries]
        ids, mask = pad_left(prompts)
        inputs = (
            ids.repeat_interleave(2, dim=0),
            mask.repeat_interleave(2, dim=0),
            code_tensor[:, :2].flatten(0, 1),
            valid[:, :2].flatten(0, 1),
        )
        log_probs = policy.list_log_probs(model, *(tensor.to(model.device) for tensor in inputs))
        reference = log_probs.sum((-2, -1)).view(-1, 2).cpu()
        pairs = {}
        for row, number in enumerate(numbers):
            scores = rewards[row][~np.isnan(rewards[row])]
            best, worst, mean = 0.0, 0.0, 0.0
            if len(scores):
                best, worst, mean = scores.max(), scores.min(), scores.mean()
            if best - worst <= NO_SPREAD:  # equal but for rounding
                worst = best
            pairs[number] = ListPair(
                prompts[row],
                code_tensor[row],
                valid[row],
                reference[row],
                torch.tensor([best, worst], dtype=torch.float64),
                torch.tensor(mean, dtype=torch.float64),
            )
        return pairs

    def _chosen(
        self, lists: NDArray[np.int64], rewards: Matrix, targets: Sequence[NDArray[np.int64]]
    ) -> NDArray[np.int64]:
        """(n, 3, m) rows: the best and the worst list, else the targets; then the targets."""
        rows = np.full((len(lists), 3, self.length), -1, dtype=np.int64)
        for row, list_rewards in enumerate(rewards):
            following = targets[row][: self.length]
            rows[row, :, : len(following)] = following
            if not np.isnan(list_rewards).all():
                rows[row, 0] = lists[row, np.nanargmax(list_rewards)]
                # of equally bad lists, the one that the model finds likeliest
                rows[row, 1] = lists[row, np.nanargmin(list_rewards)]
        return rows


def stack_pairs(pairs: Sequence[ListPair], rows: int) -> dict[str, torch.Tensor]:
    """A batch with `rows` rows for each pair, which a trainer may split by rows: all have what the
    pair has."""
    ids, mask = pad_left([pair.prompt for pair in pairs])
    once = {"prompt_ids": ids, "prompt_mask": mask}
    for field in fields(ListPair):
        if field.name != "prompt":
            once[field.name] = torch.stack([getattr(pair, field.name) for pair in pairs])
    return {name: tensor.repeat_interleave(rows, dim=0) for name, tensor in once.items()}


def save_pairs(pairs: Mapping[int, ListPair], path: Path) -> None:
    """Store at least one pair by the number of its example; prompts are joined, not padded."""
    prompts = [pair.prompt for pair in pairs.values()]
    tensors = stack_pairs(list(pairs.values()), rows=1)
    del tensors["prompt_ids"], tensors["prompt_mask"]
    tensors["prompt"] = torch.cat(prompts)
    tensors["length"] = torch.tensor([len(prompt) for prompt in prompts])
    tensors["number"] = torch.tensor(list(pairs))
    save_file(tensors, path)


def load_pairs(path: Path) -> dict[int, ListPair]:
    """The pairs that `save_pairs` stored."""
    tensors = load_file(path)
    numbers = tensors.pop("number").tolist()
    prompts = tensors.pop("prompt").split(tensors.pop("length").tolist())
    return {
        number: ListPair(prompts[row], **{name: rows[row] for name, rows in tensors.items()})
        for row, number in enumerate(numbers)
    }
