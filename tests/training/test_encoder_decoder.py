from pathlib import Path
from typing import Any

import pytest
import torch

from sidtool.base.errors import UsageError
from sidtool.base.options import settings_from
from sidtool.model.contract.folder import read_contract
from sidtool.model.copies import merge
from sidtool.model.load import load_model_folder
from sidtool.training.loop import trainer
from sidtool.training.settings import StageSettings, TrainOptions
from sidtool.training.training import TrainingSummary, plan_stages, train
from tests.models import ENCODER_DECODERS
from tests.training.runs import Make, Stopped, Train, same, weights

PROMPTS = torch.arange(24).reshape(2, 12) + 5
ANSWERS = torch.arange(6).reshape(2, 3) + 40


def logits(folder: Path) -> torch.Tensor:
    model = load_model_folder(folder).model
    with torch.no_grad():
        result: torch.Tensor = model(input_ids=PROMPTS, decoder_input_ids=ANSWERS).logits
    return result


@pytest.mark.slow
def test_training_lowers_the_loss_and_validation_finds_the_pattern(
    tmp_path: Path, short_train: Train
) -> None:
    logs: list[dict[str, float]] = []
    settings = {"eval_users": 20, "eval_num_beams": 5, "sliding_windows": "all"}
    settings |= {"softmax_over": "trie", "num_train_epochs": 4, "learning_rate": 1e-2}
    summary = short_train("tuned", "t5", validates=True, log=logs.append, **settings)
    validated = [entry["eval_ndcg@10"] for entry in logs if "eval_ndcg@10" in entry]
    assert summary.best == max(validated) > max(0.3, validated[0])
    assert not summary.packed
    contract = read_contract(tmp_path / "tuned")
    assert (contract.kind, contract.normalize) == ("encoder-decoder", "trie")
    assert [record.stage for record in contract.stages] == ["extend", "full"]
    assert load_model_folder(tmp_path / "tuned").contract == contract


@pytest.mark.slow
def test_parts_of_similar_length_have_the_loss_and_gradient_of_the_batch(
    tmp_path: Path, models: Make, short_train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run of SGD with parts of four lines, and one with whole batches."""
    trained = []
    for n_lines in (4, 1000):
        monkeypatch.setattr(trainer, "LINES_PER_PART", n_lines)
        settings = {"num_train_epochs": 1, "optim": "sgd", "learning_rate": 0.1}
        summary = short_train(str(n_lines), "t5", **settings)
        trained.append((summary, weights(tmp_path / str(n_lines))))
    (parted, first), (whole, second) = trained
    assert parted.loss == pytest.approx(whole.loss, rel=1e-5)
    assert (parted.tokens, parted.targets) == (whole.tokens, whole.targets)
    start = weights(models("t5"))
    assert any((first[name] - weight).abs().max() > 1e-3 for name, weight in start.items())
    for name, weight in first.items():
        torch.testing.assert_close(second[name], weight, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_an_epoch_has_one_prefix_per_sequence_or_all(short_train: Train) -> None:
    def targets(base: str, windows: str) -> int:
        name = f"{base}-{windows}"
        return short_train(name, base, num_train_epochs=1, sliding_windows=windows).targets

    drawn, every = targets("t5", "drawn"), targets("t5", "all")
    assert targets("t5", "auto") == drawn
    assert drawn * 2 < every
    # a causal model has the same targets in whole sequences, and may have them one by one, but for
    # the second and third code of each user's first item
    assert targets("gpt2", "all") == every < targets("gpt2", "auto")


@pytest.mark.parametrize(
    "extra",
    [
        {"sliding_windows": "all", "reverse_prob": 0.5, "per_device_train_batch_size": 64},
        pytest.param({"optimizer": "muon", "item_dropout": 0.2}, marks=pytest.mark.slow),
    ],
)
def test_a_resumed_run_ends_like_an_uninterrupted_one(
    tmp_path: Path, models: Make, short_train: Train, extra: dict[str, Any]
) -> None:
    base = models("t5", dropout_rate=0.1)
    steps = {"save_strategy": "steps", "save_steps": 3, "per_device_train_batch_size": 32}

    def run(name: str, stop: int | None = None) -> TrainingSummary:
        return short_train(name, base, stop=stop, eval_strategy="no", **steps | extra)

    whole = run("whole")
    with pytest.raises(Stopped):
        run("killed", 4)
    resumed = run("killed")
    assert resumed.resumed_from == "checkpoint-3"
    assert (resumed.steps, resumed.loss) == (whole.steps, whole.loss)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))


@pytest.mark.parametrize(
    ("architecture", "tied"),
    [
        pytest.param(name, place % 2 == 0, marks=pytest.mark.slow if place else ())
        for place, name in enumerate(ENCODER_DECODERS)
    ],
)
def test_adapters_are_those_that_were_trained_and_merge(
    architecture: str, tied: bool, tmp_path: Path, models: Make, short_train: Train
) -> None:
    base = models(architecture, tied=tied)
    short_train("lora", base, {"next_item": 1.0}, max_steps=4, stage="lora", lora_r=4)
    contract = read_contract(tmp_path / "lora")
    assert (contract.kind, contract.normalize) == ("encoder-decoder", "trie")
    assert contract.base_folder is not None
    adapted = logits(tmp_path / "lora")
    assert not torch.allclose(adapted, logits(base))
    merge(tmp_path / "lora", tmp_path / "merged")
    torch.testing.assert_close(logits(tmp_path / "merged"), adapted, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_an_encoder_decoder_can_teach(tmp_path: Path, models: Make, short_train: Train) -> None:
    settings = {"softmax_over": "level", "max_steps": 2}
    plain = short_train("plain", "t5", **settings)
    taught = short_train("taught", "t5", teachers=[models("mt5")], **settings)
    (teacher,) = read_contract(tmp_path / "taught").params.teachers
    assert Path(teacher.path) == models("mt5")
    assert plain.loss != taught.loss


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        ("sequence", {"batching": "packed"}, "cannot be packed for an enc"),
        ("sequence", {"sliding_windows": "none"}, "sliding_windows=none"),
        ("sequence", {"token_budget": 9999}, "token_budget counts tokens of"),
        ("item_text", {}, "task item-text is running text"),
        ("sequence", {"pad_token": "x"}, "pad_token is a setting of TRL"),
    ],
)
def test_what_an_encoder_decoder_cannot_do_is_refused_in_one_line(
    tmp_path: Path, models: Make, examples: Make, task: str, settings: Any, message: str
) -> None:
    run = (models("t5"), examples(**{task: 1.0}), tmp_path / "out")
    with pytest.raises(UsageError, match=message) as refusal:
        train(*run, **settings)
    assert "\n" not in str(refusal.value)
    # a plan, as --dry-run prints it, is refused too
    with pytest.raises(UsageError, match=message):
        plan_stages(*run, [StageSettings(*settings_from(TrainOptions, None, None, settings))])
    assert list(tmp_path.iterdir()) == []
