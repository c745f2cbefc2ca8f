import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from sidtool.tokenizer.bundle import Bundle
from tests.cli.road import N_USERS, TRAINING, Road, done, make_sft, rated, refused, train, tree
from tests.training.test_dry_run import EDITS, edited

SIDE = ("valid.jsonl", "train.jsonl.meta.json")


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_make_sft_writes_examples_and_lineage(road: Road) -> None:
    said = road.said["make-sft"]
    assert said.last == f"next: sidtool train {road.model} {road.examples} -o OUT"
    assert f"(leave-one-out): {N_USERS} validation examples; 0 held-out events" in said.out
    for name in SIDE:
        assert (road.folder / name).stat().st_size
    lineage = json.loads((road.folder / "train.jsonl.meta.json").read_text())
    assert lineage["split"]["protocol"] == "leave-one-out"
    assert lineage["task_weights"] == {"sequence": 1.0}
    space = Bundle.open(road.bundle).space
    for row in lines_of(road.valid):
        assert row["item"].startswith("b")
        assert not list(space.find(json.dumps(row)))  # items, never SIDs


def test_json_is_the_lineage_and_a_dry_run_writes_nothing(road: Road, tmp_path: Path) -> None:
    out = ("-o", tmp_path / "train.jsonl", "--model", road.model)
    command = ("make-sft", road.zipped, road.items, road.events, *out)
    dry = done(*command, "--dry-run", "--json")
    assert list(tmp_path.iterdir()) == []
    assert f"nothing written to {tmp_path / 'train.jsonl'}" in dry.err
    said = done(*command, "--json").json
    assert said["files"]["train.jsonl"]
    stored = json.loads((tmp_path / "train.jsonl.meta.json").read_text())
    assert stored.pop("sha256")
    assert said == stored
    for name in ("train.jsonl", "valid.jsonl"):  # the same examples, out of a zip
        assert (tmp_path / name).read_bytes() == (road.folder / name).read_bytes()


def test_a_column_of_the_events_weights_the_examples(road: Road, tmp_path: Path) -> None:
    out = tmp_path / "train.jsonl"
    split = tmp_path / "rated"
    events = rated(road.events, tmp_path / "rated.csv")
    said = done("split", events, "-o", split, "--feedback", "rating")
    assert "rating:int" in said.out
    weighted = ("--weight", "exp(rating/2)", "--weight-clip", "4")
    said = done("make-sft", road.bundle, road.items, split, "-o", out, *weighted)
    assert "weight exp(rating/2): 1.65 to 4, mean " in said.out
    assert all(isinstance(row["weight"], list) for row in lines_of(out))
    made = ("make-sft", road.bundle, road.items, road.split, "-o", out, "--force")
    assert "the split has no feedback 'rating', it has none" in refused(2, *made, *weighted)


def test_train_prints_its_summary_and_the_next_command(road: Road) -> None:
    said = road.said["train"]
    assert said.last == f"next: sidtool evaluate {road.tuned} SPLIT"
    message = dict(line.split(": ", 1) for line in said.out.splitlines())
    assert (message["steps"], message["metric"]) == ("3", "ndcg@10")
    contract = json.loads((road.tuned / "sid.json").read_text())
    assert contract["stages"][-1]["stage"] == "full"
    assert contract["history_prompt"]["task"] == "sequence"
    assert not (road.folder / "tuned.partial").exists()
    before, after = (load_file(folder / "model.safetensors") for folder in (road.model, road.tuned))
    assert any(not np.array_equal(before[name], after[name]) for name in before)


def test_an_existing_model_is_refused_and_a_plan_writes_nothing(road: Road, tmp_path: Path) -> None:
    before = tree(road.tuned)
    for more in ((), ("--dry-run",)):
        assert "--force" in refused(2, *train(road, road.tuned, *more))
    assert tree(road.tuned) == before
    ran = done(*train(road, tmp_path / "new", "--dry-run", *TRAINING))
    assert (ran.out, list(tmp_path.iterdir())) == ("", [])
    broken = edited(EDITS["too few weights"], road.examples, tmp_path / "sft")
    message = refused(1, "train", road.model, broken, "-o", tmp_path / "new", "--dry-run")
    assert "an example has 2 weights and 3 SIDs" in message
    config = tmp_path / "stages.yaml"
    config.write_text("stages: [{stage: embeddings}, {stage: full}]\n")
    lines = done(*train(road, tmp_path / "new", "--dry-run", "--config", config)).err
    first = tmp_path / "new-1-embeddings"
    assert f"output {first}\nwould train {first} on" in lines


def test_stages_of_one_configuration_are_trained_and_merged(road: Road, tmp_path: Path) -> None:
    config = tmp_path / "stages.yaml"
    config.write_text(
        "num_train_epochs: 1\nper_device_train_batch_size: 16\neval_users: 8\n"
        "stages:\n  - {stage: embeddings, learning_rate: 1e-2}\n  - {stage: lora, lora_r: 2}\n"
    )
    command = train(road, tmp_path / "out", "--config", config)
    ran = done(*command, "--json")
    assert [summary["stage"] for summary in ran.json["stages"]] == ["embeddings", "lora"]
    for summary in ran.json["stages"]:
        assert {"tokens", "targets", "tokens_per_second", "peak_rss_gib"} <= summary.keys()
    lines = [line for line in ran.err.splitlines() if " starts from " in line]
    assert [line.split()[0] for line in lines] == ["embeddings", "lora"]
    assert str(tmp_path / "out-1-embeddings") in lines[1]
    assert "already" in refused(2, *command)
    plain = tmp_path / "plain"
    assert done("merge", tmp_path / "out", "-o", plain, "--dry-run").out == ""
    merged = done("merge", tmp_path / "out", "-o", plain, "--json").json
    assert merged["base"] == str(tmp_path / "out-1-embeddings")
    refused(2, "merge", tmp_path / "out", "-o", plain)
    refused(2, "merge", road.tuned, "-o", tmp_path / "again")
    over_base = ("merge", tmp_path / "out", "-o", tmp_path / "out-1-embeddings", "--force")
    assert "is the base of adapters" in refused(2, *over_base)
    request = ("--history", "b001,b002", "--json", "-k", 5)
    one, other = (done("recommend", model, *request).json for model in (tmp_path / "out", plain))
    assert one["items"] == other["items"]
    np.testing.assert_allclose(one["scores"], other["scores"], atol=1e-4)
    assert done("evaluate", tmp_path / "out", road.split, "--limit", 3, "--json").json["n"] == 3
    done(*make_sft(road, tmp_path / "r.jsonl", "--model", tmp_path / "out"))
    done("rebind", tmp_path / "out", road.bundle, "-o", tmp_path / "elsewhere/bound")
    assert done("recommend", tmp_path / "elsewhere/bound", *request).json["items"] == one["items"]
    (tmp_path / "out-1-embeddings").rename(tmp_path / "moved")
    assert "which does not exist" in refused(3, "recommend", tmp_path / "out", *request)


SMALL = (
    *("--set", "num_generations=4", "--set", "per_device_train_batch_size=8"),
    *("--set", "max_steps=2", "--set", "eval_users=8", "--allow-worse-slices"),
)


def test_rl_prints_validations_its_summary_and_the_next_command(road: Road, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ("rl", road.tuned, road.examples, "-o", out, *SMALL)
    ran = done(*command, "--reward", "rank=1,exact=0.5", "--algorithm", "ecpo", "--json")
    assert (ran.json["algorithm"], ran.json["model"]) == ("ecpo", str(out))
    assert (ran.json["steps"], ran.json["groups"]) == (2, 4)
    lines = ran.err.splitlines()
    assert lines[0].startswith(f"ecpo starts from {road.tuned}")
    assert "reward rank=1,exact=0.5" in lines[0]
    assert any(line.startswith("step 0") and "start hr@10 " in line for line in lines)
    (validation,) = [line for line in lines if line.startswith("step 2") and "survival@1" in line]
    for name in ("hr@10", "coverage@10", "reward", "dead groups", "kl", "worse slices"):
        assert f"{name} " in validation
    assert ran.last == f"next: sidtool evaluate {out} SPLIT"
    # the result is a model like any other
    done("recommend", out, "--history", "b001", "-k", "3")


def test_settings_come_from_a_file_and_a_dry_run_writes_nothing(road: Road, tmp_path: Path) -> None:
    config = tmp_path / "rl.yaml"
    config.write_text("algorithm: gspo\nnum_generations: 8\nsft_weight: 0.2\n")
    command = ("rl", road.tuned, road.examples, "-o", tmp_path / "out", "--config", config)
    ran = done(*command, "--set", "num_generations=4", "--dry-run")
    assert "gspo starts from" in ran.err
    assert "groups of 4, reward exact=1,rank=1" in ran.err
    plan = done(*command, "--set", "num_generations=4", "--dry-run", "--json").json
    assert (plan["dry_run"], plan["start"]) == (True, str(road.tuned))
    assert (plan["options"]["algorithm"], plan["settings"]["num_generations"]) == ("gspo", 4)
    assert [path.name for path in tmp_path.iterdir()] == ["rl.yaml"]
