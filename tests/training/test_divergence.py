from pathlib import Path
from typing import Any

import pytest
import torch

from sidtool.base.errors import SidtoolError
from sidtool.model.load import load_model_folder
from sidtool.training.loop.checkpoints import last_checkpoint
from sidtool.training.loop.trainer import SidTrainer
from sidtool.training.loop.watched import ProgressCallback
from sidtool.training.settings import Stage
from tests.training.runs import OFTEN, Train

STEPS = {**OFTEN, "learning_rate": 1e-3, "eval_steps": 2, "save_steps": 2, "save_total_limit": 1}
BAD = 5
"""The step that goes wrong; the last checkpoint before it is that of step 4."""


def damage_loss(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    whole = SidTrainer.compute_loss

    def compute_loss(trainer: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = whole(trainer, *args, **kwargs)
        return loss * value if trainer.state.global_step + 1 == BAD else loss

    monkeypatch.setattr(SidTrainer, "compute_loss", compute_loss)


def damage_gradient(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    whole = SidTrainer.training_step

    def training_step(trainer: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = whole(trainer, *args, **kwargs)
        if trainer.state.global_step + 1 == BAD:
            gradients = [weight.grad for weight in trainer.model.parameters()]
            last = [gradient for gradient in gradients if gradient is not None][-1]
            last.view(-1)[-1] = value
        return loss

    monkeypatch.setattr(SidTrainer, "training_step", training_step)


def damage_weight(monkeypatch: pytest.MonkeyPatch, value: float, *, step: int = 6) -> None:
    def on_step_end(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == step:
            trained = [weight for weight in kwargs["model"].parameters() if weight.requires_grad]
            with torch.no_grad():
                trained[-1].view(-1)[-1] = value

    monkeypatch.setattr(ProgressCallback, "on_step_end", on_step_end)


@pytest.mark.parametrize(
    ("damage", "value", "stage"),
    [
        (damage_weight, float("nan"), "lora"),
        pytest.param(damage_loss, float("nan"), "full", marks=pytest.mark.slow),
        pytest.param(damage_gradient, float("inf"), "embeddings", marks=pytest.mark.slow),
        pytest.param(damage_loss, float("inf"), "lora", marks=pytest.mark.slow),
        pytest.param(damage_gradient, float("nan"), "full", marks=pytest.mark.slow),
        pytest.param(damage_weight, float("inf"), "embeddings", marks=pytest.mark.slow),
    ],
)
def test_a_diverged_run_keeps_its_last_good_checkpoint(
    damage: Any,
    value: float,
    stage: Stage,
    tmp_path: Path,
    short_train: Train,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "out"
    settings = {"stage": stage, "lora_r": 2, "eval_users": 8, "eval_num_beams": 10, **STEPS}
    with monkeypatch.context() as patch:
        damage(patch, value)
        with pytest.raises(SidtoolError, match="training diverged at step") as caught:
            short_train("out", "llama", validates=True, **settings)
    message = str(caught.value)
    checkpoint = last_checkpoint(tmp_path / "out.partial")
    assert checkpoint.name == "checkpoint-4"
    assert f"{checkpoint} is the last good checkpoint" in message
    assert "learning_rate (now 0.001)" in str(caught.value.shell_hint)
    assert "\n" not in message
    assert caught.value.exit_code == 1
    assert not out.exists()
    load_model_folder(checkpoint)
    # the same command, on a machine that computes right, resumes there
    again = short_train("out", "llama", validates=True, **settings)
    assert again.resumed_from == "checkpoint-4"
    load_model_folder(out)


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("muon", marks=pytest.mark.slow)])
def test_a_learning_rate_that_is_too_high_is_named(
    optimizer: str, tmp_path: Path, short_train: Train
) -> None:
    settings = {"learning_rate": 1e38, "max_grad_norm": 0.0, "eval_strategy": "no"}
    settings |= {"save_strategy": "no", "warmup_steps": 0, "optimizer": optimizer}
    with pytest.raises(SidtoolError, match=r"diverged at step \d of .*; there is no checkpoint"):
        short_train("out", **settings)
    # a corrected call must not find this run's settings
    assert list(tmp_path.iterdir()) == []


def test_the_last_step_of_all_is_checked(
    tmp_path: Path, short_train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    damage_weight(monkeypatch, float("nan"), step=3)
    with pytest.raises(SidtoolError, match="diverged at step 3 of 3"):
        short_train("out", max_steps=3, eval_strategy="no", save_strategy="no")
    assert list(tmp_path.iterdir()) == []
