"""The objectives on groups: TRL's, with log-probabilities of codes normalized over the trie, and
those that TRL lacks, as functions of log-probabilities of codes: n is the number of groups or
sequences, L that of levels."""

import math
from collections import defaultdict
from typing import Any

import torch
from trl import GRPOTrainer

from sidtool.training.reinforcement.policy import Policy
from sidtool.training.reinforcement.settings import RlOptions

EARLY_CLIP = 0.1
"""The delta of ECPO: ratios are at most 1 + epsilon_high + delta at negative advantages."""


class GroupObjective(GRPOTrainer):
    """The losses of GRPOTrainer, whose batches have one row per item, for batches of whole
    groups."""

    options: RlOptions
    policy: Policy
    reference_policy: Policy | None
    """of the frozen start, `ref_model`"""
    recent: defaultdict[str, list[float]]
    """what was recorded since the last validation"""
    _loss_inputs: dict[str, Any] | None = None
    _target_log_probs: torch.Tensor | None = None

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        """(rows, levels) log-probabilities and entropies of the codes, under the policy; rows are
        whole groups. In a step, the targets of the groups are scored with them."""
        policy = self.reference_policy if model is self.ref_model else self.policy
        assert policy is not None
        inputs = self._loss_inputs
        targets = None if inputs is None else inputs.get("target_codes")
        size, levels = self.num_generations, logits_to_keep
        prompts, mask = input_ids[::size, :-levels], attention_mask[::size, :-levels]
        codes = policy.columns.codes(input_ids[:, -levels:]).view(-1, size, levels)
        if targets is not None:
            codes = torch.cat([codes, targets[::size, None]], dim=1)
        n_groups = (batch_size or len(input_ids)) // size
        batches = (part.split(n_groups) for part in (prompts, mask, codes))
        scored = []
        for batch in zip(*batches, strict=True):
            with self.accelerator.autocast():
                scored.append(policy.scores(model, *batch))
        log_probs, entropies = (torch.cat(parts) for parts in zip(*scored, strict=True))
        of_items = log_probs[:, :size].reshape(-1, levels)
        if inputs is not None:
            of_targets = None if targets is None else log_probs[:, size].contiguous()
            self._target_log_probs = of_targets
            old = inputs.get("old_per_token_logps")
            # without old ones they are those of this step: every ratio is 1
            if self.options.algorithm == "ecpo" and old is not None:
                inputs["old_per_token_logps"] = clip_early(
                    of_items,
                    old,
                    inputs["advantages"][:, None],
                    inputs["tool_mask"],
                    bound=1 + self.epsilon_high + EARLY_CLIP,
                    level=self.importance_sampling_level,
                )
        return of_items, entropies[:, :size].reshape(-1, levels), None

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """TRL's loss and the cross-entropy of the targets."""
        # a copy: a buffered batch is used again in the next iteration
        self._loss_inputs = dict(inputs)
        try:
            loss = super()._compute_loss(model, self._loss_inputs)
        finally:
            self._loss_inputs = None
        if divergence := self._metrics["train"].get("kl"):
            self.recent["kl"].append(divergence[-1])
        if self.options.sft_weight and self._target_log_probs is not None:
            cross_entropy = -self._target_log_probs.mean()
            self._metrics["train"]["sft_loss"].append(float(cross_entropy.detach()))
            weight = self.options.sft_weight / self.current_gradient_accumulation_steps
            loss = loss + weight * cross_entropy
        return loss


def clip_early(
    log_probs: torch.Tensor,
    old_log_probs: torch.Tensor,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    *,
    bound: float,
    level: str = "token",
) -> torch.Tensor:
    """(n, L): old log-probabilities by which no importance ratio exceeds `bound` where the
    advantage is negative: max(pi / bound, pi_old), without a gradient.

    ECPO (arXiv:2508.20900) so keeps the gradient of an item that the policy already moved away
    from, but bounds its size; plain clipping does not bound ratios at negative advantages.
    `advantages` are (n, 1), `mask` is (n, L). At the level "sequence", where TRL's ratio
    is that of the mean log-probability, all codes of a sequence are shifted alike."""
    log_probs = log_probs.detach()
    log_ratio = log_probs - old_log_probs
    if level == "sequence":
        log_ratio = (log_ratio * mask).sum(-1, keepdim=True) / mask.sum(-1, keepdim=True).clamp_min(
            1
        )
    excess = (log_ratio - math.log(bound)).clamp_min(0)
    return old_log_probs + torch.where(advantages < 0, excess, torch.zeros_like(excess))


def preference_loss(
    chosen: torch.Tensor,
    rejected: torch.Tensor,
    chosen_reference: torch.Tensor,
    rejected_reference: torch.Tensor,
    is_preference: torch.Tensor,
    *,
    beta: float,
) -> torch.Tensor:
    """(n,): the loss of DPO, of preferring one sequence to another: -log sigmoid(r_chosen -
    r_rejected), with r = beta * (log pi - log pi_reference).

    All are (n,), log-probabilities of whole sequences. A pair that is no preference has the loss
    0."""
    gaps = beta * (rejected - rejected_reference) - beta * (chosen - chosen_reference)
    gaps = gaps.masked_fill(~is_preference, -torch.inf)
    # -log sigmoid(-x) is log(exp(0) + exp(x))
    return torch.stack([torch.zeros_like(gaps), gaps], dim=1).logsumexp(dim=1)
