"""Groups that the start makes once per example, with its log-probabilities, which preference
learning compares the policy with; and their file in a checkpoint.

Made again beside other examples they would differ in the last bits, and a resumed run in its
weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from sidtool.tokenizer.sid import Leaves
from sidtool.training.reinforcement.groups import GroupMaker
from sidtool.training.reinforcement.policy import Policy, pad_left


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
