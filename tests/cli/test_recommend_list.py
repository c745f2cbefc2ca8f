"""`recommend --list`, and alignment of lists, on the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sidtool.model.contract.folder import read_contract
from tests.cli.road import done, refused, write_lines
from tests.training.reinforcement.conftest import list_model, made_lists
from tests.training_fixtures import bundle, catalog, examples, models, one_thread, split

__all__ = [
    "bundle",
    "catalog",
    "examples",
    "list_model",
    "made_lists",
    "models",
    "one_thread",
    "split",
]

HISTORY = ("--history", "i1,i2")


def test_a_list_is_printed_in_its_order_with_its_score(list_model: Path) -> None:
    command = ("recommend", list_model, *HISTORY, "--list", 4, "--num-beams", 3)
    answer = done(*command, "--exclude-seen", "--json").json
    assert len(set(answer["items"])) == 4
    assert not {"i1", "i2"} & set(answer["items"])
    assert answer["list_score"] == pytest.approx(sum(answer["scores"]))
    table = done(*command, "--exclude-seen").out
    assert "list, log-probability" in table
    places = [table.index(f" {item} ") for item in answer["items"]]
    assert places == sorted(places)


def test_filters_and_files_work_as_for_items(list_model: Path, tmp_path: Path) -> None:
    allow = write_lines(tmp_path / "allow.txt", ["i5", "i6", "i7"])
    requests = write_lines(
        tmp_path / "requests.jsonl",
        ['{"user": "u1", "history": ["i1"]}', '{"user": "u2", "history": ["i2"]}'],
    )
    out = tmp_path / "lists.jsonl"
    result = done(
        *("recommend", list_model, "--file", requests, "--list", 5, "--allow", allow, "-o", out)
    )
    assert "2 of 2 requests have fewer than 5 items" in result.err
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [sorted(row["items"]) for row in rows] == [["i5", "i6", "i7"]] * 2
    candidates = ("recommend", list_model, *HISTORY, "--list", 2, "--candidates", allow, "--json")
    assert set(done(*candidates).json["items"]) <= {"i5", "i6", "i7"}


def test_a_model_without_lists_is_refused_in_one_line(models: Callable[..., Path]) -> None:
    error = refused(1, "recommend", models("llama"), *HISTORY, "--list", 3)
    assert "was not trained on lists" in error


@pytest.mark.slow
def test_rl_aligns_lists(list_model: Path, made_lists: Path, tmp_path: Path) -> None:
    settings = ("max_steps=1", "candidate_lists=3", "eval_users=4", "eval_num_beams=2")
    command = ("rl", list_model, made_lists, "-o", tmp_path / "out", "--allow-worse-slices")
    command = (*command, "--algorithm", "ipa", "--reward", "ndcg=1,recall=0.5")
    for setting in settings:
        command = (*command, "--set", setting)
    plan = done(*command, "--dry-run")
    assert "pairs of 3 lists by beam" in plan.out + plan.err
    done(*command)
    contract = read_contract(tmp_path / "out")
    assert contract.stages[-1].stage == "rl"
    assert done("recommend", tmp_path / "out", *HISTORY, "--list", 3, "--json").json["items"]
