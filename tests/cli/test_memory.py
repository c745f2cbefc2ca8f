import hashlib
import json
import re
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import pytest

import sidtool
from sidtool import tokenizer
from sidtool.base.errors import UsageError
from sidtool.data import read_items
from sidtool.data.split import read_split
from sidtool.evaluation.tuning import memory_tuning
from sidtool.memory import Memory
from sidtool.model import bind_memory
from sidtool.model.contract import MEMORY_COPY, MemoryBinding, read_contract
from sidtool.registry import open_bundle
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.encoder import Encoder
from tests.cli.road import TRAINING, Ran, Road, done, refused, retire, run, tree, write_lines
from tests.encoders import embed
from tests.memory.rerankers import random_reranker


def build(road: Road, out: Path, *more: object) -> Ran:
    return done("build-memory", road.split, road.bundle, "-o", out, *more)


@pytest.fixture(scope="module")
def memory(road: Road, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("memory") / "memory.zarr"
    build(road, out)
    return out


def test_build_memory(road: Road, tmp_path: Path) -> None:
    out = tmp_path / "memory.zarr"
    ran = build(road, out, "--neighbors", 5, "--recency", 0.5)
    memory = Memory.open(out)
    assert memory.digest in ran.out
    assert ran.last == f"next: sidtool tune-memory MODEL {road.split} {out} -o OUT"
    settings = memory.manifest.settings
    assert (settings.neighbors, settings.recency, settings.distance) == (5, 0.5, 0.85)
    again = build(road, tmp_path / "again.zarr.zip", "--neighbors", 5, "--recency", 0.5, "--json")
    assert again.json["digest"] == memory.digest
    assert done("verify", out).out.startswith(f"{out}: 60 items")
    damaged = out / "items/events/c/0"
    damaged.write_bytes(damaged.read_bytes()[::-1])
    verified = run("verify", out, "--json")
    assert (verified.code, verified.json["broken"][0]["object"]) == (3, "items/events/c/0")


def test_settings_are_chosen_on_validation_users(road: Road, tmp_path: Path) -> None:
    options = ("--tune", "--exclude-seen", "--users", 20, "--reverse", 0.25)
    ran = build(road, tmp_path / "m.zarr", *options, "--content-weight", 0.3)
    manifest = Memory.open(tmp_path / "m.zarr").manifest
    assert (manifest.tuned_on, manifest.settings.reverse) == (20, 0.25)
    assert manifest.content.weight == 0.3
    assert "NDCG@10" in ran.err
    # as building with these settings, but for the record of how they were chosen
    settings = manifest.settings.to_json().items()
    flags = [part for name, value in settings for part in (f"--{name}", value)]
    build(road, tmp_path / "same.zarr", *flags, "--content-weight", 0.3)
    same = Memory.open(tmp_path / "same.zarr").manifest
    assert (same.digest, same.tuned_on) == (manifest.digest, None)
    earlier = ("--earlier", tmp_path / "m.zarr")
    build(road, tmp_path / "updated.zarr", *earlier)
    updated = Memory.open(tmp_path / "updated.zarr").manifest
    assert (updated.digest, updated.tuned_on) == (manifest.digest, 20)
    build(road, tmp_path / "changed.zarr", *earlier, "--recency", 0.123)
    assert Memory.open(tmp_path / "changed.zarr").manifest.tuned_on is None
    for wrong in (("--tune", *earlier), ("--dry-run", "--recency", 5, "--neighbors", 0)):
        refused(2, "build-memory", road.split, road.bundle, "-o", tmp_path / "x", *wrong)


@pytest.mark.parametrize("weight", [-0.5, 101])
def test_a_weight_of_content_out_of_range_is_refused_before_vectors_are_read(
    road: Road, tmp_path: Path, weight: float
) -> None:
    options = ("--content-weight", weight, "--embeddings", road.vectors, "--dry-run")
    command = ("build-memory", road.split, road.bundle, "-o", tmp_path / "x", *options)
    assert "--content-weight must be" in refused(2, *command)


def test_the_content_of_texts(road: Road, encoder: Path, tmp_path: Path) -> None:
    """They are encoded as the bundle encoded them."""
    bundle = tmp_path / "b.zarr"
    copy = shutil.copytree(encoder, tmp_path / "encoder")
    template = "{title}. {description}"
    options = ("--levels", "4x4x8", "--encoder", copy, "--text-template", template)
    done("build-codebook", road.items, "-o", bundle, *options)
    command = ("build-memory", road.split, bundle, "--items", road.items)
    done(*command, "-o", tmp_path / "m.zarr")
    content = Memory.open(tmp_path / "m.zarr").manifest.content
    catalog = read_items(road.items, text_template=template)
    texts = dict(zip(catalog.ids, catalog.texts, strict=True))
    in_order = [texts[item] for item in Bundle.open(bundle).items.ids]
    vectors, _ = embed(in_order, Encoder(str(copy)), cache=tmp_path / "cache")
    assert content.vectors == hashlib.sha256(vectors.tobytes()).hexdigest()
    lines = road.items.read_text().splitlines()
    write_lines(tmp_path / "few.jsonl", lines[:-1])
    few = ("build-memory", road.split, bundle, "--items", tmp_path / "few.jsonl")
    error = refused(1, *few, "-o", tmp_path / "x")
    assert "the catalog lacks 1 of" in error
    assert "hint: give all items of the bundle, or retire these" in error
    later = retire(bundle, tmp_path / "later.zarr", json.loads(lines[-1])["item_id"])
    done("build-memory", road.split, later, *few[3:], "-o", tmp_path / "l.zarr")
    copy.rename(tmp_path / "moved")
    refused(1, *command, "-o", tmp_path / "x")
    done(*command, "-o", tmp_path / "again.zarr", "--encoder", tmp_path / "moved")
    assert Memory.open(tmp_path / "again.zarr").digest == Memory.open(tmp_path / "m.zarr").digest
    assert not (tmp_path / "x").exists()


@pytest.fixture(scope="module")
def bound(road: Road, memory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bound") / "model"
    ran = done("tune-memory", road.tuned, road.split, memory, "-o", out, "--num-beams", 40)
    assert re.search(r"^ndcg@10 mixture +0\.\d{4}$", ran.out, re.MULTILINE), ran.out
    assert ran.last == f"next: sidtool evaluate {out} {road.split}"
    return out


def test_tune_memory_binds_the_memory_and_changes_no_weight(
    road: Road, memory: Path, bound: Path, tmp_path: Path
) -> None:
    contract = read_contract(bound)
    binding = contract.memory.to_json()
    unbound = read_contract(road.tuned)
    assert replace(contract, memory=None, files={}) == replace(unbound, files={})
    digests = {Memory.open(path).digest for path in (memory, bound / MEMORY_COPY)}
    assert digests == {binding["digest"]}
    before, after = tree(road.tuned), tree(bound)
    written = {"sid.json", "config.json", "README.md"}
    copied = {name for name in after if not name.startswith("memory.zarr/")} - written
    assert {name for name in copied if after[name] != before.get(name)} == set()
    assert contract.memory.split == read_split(road.split).reference
    values = binding["validation"]
    assert values["ndcg@10 mixture"] >= max(
        values["ndcg@10 candidates by model"], values["ndcg@10 candidates by memory"]
    )
    again = done("tune-memory", bound, road.split, memory, "-o", tmp_path / "again", "--json")
    assert again.json["digest"] == binding["digest"]


def test_a_model_that_is_replaced_meanwhile_is_not_bound(
    road: Road, memory: Path, bound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = shutil.copytree(road.tuned, tmp_path / "model")

    def choose_and_replace(*_: object) -> MemoryBinding:
        shutil.rmtree(model)
        shutil.copytree(bound, model)
        return MemoryBinding(Memory.open(memory).digest, 0.5, 1.0, {"users": 1.0})

    monkeypatch.setattr(memory_tuning, "choose_binding", choose_and_replace)
    error = refused(3, "tune-memory", model, road.split, memory, "-o", tmp_path / "x")
    assert "another model now than when the command began" in error
    assert not (tmp_path / "x").exists()


def test_recommend_uses_the_memory_of_the_contract(road: Road, memory: Path, bound: Path) -> None:
    history = ("--history", "b001,b002,b003", "--json")
    weight = json.loads((bound / "sid.json").read_text())["memory"]
    options = ("--memory", memory, "--memory-weight", weight["weight"])
    options = (*options, "--memory-power", weight["power"])
    answer = done("recommend", bound, *history).json
    assert answer == done("recommend", road.tuned, *history, *options).json
    alone = done("recommend", road.tuned, *history).json
    (in_python,) = sidtool.recommend(bound, [["b001", "b002", "b003"]], memory_weight=0)
    assert (list(in_python.items), list(in_python.scores)) == (alone["items"], alone["scores"])
    assert done("recommend", bound, *history, "--memory-weight", 0).json == alone
    explained = done("recommend", bound, *history, "--explain", "--memory-weight", 0.5).json
    assert len(explained["explanations"]) == len(explained["items"])
    table = done("recommend", bound, *history[:2], "--explain", "--memory-weight", 0.5).out
    reasons = {item for entry in explained["explanations"] for item in entry["because_of"]}
    bundle = open_bundle(road.bundle)
    assert any(bundle.title(item) in table.partition("because of")[2] for item in reasons)
    assert not any(item in table for item in reasons - set(explained["items"]))


def test_inspect_shows_the_metrics_of_the_memory(bound: Path) -> None:
    shown = done("inspect", bound).out
    values = json.loads((bound / "sid.json").read_text())["memory"]["validation"]
    assert values["users"] >= 10
    for name, value in values.items():
        spelled = f"{value:g}" if name == "users" else f"{value:.4f}"
        assert re.search(rf"^memory +{re.escape(name)} +{spelled} ", shown, re.MULTILINE), shown


def test_evaluate_takes_the_flags_of_the_memory(road: Road, bound: Path) -> None:
    evaluate = partial(sidtool.evaluate, bound, road.split, limit=5)
    options = evaluate(memory=sidtool.MemoryOptions(weight=0.5, power=2))
    keywords = evaluate(memory_weight=0.5, memory_power=2, device="cpu", dtype="float32")
    assert keywords.metrics == options.metrics
    with pytest.raises(UsageError, match="MemoryOptions and the keyword memory_weight"):
        evaluate(memory=sidtool.MemoryOptions(), memory_weight=0)


def test_evaluate_shows_the_parts(road: Road, bound: Path) -> None:
    command = ("evaluate", bound, road.split, "--num-beams", 20, "--exclude-seen")
    value = done(*command, "--memory-weight", 0.5, "--json").json
    assert {"model alone", "memory alone"} <= set(value["baselines"])
    assert value["settings"]["memory"]["weight"] == 0.5
    assert {"mean", "low", "high", "p_value"} == set(value["differences"]["model alone"]["hr@10"])


def test_memories_that_do_not_fit_are_refused(
    road: Road, memory: Path, bound: Path, tmp_path: Path
) -> None:
    history = ("--history", "b001,b002")
    other = tmp_path / "other.zarr"
    done("build-memory", road.split, road.other, "-o", other)
    error = refused(3, "recommend", road.tuned, *history, "--memory", other)
    assert "the memory was built for bundle" in error
    leaking = tmp_path / "leaking.zarr"
    done("split", road.events, "-o", tmp_path / "temporal", "--protocol", "temporal")
    done("build-memory", tmp_path / "temporal", road.bundle, "-o", leaking)
    for command in (
        ("evaluate", road.tuned, road.split, "--memory", leaking),
        ("tune-memory", road.tuned, road.split, leaking, "-o", tmp_path / "x"),
    ):
        assert "the memory was made from split" in refused(3, *command)
    level = tmp_path / "level"
    done("train", road.model, road.examples, "-o", level, *TRAINING, "--set", "softmax_over=level")
    assert "not the level" in refused(2, "recommend", level, *history, "--memory", memory)
    tune = ("tune-memory", level, road.split, memory, "-o", tmp_path / "x")
    error = refused(2, *tune)
    assert "not the level" in error
    # the option is of other commands
    assert "recommend, evaluate and serve leave the memory out with --memory-weight 0" in error
    assert not (tmp_path / "x").exists()
    refused(1, "recommend", road.tuned, *history, "--memory", road.bundle)
    refused(2, "recommend", bound, *history, "--memory-weight", 1.5)
    refused(2, "recommend", bound, *history, "--memory-power", 0)
    refused(2, "evaluate-task", bound, "title-to-sid", "--memory", memory)


@pytest.mark.slow
def test_later_stages_do_not_keep_the_memory(road: Road, bound: Path, tmp_path: Path) -> None:
    """Its weight was tuned for other weights; `rebind` changes none."""
    done("train", bound, road.examples, "-o", tmp_path / "next", *TRAINING)
    assert "memory" not in json.loads((tmp_path / "next/sid.json").read_text())
    done("rebind", bound, road.bundle, "-o", tmp_path / "rebound")
    assert "memory" in json.loads((tmp_path / "rebound/sid.json").read_text())
    done("recommend", tmp_path / "rebound", "--history", "b001")


@pytest.fixture(scope="module")
def reranked(bound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model with its memory and a re-ranker."""
    contract = read_contract(bound)
    memory = Memory.open(bound / MEMORY_COPY)
    assert contract.memory is not None
    fitted = random_reranker(memory.manifest, strength=0.5)
    out = tmp_path_factory.mktemp("reranked") / "model"
    bind_memory(bound, memory, replace(contract.memory, weight=0.4, reranker=fitted), out)
    assert read_contract(out).memory.reranker == fitted
    return out


def test_a_re_ranker_orders_recommendations_unless_it_is_left_out(
    road: Road, reranked: Path
) -> None:
    history = ("--history", "b001,b002,b003", "-k", 60, "--num-beams", 60, "--json")
    plain = done("recommend", reranked, *history, "--no-rerank").json
    ordered = done("recommend", reranked, *history).json
    assert ordered["items"] != plain["items"]
    assert sorted(ordered["items"]) == sorted(plain["items"])
    assert sorted(ordered["scores"]) == sorted(plain["scores"])
    explained = done("recommend", reranked, *history, "--explain").json["explanations"]
    assert any(part.get("raised_by") for part in explained)
    assert "raised by" in done("recommend", reranked, *history[:-1], "--explain").out
    measured = done("evaluate", reranked, road.split, "--json").json
    assert list(measured["baselines"])[:3] == ["mixture", "model alone", "memory alone"]
    assert "mixture" not in done("evaluate", reranked, road.split, "--no-rerank", "--json").json


def test_a_plan_counts_the_items_that_the_memory_has(road: Road, tmp_path: Path) -> None:
    bundle = retire(road.bundle, tmp_path / "child.zarr", "b000")
    command = ("build-memory", road.split, bundle, "-o", tmp_path / "m.zarr", "--json")
    assert done(*command, "--dry-run").json["items"] == done(*command).json["items"]


def test_a_plan_is_that_of_an_earlier_memory(road: Road, tmp_path: Path) -> None:
    earlier = tmp_path / "earlier.zarr"
    build(road, earlier, "--embeddings", road.vectors)
    more = ("-o", tmp_path / "m.zarr", "--earlier", earlier, "--dry-run")
    plan = done("build-memory", road.split, road.bundle, *more)
    assert f"with the settings of {earlier}, at" in plan.err
    refusal = "compares the items' vectors"
    assert refusal in refused(2, "build-memory", road.split, road.other, *more)
    command = ("build-memory", road.split, road.other, *more)
    done(*command, "--content-weight", 0)
    done(*command, "--embeddings", road.folder / "other.npy")
    tuned = build(road, tmp_path / "m.zarr", "--tune", "--dry-run")
    assert "with tuned settings, at" in tuned.err


def test_a_choice_on_other_users_is_refused_before_texts_are_embedded(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    build(road, Path("tuned.zarr"), "--tune", "--users", 5)
    done("split", road.events, "-o", "other", "--protocol", "temporal")
    monkeypatch.setattr(tokenizer, "item_vectors", Mock(side_effect=AssertionError))
    vectors = ("--embeddings", road.vectors)
    command = ("build-memory", "other", road.bundle, "-o", "m.zarr", "--earlier", "tuned.zarr")
    for more in ((), ("--dry-run",)):
        assert "the tuned earlier memory was made" in refused(3, *command, *vectors, *more)


def test_a_plan_keeps_the_parts_of_an_interrupted_run(road: Road, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    part = tmp_path / "m.zarr.pairs.partial" / "counts"
    part.parent.mkdir()
    part.touch()
    ran = build(road, tmp_path / "m.zarr", "--engine", "ray", "--dry-run")
    assert "would build a memory of 60 items" in ran.err
    assert part.exists()
