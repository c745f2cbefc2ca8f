from pathlib import Path

import pytest

from sidtool.base.errors import RefusedError, SidtoolWarning
from sidtool.data.unknown_ids import UnknownIds, guess_spelling
from tests.cli.road import N_ITEMS, TRAINING, Road, catalog, done, refused
from tests.cli.test_check import GUESS


def with_unknown(road: Road, path: Path, n_bad: int) -> Path:
    """The events of the road; of each ten items `n_bad` have other ids."""
    lines = road.events.read_text(encoding="utf-8").splitlines()
    for row, line in enumerate(lines[1:], start=1):
        user, item, moment = line.split(",")
        lines[row] = f"{user},{item.upper() if int(item[-1]) < n_bad else item},{moment}"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_no_command_up_to_evaluate_accepts_unknown_ids(road: Road, tmp_path: Path) -> None:
    split, out, tuned = tmp_path / "split", tmp_path / "train.jsonl", tmp_path / "tuned"
    done("split", with_unknown(road, tmp_path / "events.csv", 6), "-o", split)
    sft = ("make-sft", road.bundle, road.items, split, "-o", out, "--model", road.model)
    message = refused(3, *sft)
    assert "of training events are of items that the bundle lacks" in message
    assert "ids of the bundle look like 'b0" in message
    assert not out.exists()
    ran = done(*sft, "--allow-unknown")
    assert ran.err.splitlines()[-2].startswith("warning: ")
    done("train", road.model, out, "-o", tuned, *TRAINING)
    message = refused(3, "evaluate", tuned, split)
    assert "of targets are items that the bundle lacks, each of them a miss" in message
    ran = done("evaluate", tuned, split, "--allow-unknown")
    assert "targets cannot be recommended" in ran.out
    assert ran.err.splitlines()[-2].startswith("warning: ")


def test_make_sft_warns_of_a_few_unknown_events(road: Road, tmp_path: Path) -> None:
    split, out = tmp_path / "split", tmp_path / "train.jsonl"
    done("split", with_unknown(road, tmp_path / "events.csv", 1), "-o", split)
    ran = done("make-sft", road.bundle, road.items, split, "-o", out, "--model", road.model)
    assert "of training events are of items that the bundle lacks" in ran.err.splitlines()[-2]
    assert ran.last.startswith("next: ")


def test_make_sft_refuses_a_catalog_of_other_items(road: Road, tmp_path: Path) -> None:
    rows = catalog(tmp_path / "items.jsonl").read_text(encoding="utf-8").replace('"b0', '"x0')
    (tmp_path / "items.jsonl").write_text(rows, encoding="utf-8")
    words = ("make-sft", road.bundle, tmp_path / "items.jsonl", road.split)
    message = refused(3, *words, "-o", tmp_path / "train.jsonl", "--model", road.model)
    expected = f"100.0% of items of the bundle are not in the catalog ({N_ITEMS} of {N_ITEMS})"
    assert expected in message


def test_a_share_of_exactly_a_fifth_warns() -> None:
    with pytest.warns(SidtoolWarning, match="20.0% of ids are unknown"):
        UnknownIds(2, 10, "ids are unknown").check(allow_unknown=False)
    with pytest.raises(RefusedError, match=r"30\.0% of ids are unknown \(3 of 10\)"):
        UnknownIds(3, 10, "ids are unknown").check(allow_unknown=False)
    UnknownIds(0, 0, "ids are unknown").check(allow_unknown=False)


def test_a_guess_needs_half_of_the_unknown_ids() -> None:
    catalog_ids = ["0034", "0035", "B1"]
    assert guess_spelling(catalog_ids, ["34", "35"], "the catalog", "events") == GUESS
    assert guess_spelling(catalog_ids, ["34.0"], "the catalog", "events") is not None
    assert guess_spelling(catalog_ids, [" b1 "], "the catalog", "events") is not None
    composed = guess_spelling(["\xe9"], ["e\u0301"], "the catalog", "events")
    assert composed == r"ids of the catalog look like '\xe9', those of events like 'e\u0301'"
    assert guess_spelling(catalog_ids, ["34", "x"], "the catalog", "events") is not None
    assert guess_spelling(catalog_ids, ["34", "x", "y"], "the catalog", "events") is None
    assert guess_spelling(catalog_ids, [], "the catalog", "events") is None
