import json
import re
from pathlib import Path

import pytest

from sidtool.examples import read_lineage, read_training_examples
from sidtool.examples.tasks import named_task
from tests.cli.road import (
    N_ITEMS,
    TRAINING,
    Road,
    done,
    interrupt,
    make_sft,
    refused,
    run,
    write_lines,
)
from tests.examples.cases import ALL_TASKS

MIX = ("next-item=1", "title-to-sid=1", "sid-to-title=1", "description-to-sid=0.5", "item-text=0.5")


@pytest.fixture(scope="module")
def spoken(road: Road) -> Path:
    """A model trained on a mix of tasks."""
    examples, out = road.folder / "spoken-train.jsonl", road.folder / "spoken"
    tasks = [word for task in MIX for word in ("--task", task)]
    done(*make_sft(road, examples, "--model", road.model, *tasks))
    done("train", road.model, examples, "-o", out, *TRAINING)
    return out


def test_a_dry_run_reports_budgets_tokens_and_shares(road: Road, tmp_path: Path) -> None:
    command = (
        *make_sft(road, tmp_path / "train.jsonl", "--model", road.model),
        *("--task", "next-item=1", "--task", "title-to-sid=3", "--task", "sid-to-description=1"),
        *("--max-tokens", 4000, "--dry-run"),
    )
    said = done(*command, "--json").json
    budgets = {"next-item": 800, "title-to-sid": 2400, "sid-to-description": 800}
    assert said["task_budgets"] == budgets
    for task, counted in said["tasks"].items():
        assert 0.8 * said["task_budgets"][task] < counted["tokens"] <= said["task_budgets"][task]
        assert 0 < counted["longest"] < 200
    assert sum(counted["share"] for counted in said["tasks"].values()) == pytest.approx(1)
    assert done(*command, "--json").json == said
    table = done(*command).out
    for word in ("budget", "2400", "share", "longest"):
        assert word in table
    assert list(tmp_path.iterdir()) == []
    assert "needs a tokenizer" in refused(2, *command[:6], "--max-tokens", 4000)


def test_queries_are_read_or_composed(road: Road, tmp_path: Path) -> None:
    made = make_sft(road, tmp_path / "train.jsonl", "--task", "query-to-sid=1")
    rows = [{"item": "b001", "text": "a lamp"}, {"item": "zzz", "text": "nothing"}]
    queries = write_lines(tmp_path / "q.jsonl", rows)
    said = done(*made, "--queries", queries, "--json").json
    assert (said["tasks"]["query-to-sid"]["examples"], said["dropped_queries"]) == (1, 1)
    assert said["text_prompt"]["task"] == "query-to-sid"
    hidden = ("--hide-text-of", write_lines(tmp_path / "hidden.txt", ["b002"]))
    text = done(*made, "--queries", queries, *hidden, "--force").out
    assert ", 1 queries left out, text of 1 items hidden\n" in text
    composed = done(*made, "--query-text", "looking for: {description}", "--json", "--force").json
    assert composed["tasks"]["query-to-sid"]["examples"] == N_ITEMS
    both = ("--queries", queries, "--query-text", "{title}", "--force")
    assert "not both" in refused(2, *made, *both)
    assert "no column 'color'" in refused(2, *made, "--query-text", "{color}", "--force")


def test_a_model_that_does_not_recommend_is_measured_by_its_task(
    road: Road, tmp_path: Path
) -> None:
    examples, out = tmp_path / "train.jsonl", tmp_path / "titles"
    done(*make_sft(road, examples, "--model", road.model, "--task", "title-to-sid=1"))
    said = done("train", road.model, examples, "-o", out, *TRAINING, "--set", "max_steps=1")
    assert said.last == f"next: sidtool evaluate-task {out} title-to-sid {examples}"


def test_text_without_an_end_is_warned_of(road: Road, tmp_path: Path) -> None:
    made = ("make-sft", road.bundle, road.items, road.events, "--task", "sid-to-title=1")
    warning = "warning: the text of sid-to-title has no end"
    assert warning in done(*made, "-o", tmp_path / "open.jsonl").err
    closed = done(*made, "-o", tmp_path / "closed.jsonl", "--model", road.model)
    assert "warning" not in closed.err


def test_items_are_found_by_text(spoken: Path) -> None:
    ask = ("recommend", spoken, "--query", "red lamp <s_a_1>", "-k", 7, "--json")
    answer = done(*ask).json
    assert len(set(answer["items"])) == 7
    requests = ({"text": "red lamp <s_a_1>"}, {"history": ["b001"]})
    stream = "".join(json.dumps(request) + "\n" for request in requests)
    both = done("recommend", spoken, "--file", "-", "-k", 7, "--json", text=stream).lines
    # batches of other sizes may round otherwise
    assert both[0]["items"] == answer["items"]
    assert both[0]["scores"] == pytest.approx(answer["scores"], abs=1e-5)
    assert len(both[1]["items"]) == 7
    contract = json.loads((spoken / "sid.json").read_text())
    assert contract["text_prompt"]["task"] == "title-to-sid"
    assert contract["stages"][-1]["params"]["example_format"] == "plain"


ALL = [task for task in ALL_TASKS if "brand" not in task and task != "list"]
ALL += ["prefix-to-description"]
ONE_OF_EACH_KIND = ("next-item", "sid-to-title", "item-text")
LAST_LEVEL = {"exact", "prefix@1", "prefix@2"}


@pytest.mark.parametrize(
    "task",
    [
        pytest.param(task, marks=() if task in ONE_OF_EACH_KIND else pytest.mark.slow)
        for task in ALL
    ],
)
def test_every_task_is_measured(road: Road, spoken: Path, task: str) -> None:
    kind = named_task(task)
    split_argument = (road.split,) if kind.of_users else ()
    query = ("--query-text", "looking for {title}") if kind.needs_queries else ()
    few = ("--limit", 5, "--num-beams", 3, "--json")
    ran = done("evaluate-task", spoken, task, *split_argument, "--items", road.items, *few, *query)
    value = ran.json
    assert (value["task"], value["n"]) == (task, 5)
    if kind.target == "sid":
        assert set(value["chance"]) == LAST_LEVEL
        assert {"hr@1", "hr@3", "ndcg@3"} | LAST_LEVEL <= set(value["metrics"])
        assert 0 < value["chance"]["exact"] <= value["chance"]["prefix@1"] < 1
    elif kind.target == "text":
        assert set(value["metrics"]) == {"perplexity"}
    else:
        assert set(value["metrics"]) == {"exact_match", "token_f1", "perplexity"}
    for word in ("chance", "5 questions", *value["metrics"]):
        assert word in ran.err


def test_training_examples_and_items_give_the_same_questions(
    road: Road, spoken: Path, tmp_path: Path
) -> None:
    examples = road.folder / "spoken-train.jsonl"
    ask = ("evaluate-task", spoken, "title-to-sid")
    sources = ((examples,), ("--items", road.items), ())
    answers = [done(*ask, *source, "--num-beams", 5, "--json").json for source in sources]
    assert answers[0] == answers[1] == answers[2]
    assert answers[0]["n"] == N_ITEMS
    foreign = tmp_path / "train.jsonl"
    made = ("make-sft", road.other, road.items, road.split, "--task", "title-to-sid=1")
    done(*made, "-o", foreign)
    assert "was made with a bundle whose" in refused(3, *ask, foreign)


def test_users_whose_item_the_bundle_lacks_are_left_out(road: Road, tmp_path: Path) -> None:
    lines = ["user_id,item_id,timestamp"]
    for user in range(4):
        lines += [f"u{user},b{3 * user + step:03d},{step}" for step in range(5)]
    lines[5] = "u0,new,4"  # the last event of the first user
    events = write_lines(tmp_path / "events.csv", lines)
    for task in ("next-item", "sequence"):
        ask = ("evaluate-task", road.model, task, events, "--num-beams", 5, "--json")
        message = "25.0% of users are left out, for the bundle lacks their item (1 of 4)"
        assert message in refused(3, *ask)
        ran = done(*ask, "--allow-unknown")
        assert ran.json["n"] == 3
        assert f"warning: {message}" in ran.err


def test_questions_are_restricted_to_listed_items(road: Road, spoken: Path, tmp_path: Path) -> None:
    held = write_lines(tmp_path / "held", ["b003", "b004", "b031"])
    ask = ("evaluate-task", spoken, "description-to-sid", "--items", road.items, "--num-beams", 2)
    value = done(*ask, "--only-items", held, "--json").json
    assert value["n"] == 3
    # a description is that of every fourth item: whichever of them is found is right
    assert value["chance"]["exact"] == pytest.approx(0.25)
    failed = run(*ask, "--fail-under", "exact=1.5")
    assert (failed.code, "exact is" in failed.last) == (3, True)
    below = write_lines(tmp_path / "gone", ["zzz"])
    assert "there are no questions" in refused(1, *ask, "--only-items", below)


def test_an_unknown_metric_is_refused_before_a_question(
    spoken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidtool.evaluation.tasks.evaluate_task", interrupt)
    for task, metric in (("title-to-sid", "hr@5"), ("sid-to-title", "prefix@1")):
        ask = ("evaluate-task", spoken, task, "--fail-under", f"{metric}=0.1", "--num-beams", 4)
        assert f"'{metric}' is not a metric of this evaluation" in refused(2, *ask)


def corpus(path: Path, n: int) -> Path:
    return write_lines(path, ({"text": f"Document {number} speaks. " * 30} for number in range(n)))


def document_numbers(path: Path) -> set[str]:
    """The numbers of the documents that the examples of general text show."""
    examples = read_training_examples(path)
    texts = [example["text"] for example in examples if example["task"] == "general-text"]
    return set(re.findall(r"Document (\d+)", " ".join(texts)))


def test_general_text_has_its_share_and_its_held_out_part_is_evaluated(
    road: Road, tmp_path: Path
) -> None:
    general = corpus(tmp_path / "corpus.jsonl", 40)
    out = tmp_path / "train.jsonl"
    sft = ("make-sft", road.bundle, road.items, road.split, "-o", out, "--max-length", 128)
    mix = ("--task", "item-text=1", "--task", "history-text=1", "--history-length", 3)
    model = ("--model", road.model)
    assert "needs a tokenizer" in refused(2, *sft, *mix, "--general", general)
    assert "requires --general" in refused(2, *sft, *mix, *model, "--general-share", 0.5)
    assert "no part of a mix" in refused(2, *sft, "--task", "general-text=1")
    said = done(*sft, *mix, *model, "--general", general, "--general-share", 0.5)
    assert "40 documents, 2 of them held out" in said.out
    lineage = read_lineage(out)
    counts = lineage.tasks["general-text"]
    assert counts.share == pytest.approx(0.5, abs=0.02)
    assert counts.longest <= 128
    assert lineage.general.held_out == 2

    held_out = tmp_path / "general.jsonl"
    assert held_out.name in lineage.files
    numbers = {path: document_numbers(path) for path in (held_out, out)}
    assert len(numbers[held_out]) == 2
    assert not numbers[held_out] & numbers[out]
    said = done("evaluate-task", road.model, "general-text", held_out, "--json")
    assert "perplexity" in said.out

    done(*sft, *mix, *model, "--force")
    assert not held_out.exists()
    assert "general-text" not in json.dumps(read_lineage(out).to_json())
