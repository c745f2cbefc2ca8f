"""The trainer's losses against formulas computed by hand, and its policy against the beam."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidtool.recommendation.query import Query
from sidtool.training.loop.machine import class_forward
from sidtool.training.reinforcement.list_trainer import preference_loss
from sidtool.training.reinforcement.policy import GroupScores, Policy
from sidtool.training.reinforcement.reinforcement import grpo_config
from sidtool.training.reinforcement.rl_run import plan_rl
from sidtool.training.reinforcement.settings import RlOptions
from sidtool.training.reinforcement.trainer import GroupTrainer, clip_early
from sidtool.training.reinforcement.trainer_setup import build_trainer

FIELDS: dict[str, Any] = {"num_generations": 4, "per_device_train_batch_size": 8}
FIELDS |= {"steps_per_generation": 2}
BATCH = [{"prompt": str(number)} for number in (0, 5, 9, 14) for _ in range(4)]
Build = Callable[..., GroupTrainer]


@pytest.fixture
def build(tmp_path: Path, tuned: Path, made: Path) -> Build:
    def trainer(fields: dict[str, Any] | None = None, **options: Any) -> GroupTrainer:
        settings = RlOptions(**{"eval_users": 4, **options})
        grpo_fields = {**FIELDS, **(fields or {})}
        run = plan_rl(tuned, made, tmp_path / "out", settings, grpo_fields)
        return build_trainer(run, grpo_config(run), False, None, None)

    return trainer


def test_the_policy_in_the_loss_is_the_one_that_drew_the_items(build: Build) -> None:
    """With groups of two steps TRL keeps old log-probabilities: before an update every importance
    ratio is exactly 1, and the log-probability of an item is its score in the beam."""
    trainer = build()
    trainer.model.train()
    scored = trainer._generate_and_score_completions(BATCH)
    assert scored["old_per_token_logps"].shape == (16, 3)
    ids = torch.cat([scored["prompt_ids"], scored["completion_ids"]], dim=1)
    mask = torch.cat([scored["prompt_mask"], scored["completion_mask"]], dim=1)
    log_probs, _, _ = trainer._get_per_token_logps_and_entropies(trainer.model, ids, mask, 3)
    ratios = (log_probs - scored["old_per_token_logps"]).exp()
    torch.testing.assert_close(ratios, torch.ones_like(ratios), rtol=0, atol=1e-6)
    session = trainer.session
    queries = [Query(session.from_history(trainer.examples.history(n))) for n in (0, 5)]
    with class_forward(trainer.model):
        beams = session.search(trainer.model, queries, k=4, num_beams=4)
    for row, beam in enumerate(beams):
        totals = log_probs[4 * row : 4 * row + 4].sum(-1).detach()
        np.testing.assert_allclose(totals, beam.scores, atol=1e-4)


def test_rewards_reach_the_items_of_their_example(build: Build) -> None:
    trainer = build(reward="exact", sft_weight=0.5)
    trainer.model.train()
    scored = trainer._generate_and_score_completions(BATCH)
    starts = trainer.session.tokens.level_starts
    codes = scored["completion_ids"].numpy() - starts
    targets = scored["target_codes"].numpy()
    hits = (codes == targets).all(axis=1)
    assert 0 < hits.sum() < 4
    assert hits.reshape(4, 4).sum(axis=1).max() == 1
    assert (scored["advantages"].numpy() > 0).tolist() == hits.tolist()
    histories = trainer.examples
    for row, number in enumerate((0, 5, 9, 14)):
        target = trainer.session.bundle.items.codes[histories.targets[number]]
        assert targets[4 * row].tolist() == target.tolist()
        assert len(histories.history(number)) >= 1


OLD = torch.tensor([[0.5, 0.4, 0.8], [0.2, 0.5, 0.5], [0.1, 0.9, 0.9], [0.3, 0.3, 1.0]])
NEW = torch.tensor([[0.6, 0.4, 0.9], [0.4, 0.5, 0.5], [0.1, 0.6, 0.9], [0.3, 0.9, 1.0]])
ADVANTAGES = torch.tensor([1.0, -1.0, 0.5, -0.5])


def loss_of(trainer: GroupTrainer, monkeypatch: pytest.MonkeyPatch) -> float:
    """The loss of a batch of one group, whose new and old probabilities are those above."""
    rows = torch.zeros(4, 3, dtype=torch.long)
    inputs = {"prompt_ids": rows[:, :2], "prompt_mask": rows[:, :2] + 1, "completion_ids": rows}
    inputs |= {"completion_mask": rows + 1, "tool_mask": rows + 1, "advantages": ADVANTAGES}
    inputs |= {"old_per_token_logps": OLD.log(), "num_items_in_batch": torch.tensor(12)}

    scores = GroupScores(NEW.log()[None], torch.zeros(1, 4, 3))
    monkeypatch.setattr(Policy, "scores", lambda *_: scores)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    return float(trainer._compute_loss(trainer.model, inputs))


def clipped(ratios: torch.Tensor, low: float, high: float) -> torch.Tensor:
    advantages = ADVANTAGES[:, None]
    return -torch.min(ratios * advantages, ratios.clamp(1 - low, 1 + high) * advantages)


def test_grpo_dapo_and_gspo_by_hand(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """With two batches per generation, DAPO divides by half of the generation's tokens."""
    ratios = NEW / OLD
    plain = {"beta": 0.0}
    grpo = loss_of(build(plain, sft_weight=0.0), monkeypatch)
    assert grpo == pytest.approx(float(clipped(ratios, 0.2, 0.2).mean(1).mean()), abs=1e-6)
    dapo_settings = {**plain, "loss_type": "dapo", "epsilon_high": 0.28}
    dapo = loss_of(build(dapo_settings, sft_weight=0.0), monkeypatch)
    assert dapo == pytest.approx(float(clipped(ratios, 0.2, 0.28).sum() / (12 / 2)), abs=1e-6)
    gspo = loss_of(build(plain, algorithm="gspo", sft_weight=0.0), monkeypatch)
    sequence = ratios.log().mean(1, keepdim=True).exp()
    assert gspo == pytest.approx(float(clipped(sequence, 3e-4, 4e-4).mean()), abs=1e-6)


def test_ecpo_by_hand(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = build({"beta": 0.0}, algorithm="ecpo", sft_weight=0.0)
    loss = loss_of(trainer, monkeypatch)
    ratios = NEW / OLD
    bound = torch.where(ADVANTAGES[:, None] < 0, 1 + 0.2 + 0.1, math.inf)
    early = ratios.minimum(bound)
    assert loss == pytest.approx(float(clipped(early, 0.2, 0.2).mean()), abs=1e-6)
    # the ratio of row 1 is 2 at its first code, that of row 3 is 3 at its second
    assert loss < float(clipped(ratios, 0.2, 0.2).mean()) - 0.05


def test_divergence_from_the_start_by_hand(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate of the divergence is exp(d) - d - 1 with d = log reference - log policy, here
    times the ratio, as TRL corrects it."""
    trainer = build({"beta": 0.3, "use_bias_correction_kl": False}, sft_weight=0.0)
    without = float(clipped(NEW / OLD, 0.2, 0.2).mean())
    original = trainer._compute_loss
    reference = torch.full((4, 3), 0.5).log()

    def with_reference(model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        return original(model, {**inputs, "ref_per_token_logps": reference})

    monkeypatch.setattr(trainer, "_compute_loss", with_reference)
    loss = loss_of(trainer, monkeypatch)
    d = reference - NEW.log()
    assert loss == pytest.approx(without + 0.3 * float((d.exp() - d - 1).mean()), abs=1e-6)
    assert trainer.recent["kl"] == [pytest.approx(float((d.exp() - d - 1).mean()), abs=1e-6)]


def test_an_entropy_bonus_reaches_the_gradient(build: Build) -> None:
    trainer = build({"beta": 0.0, "entropy_coef": 0.5}, sft_weight=0.0)
    trainer._reward = lambda groups: np.zeros(groups.items.shape)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = 1
    # every item has the same reward: nothing but the entropy has a gradient
    trainer.training_step(trainer.model, BATCH[:8] * 2, None)
    gradient = trainer.model.get_output_embeddings().weight.grad
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


def test_preference_loss_by_hand() -> None:
    chosen = torch.tensor([-1.0, -1.0])
    rejected = torch.tensor([-2.0, -0.5])
    is_preference = torch.tensor([True, False])
    scales, margins = torch.zeros(2), torch.tensor([0.5, 0.0])
    loss = preference_loss(chosen, rejected, scales, margins, is_preference, beta=0.1)
    # r: chosen -0.1, rejected -0.25
    assert loss.tolist() == pytest.approx([-math.log(1 / (1 + math.exp(-0.15))), 0.0])


def test_early_clipping_bounds_ratios_at_negative_advantages_only() -> None:
    old = torch.tensor([[0.1, 0.2], [0.1, 0.2]]).log()
    log_probs = torch.tensor([[0.4, 0.2], [0.4, 0.2]]).log().requires_grad_()
    advantages = torch.tensor([[-1.0], [1.0]])
    mask = torch.ones(2, 2)
    clipped = clip_early(log_probs, old, advantages, mask, bound=1.3)
    assert not clipped.requires_grad
    ratios = (log_probs - clipped).exp()
    torch.testing.assert_close(ratios, torch.tensor([[1.3, 1.0], [4.0, 1.0]]))
    # the gradient of the ratio is that of log pi, times the bound
    ratios[0, 0].backward()
    assert float(log_probs.grad[0, 0]) == pytest.approx(1.3)


def test_early_clipping_of_sequences_bounds_the_geometric_mean() -> None:
    old = torch.tensor([[0.1, 0.2]]).log()
    log_probs = torch.tensor([[0.4, 0.4]]).log()
    mask = torch.ones(1, 2)
    clipped = clip_early(log_probs, old, torch.tensor([[-1.0]]), mask, bound=1.3, level="sequence")
    assert float((log_probs - clipped).mean().exp()) == pytest.approx(1.3)
    within = clip_early(log_probs, log_probs, -mask, mask, bound=1.3, level="sequence")
    torch.testing.assert_close(within, log_probs)
