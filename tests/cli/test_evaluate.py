import json
import shutil
from pathlib import Path

import jsonschema
import pytest

import sidtool
from docs.build_schema import FOLDER, files
from sidtool.base.errors import DataError
from sidtool.data.split.files import open_split
from sidtool.evaluation.evaluation import evaluate_examples
from sidtool.evaluation.options import EvaluationOptions
from sidtool.model.load import load_model_folder
from tests.cli.road import N_USERS, Ran, Road, done, refused, run


@pytest.fixture(scope="module")
def evaluated(road: Road) -> Ran:
    return done("evaluate", road.tuned, road.split, "--details", "--json")


def test_json_has_every_metric_of_every_system(evaluated: Ran, road: Road) -> None:
    value = evaluated.json
    names = {f"{kind}@{k}" for kind in ("hr", "ndcg", "mrr") for k in (1, 3, 5, 10, 20, 50)}
    assert value["n"] == N_USERS
    survival = {f"survival@{level}" for level in (1, 2, 3)}
    for metrics in (value["metrics"], value["sid_level"], *value["baselines"].values()):
        assert set(metrics) - survival == names
    assert survival < set(value["metrics"])
    assert list(value["baselines"]) == ["popularity", "item-knn"]
    answer = value["verdict"]
    if answer["sentences"][0].startswith("Yes"):
        assert evaluated.last.startswith(f"next: sidtool recommend {road.tuned} --history ")
    else:
        assert evaluated.last == f"next: {answer['advice']}"


def test_the_json_has_the_published_schema(evaluated: Ran) -> None:
    schema = json.loads(files()[FOLDER / "evaluation.json"])
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(evaluated.json)
    assert not validator.is_valid({**evaluated.json, "n": "40"})
    assert evaluated.json.keys() <= schema["properties"].keys()


def test_the_table_is_on_stdout_or_with_json_on_stderr(evaluated: Ran, road: Road) -> None:
    table = done("evaluate", road.tuned, road.split).out
    for word in ("popularity", "item-knn", "95% interval", f"{N_USERS} examples"):
        assert word in table
        assert word in evaluated.err
    assert "mean over items" in evaluated.err  # of --details
    assert "SID level" not in table  # every item has its own SID
    shown = next(line.split() for line in table.splitlines() if line.startswith("ndcg@10"))
    assert float(shown[1]) == pytest.approx(evaluated.json["metrics"]["ndcg@10"], abs=5e-3)


def test_a_survival_may_be_a_threshold(evaluated: Ran, road: Road) -> None:
    survival = evaluated.json["metrics"]["survival@2"]
    ask = ("evaluate", road.tuned, road.split)
    ran = done(*ask, "--fail-under", f"survival@2={survival}", "--num-beams", 10)
    assert "50 beams are used instead of 10" in ran.err


def test_a_threshold_decides_the_exit_code(evaluated: Ran, road: Road) -> None:
    result = evaluated.json["metrics"]["hr@50"]
    assert 0 < result < 1
    ask = ("evaluate", road.tuned, road.split, "--json")
    thresholds = ("--fail-under", f"hr@50={result}", "--fail-under", "ndcg@10=0")
    assert done(*ask, *thresholds).json == evaluated.json
    below = run(*ask, "--fail-under", "ndcg@10=0", "--fail-under", f"hr@50={result + 0.01}")
    assert (below.code, below.json) == (3, evaluated.json)  # the figures are there all the same
    assert below.last.startswith("error: hr@50 is ")
    assert done(*ask, "--fail-under", "hr@50=1e-3").json == evaluated.json


def test_a_limit_and_the_validation_part_are_evaluated(road: Road) -> None:
    few = done("evaluate", road.tuned, road.split, "--limit", 7, "--json").json
    assert few["n"] == 7
    split = open_split(road.split)
    options = EvaluationOptions(num_beams=50, exclude_seen=True)
    valid = done("evaluate", road.tuned, road.split, "--on", "valid", "--json").json
    loaded = load_model_folder(road.tuned)
    by_library = evaluate_examples(loaded, split.valid, split.train, options)
    assert valid["metrics"] == by_library.metrics
    within = ("--limit", 7, "--memory-limit", "64kB", "--json")  # of item-kNN, in files
    assert done("evaluate", road.tuned, road.events, *within).json == few


@pytest.mark.parametrize("command", ["evaluate", "evaluate-lists"])
def test_what_is_wrong_with_a_split_is_said_before_weights_are_read(
    command: str, road: Road, tmp_path: Path
) -> None:
    broken = shutil.copytree(road.tuned, tmp_path / "broken")
    (broken / "model.safetensors").unlink()
    missing = tmp_path / "none.jsonl"
    for model in (road.tuned, broken):
        assert str(missing) in refused(1, command, model, missing)
    with pytest.raises(DataError, match=str(missing)):
        getattr(sidtool, command.replace("-", "_"))(broken, missing)
