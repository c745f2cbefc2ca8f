import json
import random
import shutil
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from trl import SFTConfig

from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.data import Items
from sidtool.data.split import Split
from sidtool.examples import TokenizedExamples, make_sft
from sidtool.model import load_model_folder
from sidtool.model.contract import read_contract
from sidtool.model.vocabulary import SidTokens
from sidtool.recommendation import RecommendOptions, Request, recommend
from sidtool.recommendation.search import PartialHead, driver
from sidtool.tokenizer.bundle import Bundle, Trie
from sidtool.tokenizer.sid import SidSpace
from sidtool.training import HISTORY_FILE, MACHINE_FILE
from sidtool.training.loop.checkpoints import TOTALS_FILE, last_checkpoint
from sidtool.training.loop.trainer import CausalTrainer
from sidtool.training.loop.watched import ProgressCallback
from sidtool.training.loss.augment import AugmentedExamples
from sidtool.training.loss.loss import Loss, Teachers
from sidtool.training.loss.probes import narrows_exactly, packs_exactly
from sidtool.training.training import TrainingSummary, train
from tests.cli.road import write_lines
from tests.models import ARCHITECTURES, tiny_model, tiny_tokenizer
from tests.pairs import all_pairs
from tests.sealed import reseal
from tests.training.runs import (
    ENVIRONMENT,
    FAST,
    OFTEN,
    Make,
    Stopped,
    Train,
    history,
    same,
    valid_of,
    weights,
)

SMALL = {"eval_users": 20, "eval_num_beams": 10}
SGD = {"max_steps": 4, "optim": "sgd", "learning_rate": 0.3}
ONE_OF_EACH = {("llama", True), ("gemma3", False), ("gpt2", True)}


def test_training_lowers_the_loss_and_writes_a_complete_model(
    tmp_path: Path, models: Make, short_train: Train
) -> None:
    steps: list[tuple[int, int]] = []
    logs: list[dict[str, float]] = []
    summary = short_train(
        "tuned",
        validates=True,
        progress=lambda done, total: steps.append((done, total)),
        log=logs.append,
        **SMALL | OFTEN | {"num_train_epochs": 24, "eval_steps": 32, "save_steps": 32},
    )
    first = next(entry["eval_ndcg@10"] for entry in logs if "eval_ndcg@10" in entry)
    assert summary.best > max(0.3, first)  # the pattern is plain: the next item of the catalog
    assert steps[-1] == (summary.steps,) * 2
    assert summary.packed
    names = {path.name for path in (tmp_path / "tuned").iterdir()}
    assert names == {path.name for path in models("gpt2").iterdir()} | {HISTORY_FILE, MACHINE_FILE}
    assert not list(tmp_path.glob("*.partial"))
    contract = read_contract(tmp_path / "tuned")
    assert [record.stage for record in contract.stages] == ["extend", "full"]
    assert contract.history_prompt.task == "sequence"
    assert load_model_folder(tmp_path / "tuned").contract == contract
    with pytest.raises(UsageError, match="exists already"):
        short_train("tuned")


def test_the_perplexity_on_general_text_is_measured_before_and_after(
    tmp_path: Path, models: Make, bundle: Bundle, catalog: Items, split: Split
) -> None:
    corpus = write_lines(tmp_path / "a.jsonl", ({"text": f"some words {n}"} for n in range(40)))
    made, model = tmp_path / "train.jsonl", models("gpt2")
    make_sft(bundle, catalog, split, made, general=corpus, model=model)
    summary = train(model, made, tmp_path / "out", **FAST, max_steps=3)
    measured = read_contract(tmp_path / "out").params.forgetting
    summarized = (summary.perplexity_before, summary.perplexity_after)
    assert (measured.examples, measured.before, measured.after) == (2, *summarized)
    assert 1 < measured.after < measured.before


def test_the_random_states_of_the_caller_are_restored(short_train: Train) -> None:
    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    draws = []
    for name in ("first", "second"):
        short_train(name, max_steps=1)
        draws.append(draw())
    assert not set(draws[0]) & set(draws[1])


def test_threads_train_the_models_that_one_thread_trains(
    tmp_path: Path, short_train: Train
) -> None:
    filters = list(warnings.filters)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(partial(short_train, max_steps=3), ("one", "other")))
    assert warnings.filters == filters
    short_train("alone", max_steps=3)
    alone = weights(tmp_path / "alone")
    assert all(same(weights(tmp_path / name), alone) for name in ("one", "other"))


@pytest.mark.parametrize(
    ("architecture", "tied"),
    [
        pytest.param(name, tied, marks=() if (name, tied) in ONE_OF_EACH else pytest.mark.slow)
        for name in ARCHITECTURES
        for tied in (True, False)
    ],
)
def test_partial_heads_and_packing_are_exact(architecture: str, tied: bool) -> None:
    extra = {"final_logit_softcapping": 5.0} if architecture == "gemma3" else {}
    model = tiny_model(architecture, vocab_size=90, tied=tied, **extra)
    assert packs_exactly(model)
    head = PartialHead(model).install()
    ids = torch.randint(90, (3, 11), generator=torch.Generator().manual_seed(0))
    places = torch.tensor([0, 5, 12, 32])
    with torch.no_grad():
        full = model(input_ids=ids, use_cache=False).logits.reshape(33, -1)[places]
        for columns in (None, (40, 77)):
            assert narrows_exactly(model, head, columns)
            parts = [(places, columns), (places[:0], columns), (places[1:3], (50, 60))]
            narrow = head.blocks(lambda: model(input_ids=ids, use_cache=False).logits, parts)
            wanted = full if columns is None else full[:, 40:77]
            assert [len(block) for block in narrow] == [4, 0, 2]
            torch.testing.assert_close(narrow[0], wanted, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(narrow[2], full[1:3, 50:60], atol=1e-5, rtol=1e-5)


def test_a_training_stops_after_its_time_and_records_the_step(
    tmp_path: Path, short_train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"validates": True, **SMALL, **OFTEN, "eval_steps": 32, "save_steps": 32}

    def killed(*args: Any) -> None:
        raise Stopped

    for minutes in (-1, float("nan")):
        with pytest.raises(UsageError, match="max_minutes must be at least 0"):
            short_train("refused", **settings, max_minutes=minutes)
    with monkeypatch.context() as patched:
        patched.setattr("sidtool.training.loop.watched.WatchedTrainer.write_model", killed)
        with pytest.raises(Stopped):
            short_train("limited", **settings, max_minutes=0)
    assert short_train("limited", **settings).steps == 1
    params = read_contract(tmp_path / "limited").params
    assert params.options["stop_step"] == 1

    assert short_train("repeated", **settings, stop_step=1).steps == 1
    assert read_contract(tmp_path / "repeated").params == params
    assert same(weights(tmp_path / "repeated"), weights(tmp_path / "limited"))
    logged = history(tmp_path / "limited")
    assert history(tmp_path / "repeated") == logged
    assert any("eval_ndcg@10" in entry for entry in logged)


def test_eager_attention_is_not_packed(tmp_path: Path) -> None:
    model = tiny_model("llama", vocab_size=40)
    model.set_attn_implementation("eager")
    assert not packs_exactly(model)
    loss = Loss("vocabulary", SidTokens(SidSpace((3, 3)), 30))
    assert not trainer_of(tmp_path, model, None, loss, "auto").packed
    with pytest.raises(UsageError, match="cannot be packed"):
        trainer_of(tmp_path, model, None, loss, "packed")


def trainer_of(
    tmp_path: Path,
    model: Any,
    examples: Any,
    loss: Any,
    batching: str,
    teachers: Any = None,
    **fields: Any,
) -> Any:
    arguments = SFTConfig(
        output_dir=str(tmp_path),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        max_length=None,
        report_to="none",
        dataset_kwargs={"skip_prepare_dataset": True},
        remove_unused_columns=False,
        **fields,
    )
    return CausalTrainer(
        model=model,
        args=arguments,
        examples=examples,
        tokenizer=tiny_tokenizer(),
        loss=loss,
        batching=batching,
        teachers=teachers,
        validator=None,
        callbacks=[],
    )


@pytest.mark.parametrize(
    ("architecture", "over", "terms"),
    [
        ("gpt2", "vocabulary", (0.1, 0.4)),
        ("gemma3", "level", (0.0, 0.0)),
        ("mistral", "trie", (0.1, 0.4)),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in all_pairs(
                ["gpt2", "gemma3", "mistral"],
                ["vocabulary", "sid", "level", "trie"],
                [(0.0, 0.0), (0.1, 0.4)],
            )
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_loss_and_gradient_equal_a_direct_computation(
    tmp_path: Path, architecture: str, over: str, terms: tuple[float, float]
) -> None:
    smoothing, distill = terms
    rng = np.random.default_rng(1)
    lengths = [5, 9, 3, 12]
    levels = np.array([60, 68, 74])
    ids = [levels[np.arange(n) % 3] + rng.integers(0, 6, n) for n in lengths]
    ids = np.concatenate(ids).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    targets = rng.random(len(ids)) < 0.7
    targets[offsets[:-1]] = False
    weights = rng.uniform(0.2, 3.0, len(ids)).astype(np.float32)
    examples = TokenizedExamples(ids, targets, weights, offsets, np.ones(4, dtype=np.bool_))
    every = np.stack(np.unravel_index(np.arange(6**3), (6, 6, 6)), axis=1).astype(np.uint16)
    items = every[rng.random(len(every)) < 0.6]  # so some targets are no item's
    trie = Trie.from_codes(items, (8, 6, 7)) if over == "trie" else None
    sid_loss = Loss(over, SidTokens(SidSpace((8, 6, 7)), 60), trie, smoothing, distill)
    kinds = ((architecture, 1), ("llama", 2))
    taught_by = [tiny_model(kind, vocab_size=83, seed=seed) for kind, seed in kinds]
    teachers = Teachers(taught_by, sid_loss.columns()) if distill else None
    losses, gradients = [], []
    for batching in ("packed", "padded"):
        model = tiny_model(architecture, vocab_size=83)
        trainer = trainer_of(tmp_path, model, examples, sid_loss, batching, teachers)
        assert trainer.packed == (batching == "packed")
        assert trainer.narrow
        loss = trainer.compute_loss(model, trainer.data_collator([examples[i] for i in range(4)]))
        loss.backward()
        losses.append(loss.detach())
        gradients.append(model.get_input_embeddings().weight.grad.clone())
        # as for a model whose head cannot be narrowed: the same loss, from all logits
        trainer.narrow = False
        full = trainer.compute_loss(model, trainer.data_collator([examples[i] for i in range(4)]))
        torch.testing.assert_close(full.detach(), loss.detach(), atol=1e-5, rtol=1e-5)
    # the oracle: one row at a time, one target at a time
    model = tiny_model(architecture, vocab_size=83)
    total = torch.zeros(())
    for row in range(4):
        row_ids, marked, row_weights, *_ = examples[row]
        inputs = {"input_ids": torch.tensor(row_ids[None].astype("int64")), "use_cache": False}
        logits = model(**inputs).logits[0]
        teacher_logits = [teacher(**inputs).logits[0].detach() for teacher in taught_by]
        for place in np.flatnonzero(marked).tolist():
            token = int(row_ids[place])
            level = int(np.searchsorted(levels, token, side="right")) - 1
            level_bounds = (levels[level], [*levels[1:], 81][level])
            first, stop = {"vocabulary": (0, 83), "sid": (60, 81)}.get(over, level_bounds)
            rivals = np.arange(first, stop)
            if over == "trie":
                prefix = row_ids[place - level : place] - levels[:level]
                rivals = np.unique(items[(items[:, :level] == prefix).all(1), level]) + first
                if token not in rivals:
                    targets[offsets[row] + place] = False
                    continue
            logp = torch.log_softmax(logits[place - 1, rivals], dim=0)
            target = torch.full_like(logp, smoothing / len(rivals))
            target[rivals.tolist().index(token)] += 1 - smoothing
            taught = [torch.softmax(scores[place - 1, rivals], dim=0) for scores in teacher_logits]
            soft = sum(taught) / len(taught)
            cross_entropy = -((1 - distill) * target + distill * soft) @ logp
            total = total + float(row_weights[place]) * cross_entropy
    assert int(trainer.n_seen[1]) == 2 * targets.sum()
    total = total / float(weights[targets].sum())
    total.backward()
    for loss, gradient in zip(losses, gradients, strict=True):
        torch.testing.assert_close(loss, total.detach(), atol=1e-4, rtol=1e-4)
        mine = model.get_input_embeddings().weight.grad
        torch.testing.assert_close(gradient, mine, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("batching", "accumulation"), [("packed", 4), pytest.param("padded", 1, marks=pytest.mark.slow)]
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_weight_of_two_is_two_examples(tmp_path: Path, batching: str, accumulation: int) -> None:
    """One step of gradient descent over all examples, in as many batches as are accumulated."""
    rng = np.random.default_rng(2)
    counts = np.array([1, 2, 0, 3, 1, 2, 2, 5])  # 16 examples

    def stored(rows: np.ndarray, weights: np.ndarray) -> TokenizedExamples:
        lengths = 4 + rows % 5
        ids = [np.random.default_rng(int(row)).integers(60, 81, 4 + int(row) % 5) for row in rows]
        offsets = np.append(0, np.cumsum(lengths)).astype(np.int64)
        targets = np.ones(offsets[-1], dtype=np.bool_)
        targets[offsets[:-1]] = False
        token_weights = np.repeat(weights, lengths).astype(np.float32)
        flat = np.concatenate(ids).astype(np.int32)
        is_sequence = np.ones(len(rows), dtype=np.bool_)
        return TokenizedExamples(flat, targets, token_weights, offsets, is_sequence)

    rows = np.arange(8)
    weighted = stored(rows, counts)
    repeated = stored(rng.permutation(np.repeat(rows, counts)), np.ones(16))
    trained = []
    for examples in (weighted, repeated):
        model = tiny_model("llama", vocab_size=83)
        trainer = trainer_of(
            tmp_path,
            model,
            examples,
            Loss("level", SidTokens(SidSpace((8, 6, 7)), 60)),
            batching,
            per_device_train_batch_size=len(examples) // accumulation,
            gradient_accumulation_steps=accumulation,
            max_steps=1,
            optim="sgd",
            learning_rate=0.1,
            lr_scheduler_type="constant",
            save_strategy="no",
        )
        trainer.train()
        trained.append(dict(model.named_parameters()))
    start = dict(tiny_model("llama", vocab_size=83).named_parameters())
    assert not torch.equal(start["model.norm.weight"], trained[0]["model.norm.weight"])
    for name, weight in trained[0].items():
        torch.testing.assert_close(weight, trained[1][name], atol=1e-6, rtol=1e-6)


def test_examples_of_another_bundle_are_refused_before_weights_load(
    tmp_path: Path, models: Make, examples: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(examples(sequence=1.0).parent, tmp_path / "examples")
    made = tmp_path / "examples" / "train.jsonl"
    meta = made.with_name("train.jsonl.meta.json")
    lineage = json.loads(meta.read_text())
    lineage["bundle"]["items"] = "0" * 64
    reseal(meta, lineage)
    loading = "sidtool.training.trainer_setup.load_model_folder"
    monkeypatch.setattr(loading, lambda *a, **k: pytest.fail("weights were loaded"))
    with pytest.raises(CompatibilityError, match="items digest is 000000000000") as caught:
        train(models("llama"), made, tmp_path / "tuned")
    assert "sidtool rebind" in caught.value.shell_hint  # `sidtool train` takes no bundle


def test_dropout_needs_layers_of_dropout(tmp_path: Path, short_train: Train) -> None:
    with pytest.raises(UsageError, match="LlamaForCausalLM has no dropout"):
        short_train("tuned", "llama", dropout=0.1)
    assert not list(tmp_path.glob("tuned*"))


def test_the_contract_records_the_loss_normalization(tmp_path: Path, short_train: Train) -> None:
    short_train(
        "tuned", "llama", validates=True, **SMALL, softmax_over="trie", eval_exclude_seen=True
    )
    served = load_model_folder(tmp_path / "tuned")
    assert served.contract.normalize == "trie"
    history = (served.bundle.items.ids[0], served.bundle.items.ids[1])
    requests, n = [Request(history=history)], served.bundle.trie().n_leaves
    (result,) = recommend(served, requests, RecommendOptions(k=n, num_beams=n))
    assert len(result.items) == n
    np.testing.assert_allclose(np.exp(result.scores).sum(), 1, atol=1e-4)
    (level,) = recommend(served, requests, RecommendOptions(k=n, num_beams=n, normalize="level"))
    assert np.exp(level.scores).sum() < 0.9


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"item_dropout": 0.2, "reverse_prob": 0.6, "shuffle_span": 0.5, "optimizer": "muon"},
    ],
)
def test_a_resumed_run_ends_like_an_uninterrupted_one(
    tmp_path: Path, models: Make, short_train: Train, extra: dict[str, Any]
) -> None:
    base = models("gpt2", resid_pdrop=0.1)
    # a checkpoint lies between two log lines
    steps = {"save_steps": 3, "eval_steps": 3, "logging_steps": 2}

    def run(name: str, stop: int | None = None) -> TrainingSummary:
        return short_train(name, base, validates=True, stop=stop, **SMALL | OFTEN | steps | extra)

    whole = run("whole")
    for stop in (5, 10):  # between two checkpoints, in the second epoch
        with pytest.raises(Stopped):
            run("killed", stop)
    assert not (tmp_path / "killed").exists()
    torn = last_checkpoint(tmp_path / "killed.partial")
    (torn / "trainer_state.json").write_text('{"epo')  # a checkpoint that was being written is none
    resumed = run("killed")
    assert torn.name == "checkpoint-9"
    # rotation keeps the best and the newest
    assert resumed.resumed_from in ("checkpoint-3", "checkpoint-6")
    assert resumed.best == whole.best
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    # what is said of a resumed run covers the whole run
    for name in ("steps", "epochs", "loss", "tokens", "targets"):
        assert getattr(resumed, name) == getattr(whole, name), name
    entries = history(tmp_path / "whole")
    assert history(tmp_path / "killed") == entries
    name = "eval_ndcg@10"
    validated = {entry["step"]: entry[name] for entry in entries if name in entry}
    params = read_contract(tmp_path / "killed").params
    assert (params.best.metric, params.best.value) == ("ndcg@10", whole.best)
    assert validated[params.best.step] == whole.best == max(validated.values())
    logged = [entry for entry in entries if "loss" in entry]
    assert [entry["step"] for entry in logged][-1] == whole.steps
    assert logged[-1]["tokens"] == whole.tokens
    measured = history(tmp_path / "killed", MACHINE_FILE)
    assert [entry["step"] for entry in measured] == [entry["step"] for entry in logged]
    assert all(entry["memory_gib"] > 0 for entry in measured)
    # the seconds are those of all calls, so they go on where the one before was killed
    assert all(one["seconds"] <= two["seconds"] for one, two in pairwise(measured))
    steps = np.diff([0, *(entry["step"] for entry in logged)])
    mean = np.average([entry["loss"] for entry in logged], weights=steps)
    assert mean == pytest.approx(whole.loss)


@pytest.mark.parametrize("scheduler", ["reduce_lr_on_plateau", "greedy"])
def test_a_learning_rate_falls_where_the_metric_does_not_rise(
    tmp_path: Path, short_train: Train, scheduler: str
) -> None:
    kwargs = {"patience": 0, "factor": 0.5, "threshold": 0.0, "min_lr": 1e-9}
    steps = {"eval_steps": 1, "save_steps": 1, "logging_steps": 1, "learning_rate": 0.01}
    settings = {"lr_scheduler_type": scheduler, "lr_scheduler_kwargs": kwargs, "max_steps": 8}
    short_train("tuned", "llama", validates=True, **SMALL | OFTEN | steps | settings)
    entries = history(tmp_path / "tuned")
    metrics = [entry["eval_ndcg@10"] for entry in entries if "eval_ndcg@10" in entry]
    rates = [entry["learning_rate"] for entry in entries if "loss" in entry]
    bests = np.maximum.accumulate([-1.0, *metrics])
    falls = [metric <= best for metric, best in zip(metrics, bests[:-1], strict=True)]
    assert [after < before for before, after in pairwise(rates)] == falls[:-1]
    assert any(falls[1:-1])
    assert not all(falls[1:-1])


def test_a_single_step_has_no_warmup(tmp_path: Path, models: Make, short_train: Train) -> None:
    short_train("one", "gpt2", max_steps=1, warmup_steps=0.05)
    before = weights(models("gpt2"))
    assert not same(before, weights(tmp_path / "one"))


def test_the_arguments_of_a_schedule_are_a_mapping(short_train: Train) -> None:
    settings = {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": "x"}
    with pytest.raises(UsageError, match="settings do not fit together"):
        short_train("tuned", "llama", validates=True, **SMALL | OFTEN | settings)


def test_an_error_of_a_checkpoint_is_no_refusal_of_settings(
    short_train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SMALL, "save_strategy": "steps", "save_steps": 2}
    with pytest.raises(Stopped):
        short_train("killed", **settings, stop=3)

    def fail(*_: Any) -> None:
        raise TypeError("a state of another version")

    monkeypatch.setattr("transformers.Trainer._load_callback_state", fail)
    with pytest.raises(TypeError, match="a state of another version"):
        short_train("killed", **settings)


def test_a_model_that_cannot_be_validated_is_not_trained(
    short_train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "_probe", lambda _: None)
    steps: list[int] = []
    with pytest.raises(UsageError, match=r"4-D attention mask: validation .*, eval_strategy=no"):
        short_train("out", validates=True, progress=lambda done, _: steps.append(done))
    assert steps == []
    short_train("out", validates=True, eval_strategy="no", save_strategy="no", max_steps=1)


@pytest.mark.slow
def test_a_finished_run_is_not_trained_further(
    tmp_path: Path, models: Make, examples: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that stopped early, was killed before it wrote its output and was moved: it ends with
    the best weights and no further step."""
    made = examples(sequence=1.0)
    settings = {**FAST, **OFTEN, **SMALL, "early_stopping_patience": 1, "num_train_epochs": 30}
    settings |= {"eval_steps": 2, "save_steps": 2, "learning_rate": 0.3}

    def run(out: Path) -> TrainingSummary:
        return train(models("gpt2"), made, out, valid=valid_of(made), **settings)

    whole = run(tmp_path / "whole")
    assert whole.epochs < 29

    def die(*_: Any) -> None:
        raise Stopped

    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with monkeypatch.context() as patch:
        patch.setattr("sidtool.training.execution.publish", die)
        with pytest.raises(Stopped):
            run(Path("killed"))
    Path("killed.partial").rename(tmp_path / "there/killed.partial")
    monkeypatch.chdir(tmp_path / "there")
    resumed = run(Path("killed"))
    for name in ("steps", "best", "loss", "tokens", "targets"):
        assert getattr(resumed, name) == getattr(whole, name), name
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "there/killed"))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["gpt2", "gemma3"])
def test_bf16_on_a_cpu_applies_to_products_and_not_to_attention(
    short_train: Train, monkeypatch: pytest.MonkeyPatch, architecture: str
) -> None:
    precisions = set()
    plain = torch.nn.functional.scaled_dot_product_attention

    def attention(query: torch.Tensor, *others: Any, **options: Any) -> torch.Tensor:
        if query.requires_grad:
            precisions.add((query.dtype, torch.is_autocast_enabled("cpu")))
        return plain(query, *others, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    losses = {}
    for bf16 in (False, True):
        precisions.clear()
        losses[bf16] = short_train(str(bf16), architecture, bf16=bf16).loss
        assert precisions == {(torch.float32, False)}
    assert losses[True] != losses[False]
    assert losses[True] == pytest.approx(losses[False], rel=0.02)
    assert torch.nn.functional.scaled_dot_product_attention is attention


@pytest.mark.slow
def test_every_epoch_is_augmented_differently(
    tmp_path: Path, short_train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs: list[tuple[int, int]] = []
    monkeypatch.setattr(
        AugmentedExamples, "vary", lambda self, epoch, n_epochs: epochs.append((epoch, n_epochs))
    )
    short_train("plain", max_steps=8)
    short_train("varied", max_steps=8, shuffle_span=0.5)
    assert epochs == [(0, 2), (1, 2)]
    assert not same(weights(tmp_path / "plain"), weights(tmp_path / "varied"))


@pytest.mark.parametrize(
    "settings",
    [
        {"optim_args": "x"},
        {"lr_scheduler_kwargs": {"end": 1}},
        {"optim": "lomo"},
        {"log_level": "loud"},  # by a KeyError
        {"gradient_checkpointing_kwargs": "x"},  # by an AttributeError
        {"torch_compile_backend": "x"},  # by an enum of the standard library
    ],
    ids=str,
)
def test_what_a_library_refuses_is_one_line(
    tmp_path: Path, short_train: Train, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")  # transformers sets it
    with pytest.raises(UsageError, match="the trainer refuses its settings: ") as caught:
        short_train("out", **settings)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_our_own_is_no_refusal_of_settings(
    short_train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidtool.training.trainer_setup.set_dropout", lambda *_: int("a fault"))
    with pytest.raises(ValueError, match="a fault"):
        short_train("out")


def test_a_run_from_another_configuration_with_the_same_weights_is_not_resumed(
    short_train: Train, models: Make
) -> None:
    with pytest.raises(Stopped):
        short_train("tuned", models("llama"), stop=1)
    changed = models("llama", attention_dropout=0.5)
    assert same(weights(models("llama")), weights(changed))
    with pytest.raises(UsageError, match=r"different model settings\.config\.json"):
        short_train("tuned", changed)


def test_a_run_of_other_settings_is_not_resumed(tmp_path: Path, short_train: Train) -> None:
    with pytest.raises(Stopped):
        short_train("tuned", stop=1)
    with pytest.raises(UsageError, match="different settings"):
        short_train("tuned", num_train_epochs=1)
    run = tmp_path / "tuned.partial" / "run.json"
    run.write_text(json.dumps(json.loads(run.read_text()) | {"examples of a step": 32}))
    with pytest.raises(UsageError, match="different examples of a step: 32, not 16"):
        short_train("tuned")
    short_train("tuned", num_train_epochs=1, force=True)
    assert (tmp_path / "tuned").is_dir()


@pytest.mark.slow
def test_a_resumed_step_may_be_divided_otherwise(tmp_path: Path, short_train: Train) -> None:
    """As two processes would have left it, with half of the batch each."""

    def run(name: str, size: int, number: int, stop: int | None = None) -> TrainingSummary:
        step = {"per_device_train_batch_size": size, "gradient_accumulation_steps": number}
        steps = {"save_strategy": "steps", "save_steps": 2}
        return short_train(name, stop=stop, **{**SGD, **step, **steps})

    run("whole", 16, 1)
    with pytest.raises(Stopped):
        run("killed", 16, 1, stop=3)
    checkpoint = last_checkpoint(tmp_path / "killed.partial")
    totals = json.loads((checkpoint / TOTALS_FILE).read_text()) | {"processes": 2}
    (checkpoint / TOTALS_FILE).write_text(json.dumps(totals))
    assert last_checkpoint(tmp_path / "killed.partial") is None  # each has its random state
    (checkpoint / "rng_state.pth").rename(checkpoint / "rng_state_0.pth")
    (checkpoint / "rng_state_1.pth").touch()
    assert last_checkpoint(tmp_path / "killed.partial") == checkpoint
    with pytest.raises(UsageError, match="different examples of a step: 16, not 32"):
        run("killed", 16, 2)
    assert run("killed", 8, 2).resumed_from == "checkpoint-2"
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    for name, weight in whole.items():
        torch.testing.assert_close(resumed[name], weight, atol=1e-5, rtol=1e-4)


SCRIPT = """
import json
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from sidtool.training.settings import TrainOptions
from sidtool.training.training import train
base, examples, out = map(Path, sys.argv[1:4])
every = {"save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
batch_size = int(sys.argv[4])
fields = {"num_train_epochs": 4, "per_device_train_batch_size": batch_size, **every}
fields |= {"learning_rate": 3e-3, **json.loads(sys.argv[5])}
options = TrainOptions(eval_users=10, eval_num_beams=10)
valid = examples.with_name("valid.jsonl")
train(base, examples, out, options=options, sft_fields=fields, valid=valid)
"""


TORCHRUN = ["torch.distributed.run", "--nproc-per-node=2", "--standalone"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "made_with"),
    [
        ("gpt2", {}),
        ("t5", {}),
        # nothing reads its shared embeddings, and DDP waits for the gradient of what is not frozen
        ("bart", {"tied": False}),
    ],
    ids=["causal", "encoder-decoder", "untied BART"],
)
def test_two_processes_train_like_one(
    tmp_path: Path, models: Make, examples: Make, architecture: str, made_with: dict[str, Any]
) -> None:
    """Two ranks with half of the batch each have the same sum of gradients as one rank, apart from
    the order of addition, which Adam would enlarge. They end within an epoch, whose last batch
    accelerate fills up with examples of the first."""
    base, made = models(architecture, **made_with), examples(sequence=1.0)
    (tmp_path / "run.py").write_text(SCRIPT)

    def run(out: str, batch_size: int, *launcher: str) -> None:
        line = [sys.executable, *launcher, tmp_path / "run.py", base, made, tmp_path / out]
        line += [batch_size, json.dumps(SGD)]
        # torchrun does not read this variable
        environment = ENVIRONMENT | {"ACCELERATE_USE_CPU": "true"} if launcher else ENVIRONMENT
        subprocess.run(list(map(str, line)), check=True, env=environment)

    run("two", 8, "-m", *TORCHRUN)
    run("one", 16)
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert read_contract(tmp_path / "two").stages[-1].stage == "full"
    assert not (tmp_path / "two.partial").exists()
    start = weights(base)
    moved = max(float((weight - start[name]).abs().max()) for name, weight in one.items())
    assert moved > 4e-5
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_tensorboard_has_the_curves_of_every_call(tmp_path: Path, short_train: Train) -> None:
    pytest.importorskip("tensorboard")
    short_train("out", report_to="tensorboard", logging_steps=2)
    (events,) = (tmp_path / "out" / "runs").rglob("events.*")
    assert b"train/loss" in events.read_bytes()


def test_the_speed_leaves_out_validations(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 1.0, 1.0, 2.0, 2.0, 50.0, 52.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    logged: list[dict[str, float]] = []
    callback = ProgressCallback(None, logged.append)
    state = SimpleNamespace(global_step=1, max_steps=9, is_world_process_zero=True)
    arguments = SimpleNamespace(logging_strategy="steps")
    for step, tokens in ((1, 100.0), (2, 300.0)):
        state.global_step = step
        callback.on_step_end(arguments, state, None)
        callback.on_log(arguments, state, None, logs={"loss": 1.0, "tokens": tokens})
    callback.on_evaluate(arguments, state, None)
    callback.on_log(arguments, state, None, logs={"loss": 1.0, "tokens": 900.0})
    assert [entry.get("tokens_per_second") for entry in logged] == [None, 200.0, 300.0]
