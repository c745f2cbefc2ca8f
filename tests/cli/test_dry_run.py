import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidtool.cli.main import app
from sidtool.data.split.files import open_split
from sidtool.model.contract import StageRecord, read_contract, write_contract
from sidtool.registry.references import open_bundle
from tests.cli.road import TINY, Road, done, refused, tree
from tests.hostile.writing_commands import light_commands, light_inputs, writing_command_names

Words = tuple[object, ...]

WITHOUT = {"check", "recommend", "report", "tag"}
"""A dry run of these would say nothing that the command does not say."""
LIGHT = sorted(
    name for name in light_commands(Path("inputs")) if name.partition(" ")[0] not in WITHOUT
)
MODELS = ("rebind", "refresh", "refresh on events", "tune-memory", "rl")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    light_inputs(folder)
    return folder


@pytest.fixture(scope="module")
def commands(road: Road, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Words]:
    """The words of the commands that read a trained model, without their output."""
    folder = tmp_path_factory.mktemp("models")
    done("build-memory", road.split, road.bundle, "-o", folder / "memory.zarr")
    shutil.copytree(road.tuned, folder / "mixed")
    contract = replace(read_contract(road.tuned), normalize="trie")
    write_contract(folder / "mixed", contract, open_bundle(road.bundle))
    return {
        "rebind": ("rebind", road.tuned, road.bundle),
        "refresh": ("refresh", road.tuned, road.bundle),
        "refresh on events": ("refresh", road.tuned, road.bundle, road.split),
        "tune-memory": ("tune-memory", folder / "mixed", road.split, folder / "memory.zarr"),
        "rl": ("rl", folder / "mixed", road.examples),
    }


def plan_of(*words: object) -> dict[str, Any]:
    """The plan of a command; its text has the output."""
    value: dict[str, Any] = done(*words, "--dry-run", "--json").json
    return value


def both_refuse(code: int, *words: object) -> str:
    """The error of a command, which its dry run must have too."""
    error = refused(code, *words)
    assert refused(code, *words, "--dry-run") == error
    return error


def test_commands_that_write_have_a_dry_run() -> None:
    having = {
        str(command.name)
        for command in app.registered_commands
        if command.callback is not None and "dry_run" in command.callback.__annotations__
    }
    assert writing_command_names() - having == WITHOUT


@pytest.mark.parametrize("name", LIGHT)
def test_a_dry_run_writes_nothing(inputs: Path, tmp_path: Path, name: str) -> None:
    writing = light_commands(inputs)[name]
    before = tree(inputs)
    assert len(plan_of(*writing.line(tmp_path))) > 2
    assert (tree(inputs), list(tmp_path.iterdir())) == (before, [])
    if writing.older:
        (tmp_path / writing.out).mkdir()
        assert "--force" in refused(2, *writing.line(tmp_path))
        if name != "make-sft":  # which counts examples, whatever is there
            assert "--force" in refused(2, *writing.line(tmp_path), "--dry-run")


@pytest.mark.parametrize("name", MODELS)
def test_dry_runs_write_no_model(commands: dict[str, Words], tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    plan = plan_of(*commands[name], "-o", out)
    assert (plan["dry_run"], plan["model"]) == (True, str(out))
    ran = done(*commands[name], "-o", out, "--dry-run")
    assert (ran.out, list(tmp_path.iterdir())) == ("", [])
    assert ran.err.startswith("would ")
    out.mkdir()
    assert "--force" in both_refuse(2, *commands[name], "-o", out)


def test_models_are_planned(road: Road, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "out")
    plan = plan_of("init-model", road.items, *out, *TINY)
    assert (plan["vocab_size"], plan["configuration"]["n_layer"]) == (4096, 1)
    plan = plan_of("extend-model", road.base, road.bundle, *out)
    assert (plan["tokens"], plan["base"]) == (18, str(road.base))
    foreign = shutil.copytree(road.foreign, tmp_path / "foreign")
    (foreign / "generation_config.json").write_text('{"top_k": 3}')
    adopt = ("adopt", foreign, road.foreign_map, *out, "--preset", "lc-rec", "--dry-run")
    assert "warning: generation_config.json has top_k" in done(*adopt).err
    assert not (tmp_path / "out").exists()


def test_a_plan_counts_what_would_be_read(
    road: Road, inputs: Path, commands: dict[str, Words], tmp_path: Path
) -> None:
    light = {name: case.line(tmp_path) for name, case in light_commands(inputs).items()}
    split = open_split(inputs / "split")
    n_events = sum(len(user.items) for user in split.train)
    assert plan_of(*light["import"])["items"] == plan_of(*light["export openonerec"])["items"] == 60
    assert plan_of(*light["build-memory"])["train_events"] == n_events
    built = plan_of(*light["build-codebook"])
    assert (built["items"], built["options"]["sizes"]) == (60, [4, 4, 8])
    assert "4x4x8 for 60 items" in done(*light["build-codebook"], "--dry-run").err
    pulled = plan_of(*light["pull"])
    shop = {name: len(data) for name, data in tree(inputs / "shop.zarr").items()}
    assert (pulled["kind"], pulled["version"], pulled["objects"]) == ("bundle", "1.0", len(shop))
    assert pulled["bytes"] == sum(shop.values()) - shop["zarr.json"]
    aligned = plan_of(*light["align"])
    assert aligned["after"][0] >= aligned["before"][0]
    out = ("-o", tmp_path / "out")
    assert plan_of(*commands["tune-memory"], *out)["examples"] == len(split.valid)
    refreshed = plan_of(*commands["refresh on events"], *out)
    assert (refreshed["bundle"], refreshed["tasks"]) == ("same", {"sequence": 1.0})
    assert refreshed["settings"]["num_train_epochs"] == pytest.approx(0.2)
    assert "would write" in done(*commands["refresh"], *out, "--dry-run").err
    model = shutil.copytree(road.tuned, tmp_path / "budgeted")
    contract = read_contract(model)
    params = replace(contract.params, options=contract.params.options | {"token_budget": 20000})
    stage = StageRecord("full", params)
    write_contract(model, contract.with_stage(stage), open_bundle(road.bundle))
    budgeted = done("refresh", model, road.bundle, road.split, *out, "--dry-run")
    assert "'token_budget': 4000}" in budgeted.err
    assert plan_of(*commands["rebind"], *out)["kind"] == "same"


def test_a_codebook_that_cannot_be_built_is_not_planned(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = ("build-codebook", inputs / "items.jsonl", "-o", tmp_path / "out.zarr")
    command = (*build, "--embeddings", inputs / "vectors.npy")
    none = both_refuse(1, *build, "--embeddings", tmp_path / "none.npy", "--levels", "4x4x8")
    assert "none.npy does not exist" in none
    both_refuse(2, *command, "--levels", "4x4x8", "--memory-limit", "1B")
    both_refuse(2, *build, "--embeddings", f"{inputs / 'vectors.npy'}=-1", "--levels", "4x4x8")
    assert "2x2x2" in both_refuse(2, *command, "--levels", "2x2x2")
    allowed = (*command, "--levels", "2x2x2", "--collisions", "allow")
    assert plan_of(*allowed)["items"] == 60
    monkeypatch.setattr("sidtool.data.vectors.MIN_ROWS", 1)
    two = (*command, *command[-2:], "--levels", "4x4x8")
    assert "60 vectors are fused in memory" in both_refuse(2, *two, "--memory-limit", "4kB")


def test_a_memory_that_cannot_be_built_is_not_planned(inputs: Path, tmp_path: Path) -> None:
    build = ("build-memory", inputs / "split", inputs / "shop.zarr", "-o", tmp_path / "memory.zarr")
    vectors = ("--embeddings", inputs / "vectors.npy")
    assert "given vectors" in both_refuse(3, *build, "--items", inputs / "items.jsonl")
    both_refuse(1, *build, "--embeddings", tmp_path / "none.npy")
    assert plan_of(*build, *vectors)["items"] == 60
