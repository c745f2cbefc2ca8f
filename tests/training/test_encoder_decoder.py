"""Encoder-decoder models train on the examples of causal ones: every road, and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sidtool.base.errors import UsageError
from sidtool.model.contract.folder import read_contract
from sidtool.model.copies import merge
from sidtool.model.load import load_model_folder
from sidtool.training.loop import trainer
from sidtool.training.settings import StageSettings, TrainOptions
from sidtool.training.training import TrainingSummary, plan_stages, train
from tests.models import ENCODER_DECODERS
from tests.training.runs import Stopped, weights

Make = Callable[..., Path]
FAST = {"num_train_epochs": 2, "per_device_train_batch_size": 16, "learning_rate": 3e-3}
PROMPTS = torch.arange(24).reshape(2, 12) + 5
ANSWERS = torch.arange(6).reshape(2, 3) + 40


def logits(folder: Path) -> torch.Tensor:
    model = load_model_folder(folder).model
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=PROMPTS, decoder_input_ids=ANSWERS).logits
    return result


def test_training_lowers_the_loss_and_validation_finds_the_pattern(
    tmp_path: Path, models: Make, examples: Make
) -> None:
    made = examples(sequence=1.0)
    logs: list[dict[str, float]] = []
    summary = train(
        models("t5"),
        made,
        tmp_path / "tuned",
        options=TrainOptions(
            eval_users=20, eval_num_beams=10, sliding_windows="all", softmax_over="trie"
        ),
        sft_fields={**FAST, "num_train_epochs": 6, "learning_rate": 5e-3},
        valid=made.with_name("valid.jsonl"),
        log=logs.append,
    )
    validated = [entry["eval_ndcg@10"] for entry in logs if "eval_ndcg@10" in entry]
    assert summary.best == max(validated) > max(0.3, validated[0])
    assert not summary.packed
    contract = read_contract(tmp_path / "tuned")
    assert (contract.kind, contract.normalize) == ("encoder-decoder", "trie")
    assert [record.stage for record in contract.stages] == ["extend", "full"]
    assert load_model_folder(tmp_path / "tuned").contract == contract


@pytest.mark.slow
def test_parts_of_similar_length_have_the_loss_and_gradient_of_the_batch(
    tmp_path: Path, models: Make, examples: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run of SGD with parts of four lines, and one with whole batches."""
    made = examples(sequence=1.0)
    fields = {**FAST, "num_train_epochs": 1, "optim": "sgd", "learning_rate": 0.1}
    trained = []
    for n_lines in (4, 1000):
        monkeypatch.setattr(trainer, "LINES_PER_PART", n_lines)
        out = tmp_path / str(n_lines)
        summary = train(models("t5"), made, out, sft_fields=fields)
        trained.append((summary, weights(out)))
    (parted, first), (whole, second) = trained
    assert parted.loss == pytest.approx(whole.loss, rel=1e-5)
    assert (parted.tokens, parted.targets) == (whole.tokens, whole.targets)
    start = weights(models("t5"))
    assert any((first[name] - weight).abs().max() > 1e-3 for name, weight in start.items())
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_an_epoch_has_one_prefix_per_sequence_or_all(
    tmp_path: Path, models: Make, examples: Make
) -> None:
    targets = {}
    for windows in ("auto", "drawn", "all"):
        summary = train(
            models("t5"),
            examples(sequence=1.0),
            tmp_path / windows,
            options=TrainOptions(sliding_windows=windows),
            sft_fields={**FAST, "num_train_epochs": 1},
        )
        targets[windows] = summary.targets
    assert targets["auto"] == targets["drawn"]
    assert targets["drawn"] * 2 < targets["all"]
    # a causal model has the same targets in whole sequences, and may have them one by one
    causal = {}
    for windows in ("auto", "all"):
        summary = train(
            models("gpt2"),
            examples(sequence=1.0),
            tmp_path / f"causal-{windows}",
            options=TrainOptions(sliding_windows=windows),
            sft_fields={**FAST, "num_train_epochs": 1},
        )
        causal[windows] = summary.targets
    assert causal["all"] == targets["all"]
    # but for the second and third code of each user's first item
    assert causal["all"] < causal["auto"]


@pytest.mark.parametrize(
    "extra",
    [
        {"sliding_windows": "all", "reverse_prob": 0.5},
        pytest.param({"optimizer": "muon", "item_dropout": 0.2}, marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_ends_like_an_uninterrupted_one(
    tmp_path: Path, models: Make, examples: Make, extra: dict[str, Any]
) -> None:
    fields = {**FAST, "save_strategy": "steps", "save_steps": 3, "per_device_train_batch_size": 32}

    def run(out: Path, stop: int | None = None) -> TrainingSummary:
        def progress(done: int, total: int) -> None:
            if done == stop:
                raise Stopped

        return train(
            models("t5", dropout_rate=0.1),
            examples(sequence=1.0),
            out,
            options=TrainOptions(**extra),
            sft_fields={**fields, "eval_strategy": "no"},
            progress=progress,
        )

    whole = run(tmp_path / "whole")
    with pytest.raises(Stopped):
        run(tmp_path / "killed", 4)
    resumed = run(tmp_path / "killed")
    assert resumed.resumed_from == "checkpoint-3"
    assert (resumed.steps, resumed.loss) == (whole.steps, whole.loss)
    first, second = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("architecture", "tied"),
    [
        pytest.param(name, place % 2 == 0, marks=pytest.mark.slow if place else ())
        for place, name in enumerate(ENCODER_DECODERS)
    ],
)
def test_adapters_are_those_that_were_trained_and_merge(
    architecture: str, tied: bool, tmp_path: Path, models: Make, examples: Make
) -> None:
    base = models(architecture, tied=tied)
    options = TrainOptions(stage="lora", lora_r=4)
    fields = {**FAST, "num_train_epochs": 1, "per_device_train_batch_size": 64}
    train(base, examples(next_item=1.0), tmp_path / "lora", options=options, sft_fields=fields)
    contract = read_contract(tmp_path / "lora")
    assert contract.base_folder is not None
    adapted = logits(tmp_path / "lora")
    assert not torch.allclose(adapted, logits(base))
    merge(tmp_path / "lora", tmp_path / "merged")
    torch.testing.assert_close(logits(tmp_path / "merged"), adapted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("architecture", "tied"),
    [
        ("bart", False),
        *(pytest.param("t5", tied, marks=pytest.mark.slow) for tied in (True, False)),
    ],
)
def test_only_the_rows_of_sid_tokens_are_trained(
    architecture: str, tied: bool, tmp_path: Path, models: Make, examples: Make
) -> None:
    base = models(architecture, tied=tied)
    options = TrainOptions(stage="embeddings")
    fields = {**FAST, "num_train_epochs": 1, "per_device_train_batch_size": 64}
    train(base, examples(next_item=1.0), tmp_path / "rows", options=options, sft_fields=fields)
    start = read_contract(base).token_start
    before, after = weights(base), weights(tmp_path / "rows")
    assert before.keys() == after.keys()
    n_rows = len(before["lm_head.weight" if "lm_head.weight" in before else _shared(before)])
    changed = set()
    for name, weight in before.items():
        if torch.equal(weight, after[name]):
            continue
        changed.add(name)
        assert len(weight) == n_rows
        assert torch.equal(weight[:start], after[name][:start])
    assert len(changed) == (1 if tied else 3 if architecture == "bart" else 2)


def _shared(state: dict[str, torch.Tensor]) -> str:
    return next(name for name in state if name.endswith("shared.weight"))


@pytest.mark.slow
def test_an_encoder_decoder_teaches_its_kind(tmp_path: Path, models: Make, examples: Make) -> None:
    losses = {}
    for teachers in ((), ("mt5",)):
        out = tmp_path / "-".join(("out", *teachers))
        summary = train(
            models("t5"),
            examples(sequence=1.0),
            out,
            options=TrainOptions(softmax_over="level"),
            sft_fields={**FAST, "max_steps": 2},
            teachers=[models(name) for name in teachers],
        )
        losses[teachers] = summary.loss
        params = read_contract(out).params
        assert [Path(each.path) for each in params.teachers] == [models(name) for name in teachers]
    assert losses[()] != losses["mt5",]


@pytest.mark.parametrize(
    ("base", "tasks", "options", "fields", "teachers", "message"),
    [
        ("t5", {"sequence": 1.0}, {"batching": "packed"}, {}, (), "cannot be packed for an enc"),
        ("t5", {"sequence": 1.0}, {"sliding_windows": "none"}, {}, (), "sliding_windows=none"),
        ("t5", {"sequence": 1.0}, {"token_budget": 9999}, {}, (), "token_budget counts tokens of"),
        ("gpt2", {"sequence": 1.0}, {}, {}, ("t5",), "is encoder-decoder, the model causal"),
        ("t5", {"item_text": 1.0}, {}, {}, (), "task item-text is running text"),
        ("t5", {"sequence": 1.0}, {}, {"pad_token": "x"}, (), "pad_token is a setting of TRL"),
    ],
)
def test_what_an_encoder_decoder_cannot_do_is_refused_in_one_line(
    tmp_path: Path,
    models: Make,
    examples: Make,
    base: str,
    tasks: dict[str, float],
    options: dict[str, Any],
    fields: dict[str, Any],
    teachers: tuple[str, ...],
    message: str,
) -> None:
    made, out = examples(**tasks), tmp_path / "out"
    others = [models(name) for name in teachers]
    with pytest.raises(UsageError, match=message) as refusal:
        train(
            models(base),
            made,
            out,
            options=TrainOptions(**options),
            sft_fields=fields,
            teachers=others,
        )
    assert "\n" not in str(refusal.value)
    # a plan, as --dry-run prints it, is refused too
    stages = [StageSettings(TrainOptions(**options), fields)]
    with pytest.raises(UsageError, match=message):
        plan_stages(models(base), made, out, stages, teachers=others)
    assert list(tmp_path.iterdir()) == []
