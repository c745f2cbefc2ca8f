"""Tasks beside the next item: mixes within a budget, and asking in words, as a shell sees them."""

import json
from pathlib import Path

import pytest

from tests.cli.road import N_ITEMS, TRAINING, Road, done, refused, write_lines

TASKS = ("next-item=1", "title-to-sid=1", "sid-to-title=1", "description-to-sid=0.5", "item-text=0.5")


@pytest.fixture(scope="module")
def spoken(road: Road) -> Path:
    """A model that was trained on a mix of tasks, its rows beside it."""
    rows, out = road.folder / "spoken-train.jsonl", road.folder / "spoken"
    tasks = [word for task in TASKS for word in ("--task", task)]
    done("make-sft", road.bundle, road.items, road.events, "-o", rows, "--model", road.model, *tasks)
    done("train", road.model, rows, "-o", out, *TRAINING)
    return out


def test_a_dry_run_reports_budgets_tokens_and_shares(road: Road, tmp_path: Path) -> None:
    command = (
        *("make-sft", road.bundle, road.items, road.events, "-o", tmp_path / "train.jsonl", "--model", road.model),
        *("--task", "next-item=1", "--task", "title-to-sid=3", "--task", "sid-to-description=1"),
        *("--tokens", 4000, "--task-tokens", "sid-to-description=1000", "--dry-run"),
    )
    said = done(*command, "--json").json
    assert said["budgets"] == {"sid-to-description": 1000, "next-item": 750, "title-to-sid": 2250}
    for task, counted in said["tasks"].items():
        assert 0.8 * said["budgets"][task] < counted["tokens"] <= said["budgets"][task]
        assert 0 < counted["longest"] < 200
    assert sum(counted["share"] for counted in said["tasks"].values()) == pytest.approx(1)
    assert done(*command, "--json").json == said
    table = done(*command).out
    for word in ("budget", "2250", "share", "longest row"):
        assert word in table
    assert list(tmp_path.iterdir()) == []
    assert "needs a tokenizer" in refused(2, *command[:6], "--tokens", 4000)
    assert "no task of this mix" in refused(2, *command[:8], "--task-tokens", "sid-to-title=9")


def test_queries_are_read_or_composed(road: Road, tmp_path: Path) -> None:
    made = (
        "make-sft",
        road.bundle,
        road.items,
        road.events,
        "-o",
        tmp_path / "train.jsonl",
        "--task",
        "query-to-sid=1",
    )
    assert "--queries FILE" in refused(2, *made)
    queries = write_lines(
        tmp_path / "q.jsonl", [{"item": "b001", "text": "a lamp"}, {"item": "zzz", "text": "nothing"}]
    )
    said = done(*made, "--queries", queries, "--json").json
    assert (said["tasks"]["query-to-sid"]["rows"], said["dropped_queries"]) == (1, 1)
    assert said["asking"]["task"] == "query-to-sid"
    composed = done(*made, "--query-text", "looking for: {description}", "--json", "--force").json
    assert composed["tasks"]["query-to-sid"]["rows"] == N_ITEMS
    assert "one of the two" in refused(2, *made, "--queries", queries, "--query-text", "{title}", "--force")
    assert "no column 'colour'" in refused(2, *made, "--query-text", "{colour}", "--force")


def test_a_model_is_asked_in_words(road: Road, spoken: Path) -> None:
    ask = ("recommend", spoken, "--text", "red lamp <s_a_1>", "-k", 7, "--json")
    answer = done(*ask).json
    assert len(set(answer["items"])) == 7
    stream = json.dumps({"text": "red lamp <s_a_1>"}) + "\n" + json.dumps({"history": ["b001"]}) + "\n"
    both = done("recommend", spoken, "--file", "-", "-k", 7, "--json", text=stream).lines
    assert both[0] == answer
    assert len(both[1]["items"]) == 7
    assert "--history or --file or --text" in refused(2, *ask, "--history", "b001")
    told = refused(1, "recommend", road.tuned, "--text", "red lamp")
    assert "never taught to go from a text to an item" in told
    assert "--task title-to-sid=1" in told
    contract = json.loads((spoken / "sid.json").read_text())
    assert contract["asking"]["task"] == "title-to-sid"
    assert contract["facts"]["row_format"] == "plain"
