"""Groups that the start makes once per example, with its log-probabilities: what preference
learning compares the policy with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from sidtool.tokenizer.index_spaces import Leaves
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
    rollouts = maker.make(start, rows, torch.Generator())  # beam search draws nothing
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
