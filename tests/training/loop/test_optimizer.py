import copy
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.distributed.fsdp import fully_shard

from sidtool.base.errors import UsageError
from sidtool.model.network.sharded import whole
from sidtool.training.loop.optimizer import MuonAdamW, hidden_matrices, orthogonal
from sidtool.training.run_checks import complete_fields
from sidtool.training.settings import TrainOptions
from tests.models import tiny_model

IDS = torch.arange(30).reshape(3, 10)


def stepped(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_hidden_matrices_use_muon_and_each_weight_has_one_optimizer(
    architecture: str, tied: bool
) -> None:
    model = tiny_model(architecture, vocab_size=40, tied=tied)
    optimizer = MuonAdamW(model, lr=1e-2, weight_decay=0.1)
    muon, *others = optimizer.param_groups
    names = {id(weight): name for name, weight in model.named_parameters()}
    matrices = {name for name, weight in model.named_parameters() if weight.ndim == 2}
    hidden = {name for name in matrices if "h." in name or "layers." in name}
    assert {names[id(weight)] for weight in muon["params"]} == hidden
    every = [id(weight) for group in optimizer.param_groups for weight in group["params"]]
    assert sorted(every) == sorted(names)
    weights = [(group["weight_decay"], weight) for group in others for weight in group["params"]]
    assert {(decay, weight.ndim > 1) for decay, weight in weights} == {(0.1, True), (0.0, False)}


def test_muon_steps_equal_those_of_torch_and_the_rest_those_of_adamw() -> None:
    model, twin = tiny_model("llama", vocab_size=40), tiny_model("llama", vocab_size=40)
    stepped(model, MuonAdamW(model, lr=1e-2, weight_decay=0.0), 3)
    matrices = hidden_matrices(twin)
    others = [weight for weight in twin.parameters() if all(weight is not one for one in matrices)]
    muon = torch.optim.Muon(matrices, lr=1e-2, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(others, lr=1e-2, weight_decay=0.0)
    for _ in range(3):
        twin(input_ids=IDS, labels=IDS).loss.backward()
        for optimizer in (muon, adamw):
            optimizer.step()
            optimizer.zero_grad()
    for mine, wanted in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, wanted)


def test_the_state_survives_a_checkpoint_and_a_schedule_applies_to_both() -> None:
    whole, stopped = tiny_model("gpt2", vocab_size=40), tiny_model("gpt2", vocab_size=40)
    optimizer = MuonAdamW(whole, lr=1e-2, weight_decay=0.1)
    stepped(whole, optimizer, 4)
    first = MuonAdamW(stopped, lr=1e-2, weight_decay=0.1)
    stepped(stopped, first, 2)
    state, resumed = copy.deepcopy(first.state_dict()), MuonAdamW(stopped, lr=0.5, weight_decay=0.1)
    resumed.load_state_dict(state)
    stepped(stopped, resumed, 2)
    for mine, wanted in zip(stopped.parameters(), whole.parameters(), strict=True):
        assert torch.equal(mine, wanted)
    for group in resumed.param_groups:
        group["lr"] = 0.0
    before = [weight.clone() for weight in stopped.parameters()]
    stepped(stopped, resumed, 1)
    assert all(torch.equal(*pair) for pair in zip(before, stopped.parameters(), strict=True))


def test_muon_requires_the_full_stage_and_no_other_optimizer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UsageError, match="optimizer=muon requires stage=full"):
        TrainOptions(stage="lora", optimizer="muon")
    with pytest.raises(UsageError, match="optim cannot be set"):
        complete_fields(TrainOptions(optimizer="muon"), {"optim": "adafactor"}, {})
    model = tiny_model("gpt2", vocab_size=40)
    first = hidden_matrices(model)[0]
    before = first.detach().clone()
    MuonAdamW(model, lr=1e-2, weight_decay=0.1).step()  # no weight has a gradient yet
    assert torch.equal(first, before)
    with pytest.raises(UsageError, match="has none to train"):
        hidden_matrices(model.requires_grad_(False))
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(UsageError, match=r"torch .* has no Muon"):
        MuonAdamW(model, lr=1e-2, weight_decay=0.1)


def test_without_bf16_a_step_is_similar_and_in_float32() -> None:
    exact, coarse = tiny_model("gpt2", vocab_size=40), tiny_model("gpt2", vocab_size=40)
    began = [weight.detach().clone() for weight in hidden_matrices(exact)]
    stepped(exact, MuonAdamW(exact, lr=1e-2, weight_decay=0.1, bf16=False), 3)
    stepped(coarse, MuonAdamW(coarse, lr=1e-2, weight_decay=0.1), 3)
    pairs = list(zip(hidden_matrices(exact), hidden_matrices(coarse), began, strict=True))
    assert not any(torch.equal(mine, theirs) for mine, theirs, _ in pairs)
    for mine, theirs, start in pairs:
        assert (mine - theirs).norm() < 0.1 * (theirs - start).norm()


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)])
def test_orthogonalization_keeps_singular_vectors_with_equal_values(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left, lengths, right = torch.linalg.svd(matrix, full_matrices=False)
    made = left.T @ orthogonal(matrix, (3.4445, -4.7750, 2.0315), 5) @ right.T
    assert lengths.max() / lengths.min() > 1.5
    assert made.diagonal().min() > 0.5
    assert made.diagonal().max() < 1.3
    torch.testing.assert_close(made, torch.diag(made.diagonal()), atol=1e-9, rtol=0)


@pytest.mark.parametrize("bf16", [True, False])
def test_divided_matrices_move_as_whole_ones(tmp_path: Path, bf16: bool) -> None:
    """One process in a group of its own; tests/training/test_fsdp.py has two."""
    store = f"file://{tmp_path / 'store'}"
    distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        weights = []
        for divided in (False, True):
            model = tiny_model("llama", vocab_size=40)
            if divided:
                fully_shard(model)
            settings = {"lr": 1e-2, "weight_decay": 0.1, "bf16": bf16, "divided": divided}
            stepped(model, MuonAdamW(model, **settings), 3)
            weights.append([whole(weight) for weight in model.parameters()])
    finally:
        distributed.destroy_process_group()
    for weight, expected in zip(weights[1], weights[0], strict=True):
        torch.testing.assert_close(weight, expected, atol=2e-3 if bf16 else 1e-6, rtol=1e-5)
