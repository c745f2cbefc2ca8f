"""The groups of items that a policy is trained on: G distinct items of the catalog for each prompt,
by beam search; what their rewards tell; and the records of what the start made once per example,
which preference learning compares the policy with, in a checkpoint.

Made again beside other examples, records would differ in the last bits, and a resumed run in its
weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from sidtool.recommendation import QuerySession
from sidtool.tokenizer.bundle import Trie
from sidtool.tokenizer.sid import Codes, ItemRows, Leaves, SidPositions
from sidtool.training.reinforcement.examples import RlExamples
from sidtool.training.reinforcement.policy import Policy, pad_left


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

    def target_leaves(self, numbers: NDArray[np.int64]) -> Leaves:
        """(n,): the leaf of each example's target."""
        trie = self.session.trie
        return trie.leaves(trie.positions_of(ItemRows(self.examples.targets[numbers])))

    def make(self, model: Any, numbers: NDArray[np.int64]) -> Rollouts:
        """The groups of examples, under a model that holds no gradient meanwhile."""
        queries = [self.examples.query(self.session, number) for number in numbers.tolist()]
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
class PromptRecord:
    """What is made once for an example: tensors that have the same shape in all records of a file,
    but for the prompt."""

    prompt: torch.Tensor
    """(P,) token ids"""


@dataclass(frozen=True, eq=False)
class OfflineGroup(PromptRecord):
    """G items for one example, and its target behind them."""

    codes: torch.Tensor
    """(G + 1, levels)"""
    valid: torch.Tensor
    """(G,) bool: items other than the target"""
    reference: torch.Tensor
    """(G + 1,): log-probability of each under the start"""


@torch.no_grad()
def make_offline(
    maker: GroupMaker, start: Any, policy: Policy, numbers: Sequence[int]
) -> dict[int, OfflineGroup]:
    """The groups of examples by their number, under the start and its policy."""
    trie = maker.session.trie
    rows = np.array(numbers, dtype=np.int64)
    rollouts = maker.make(start, rows)
    targets = maker.target_leaves(rows)
    leaves = np.concatenate([rollouts.leaves, targets[:, None]], axis=1)  # (n, G + 1)
    valid = torch.from_numpy(rollouts.valid & (rollouts.leaves != targets[:, None]))
    flat_codes = trie.leaf_codes(Leaves(leaves.ravel())).astype(np.int64)
    codes = torch.from_numpy(flat_codes.reshape(*leaves.shape, trie.levels))
    prompts = [torch.tensor(prompt) for prompt in rollouts.prompts]
    inputs = (*pad_left(prompts), codes)
    log_probs, _ = policy.scores(start, *(tensor.to(start.device) for tensor in inputs))
    reference = log_probs.sum(-1).cpu()  # (n, G + 1)
    return {
        number: OfflineGroup(prompts[row], codes[row], valid[row], reference[row])
        for row, number in enumerate(numbers)
    }


def stack(records: Sequence[PromptRecord], size: int) -> dict[str, torch.Tensor]:
    """A batch with `size` rows for each record, which a trainer may split by rows: all have what
    the record has."""
    ids, mask = pad_left([record.prompt for record in records])
    once = {"prompt_ids": ids, "prompt_mask": mask}
    for field in fields(records[0]):
        if field.name != "prompt":
            once[field.name] = torch.stack([getattr(record, field.name) for record in records])
    return {name: tensor.repeat_interleave(size, dim=0) for name, tensor in once.items()}


Record = TypeVar("Record", bound=PromptRecord)


def save_records(records: Mapping[int, PromptRecord], path: Path) -> None:
    """Store at least one record by the number of its example."""
    prompts = [record.prompt for record in records.values()]
    tensors = stack(list(records.values()), 1)
    del tensors["prompt_ids"], tensors["prompt_mask"]
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
