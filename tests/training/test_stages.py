import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.data import Items
from sidtool.data.split import ListTargets, Split
from sidtool.evaluation.tuning import tune_memory
from sidtool.examples import SftOptions, make_sft, read_lineage
from sidtool.memory import build_memory, verify_memory
from sidtool.model import bind_memory, extend_model, load_model_folder, merge
from sidtool.model.contract import MEMORY_COPY, MemoryBinding, read_contract
from sidtool.model.prompt import HistoryPrompt
from sidtool.recommendation import RecommendOptions, Request, recommend
from sidtool.tokenizer.bundle import Bundle
from sidtool.training import StageSettings, TrainOptions
from sidtool.training.loop.checkpoints import last_checkpoint
from sidtool.training.training import TrainingSummary, plan_stages, train, train_stages
from tests.models import tiny_model, tiny_tokenizer
from tests.training.runs import FAST, OFTEN, Make, Stopped, Train, same, valid_of, weights
from tests.training_fixtures import make_split

STRONG = {"learning_rate": 3e-2, "weight_decay": 0.5}
OFTEN_3 = {**OFTEN, "save_steps": 3, "eval_steps": 3}
SMALL = {"eval_users": 8, "eval_num_beams": 10}
LORA = {"stage": "lora", "lora_r": 4, **SMALL, **STRONG}
LLAMA_EMBEDDINGS = "model.embed_tokens.weight"
BART_EMBEDDINGS = {f"model.{part}.embed_tokens.weight" for part in ("encoder", "decoder")}
IDS = torch.randint(5, 400, (2, 20), generator=torch.Generator().manual_seed(0))
BEST_10 = RecommendOptions(k=10, num_beams=40)


@pytest.mark.slow
def test_merged_adapters_keep_their_memory(
    tmp_path: Path, short_train: Train, bundle: Bundle, split: Split
) -> None:
    short_train("lora", "llama", **LORA, max_steps=1)
    memory = build_memory(split, bundle)
    binding = MemoryBinding(memory.digest, 0.4, 3.0, {})
    bind_memory(tmp_path / "lora", memory, binding, tmp_path / "mixed")
    merge(tmp_path / "mixed", tmp_path / "merged")
    assert read_contract(tmp_path / "merged").memory == binding
    assert verify_memory(tmp_path / "merged" / MEMORY_COPY) == []
    load_model_folder(tmp_path / "merged")


SLOW_ROWS = [
    ("llama", False, {"next_item": 0.3, "sid_to_title": 1.0}, {LLAMA_EMBEDDINGS, "lm_head.weight"}),
    ("t5", True, {"next_item": 1.0}, {"shared.weight"}),
    ("t5", False, {"next_item": 1.0}, {"shared.weight", "lm_head.weight"}),
]


@pytest.mark.parametrize(
    ("architecture", "tied", "mix", "moving"),
    [
        ("llama", True, {"sequence": 1.0}, {LLAMA_EMBEDDINGS}),
        ("bart", False, {"next_item": 1.0}, {*BART_EMBEDDINGS, "lm_head.weight"}),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW_ROWS),
    ],
)
def test_only_the_new_embedding_rows_are_trained(
    tmp_path: Path,
    models: Make,
    short_train: Train,
    architecture: str,
    tied: bool,
    mix: dict[str, float],
    moving: set[str],
) -> None:
    base = models(architecture, tied=tied)
    logs: list[dict[str, float]] = []
    settings = {"stage": "embeddings", "logging_steps": 1, **SMALL, **STRONG}
    summary = short_train("out", base, mix, validates=True, log=logs.append, **settings)
    assert summary.softmax_over == ("vocabulary" if "sid_to_title" in mix else "trie")
    before, after = weights(base), weights(tmp_path / "out")
    tokens = read_contract(base).tokens
    assert before.keys() == after.keys()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == moving
    for name in moved:
        assert torch.equal(before[name][: tokens.start], after[name][: tokens.start])
        assert torch.equal(before[name][tokens.stop :], after[name][tokens.stop :])
    losses = [entry["loss"] for entry in logs if "loss" in entry]
    assert losses[-1] < losses[0]
    assert summary.trained_parameters == (tokens.stop - tokens.start) * 32 * len(moved)
    contract = read_contract(tmp_path / "out")
    assert contract.history_prompt.task == next(iter(mix)).replace("_", "-")
    assert [record.stage for record in contract.stages] == ["extend", "embeddings"]
    assert load_model_folder(tmp_path / "out").contract == contract


@pytest.mark.parametrize(
    ("architecture", "tied"),
    [
        ("qwen3", False),
        *(pytest.param(name, True, marks=pytest.mark.slow) for name in ("gpt2", "llama", "gemma3")),
    ],
)
@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
def test_merged_adapters_give_the_same_logits(
    tmp_path: Path, models: Make, short_train: Train, architecture: str, tied: bool
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = models(architecture, tied=tied)
    summary = short_train("out", base, validates=True, **LORA)
    assert not (tmp_path / "out/model.safetensors").exists()
    # PEFT alone, with nothing of ours, is the model unmerged
    plain = AutoModelForCausalLM.from_pretrained(base)
    unmerged = PeftModel.from_pretrained(plain, str(tmp_path / "out")).eval()
    state = torch.get_rng_state()
    served = load_model_folder(tmp_path / "out")
    assert torch.equal(torch.get_rng_state(), state)
    merge(tmp_path / "out", tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    start = AutoModelForCausalLM.from_pretrained(base).eval()
    with torch.no_grad():
        want = unmerged(input_ids=IDS).logits
        torch.testing.assert_close(served.model(input_ids=IDS).logits, want, atol=1e-4, rtol=0)
        torch.testing.assert_close(plain(input_ids=IDS).logits, want, atol=1e-4, rtol=0)
        assert (start(input_ids=IDS).logits - want).abs().max() > 0.1
    requests = [Request(history=("i1", "i2", "i3"))]
    both = (served, load_model_folder(tmp_path / "merged"))
    message = [list(recommend(one, requests, BEST_10)) for one in both]
    by_hand = list(recommend(replace(served, model=unmerged), requests, BEST_10))
    assert message[0][0].items == message[1][0].items == by_hand[0].items
    np.testing.assert_allclose(message[0][0].scores, by_hand[0].scores, atol=1e-4)
    assert summary.best is not None
    contract = read_contract(tmp_path / "merged")
    assert [record.stage for record in contract.stages[:-1]] == ["extend", "lora"]
    with pytest.raises(UsageError, match="has no adapters to merge"):
        merge(tmp_path / "merged", tmp_path / "again")


def test_all_weights_of_a_model_with_adapters_are_trained_afterwards(
    tmp_path: Path, short_train: Train
) -> None:
    short_train("lora", "llama", **LORA, max_steps=1)
    summary = short_train("whole", tmp_path / "lora", max_steps=1)
    model = load_model_folder(tmp_path / "whole").model
    assert summary.trained_parameters == model.num_parameters()


def test_killed_adapters_have_the_losses_of_whole_runs(tmp_path: Path, short_train: Train) -> None:
    def run(out: str, stop: int | None = None) -> dict[int, Mapping[str, float]]:
        curve: dict[int, Mapping[str, float]] = {}

        def log(entry: dict[str, float]) -> None:
            if "loss" in entry:
                names = ("loss", "grad_norm", "learning_rate")
                curve[int(entry["step"])] = {name: entry[name] for name in names}

        often = {**OFTEN_3, "logging_steps": 1}
        short_train(out, "llama", validates=True, stop=stop, log=log, **LORA, **often)
        return curve

    whole = run("whole")
    with pytest.raises(Stopped):
        run("killed", 5)
    assert last_checkpoint(tmp_path / "killed.partial") is not None
    assert read_contract(tmp_path / "killed.partial/checkpoint-3").stages[-1].stage == "lora"
    load_model_folder(tmp_path / "killed.partial/checkpoint-3")  # every checkpoint is a model
    resumed = run("killed")
    assert min(resumed) == 4
    assert resumed == {step: figures for step, figures in whole.items() if step >= 4}
    name = "adapter_model.safetensors"
    assert same(weights(tmp_path / "whole", name), weights(tmp_path / "killed", name))


def test_stages_run_in_order_and_resume(tmp_path: Path, models: Make, examples: Make) -> None:
    base, made = models("llama"), examples(sequence=1.0)
    fields = FAST | STRONG | OFTEN_3 | {"eval_strategy": "no"}
    brief = {**fields, "max_steps": 2}
    lora_options = TrainOptions(stage="lora", lora_r=4, **SMALL)
    stages = [
        StageSettings(TrainOptions(stage="embeddings", **SMALL), brief),
        StageSettings(lora_options, brief),
        StageSettings(replace(lora_options, lora_alpha=8.0), fields),
    ]
    message: list[str] = []

    def run(out: str, kill: tuple[int, int] | None = None) -> list[TrainingSummary]:
        def progress(number: int) -> Callable[[int, int], None]:
            def report(done: int, total: int) -> None:
                if (number, done) == kill:
                    raise Stopped

            return report

        return train_stages(
            base, made, tmp_path / out, stages, progress=progress, notify=message.append
        )

    run("whole")
    with pytest.raises(Stopped):
        run("killed", (3, 4))
    (tmp_path / "killed-1-embeddings.partial.removed").mkdir()  # killed at the stage's end
    message.clear()
    summaries = run("killed")
    names = [("killed-1-embeddings", True), ("killed-2-lora", True), ("killed", False)]
    expected = [(str(tmp_path / name), reused) for name, reused in names]
    assert [(summary.model, summary.reused) for summary in summaries] == expected
    assert "embeddings starts from" in message[0]
    assert "(extend > embeddings > lora)" in message[2]
    config = json.loads((tmp_path / "killed/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "killed-2-lora")
    assert "history prompt sequence" in message[2]
    name = "adapter_model.safetensors"
    assert same(weights(tmp_path / "whole", name), weights(tmp_path / "killed", name))
    contract = read_contract(tmp_path / "killed")
    assert [record.stage for record in contract.stages[:-1]] == ["extend", "embeddings", "lora"]
    assert contract.history_prompt == read_contract(tmp_path / "killed-1-embeddings").history_prompt
    assert not list(tmp_path.glob("*.partial*"))
    with pytest.raises(UsageError, match="exists already"):
        run("killed")
    other = [replace(stages[0], sft_fields={**brief, "seed": 5}), *stages[1:]]
    shutil.rmtree(tmp_path / "killed")
    with pytest.raises(UsageError, match="killed-1-embeddings exists already"):
        train_stages(base, made, tmp_path / "killed", other)


@pytest.mark.slow
def test_only_stages_that_recommend_validate(
    tmp_path: Path, models: Make, examples: Make, short_train: Train
) -> None:
    titles, made = examples(title_to_sid=1.0), examples(sequence=1.0)
    fields = FAST | OFTEN_3
    stages = [
        StageSettings(TrainOptions(stage="embeddings", **SMALL), fields, titles),
        StageSettings(TrainOptions(**SMALL), fields),
    ]
    first, second = train_stages(models("llama"), made, tmp_path / "out", stages)
    assert first.best is None
    assert second.best is not None
    with pytest.raises(UsageError, match="validation needs a task"):
        short_train("alone", "llama", {"title_to_sid": 1.0}, validates=True)


def test_the_first_item_of_a_list_has_the_prompt_of_the_newest_lists(
    tmp_path: Path, models: Make, bundle: Bundle, catalog: Items, split: Split
) -> None:
    made = {}
    for length, tasks in ((4, ["list", "next-item"]), (3, ["list"]), (2, ["list"])):
        options = SftOptions(dict.fromkeys(tasks, 1.0), lists=ListTargets(length))
        made[length] = tmp_path / f"train-{length}.jsonl"
        make_sft(bundle, catalog, split, made[length], options, tokenizer=tiny_tokenizer())

    def prompt(*lengths: int) -> HistoryPrompt | None:
        """That of the last of some stages, by the length of their lists."""
        stages = [StageSettings(TrainOptions(), {}, examples=made[length]) for length in lengths]
        return plan_stages(models("gpt2"), made[4], tmp_path / "out", stages)[-1].history_prompt

    assert prompt(3, 2) == read_lineage(made[2]).history_prompt
    assert prompt(4, 3, 2) == read_lineage(made[4]).history_prompt
    assert prompt(3, 4) == read_lineage(made[4]).history_prompt


def test_what_a_later_stage_lacks_is_found_before_the_first_one_trains(
    tmp_path: Path, models: Make, examples: Make, bundle: Bundle, catalog: Items
) -> None:
    made, other = examples(sequence=1.0), tmp_path / "other.jsonl"
    make_sft(bundle, catalog, make_split(seed=1), other, tokenizer=tiny_tokenizer())

    first = StageSettings(TrainOptions(stage="embeddings"), OFTEN_3)
    stages = [first, StageSettings(TrainOptions(), OFTEN_3, examples=other)]
    for call in (plan_stages, train_stages):
        with pytest.raises(CompatibilityError, match="may have learned from held-out events"):
            call(models("llama"), made, tmp_path / "out", stages)
        assert not list(tmp_path.glob("out*"))
    options = asdict(first.options) | {"eval_exclude_seen": False}  # as the split decides
    (planned,) = plan_stages(models("llama"), made, tmp_path / "out", [first])
    paths = {"starts_from": models("llama"), "examples": made, "valid": valid_of(made)}
    paths = {name: str(path) for name, path in paths.items()} | {"model": str(tmp_path / "out")}
    assert planned.to_json() == {**paths, "options": options, "settings": OFTEN_3}


def test_answers_without_sids_leave_the_normalization(
    tmp_path: Path, models: Make, examples: Make
) -> None:
    """Trained over the trie, a model has no idea of the codes that lead to no item."""
    sequences, titles = examples(sequence=1.0), examples(sid_to_title=1.0)
    both = examples(sid_to_title=1.0, next_item=1.0)

    def normalize(*made: Path) -> str:
        stages = [StageSettings(TrainOptions(), {}, examples=path) for path in made]
        return plan_stages(models("gpt2"), made[0], tmp_path / "out", stages)[-1].normalize

    assert normalize(titles) == normalize(sequences, both) == normalize(both, titles) == "level"
    assert normalize(sequences, titles) == "trie"


@pytest.mark.slow
def test_padding_is_not_counted_as_tokens(examples: Make, short_train: Train) -> None:
    packed, padded = (
        short_train(batching, num_train_epochs=1, batching=batching)
        for batching in ("packed", "padded")
    )
    counted = read_lineage(examples(sequence=1.0)).tokens
    assert packed.tokens == padded.tokens == counted
    assert 0 < packed.targets == padded.targets < counted
    assert 0 < packed.peak_rss_gib < 100


def test_a_token_budget_determines_the_steps(tmp_path: Path, models: Make, examples: Make) -> None:
    made = examples(sequence=1.0)
    counted = read_lineage(made).tokens
    settings = {"per_device_train_batch_size": 8, "token_budget": counted // 2}
    summary = train(models("gpt2"), made, tmp_path / "half", **settings)
    assert 0.3 * counted < summary.tokens < 0.7 * counted
    with pytest.raises(UsageError, match="cannot be set with token_budget"):
        train(models("gpt2"), made, tmp_path / "x", **settings, num_train_epochs=1)


def test_early_stopping_needs_validations(tmp_path: Path, models: Make, examples: Make) -> None:
    settings = {"early_stopping_patience": 1, "eval_strategy": "no"}
    with pytest.raises(UsageError, match="eval_strategy=no has none"):
        train(models("gpt2"), examples(sequence=1.0), tmp_path / "x", **settings)


@pytest.mark.parametrize(
    "stage",
    ["full", *(pytest.param(name, marks=pytest.mark.slow) for name in ("embeddings", "lora"))],
)
def test_gradient_checkpointing_does_not_change_the_loss(short_train: Train, stage: Any) -> None:
    plain, recomputed = (
        short_train(str(on), "llama", **STRONG, stage=stage, max_steps=6, gradient_checkpointing=on)
        for on in (False, True)
    )
    assert plain.loss == pytest.approx(recomputed.loss, rel=1e-5)


@pytest.mark.slow
def test_frozen_weights_in_bfloat16_train_beside_new_ones_in_float32(
    tmp_path: Path, short_train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU, validated as they are trained."""
    monkeypatch.setattr("sidtool.training.trainer_setup.weight_dtype", lambda *_: "bfloat16")
    summary = short_train("lora", "llama", validates=True, **LORA, num_train_epochs=1, bf16=True)
    assert summary.best is not None
    result = weights(tmp_path / "lora", "adapter_model.safetensors")
    assert {tensor.dtype for tensor in result.values()} == {torch.float32}
    assert load_model_folder(tmp_path / "lora", dtype="bfloat16").model.dtype == torch.bfloat16


@pytest.mark.slow
def test_checkpoints_without_validation_select_none(short_train: Train) -> None:
    settings = {"eval_strategy": "no", "save_strategy": "steps", "save_steps": 1}
    summary = short_train("out", "llama", validates=True, **settings)
    assert summary.best is None
    assert summary.steps == 12


def test_stages_are_checked_before_any_run(tmp_path: Path, models: Make, examples: Make) -> None:
    first = StageSettings(TrainOptions(stage="embeddings"), {})
    for options, fields, message in (
        (TrainOptions(), {"save_strategy": "steps"}, "not fit .*Save strategy: .*STEPS"),
        (TrainOptions(softmax_over="trie"), {}, "requires that all training examples answer with"),
    ):
        made = examples(**{"sequence" if fields else "sid_to_title": 1.0})
        stages = [first, StageSettings(options, fields)]
        with pytest.raises(UsageError, match=message):
            plan_stages(models("llama"), made, tmp_path / "out", stages)


def test_a_run_is_the_same_however_a_step_is_divided(
    tmp_path: Path, models: Make, examples: Make
) -> None:
    def digest(**fields: int) -> str:
        stage = StageSettings(TrainOptions(), fields)
        made = examples(sequence=1.0)
        (planned,) = plan_stages(models("llama"), made, tmp_path / "out", [stage])
        return planned.digest

    one = digest(per_device_train_batch_size=16)
    assert digest(per_device_train_batch_size=8, gradient_accumulation_steps=2) == one
    assert digest(per_device_train_batch_size=8) != one


def test_validation_prompts_fit_the_positions_of_the_model(
    tmp_path: Path, bundle: Bundle, catalog: Items, split: Split
) -> None:
    longest = max(len(sequence.items) for sequence in split.train)
    positions = longest * (bundle.space.levels + 2 * bundle.space.has_begin_end_tokens)
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path / "base")
    sizes = {"max_position_embeddings": positions, "n_positions": positions}
    tiny_model("gpt2", vocab_size=len(tokenizer), **sizes).save_pretrained(tmp_path / "base")
    extend_model(tmp_path / "base", bundle, tmp_path / "base+sid")
    made = tmp_path / "examples" / "train.jsonl"
    made.parent.mkdir()
    options = SftOptions({"sequence": 1.0}, history_length=50)
    make_sft(bundle, catalog, split, made, options, model=tmp_path / "base+sid")
    settings = {"eval_users": 0, "eval_num_beams": 4, "max_steps": 1}
    out = tmp_path / "out"
    summary = train(tmp_path / "base+sid", made, out, valid=valid_of(made), **settings)
    assert summary.best is not None


def test_adapters_never_replace_their_base_and_require_it_unchanged(
    tmp_path: Path, models: Make, short_train: Train, bundle: Bundle, split: Split
) -> None:
    base, adapters = tmp_path / "here/base", tmp_path / "here/out"
    shutil.copytree(models("llama"), base)
    with pytest.raises(UsageError, match="is the base of adapters"):
        short_train("here/base", base, **LORA, max_steps=1, force=True)
    short_train("here/out", base, **LORA, max_steps=1)
    with pytest.raises(UsageError, match="is the base of adapters"):
        short_train("here/base", adapters, **LORA, max_steps=1, force=True)
    memory = build_memory(split, bundle)
    binding = MemoryBinding(memory.digest, 0.4, 3.0, {})
    with pytest.raises(UsageError, match="is the base of adapters"):
        bind_memory(adapters, memory, binding, base, force=True)
    with pytest.raises(UsageError, match="is the base of adapters"):  # before anything else
        tune_memory(adapters, split, memory, base, force=True)
    assert same(weights(base), weights(models("llama")))
    (tmp_path / "here").rename(tmp_path / "there")
    assert load_model_folder(tmp_path / "there/out").bundle.digest == bundle.digest  # both moved
    shutil.rmtree(tmp_path / "there/base")
    with pytest.raises(CompatibilityError, match="does not exist"):
        load_model_folder(tmp_path / "there/out")
    shutil.copytree(models("llama", seed=3), base)
    with pytest.raises(CompatibilityError, match="has other weights"):
        load_model_folder(tmp_path / "there/out")
