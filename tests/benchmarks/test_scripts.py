"""The scripts that compare recipes run to their end on a tiny data set."""

import json
import sys
from pathlib import Path

import pytest


@pytest.fixture
def arguments(
    data: Path, tmp_path: Path, commands: list[str], monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """The arguments that the scripts share; the commands run in this process."""
    parts = (data, "-o", tmp_path / "work", "--encoder", tmp_path / "encoder")
    return [str(part) for part in parts]


@pytest.mark.slow
def test_the_ablation_ends_with_a_table(
    arguments: list[str],
    recipe_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import ablation

    options = ["--recipe", str(recipe_folder), "--only", "recipe,dropout-0.2,text-only"]
    monkeypatch.setattr(sys, "argv", ["ablation.py", *arguments, *options, "--epochs", "1"])
    ablation.main()
    out = capsys.readouterr().out
    for name in ("recipe", "dropout-0.2", "text-only"):
        assert f"| {name} | 1 | 0." in out


@pytest.mark.slow
def test_the_methods_benchmark_ends_with_a_table(
    arguments: list[str],
    recipe_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import methods

    monkeypatch.setattr(methods, "RECIPES", recipe_folder.parent)
    recipe_folder.rename(recipe_folder.parent / "default")
    options = ["--methods", "rq-kmeans,opq", "--levels", "4x4x8", "--seeds", "0", "--epochs", "1"]
    monkeypatch.setattr(sys, "argv", ["methods.py", *arguments, *options])
    methods.main()
    out = capsys.readouterr().out
    assert out.count("| opq |") == out.count("| rq-kmeans |") == 2
    assert "| item-kNN |" in out
    result = json.loads((tmp_path / "work" / "result.json").read_text())
    assert len(result["methods"]) == 4


@pytest.mark.slow
def test_the_lifecycle_benchmark_ends_with_a_table(
    arguments: list[str],
    recipe_folder: Path,
    tmp_path: Path,
    commands: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import lifecycle

    options = ["--recipe", str(recipe_folder)]
    monkeypatch.setattr(sys, "argv", ["lifecycle.py", *arguments, *options])
    assert lifecycle.main() == 0
    result = json.loads((tmp_path / "work" / "result.json").read_text())
    added = result["items_added"]
    assert added["moved"] == 0
    assert added["added"] == 12
    assert added["training_events_of_new_items"] == 0
    assert added["valid_targets_that_are_new"] > 0
    assert added["old_targets"]["n"] + added["new_targets"]["n"] == 40
    for figures in (added["new_targets"], added["new_targets_among_new_items"]):
        assert 0 <= figures["text_knn"] <= 1
    assert result["codebook_retrained"]["sids_kept"]["original"] == 60
    out = capsys.readouterr().out
    assert "| new target, full catalog | 0." in out
    assert "| aligned codebook |" in out
    assert commands.count("train") == commands.count("build-memory") == 2

    commands.clear()
    assert lifecycle.main() == 0
    assert commands == []


@pytest.mark.slow
def test_the_refresh_benchmark_ends_with_a_table(
    arguments: list[str],
    recipe_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import refresh

    options = ["--recipe", str(recipe_folder), "--seeds", "0", "--shares", "0.5"]
    monkeypatch.setattr(sys, "argv", ["refresh.py", *arguments, *options])
    refresh.main()
    result = json.loads((tmp_path / "work" / "result.json").read_text())
    systems = result["seeds"][0]["systems"]
    assert list(systems) == ["trained anew", "aligned only", "refreshed, 0.5 of the steps"]
    assert systems["trained anew"]["difference"]["mean"] == 0
    assert "| aligned only | 0." in capsys.readouterr().out


def test_the_results_table_reads_stored_results() -> None:
    from table import results_table

    folder = Path(__file__).parents[2] / "benchmarks" / "results"
    for name in ("beauty.json", "movielens-recipe.json", "industrial-recipe.json"):
        lines = results_table(json.loads((folder / name).read_text())).splitlines()
        assert lines[2].startswith("| sidtool | 3 | 0.")
        assert "95% interval" in lines[-1]


@pytest.mark.slow
def test_sasrec_reads_the_split_of_a_recipe(
    data: Path,
    recipe_folder: Path,
    tmp_path: Path,
    commands: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import sasrec
    from recipe import Dataset, Recipe, RecipeRun

    run = RecipeRun(recipe=recipe_folder, encoder=tmp_path / "encoder")
    recipe = Recipe(Dataset.open(data), run, tmp_path / "work")
    bundle = recipe.bundle()
    options = ["-o", str(tmp_path / "sasrec.json"), "--epochs", "2", "--width", "8"]
    monkeypatch.setattr(sys, "argv", ["sasrec.py", str(bundle), str(recipe.split()), *options])
    sasrec.main()
    assert "| 0 | 0." in capsys.readouterr().out


@pytest.mark.slow
def test_late_events_end_with_a_table(
    arguments: list[str],
    data: Path,
    recipe_folder: Path,
    tmp_path: Path,
    commands: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import late_events

    # every event has its own moment, or cuts by shares of the events would fall together
    header, *rows = (data / "interactions.csv").read_text().splitlines()
    cells = [row.split(",") for row in rows]
    cells = [[user, item, f"{time}{int(user[1:]):04d}"] for user, item, time in cells]
    (data / "interactions.csv").write_text("\n".join([header, *map(",".join, cells)]) + "\n")
    options = ["--recipe", str(recipe_folder), "--seeds", "0"]
    monkeypatch.setattr(sys, "argv", ["late_events.py", *arguments, *options])
    assert late_events.main() == 0
    out = capsys.readouterr().out
    for name in (late_events.OLD, late_events.REFRESHED, late_events.RETRAINED):
        assert f"| {name} | 0." in out
    assert "a new training" in out
    systems = json.loads((tmp_path / "work" / "result.json").read_text())["seeds"][0]["systems"]
    assert systems[late_events.OLD]["difference"]["mean"] == 0
    assert systems[late_events.OLD]["metrics"] != systems[late_events.REFRESHED]["metrics"]
    assert commands.count("train") == commands.count("build-memory") == 2

    commands.clear()
    assert late_events.main() == 0
    assert commands == []


@pytest.mark.slow
def test_the_speed_of_reinforcement_ends_with_a_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import reinforcement_speed

    options = ["--steps", "1", "--size", "4", "--prompts", "2"]
    monkeypatch.setattr(sys, "argv", ["reinforcement_speed.py", *options])
    reinforcement_speed.main()
    out = capsys.readouterr().out
    for variant in reinforcement_speed.VARIANTS:
        assert f"| {variant} | 0." in out
    assert "peak memory:" in out
