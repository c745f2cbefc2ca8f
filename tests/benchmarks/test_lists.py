"""The benchmark of lists from data files to its table, on a tiny catalog."""

import json
from pathlib import Path

import pytest


@pytest.mark.slow
def test_all_models_end_with_a_table(
    data: Path,
    recipe_folder: Path,
    tmp_path: Path,
    commands: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    from lists import TASKS, main

    path = data / "interactions.csv"
    header, *rows = path.read_text(encoding="utf-8").splitlines()
    lines = []
    for row in rows:
        user, item, time = row.split(",")
        step = int(time) - 100
        lines.append(f"{user},{item},{880_000_000 + 7200 * (step // 3) + 60 * (step % 3)}")
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")

    work = tmp_path / "work"
    options = ("--recipe", recipe_folder, "--encoder", tmp_path / "encoder", "--length", "3")
    options += ("--session-gap", "30m", "--num-beams", "4", "--timed", "3")
    arguments = [str(part) for part in (data, "-o", work, *options, "--seeds", "0")]
    assert main(arguments) == 0
    result = json.loads((work / "result-test.json").read_text())
    searches = ("lists", "greedy lists")
    names = ("lists", "both", "aligned")
    of_lists = [f"{name}: {each}" for name in names for each in (*searches, "top items")]
    assert set(result["systems"]) == {"items: top items", "popularity", "item-knn", *of_lists}
    for system, each in result["systems"].items():
        assert 0 <= each["mean"]["recall@3"]["mean"] <= 1
        assert each["mean"]["repeats"]["mean"] == 0
        assert each["mean"]["legal"]["mean"] == 1
        assert ("ndcg@3" in each["gain"]) == (system != "items: top items")
        assert (each["seconds"] is None) == (system in ("popularity", "item-knn"))
    assert result["systems"]["aligned: lists"]["reference"] == "lists: lists"
    assert result["systems"]["both: lists"]["reference"] == "items: top items"
    table = capsys.readouterr().out
    assert "| lists: greedy lists |" in table
    assert commands.count("train") == len(TASKS)
    assert commands.count("rl") == 1

    commands.clear()  # a second run does nothing
    assert main(arguments) == 0
    assert commands == []
    again = json.loads((work / "result-test.json").read_text())
    for system, each in again["systems"].items():
        assert each["seeds"] == result["systems"][system]["seeds"]
    assert main([*arguments, "--only", "magic"]) == 1
    assert "no variant 'magic'" in capsys.readouterr().err
