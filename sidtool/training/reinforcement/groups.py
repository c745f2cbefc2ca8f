"""The groups of items that a policy is trained on: G distinct items of the catalog for each prompt,
by beam search."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from sidtool.recommendation import QuerySession
from sidtool.tokenizer.bundle import Trie
from sidtool.tokenizer.sid import Codes, ItemRows, Leaves, SidPositions
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

    def make(self, model: Any, numbers: NDArray[np.int64]) -> Rollouts:
        """The groups of examples, under a model that holds no gradient meanwhile."""
        exclude_seen = bool(self.options.exclude_seen)
        queries = [
            self.examples.query(self.session, number, exclude_seen=exclude_seen)
            for number in numbers.tolist()
        ]
        leaves = np.full((len(queries), self.size), -1, dtype=np.int64)
        results = self.session.search(model, queries, k=self.size, num_beams=self.size)
        for row, result in zip(leaves, results, strict=True):
            row[: len(result.leaves)] = result.leaves
        prompts = [list(query.prompt) for query in queries]
        return Rollouts(prompts, Leaves(np.maximum(leaves, 0)), leaves >= 0)


def first_items(trie: Trie, leaves: Leaves) -> ItemRows:
    """(...) leaves -> the bundle's row of the first item of each."""
    positions = leaves if trie.leaf_start is None else trie.leaf_start[leaves].astype(np.int64)
    return trie.item_rows(SidPositions(positions))


Matrix = NDArray[np.float64]
"""(n, G): one number for each item of n groups."""
Flags = NDArray[np.bool_]

NO_SPREAD = 1e-8
"""Rewards of a group that differ by less give no signal."""
STABILIZER = 1e-4
"""Added to a standard deviation before dividing by it, as in TRL and MiniOneRec."""


def lacks_signal(rewards: Matrix, valid: Flags) -> Flags:
    """(n,): whether all valid items of a group have the same reward, so that none is better."""
    highest = np.where(valid, rewards, -np.inf).max(axis=1)
    lowest = np.where(valid, rewards, np.inf).min(axis=1)
    flat: Flags = ~(highest - lowest > NO_SPREAD)
    return flat


def first_difference(items: Codes, targets: Codes, valid: Flags) -> NDArray[np.float64]:
    """(n, G, levels): advantages of single codes, by the first code that differs from the target.

    `items` are (n, G, levels) codes, `targets` (n, levels). A code of the common prefix has +1, the
    first that differs -1, and each level is standardized over the group; codes behind the first
    difference, which the target says nothing about, and places that are not valid have 0
    (uhulahu/NanoOneRec)."""
    equal = items == targets[:, None]
    in_prefix = np.cumprod(equal, axis=-1).astype(np.bool_)
    # True up to and including the first difference
    judged = np.concatenate([np.ones_like(in_prefix[..., :1]), in_prefix[..., :-1]], axis=-1)
    judged &= valid[..., None]
    values = np.where(in_prefix, 1.0, -1.0)
    count = np.maximum(judged.sum(axis=1, keepdims=True), 1)
    mean = np.where(judged, values, 0.0).sum(axis=1, keepdims=True) / count
    centered = np.where(judged, values - mean, 0.0)
    deviation = np.sqrt((centered**2).sum(axis=1, keepdims=True) / count)
    return centered / (deviation + STABILIZER)


@dataclass(frozen=True, eq=False)
class OfflineGroup:
    """G items for one example, and its target."""

    prompt: torch.Tensor
    """(P,) token ids"""
    completions: torch.Tensor
    """(G, levels) token ids"""
    valid: torch.Tensor
    """(G,) bool: items other than the target"""
    reference: torch.Tensor
    """(G,): log-probability of each item under the start"""
    target_codes: torch.Tensor
    """(levels,) codes"""
    target_reference: torch.Tensor
    """(): log-probability of the target under the start"""


@torch.no_grad()
def make_offline(
    maker: GroupMaker, start: Any, policy: Policy, numbers: Sequence[int]
) -> dict[int, OfflineGroup]:
    """The groups of examples by their number, under the start and its policy."""
    trie = maker.session.trie
    rows = np.array(numbers, dtype=np.int64)
    rollouts = maker.make(start, rows)
    targets = maker.target_leaves(rows)
    valid = rollouts.valid & (rollouts.leaves != targets[:, None])
    shape = (*rollouts.leaves.shape, trie.levels)  # (n, G, levels)
    flat_codes = trie.leaf_codes(Leaves(rollouts.leaves.ravel()))
    item_codes = flat_codes.astype(np.int64).reshape(shape)
    target_codes = trie.leaf_codes(targets).astype(np.int64)
    chains = np.concatenate([item_codes, target_codes[:, None]], axis=1)  # (n, G + 1, levels)
    ids, mask = pad_left([torch.tensor(prompt) for prompt in rollouts.prompts])
    device = start.device
    scores = policy.scores(
        start, ids.to(device), mask.to(device), torch.from_numpy(chains).to(device)
    )
    log_probs = scores.log_probs.sum(-1).cpu()  # (n, G + 1)
    token_ids = maker.session.tokens.ids(flat_codes, begin_end_tokens=False)
    completions = torch.from_numpy(token_ids.reshape(shape))
    return {
        number: OfflineGroup(
            prompt=torch.tensor(rollouts.prompts[row]),
            completions=completions[row],
            valid=torch.from_numpy(valid[row]),
            reference=log_probs[row, :-1],
            target_codes=torch.from_numpy(target_codes[row]),
            target_reference=log_probs[row, -1],
        )
        for row, number in enumerate(numbers)
    }


def stack_groups(groups: Sequence[OfflineGroup]) -> dict[str, torch.Tensor]:
    """A batch with one row per item, as TRL's; what a group has once is repeated."""
    size = len(groups[0].valid)
    ids, mask = pad_left([group.prompt for group in groups])
    once = {
        "prompt_ids": ids,
        "prompt_mask": mask,
        "target_codes": torch.stack([group.target_codes for group in groups]),
        "target_reference": torch.stack([group.target_reference for group in groups]),
    }
    batch = {name: tensor.repeat_interleave(size, dim=0) for name, tensor in once.items()}
    batch["completion_ids"] = torch.cat([group.completions for group in groups])
    batch["valid"] = torch.cat([group.valid for group in groups])
    batch["reference"] = torch.cat([group.reference for group in groups])
    return batch


class PromptRecord(Protocol):
    """A dataclass of tensors, of the same shape in all records of a file but for the prompt."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def prompt(self) -> torch.Tensor:
        """(P,) token ids"""


Record = TypeVar("Record")


def save_records(records: Mapping[int, PromptRecord], path: Path) -> None:
    """Store at least one record by the number of its example."""
    first = next(iter(records.values()))
    stacked = {
        field.name: [getattr(record, field.name) for record in records.values()]
        for field in fields(first)
    }
    prompts = stacked.pop("prompt")
    tensors = {name: torch.stack(rows) for name, rows in stacked.items()}
    tensors["prompt"] = torch.cat(prompts)
    tensors["length"] = torch.tensor([len(prompt) for prompt in prompts])
    tensors["number"] = torch.tensor(list(records))
    save_file(tensors, path)


def load_records(kind: Callable[..., Record], path: Path) -> dict[int, Record]:
    """The records that `save_records` stored; `kind` is their class."""
    tensors = load_file(path)
    numbers = tensors.pop("number").tolist()
    prompts = tensors.pop("prompt").split(tensors.pop("length").tolist())
    return {
        number: kind(prompt=prompts[row], **{name: rows[row] for name, rows in tensors.items()})
        for row, number in enumerate(numbers)
    }
