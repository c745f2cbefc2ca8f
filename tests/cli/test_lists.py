import json
from pathlib import Path

import pytest

from tests.cli.road import TRAINING, Road, done, link, refused, run, write_lines
from tests.doc_blocks import commands, page


def session_events(events: Path, path: Path) -> Path:
    """The shop's events with ratings, in sessions of three a minute apart."""
    rows = [line.split(",") for line in events.read_text(encoding="utf-8").splitlines()[1:]]
    lines = []
    for n, (user, item, at) in enumerate(rows):
        step = int(at) - 100
        seconds = 880_000_000 + 7200 * (step // 3) + 60 * (step % 3)
        lines.append(f"{user},{item},{seconds},{n % 5 + 1}")
    return write_lines(path, ["user_id,item_id,timestamp,rating", *lines])


@pytest.fixture(scope="module")
def folder(road: Road, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the commands of the page on lists have run."""
    folder = tmp_path_factory.mktemp("lists")
    session_events(road.events, folder / "events.csv")
    made = {"items.jsonl": road.items, "shop.zarr": road.bundle, "base+sid": road.model}
    link(folder, made)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in commands(page("lists.md"), "bash"):
            done(*(word.replace("epochs=10", "epochs=1") for word in command.words))
    return folder


def test_the_page_on_lists_runs_as_written(folder: Path) -> None:
    manifest = json.loads((folder / "split" / "split.json").read_text(encoding="utf-8"))
    assert manifest["sessions"] == {"gap": 1800.0, "column": None}
    assert manifest["counts"]["valid"] == manifest["counts"]["test"] > 0
    contract = json.loads((folder / "tuned" / "sid.json").read_text(encoding="utf-8"))
    assert contract["list_prompt"]["list_length"] == 5
    assert "Which 5 items come next?" in contract["list_prompt"]["template"]
    assert contract["history_prompt"]["task"] == "next-item"
    lists = contract["stages"][-1]["params"]["lists"]
    assert lists == {"length": 5, "stride": None, "order": None}


@pytest.mark.slow
def test_a_later_stage_keeps_the_prompts(folder: Path, road: Road, tmp_path: Path) -> None:
    split, examples = folder / "split", tmp_path / "train.jsonl"
    words = ("make-sft", road.bundle, road.items, split, "-o", examples)
    done(*words, "--model", road.model, "--task", "list=1", "--list-length", 3)
    done("train", folder / "tuned", examples, "-o", tmp_path / "tuned", *TRAINING)
    contract = json.loads((tmp_path / "tuned" / "sid.json").read_text(encoding="utf-8"))
    assert contract["history_prompt"]["task"] == "next-item"
    assert contract["list_prompt"]["list_length"] == 3
    assert "next-item, list" in done("inspect", tmp_path / "tuned").out


@pytest.mark.slow
def test_a_model_of_lists_alone_recommends_items(folder: Path, road: Road, tmp_path: Path) -> None:
    split, examples, tuned = folder / "split", tmp_path / "train.jsonl", tmp_path / "tuned"
    words = ("make-sft", road.bundle, road.items, split, "-o", examples, "--model", road.model)
    done(*words, "--task", "list=1", "--list-order", "rating", "--list-stride", 1)
    done("train", road.model, examples, "-o", tuned, *TRAINING)
    answer = done("recommend", tuned, "--history", "b001,b002", "-k", 3, "--json").json
    assert len(answer["items"]) == 3
    assert done("evaluate", tuned, split, "--json", "--limit", 5).json["n"] == 5


def test_lists_are_evaluated_on_sessions(folder: Path) -> None:
    evaluate = ("evaluate-lists", folder / "tuned", folder / "split", "--length", 3, "--limit", 6)
    evaluate = (*evaluate, "--num-beams", 4)
    said = done(*evaluate, "--json", "--against", folder / "tuned")
    evaluation = said.json
    systems = ["lists", "top items", "other model", "popularity", "item-knn"]
    assert list(evaluation["systems"]) == list(evaluation["coverage"]) == systems
    assert list(evaluation["differences"]) == systems[1:]
    assert evaluation["systems"]["lists"]["legal"] == {"mean": 1, "low": 1, "high": 1, "n": 6}
    assert evaluation["systems"]["lists"]["length"]["mean"] == 3
    assert evaluation["systems"]["lists"] == evaluation["systems"]["other model"]
    assert "the gain of lists" in said.err
    assert "kendall_tau" in done(*evaluate, "--order", "rating").out
    assert "below the threshold" in run(*evaluate, "--fail-under", "recall@3=1.1").err
    assert "not a metric" in refused(2, *evaluate, "--fail-under", "recall@5=0.1")


def test_a_list_is_printed_in_its_order_with_its_score(folder: Path) -> None:
    request = ("--history", "b001,b002", "--list", 4, "--num-beams", 3, "--exclude-seen")
    command = ("recommend", folder / "tuned", *request)
    answer = done(*command, "--json").json
    assert len(set(answer["items"])) == 4
    assert not {"b001", "b002"} & set(answer["items"])
    assert answer["list_score"] == pytest.approx(sum(answer["scores"]))
    table = done(*command).out
    assert "list, log-probability" in table
    places = [table.index(f" {item} ") for item in answer["items"]]
    assert places == sorted(places)


def test_a_model_of_items_is_evaluated_by_its_ranking(road: Road) -> None:
    words = ("evaluate-lists", road.tuned, road.split, "--length", 3, "--limit", 4, "--json")
    assert list(done(*words).json["systems"]) == ["top items", "popularity", "item-knn"]
