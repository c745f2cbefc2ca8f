"""The objectives on groups: TRL's, with log-probabilities of codes normalized over the trie, and
those that TRL lacks, as functions of log-probabilities of codes: n is the number of groups or
sequences, L that of levels."""

import math
from collections import defaultdict
from typing import Any

import torch
from trl import GRPOTrainer

from sidtool.training.reinforcement.groups import GroupMaker
from sidtool.training.reinforcement.policy import Policy
from sidtool.training.reinforcement.settings import RlOptions

EARLY_CLIP = 0.1
"""The delta of ECPO: ratios are at most 1 + epsilon_high + delta at negative advantages."""


class GroupObjective(GRPOTrainer):
    """The losses of GRPOTrainer, whose batches have one row per item, for batches of whole
    groups."""

    options: RlOptions
    maker: GroupMaker
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
        """(rows, levels) log-probabilities and entropies of the codes, under the policy."""
        is_reference = model is self.ref_model
        policy = self.reference_policy if is_reference else self.maker.policy
        assert policy is not None
        inputs = self._loss_inputs
        targets = None if inputs is None else inputs.get("target_codes")
        log_probs = []
        entropies = []
        target_log_probs = []
        for start in range(0, len(input_ids), batch_size or len(input_ids)):
            rows = slice(start, start + (batch_size or len(input_ids)))
            scored, entropy, of_targets = self._score_rows(
                policy,
                model,
                input_ids[rows],
                attention_mask[rows],
                logits_to_keep,
                None if targets is None else targets[rows],
            )
            log_probs.append(scored)
            entropies.append(entropy)
            target_log_probs.append(of_targets)
        result = torch.cat(log_probs)
        if inputs is not None:
            self._target_log_probs = None if targets is None else torch.cat(target_log_probs)
            if self.options.algorithm == "ecpo":
                self._clip_early(inputs, result)
        return result, torch.cat(entropies), None

    def _score_rows(
        self,
        policy: Policy,
        model: Any,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        levels: int,
        targets: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Scores of rows that are whole groups, and of one target per group."""
        size = self.num_generations
        codes = policy.columns.codes(input_ids[:, -levels:]).view(-1, size, levels)
        if targets is not None:
            codes = torch.cat([codes, targets[::size, None]], dim=1)
        prompts = input_ids[::size, :-levels]
        mask = attention_mask[::size, :-levels]
        with self.accelerator.autocast():
            scores = policy.scores(model, prompts, mask, codes)
        of_items = scores.log_probs[:, :size].reshape(-1, levels)
        entropies = scores.entropies[:, :size].reshape(-1, levels)
        return of_items, entropies, scores.log_probs[:, size] if targets is not None else None

    def _clip_early(self, inputs: dict[str, Any], log_probs: torch.Tensor) -> None:
        """Replace the old log-probabilities of a batch by those of ECPO."""
        old = inputs.get("old_per_token_logps")
        if old is None:
            return  # they are those of this step: every ratio is 1
        advantages = inputs["advantages"]
        inputs["old_per_token_logps"] = clip_early(
            log_probs,
            old,
            advantages if advantages.dim() > 1 else advantages[:, None],
            inputs["tool_mask"],
            bound=1 + self.epsilon_high + EARLY_CLIP,
            level=self.importance_sampling_level,
        )

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        """TRL's loss, or the preference of the targets, and the cross-entropy of the targets."""
        # a copy: a buffered batch is used again in the next iteration
        self._loss_inputs = dict(inputs)
        try:
            if self.options.algorithm == "dpo":
                loss = self._preference(model, self._loss_inputs)
            else:
                loss = super()._compute_loss(model, self._loss_inputs)
        finally:
            self._loss_inputs = None
        if divergence := self._metrics["train"].get("kl"):
            self.recent["kl"].append(divergence[-1])
        if self.options.sft_weight and self._target_log_probs is not None:
            cross_entropy = sft_loss(self._target_log_probs)
            self._metrics["train"]["sft_loss"].append(float(cross_entropy.detach()))
            weight = self.options.sft_weight / self.current_gradient_accumulation_steps
            loss = loss + weight * cross_entropy
        return loss

    def _preference(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        size = self.num_generations
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], torch.ones_like(inputs["completion_ids"])], dim=1)
        levels = inputs["completion_ids"].shape[1]
        log_probs, _, _ = self._get_per_token_logps_and_entropies(model, ids, mask, levels)
        assert self._target_log_probs is not None
        chosen = self._target_log_probs.sum(-1)
        losses = preference_loss(
            chosen,
            log_probs.sum(-1).view(-1, size),
            inputs["target_reference"][::size],
            inputs["reference"].view(-1, size),
            inputs["valid"].view(-1, size),
            beta=self.beta,
        )
        preferred = losses.detach() < math.log(2)
        self._metrics["train"]["preferred"].append(float(preferred.float().mean()))
        return losses.mean() / self.current_gradient_accumulation_steps


def sft_loss(log_probs: torch.Tensor) -> torch.Tensor:
    """(): cross-entropy of (n, L) log-probabilities of the targets' codes, mean over codes."""
    return -log_probs.mean()


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
    `advantages` are (n, 1) or (n, L), `mask` is (n, L). At the level "sequence", where TRL's ratio
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
    valid: torch.Tensor,
    *,
    beta: float,
) -> torch.Tensor:
    """(n,): the loss of preferring one item to several others: S-DPO (arXiv:2406.09215).

    With r = beta * (log pi - log pi_reference), the loss is -log sigmoid(-log sum exp(r_rejected -
    r_chosen)), which is the cross-entropy of a softmax over the chosen item and the rejected ones.
    `chosen` and its reference are (n,) log-probabilities of whole SIDs, `rejected` and theirs
    (n, N), of which those with `valid` (n, N) count. A group without a rejected item has the loss
    0."""
    rewards = beta * (chosen - chosen_reference)
    others = beta * (rejected - rejected_reference)
    gaps = (others - rewards[:, None]).masked_fill(~valid, -torch.inf)
    # -log sigmoid(-x) is log(1 + exp(x)), and exp(x) is the sum over the rejected items
    zero = torch.zeros_like(gaps[:, :1])
    return torch.cat([zero, gaps], dim=1).logsumexp(dim=1)
