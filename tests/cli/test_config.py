import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import sidtool
from sidtool.cli.main import app
from sidtool.tokenizer.bundle import Bundle
from tests.cli.road import Road, done, interrupt, make_sft, refused, run


def built(road: Road, out: Path) -> tuple[object, ...]:
    return ("build-codebook", road.items, "-o", out, "--embeddings", road.vectors)


@pytest.mark.parametrize(
    ("flag", "variable", "file", "sizes"),
    [
        ("4x4x9", "4x4x5", "4x4x6", (4, 4, 9)),
        (None, "4x4x5", "4x4x6", (4, 4, 5)),
        (None, None, "4x4x6", (4, 4, 6)),
        ("4x4x9", None, "4x4x6", (4, 4, 9)),
        ("4x4x9", "4x4x5", None, (4, 4, 9)),
    ],
)
def test_flags_override_the_environment_which_overrides_the_file(
    road: Road, tmp_path: Path, flag: str | None, variable: str | None, file: str | None, sizes: Any
) -> None:
    command, env = [*built(road, tmp_path / "b.zarr")], {}
    if flag:
        command += ["--levels", flag]
    if variable:
        env["SIDTOOL_BUILD_CODEBOOK_LEVELS"] = variable
    if file:
        (tmp_path / "c.yaml").write_text(f"levels: {file}\n")
        command += ["--config", tmp_path / "c.yaml"]
    done(*command, env=env)
    assert Bundle.open(tmp_path / "b.zarr").space.sizes == sizes


def test_a_file_names_options_with_either_dash_and_holds_flags(road: Road, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    columns = "id-column: item_id\ntitle_column: title\n"
    config.write_text(f"levels: 4x4x8\n{columns}begin_end_tokens: false\njson: true\nseed: 3\n")
    ran = done(*built(road, tmp_path / "b.zarr"), "--config", config)
    bundle = Bundle.open(tmp_path / "b.zarr")
    assert ran.json["digest"] == bundle.identity.digest
    assert bundle.space.begin is None
    assert bundle.codebook.params.fit["seed"] == 3


def test_options_that_repeat_are_lists_or_mappings_in_a_file(road: Road, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("task: {next-item: 1, title-to-sid: 0.5}\nhistory_length: 3\n")
    command = make_sft(road, tmp_path / "train.jsonl", "--json")
    lineage = done(*command, "--config", config, "--dry-run").json
    assert lineage["task_weights"] == {"next-item": 1.0, "title-to-sid": 0.5}
    assert lineage["history_length"] == 3
    for task in ("[next-item=1]", "next-item=1"):
        config.write_text(f"task: {task}\nformat: plain\n")
        lineage = done(*command, "--config", config, "--dry-run").json
        assert (lineage["task_weights"], lineage["example_format"]) == ({"next-item": 1.0}, "plain")


def test_a_file_names_options_as_the_flags_do(road: Road, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    shape = "{n_layer: 1, n_embd: 16, n_head: 2}"
    config.write_text(f"preset: gpt2-tiny\nset: {shape}\nvocab-size: 300\n")
    done("init-model", road.items, "-o", tmp_path / "m", "--config", config)
    weights, expected = (folder / "model.safetensors" for folder in (tmp_path / "m", road.base))
    assert weights.read_bytes() == expected.read_bytes()
    config.write_text("fail-under: {hr@50: 2.0}\n")
    ran = run("evaluate", road.tuned, road.split, "--config", config)
    assert (ran.code, "hr@50" in ran.last) == (3, True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("levls: 4x4x8\n", "has no option 'levls'"),
        ("- levels\n", "must have a mapping"),
        ("levels: [\n", "cannot be read"),
        ("levels: 4x4x8\nwidth: 3\n", "has no option 'width'"),
        ("levels: [4, 4, 8]\n", "--levels takes one value, not a list"),
        ("levels: {a: 2021-01-01}\n", "--levels takes one value, not a dict"),
        ("seed: 1\nseed: 2\n", "the key 'seed' occurs twice"),
        ("id-column: a\nid_column: b\n", "the option 'id_column' occurs twice"),
        ("seed: 2021-13-45\n", "should be a valid integer"),
        ("[" * 3000, "too deep"),
        ("set: &a [*a]\n", "cannot be read"),
        ('interactions: ""\n', "c.yaml: --interactions is empty"),
    ],
)
def test_unknown_options_are_exit_2(road: Road, tmp_path: Path, content: str, message: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(content)
    assert message in refused(2, *built(road, tmp_path / "b.zarr"), "--config", config)
    assert not (tmp_path / "b.zarr").exists()


def test_an_empty_value_of_a_file_may_be_replaced(road: Road, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text('encoder: ""\nembeddings: ["", a.npy]\n')
    command = ("build-codebook", road.items, "-o", tmp_path / "b.zarr", "--config", config)
    words = (*command, "--levels", "4x4x8", "--dry-run")
    assert "c.yaml: --embeddings is empty" in refused(2, *words, "--encoder", "lexical")
    config.write_text('encoder: ""\n')
    assert "c.yaml: --encoder is empty" in refused(2, *words)
    assert done(*words, "--encoder", "lexical").code == 0
    assert "--encoder is empty" in refused(2, *words, "--encoder", "")
    assert done(*words, env={"SIDTOOL_BUILD_CODEBOOK_ENCODER": "lexical"}).code == 0


def test_a_variable_of_the_name_version_does_not_stop_a_command(road: Road) -> None:
    assert done("verify", road.bundle, "--json", env={"SIDTOOL_VERSION": "1"}).json["ok"]


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    from sidtool.base.errors import DataError

    with pytest.raises(DataError):
        run("inspect", tmp_path / "none.zarr", env={"SIDTOOL_DEBUG": "1"})


@pytest.mark.parametrize("value", ["[~, u1]", "[[u1]]", "[{u1: 1}]"])
def test_a_list_in_a_file_has_values_only(road: Road, tmp_path: Path, value: str) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"user: {value}\n", encoding="utf-8")
    command = ("recommend", road.tuned, "--events", road.events, "--config", config)
    assert "--user takes a list of values, not" in refused(2, *command)


def test_every_option_has_a_variable_of_its_long_flag() -> None:
    """Not of its name in Python: SIDTOOL_RECOMMEND_LIST_ would be one."""
    commands: Any = get_command(app)
    for name, command in commands.commands.items():
        for parameter in command.params:
            flags = [flag for flag in parameter.opts if flag.startswith("--")]
            if flags and parameter.name != "help":
                expected = f"SIDTOOL_{name}_{flags[0][2:]}".replace("-", "_").upper()
                assert parameter.envvar == expected


def test_ids_in_a_file_are_texts(road: Road, tmp_path: Path) -> None:
    """YAML reads 00123 as the octal number 83, which another user may be named."""
    events = tmp_path / "events.csv"
    rows = [("00123", "b001"), ("00123", "b002"), ("83", "b003"), ("83", "b004"), ("yes", "b005")]
    lines = [f"{user},{item},{time}" for time, (user, item) in enumerate(rows)]
    events.write_text("\n".join(["user_id,item_id,timestamp", *lines]) + "\n", encoding="utf-8")
    config = tmp_path / "c.yaml"
    config.write_text("user: [00123, yes]\nexclude-seen: true\n", encoding="utf-8")
    ran = done("recommend", road.tuned, "--events", events, "--config", config, "--json")
    assert [json.loads(line)["user"] for line in ran.out.splitlines()] == ["00123", "yes"]


def test_an_interrupted_training_says_that_the_same_command_goes_on(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidtool.training.train_stages", interrupt)
    command = ("train", road.model, road.examples, "-o", tmp_path / "tuned")
    (tmp_path / "tuned2.partial").mkdir()  # of another output
    ran = run(*command)
    assert (ran.code, ran.out, ran.err) == (130, "", "interrupted\n")
    checkpoint = tmp_path / "tuned-1-lora.partial" / "checkpoint-4"
    checkpoint.mkdir(parents=True)
    ran = run(*command)
    assert (ran.code, ran.out) == (130, "")
    assert ran.err == f"interrupted: the same command continues from {checkpoint}\n"


def test_an_interrupted_command_that_resumes_by_an_option_names_it(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidtool.recommendation.recommend_to_file", interrupt)
    work = tmp_path / "out.jsonl.partial"
    work.mkdir()
    command = ("recommend", road.model, "--events", road.events, "--all-users", "-o")
    ran = run(*command, tmp_path / "out.jsonl")
    assert (ran.code, ran.err) == (130, "interrupted\n")  # as a killed `make-sft` leaves it
    (work / "run.json").touch()
    ran = run(*command, tmp_path / "out.jsonl")
    unfinished = f"{work} has the unfinished work; the same command with --resume continues it"
    assert (ran.code, ran.err) == (130, f"interrupted: {unfinished}\n")


def test_the_module_is_the_command() -> None:
    line = [sys.executable, "-m", "sidtool"]
    shown = subprocess.run([*line, "--version"], capture_output=True, text=True, check=True)
    assert (shown.stdout, shown.stderr) == (f"sidtool {sidtool.__version__}\n", "")
    failed = subprocess.run([*line, "verify", "none.zarr"], capture_output=True, check=False)
    assert failed.returncode == 1
