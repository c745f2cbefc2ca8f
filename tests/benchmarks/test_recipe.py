import json
from pathlib import Path

import pytest
import yaml

from tests.benchmarks.conftest import Run, Words


def test_two_teachers_end_with_a_results_file(
    script: Run, words: Words, tmp_path: Path, commands: list[str]
) -> None:
    work = tmp_path / "work"
    seeds = ("--seeds", "0,1", "--teachers", "1,2")
    out = script("recipe", *words, *seeds, twice=True)

    result = json.loads((work / "result-test.json").read_text())
    assert [seed["seed"] for seed in result["seeds"]] == [0, 1]
    assert set(result["baselines"]) == {
        "model alone",
        "memory alone",
        "popularity",
        "item-knn",
        "item-knn, tuned on validation",
    }
    assert [seed["seed"] for seed in result["baselines"]["model alone"]["seeds"]] == [0, 1]
    tuned = result["baselines"]["item-knn, tuned on validation"]
    models = zip(result["baselines"]["model alone"]["seeds"], tuned["model alone"], strict=True)
    for alone, ahead in models:
        difference = ahead["differences"]["ndcg@10"]
        gap = alone["metrics"]["ndcg@10"] - tuned["metrics"]["ndcg@10"]
        assert difference["mean"] == pytest.approx(gap)
        assert difference["low"] <= difference["mean"] <= difference["high"]
    assert (result["teachers"], result["leaked_events"]) == ([1, 2], 0)
    assert {"machine", "versions", "commit", "command", "protocol"} <= result.keys()
    for seed in result["seeds"]:
        assert 0 <= seed["metrics"]["ndcg@10"] <= 1
        assert seed["seconds"] > 0
        assert seed["slices"]
    assert "| sidtool | 2 |" in out
    assert "| model alone | 2 |" in out
    assert commands.count("train") == 4
    contract = json.loads((work / "seed-0" / "model" / "sid.json").read_text())
    assert len(contract["stages"][-1]["params"]["teachers"]) == 2

    # another run adds only what another seed needs
    commands.clear()
    script("recipe", *words, "--seeds", "0,1,2", "--teachers", "1,2")
    assert commands == ["train", "tune-memory", "evaluate"]
    commands.clear()

    # searches that are kept are of one model and of the same users
    inputs = (work / "seed-0" / "model", work / "split", work / "memory.zarr")
    options = ("-o", tmp_path / "rerank", "--seeds", 0)
    assert "| mixture | 0." in script("rerank", *inputs, *options)
    with pytest.raises(SystemExit):
        script("rerank", *inputs, *options, "--limit", 5)
    commands.clear()

    # models of another budget have their own folder, and the result names it
    budget = ("--seeds", 0, "--teachers", "", "--set", "num_train_epochs=2")
    assert "seed-0/model was made with" in script("recipe", *words, *budget, code=1)
    short = tmp_path / "short"
    script("recipe", words[0], "-o", short, *words[3:], *budget)
    changed = json.loads((short / "result-test.json").read_text())["changed"]
    assert changed == ["num_train_epochs=2"]
    step = (short / "steps" / "seed-0" / "model.json").read_text()
    assert "num_train_epochs=2" in json.loads(step)["made"]
    commands.clear()

    # other teachers are other settings of the same models
    other = script("recipe", *words, "--seeds", 0, "--teachers", 1, code=1)
    assert commands == []
    assert "seed-0/model was made with" in other


def test_a_recipe_needs_a_seed(
    script: Run, words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        script("recipe", *words, "--seeds", "", "--teachers", "1")
    assert "--seeds: at least one seed is needed" in capsys.readouterr().err


def test_a_dataset_file_names_the_files(tmp_path: Path) -> None:
    from recipe import Dataset

    for name in ("films.csv", "ratings.csv", "v.csv", "t.csv"):
        (tmp_path / name).touch()
    described = {
        "items": "films.csv",
        "interactions": "ratings.csv",
        "protocol": "given",
        "valid": "v.csv",
        "test": "t.csv",
        "exclude_seen": False,
    }
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(described))
    dataset = Dataset.open(tmp_path, tmp_path / "data.yaml")
    assert dataset.items == (tmp_path / "films.csv").resolve()
    assert dataset.test == (tmp_path / "t.csv").resolve()
    assert not dataset.exclude_seen
