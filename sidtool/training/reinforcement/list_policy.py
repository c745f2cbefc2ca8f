"""Log-probabilities of lists under a model, with a gradient.

Each list is an ordinary sequence behind its prompt, as in training. Logits are computed for the
columns of a level at the tokens before its codes only, and normalized as the model is decoded."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from sidtool.model.prompt.tokens import SidTokens
from sidtool.recommendation.search.partial_head import Part, full_blocks
from sidtool.training.reinforcement.policy import Policy


@dataclass(frozen=True, eq=False)
class ListPolicy:
    """A policy over items as one over lists."""

    policy: Policy
    tokens: SidTokens

    def log_probs(
        self,
        model: Callable[..., Any],
        prompt_ids: torch.Tensor,
        prompt_mask: torch.Tensor,
        codes: torch.Tensor,
        valid: torch.Tensor,
    ) -> torch.Tensor:
        """(n, m, L) float32: the log-probability of each code of n lists after what precedes it, 0
        for items that are not `valid`.

        `prompt_ids` are (n, P) token ids padded on the left, `prompt_mask` (n, P) has 1 for a
        token; `codes` are (n, m, L) of SIDs in the trie, `valid` (n, m) is False behind the last
        item of a list. `model` is the model itself or a wrapper of it that distributes it."""
        ids, first_codes = self._tokens(codes)
        mask = torch.cat([prompt_mask, self._token_mask(valid, ids.shape[1])], dim=1)
        inputs = {
            "input_ids": torch.cat([prompt_ids, ids], dim=1),
            "attention_mask": mask,
            "position_ids": (mask.cumsum(-1) - 1).clamp_min(0),
        }

        def forward() -> torch.Tensor:
            logits: torch.Tensor = model(**inputs, use_cache=False).logits
            return logits

        parts = self._parts(prompt_ids.shape[1], first_codes, codes, mask.shape[1])
        policy = self.policy
        blocks = (
            policy.head.blocks(forward, parts) if policy.narrow else full_blocks(forward(), parts)
        )
        n, length, levels = codes.shape
        nodes = torch.zeros(n * length, 1, dtype=torch.long, device=codes.device)  # the root
        steps = []
        for level in range(levels):
            logits = blocks[level].float().unsqueeze(1)  # (n * m, 1, columns)
            of_level, _, nodes = policy.step(level, logits, nodes, codes[..., level].view(-1, 1))
            steps.append(of_level.view(n, length))
        log_probs = torch.stack(steps, dim=-1)
        return log_probs.masked_fill(~valid.unsqueeze(-1), 0.0)

    def _tokens(self, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The (n, tokens) ids of lists behind a prompt that ends where the first SID begins, and
        where the first code of each item is among them, (m,). The last code is left out: nothing
        follows it."""
        n, length, levels = codes.shape
        items = self.policy.columns.ids(codes)  # (n, m, L)
        ends = (self.tokens.end, self.tokens.begin)
        between = [token for token in ends if token is not None]
        if between:
            fixed = torch.tensor(between, device=codes.device).expand(n, length, -1)
            items = torch.cat([items, fixed], dim=-1)  # (n, m, L + 2)
        first_codes = torch.arange(length, device=codes.device) * items.shape[-1]
        last = (length - 1) * items.shape[-1] + levels - 1
        return items.flatten(1)[:, :last], first_codes

    def _token_mask(self, valid: torch.Tensor, n_tokens: int) -> torch.Tensor:
        """(n, tokens): 1 for a token of an item that is there."""
        per_item = self.policy.arrays.levels + 2 * self.tokens.space.has_begin_end_tokens
        return valid.long().repeat_interleave(per_item, dim=1)[:, :n_tokens]

    def _parts(
        self, n_prompt: int, first_codes: torch.Tensor, codes: torch.Tensor, n_tokens: int
    ) -> list[Part]:
        """The positions before the codes of each level, in the flattened batch."""
        rows = torch.arange(len(codes), device=codes.device)[:, None] * n_tokens
        parts: list[Part] = []
        for level in range(codes.shape[2]):
            before = rows + n_prompt + first_codes + level - 1
            parts.append((before.flatten(), self.policy.columns.levels[level].columns))
        return parts
