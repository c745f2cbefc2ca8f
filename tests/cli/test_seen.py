import json
from pathlib import Path

import pytest

from sidtool.recommendation.search.search_options import SeenOptions, seen_reason
from tests.cli.road import TRAINING, Road, done, write_lines

REMOVED = "seen items removed: at most 1 of 100 targets of the split repeats a seen item"
KEPT = "seen items kept: more than 1 of 100 targets of the split repeat a seen item"
UNKNOWN = "seen items kept: no split records whether targets repeat"


@pytest.fixture(scope="module")
def repeating(road: Road, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split in which each user's last event repeats the first."""
    folder = tmp_path_factory.mktemp("repeating")
    lines = road.events.read_text(encoding="utf-8").splitlines()
    first: dict[str, str] = {}
    for line in lines[1:]:
        first.setdefault(line.split(",")[0], line)
    lines += [line.rpartition(",")[0] + ",999" for line in first.values()]
    events = write_lines(folder / "events.csv", lines)
    done("split", events, "-o", folder / "split")
    return folder / "split"


def history_of(split: Path, events: Path) -> list[str]:
    """The items of the first user of some events."""
    rows = [line.split(",") for line in events.read_text(encoding="utf-8").splitlines()[1:]]
    return [item for user, item, _ in rows if user == rows[0][0]]


def recommended(model: Path, history: list[str], *more: object) -> tuple[set[str], str]:
    """What is recommended after a history, and what is said of seen items."""
    ask = ("recommend", model, "--history", ",".join(history), "-k", 60, "--json", *more)
    ran = done(*ask)
    return set(ran.json["items"]), ran.err


def test_seen_items_are_removed_where_no_target_repeats(road: Road, tmp_path: Path) -> None:
    counts = json.loads((road.split / "split.json").read_text())["counts"]
    assert counts["repeated_targets"] == 0
    said = done("split", road.events, "-o", tmp_path / "s").out
    assert f"0 targets; by default {REMOVED}" in said
    assert f"in validation {REMOVED}" in road.said["train"].err
    assert REMOVED in done("evaluate", road.tuned, road.split).out.splitlines()
    evaluation = done("evaluate", road.tuned, road.split, "--json").json
    settings = evaluation["settings"]
    assert (settings["exclude_seen"], settings["seen"]) == (True, REMOVED)
    same = done("evaluate", road.tuned, road.split, "--exclude-seen", "--json").json
    assert same == evaluation
    with_seen = done("evaluate", road.tuned, road.split, "--no-exclude-seen", "--json").json
    assert with_seen["settings"]["exclude_seen"] is False
    assert with_seen["settings"]["seen"] == "seen items kept, as chosen"
    history = history_of(road.split, road.events)
    items, said = recommended(road.tuned, history)
    assert REMOVED in said
    assert not items & set(history)
    items, _ = recommended(road.tuned, history, "--no-exclude-seen")
    assert items >= set(history)


def test_seen_items_stay_where_targets_repeat(road: Road, repeating: Path, tmp_path: Path) -> None:
    examples, tuned = tmp_path / "train.jsonl", tmp_path / "tuned"
    done("make-sft", road.bundle, road.items, repeating, "-o", examples, "--model", road.model)
    done("train", road.model, examples, "-o", tuned, *TRAINING)
    evaluation = done("evaluate", tuned, repeating, "--json").json
    assert evaluation["settings"]["exclude_seen"] is False
    assert evaluation["settings"]["seen"] == KEPT
    history = history_of(road.split, road.events)
    items, said = recommended(tuned, history)
    assert KEPT in said
    assert items >= set(history)
    items, _ = recommended(tuned, history, "--exclude-seen")
    assert not items & set(history)


def test_a_memory_is_tuned_and_a_reward_learned_by_the_same_rule(
    road: Road, repeating: Path, tmp_path: Path
) -> None:
    for split, reason in ((road.split, REMOVED), (repeating, KEPT)):
        build = ("build-memory", split, road.bundle, "-o", tmp_path / "m.zarr")
        assert reason in done(*build, "--tune", "--force").err
    plan = done("rl", road.tuned, road.examples, "-o", tmp_path / "out", "--dry-run")
    assert REMOVED in plan.err


@pytest.mark.parametrize(
    ("chosen", "repeats", "excluded", "reason"),
    [
        (None, False, True, REMOVED),
        (None, True, False, KEPT),
        (None, None, False, UNKNOWN),
        (True, None, True, "seen items removed, as chosen"),
        (True, True, True, "seen items removed, as chosen"),
        (True, False, True, REMOVED),
        (False, False, False, "seen items kept, as chosen"),
        (False, True, False, KEPT),
    ],
)
def test_a_choice_goes_before_the_split(
    chosen: bool | None, repeats: bool | None, excluded: bool, reason: str
) -> None:
    assert SeenOptions(exclude_seen=chosen).with_seen(repeats).exclude_seen == excluded
    assert seen_reason(chosen, repeats) == reason
