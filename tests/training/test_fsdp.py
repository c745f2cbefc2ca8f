"""FSDP2 over two ranks trains as one process does, and either resumes what the other began.

Every case runs in one launch of two ranks and in one process, since the imports cost more than the
runs."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sidtool.base.documents import parse_yaml
from sidtool.base.errors import UsageError
from sidtool.model.contract.folder import read_contract, verify_model
from sidtool.training.loop.machine import check_active, check_fsdp, wants_fsdp
from tests.doc_blocks import ROOT
from tests.training.runs import ENVIRONMENT, OFTEN, Make, history

PROGRAM = """
import json
import sys
from pathlib import Path

import torch

torch.set_num_threads(1)
from tests.fsdp_on_cpu import allow_fsdp_on_cpu

allow_fsdp_on_cpu()
from sidtool.training.loop.watched import ProgressCallback
from sidtool.training.training import train


class Killed(Exception):
    pass


def run(case, out, stop=None):
    def on_step_end(self, args, state, control, **others):
        if state.global_step == stop:
            raise Killed

    ProgressCallback.on_step_end = on_step_end
    examples = Path(shared["examples"])
    fields = {**shared["fields"], **case["fields"]}
    fields = {name: value for name, value in fields.items() if value is not None}
    fields["per_device_train_batch_size"] //= shared["ranks"]
    settings = {**fields, **shared["options"], **case["options"]}
    valid, teachers = examples.with_name("valid.jsonl"), case.get("teachers", ())
    return train(case["base"], examples, out, valid=valid, teachers=teachers, **settings)


shared = json.loads(Path(sys.argv[1]).read_text())
out = Path(shared["out"])
for name, case in shared["cases"].items():
    run(case, out / name)
for name, folder in shared["begun"]:
    try:
        run(shared["cases"][name], Path(folder), stop=3)
    except Killed:
        pass
for name, folder in shared["resumed"]:
    summary = run(shared["cases"][name], Path(folder))
    assert summary.resumed_from == "checkpoint-2", summary
"""
COMMAND_LINE = """
from tests.fsdp_on_cpu import allow_fsdp_on_cpu

allow_fsdp_on_cpu()
from sidtool.__main__ import main

main()
"""
EXAMPLE = ROOT / "examples" / "fsdp" / "accelerate.yaml"
FIELDS = {**OFTEN, "max_steps": 4, "optim": "sgd", "learning_rate": 0.3, "logging_steps": 1}
FIELDS |= {"per_device_train_batch_size": 16, "save_steps": 2, "eval_steps": 2}
OPTIONS = {"eval_users": 10, "eval_num_beams": 10}
UNTIED = {"tied": False}


def case(
    base: str, made_with: Mapping[str, Any] | None = None, *, fields: Any = None, **options: Any
) -> dict[str, Any]:
    """A training of a model with these settings."""
    return {"base": (base, made_with or {}), "fields": fields or {}, "options": options}


CASES: Mapping[str, Mapping[str, Any]] = {
    "full": case("gpt2"),
    # Adam enlarges the order of addition where a gradient is nearly 0
    "adamw": case("llama", UNTIED, fields={"optim": "adamw_torch_fused", "learning_rate": 3e-3}),
    "embeddings": case("gemma3", stage="embeddings"),
    "untied embeddings": case("llama", UNTIED, stage="embeddings"),
    "lora": case("llama", UNTIED, fields={"gradient_checkpointing": True}, stage="lora"),
    "muon": case("gpt2", fields={"optim": None, "learning_rate": 3e-3}, optimizer="muon"),
    "taught": {
        **case("gpt2", softmax_over="trie", distill_weight=0.4),
        "fields": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 8},
        "teachers": [("llama", UNTIED)],
    },
    "bf16": case("llama", UNTIED, fields={"bf16": True}),
    "bf16 lora": case("llama", UNTIED, fields={"bf16": True}, stage="lora"),
    "encoder-decoder": case("t5"),
    "encoder-decoder embeddings": case("bart", stage="embeddings"),
    "encoder-decoder lora": case("t5", stage="lora"),
    "untied encoder-decoder": case("bart", UNTIED),
}
# in bfloat16 FSDP2 casts all weights, where one process has autocast
TOLERANCES = {"adamw": 1e-4, "muon": 1e-3, "bf16": 0.05, "bf16 lora": 0.05}
KILLED = ("adamw", "embeddings", "lora")
"""Cases that two ranks also begin twice, to be resumed by two and by one."""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory, models: Make, examples: Make) -> Path:
    """A folder with what two ranks and one process wrote."""
    folder = tmp_path_factory.mktemp("fsdp")
    program = folder / "run.py"
    program.write_text(PROGRAM)
    cases = {}
    for name, case in CASES.items():
        made = {"base": str(models(case["base"][0], **case["base"][1]))}
        if "teachers" in case:
            made["teachers"] = [str(models(kind, **extra)) for kind, extra in case["teachers"]]
        cases[name] = {**case, **made}
    by_two = [(name, str(folder / "by two" / name)) for name in KILLED]
    by_one = [(name, str(folder / "by one" / name)) for name in KILLED]
    common = {"examples": str(examples(sequence=1.0)), "options": OPTIONS, "cases": cases}
    two_ranks = {"out": str(folder / "two"), "ranks": 2, "fields": {**FIELDS, "fsdp": True}}
    two_ranks |= {"begun": by_two + by_one, "resumed": by_two}
    one_rank = {"out": str(folder / "one"), "ranks": 1, "fields": FIELDS}
    one_rank |= {"begun": [], "resumed": by_one}
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--standalone"]
    for number, (command, settings) in enumerate(((launcher, two_ranks), ([], one_rank))):
        path = folder / f"{number}.json"
        path.write_text(json.dumps(common | settings))
        line = [sys.executable, *command, str(program), str(path)]
        subprocess.run(line, check=True, env=ENVIRONMENT)
    return folder


def curve(folder: Path) -> dict[str, list[float]]:
    """Losses, norms of gradients and metrics of a training, in their order."""
    keys = ("loss", "grad_norm", "eval_hr@10", "eval_ndcg@10")
    return {key: [entry[key] for entry in history(folder) if key in entry] for key in keys}


def values(folder: Path) -> dict[str, torch.Tensor]:
    (path,) = folder.glob("*.safetensors")
    return dict(load_file(path))


def check_same_training(folder: Path, expected: Path, tolerance: float) -> None:
    """Check that a complete model of the same training is in both folders."""
    for key, numbers in curve(expected).items():
        assert curve(folder)[key] == pytest.approx(numbers, abs=tolerance), key
    assert len(curve(folder)["loss"]) == FIELDS["max_steps"]
    wanted, actual = values(expected), values(folder)
    assert actual.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(actual[name], value, atol=tolerance, rtol=10 * tolerance)
    assert {path.name for path in folder.iterdir()} == {path.name for path in expected.iterdir()}
    assert verify_model(str(folder)) == []
    assert not folder.with_name(f"{folder.name}.partial").exists()
    best, expected_best = (read_contract(path).params.best for path in (folder, expected))
    assert best.value == pytest.approx(expected_best.value, abs=tolerance)


def configured(**changed: Any) -> Any:
    """The configuration of a trainer on two processes, as far as FSDP concerns it."""
    plain = {"fsdp_plugin_args": None, "world_size": 2, "optim": "adamw_torch_fused"}
    return SimpleNamespace(**{**plain, **changed})


SHARDS = {"fsdp_version": 2, "state_dict_type": "FULL_STATE_DICT"}


@pytest.mark.parametrize(
    ("plugin", "changed", "message"),
    [
        ({}, {"world_size": 1}, "and this is one"),
        ({}, {"optim": "adafactor"}, "optim=adafactor cannot be combined"),
        ({"fsdp_version": 1}, {}, "fsdp_version: 1 is"),
        ({"state_dict_type": "SHARDED_STATE_DICT"}, {}, "state_dict_type: SHARDED_STATE_DICT is"),
        ({"cpu_ram_efficient_loading": True}, {}, "fsdp_cpu_ram_efficient_loading: true is"),
        ({"cpu_offload": True}, {}, "fsdp_offload_params: true is"),
        ({"activation_checkpointing": True}, {}, "fsdp_activation_checkpointing: true is"),
    ],
)
def test_what_fsdp_cannot_train_is_refused(
    plugin: dict[str, Any], changed: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")  # accelerate sets it
    arguments = configured(**{"fsdp_plugin_args": {**SHARDS, **plugin}, **changed})
    assert wants_fsdp(arguments)
    check_fsdp(configured(fsdp_plugin_args=SHARDS))
    with pytest.raises(UsageError, match=message):
        check_fsdp(arguments)


def test_the_configuration_of_accelerate_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = configured()
    assert not wants_fsdp(arguments)
    check_fsdp(configured(world_size=1, optim="adafactor"))
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    monkeypatch.setenv("FSDP_VERSION", "2")
    monkeypatch.setenv("FSDP_STATE_DICT_TYPE", "FULL_STATE_DICT")
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")
    assert wants_fsdp(arguments)
    check_fsdp(arguments)
    monkeypatch.setenv("FSDP_VERSION", "1")
    with pytest.raises(UsageError, match="fsdp_version: 1 is not supported"):
        check_fsdp(arguments)
    # as accelerate launch gives the file of the example to each process
    example = parse_yaml(EXAMPLE.read_text(encoding="utf-8"))
    for key, value in example["fsdp_config"].items():
        monkeypatch.setenv(key.upper(), value if isinstance(value, str) else str(value).lower())
    check_fsdp(arguments)


def test_fsdp_on_a_cpu_is_refused() -> None:
    arguments = configured(fsdp_plugin_args=SHARDS, device="cpu")
    check_active(arguments, SimpleNamespace(is_fsdp2=True))
    with pytest.raises(UsageError, match="accelerate leaves it out on cpu"):
        check_active(arguments, SimpleNamespace(is_fsdp2=False))


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_train_divided_weights_as_one_process_does(
    outputs: Path, models: Make, name: str
) -> None:
    check_same_training(outputs / "two" / name, outputs / "one" / name, TOLERANCES.get(name, 1e-5))
    architecture, made_with = CASES[name]["base"]
    stage = CASES[name]["options"].get("stage", "full")
    assert read_contract(outputs / "two" / name).stages[-1].stage == stage
    start = values(models(architecture, **made_with))
    trained = values(outputs / "two" / name)
    if stage == "embeddings":
        ids = read_contract(outputs / "two" / name).added_ids
        moved = {
            key: (trained[key] != value).reshape(len(value), -1).any(-1).nonzero()[:, 0].tolist()
            for key, value in start.items()
        }
        weights = [rows for rows in moved.values() if rows]
        assert len(weights) == (2 if made_with else 1)
        assert all(set(rows) <= set(ids) for rows in weights)


@pytest.mark.slow
@pytest.mark.parametrize("name", KILLED)
@pytest.mark.parametrize("by", ["by two", "by one"])
def test_what_two_ranks_began_is_resumed(outputs: Path, name: str, by: str) -> None:
    check_same_training(outputs / by / name, outputs / "one" / name, TOLERANCES.get(name, 1e-5))
    if by == "by two":  # the same order of additions
        for key, value in values(outputs / "two" / name).items():
            assert torch.equal(values(outputs / by / name)[key], value)


@pytest.mark.slow
def test_the_command_line_trains_by_the_configuration_of_the_example(
    tmp_path: Path, outputs: Path, models: Make, examples: Make
) -> None:
    program = tmp_path / "program.py"
    program.write_text(COMMAND_LINE)
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(EXAMPLE)]
    launcher += ["--num_processes", "2", "--main_process_port", "29549", str(program)]
    words = ["train", str(models("gpt2")), str(examples(sequence=1.0)), "-o", str(tmp_path / "out")]
    settings = {**FIELDS, **OPTIONS, "per_device_train_batch_size": 8}
    for key, value in settings.items():
        words += ["--set", f"{key}={value}"]
    subprocess.run([sys.executable, *launcher, *words], check=True, env=ENVIRONMENT)
    check_same_training(tmp_path / "out", outputs / "one" / "full", 1e-5)
