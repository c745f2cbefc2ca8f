"""The scripts that compare recipes run to their end on a tiny data set."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import numpy as np
import pytest

from sidtool import Bundle
from sidtool.recipes import Ran, steps
from tests.benchmarks.conftest import Run, Words
from tests.cli.test_lists import session_events


def result_of(folder: Path, name: str = "result.json") -> Any:
    return json.loads((folder / "work" / name).read_text())


def test_the_ablation_ends_with_a_table(script: Run, words: Words, tmp_path: Path) -> None:
    names = ("recipe", "dropout-0.2", "text-only")
    options = ("--only", ",".join(names), "--epochs", 1, "--result", tmp_path / "ablation.json")
    out = script("ablation", *words, *options)
    assert tuple(json.loads((tmp_path / "ablation.json").read_text())["variants"]) == names
    for name in names:
        assert f"| {name} | 1 | 0." in out


def test_the_methods_benchmark_ends_with_a_table(
    script: Run, data: Path, recipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("methods.RECIPES", recipe_folder.parent)
    recipe_folder.rename(recipe_folder.parent / "default")
    folders = (data, "-o", tmp_path / "work", "--encoder", tmp_path / "encoder")
    options = ("--methods", "rq-kmeans,opq", "--levels", "4x4x8", "--seeds", 0, "--epochs", 1)
    out = script("methods", *folders, *options)
    assert out.count("| opq |") == out.count("| rq-kmeans |") == 2
    assert "| item-kNN |" in out
    assert len(result_of(tmp_path)["methods"]) == 4


def test_the_lifecycle_benchmark_ends_with_a_table(
    script: Run, words: Words, tmp_path: Path, commands: list[str]
) -> None:
    out = script("lifecycle", *words, twice=True)
    result = result_of(tmp_path)
    added = result["items_added"]
    assert (added["moved"], added["added"], added["training_events_of_new_items"]) == (0, 12, 0)
    assert added["valid_targets_that_are_new"] > 0
    assert added["old_targets"]["n"] + added["new_targets"]["n"] == 40
    for figures in (added["new_targets"], added["new_targets_among_new_items"]):
        assert 0 <= figures["text_knn"] <= 1
    assert result["codebook_retrained"]["sids_kept"]["original"] == 60
    assert "| new target, full catalog | 0." in out
    assert "| aligned codebook |" in out
    assert commands.count("train") == commands.count("build-memory") == 2


def test_the_refresh_benchmark_ends_with_a_table(script: Run, words: Words, tmp_path: Path) -> None:
    out = script("refresh", *words, "--seeds", 0, "--shares", 0.5)
    systems = result_of(tmp_path)["seeds"][0]["systems"]
    assert list(systems) == ["trained anew", "aligned only", "refreshed, 0.5 of the steps"]
    assert systems["trained anew"]["difference"]["mean"] == 0
    assert "| aligned only | 0." in out


def test_the_results_table_reads_stored_results() -> None:
    from table import results_table

    folder = Path(__file__).parents[2] / "benchmarks" / "results"
    for name in ("beauty.json", "movielens-recipe.json", "industrial-recipe.json"):
        lines = results_table(json.loads((folder / name).read_text())).splitlines()
        assert lines[2].startswith("| sidtool | 3 | 0.")
        assert "95% interval" in lines[-1]


def test_sasrec_reads_the_split_of_a_recipe(
    script: Run, data: Path, recipe_folder: Path, tmp_path: Path
) -> None:
    from recipe import Dataset, Recipe, RecipeRun

    run = RecipeRun(recipe=recipe_folder, encoder=tmp_path / "encoder")
    recipe = Recipe(Dataset.open(data), run, tmp_path / "work")
    options = ("-o", tmp_path / "sasrec.json", "--epochs", 2, "--width", 8)
    assert "| 0 | 0." in script("sasrec", recipe.bundle(), recipe.split(), *options)

    from sasrec import padded

    # the items of these users are unknown
    assert padded([np.array([], np.int64)] * 2).tolist() == [[0], [0]]


def test_late_events_end_with_a_table(
    script: Run, words: Words, data: Path, tmp_path: Path, commands: list[str]
) -> None:
    import late_events

    # every event has its own moment, or cuts by shares of the events would fall together
    header, *rows = (data / "interactions.csv").read_text().splitlines()
    cells = [row.split(",") for row in rows]
    cells = [[user, item, f"{time}{int(user[1:]):04d}"] for user, item, time in cells]
    (data / "interactions.csv").write_text("\n".join([header, *map(",".join, cells)]) + "\n")
    out = script("late_events", *words, "--seeds", 0, twice=True)
    for name in (late_events.OLD, late_events.REFRESHED, late_events.RETRAINED):
        assert f"| {name} | 0." in out
    assert "a new training" in out
    systems = result_of(tmp_path)["seeds"][0]["systems"]
    assert systems[late_events.OLD]["difference"]["mean"] == 0
    assert systems[late_events.OLD]["metrics"] != systems[late_events.REFRESHED]["metrics"]
    assert commands.count("train") == commands.count("build-memory") == 2


def test_the_comparison_of_reinforcement_ends_with_tables(
    script: Run, words: Words, commands: list[str]
) -> None:
    rates = ("--seeds", 0, "--rl-rates", "1e-3", "--sft-rates", "1e-3")
    out = script(
        "reinforce", *words, *rates, "--set", "max_steps=2", "--set", "eval_users=8", twice=True
    )
    assert commands.count("rl") >= 4
    for name in ("start", "GRPO", "GSPO", "weighted SFT", "teacher"):
        assert f"| {name}" in out


@pytest.mark.usefixtures("rated_data")
def test_all_variants_of_fields_end_with_a_table(
    script: Run, words: Words, tmp_path: Path, commands: list[str]
) -> None:
    from feedback import VARIANTS

    fields = ("--feedback", "rating", "--users", "users.csv", "--user-field", "age:str")
    arguments = (*words, *fields, "--seeds", 0, "--positive", "rating>=4")
    assert "| feedback in history |" in script("feedback", *arguments, twice=True)
    result = result_of(tmp_path, "result-test.json")
    assert list(result["variants"]) == list(VARIANTS)
    assert 0 < result["n"]["rating>=4"] < result["n"]["all"]
    for group in ("all", "rating>=4"):
        assert set(result["baselines"][group]) == {"popularity", "item-knn"}
        for variant, by_group in result["variants"].items():
            measured = by_group[group]
            assert 0 <= measured["seeds"][0]["ndcg@10"] <= 1
            assert set(measured["gain"]) == (set() if variant == "plain" else {"hr@10", "ndcg@10"})
    assert result["templates"]["together"] == {
        "prompts": ["{user.age:token}{history}"],
        "items": ["{gap:token}{sid}{event.rating:token}"],
    }
    assert commands.count("train") == len(VARIANTS)
    assert "no variant 'magic'" in script("feedback", *arguments, "--only", "magic", code=1)


def test_losses_of_first_rows_end_in_tables(
    script: Run,
    data: Path,
    recipe_folder: Path,
    base: Path,
    tmp_path: Path,
    commands: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inputs = ("--items", data / "items.jsonl", "--interactions", data / "interactions.csv")
    sizes = ("--models", base, "--batch-size", 4, "--users", 3, "--eval-users", 4)
    options = ("--encoder", tmp_path / "encoder", "--title-column", "title", "--steps", 2)
    rows = ("--inits", "codebook:1,random:0.1", "--stages", "embeddings,lora")
    codebook = ("--codebook", recipe_folder / "codebook.yaml")
    arguments = ("-o", tmp_path / "work", *inputs, *sizes, *options, *rows, *codebook)
    assert "| random:0.1 | lora |" in script("init_scale", *arguments, twice=True)
    result = result_of(tmp_path)
    (first,) = result["first"].values()
    assert list(first) == ["codebook:1", "random:0.1"]
    for losses in first.values():
        assert losses["vocabulary"] > losses["level"] > 0
    # rows near the mean row give nearly equal logits
    near = abs(first["random:0.1"]["level"] - result["uniform_level_loss"])
    assert near < abs(first["codebook:1"]["level"] - result["uniform_level_loss"])
    (trained,) = result["trained"].values()
    assert set(trained["random:0.1"]) == {"embeddings", "lora"}
    assert 0 <= trained["random:0.1"]["lora"]["ndcg@10"] <= 1
    assert commands.count("train") == 4
    error = script("init_scale", *arguments, "--inits", "codebok:1", code=1)
    assert "'codebok:1' is not INIT:SCALE" in error

    from init_scale import HISTORY, Rows, losses_before_training

    bundle = tmp_path / "work" / "ml.zarr"
    catalog_ids = list(Bundle.open(str(bundle)).items.ids)[:HISTORY]

    def losses(*history: str) -> object:
        users = SimpleNamespace(valid=[SimpleNamespace(history=history)])
        monkeypatch.setattr("init_scale.open_split", lambda _: users)
        return list(losses_before_training(base, bundle, bundle, [Rows("random", 0.1)], 1))

    assert losses(*catalog_ids[:4], "unknown", *catalog_ids[4:]) == losses(*catalog_ids)


def test_models_of_lists_end_with_a_table(
    script: Run,
    words: Words,
    data: Path,
    tmp_path: Path,
    commands: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from lists import TASKS

    session_events(data / "interactions.csv", data / "interactions.csv")
    sizes = ("--length", 3, "--session-gap", "30m", "--num-beams", 4, "--timed", 3)
    arguments = (*words, *sizes, "--seeds", 0)
    assert "| lists: greedy lists |" in script("lists", *arguments, twice=True)
    systems = result_of(tmp_path, "result-test.json")["systems"]
    list_systems = [
        f"{name}: {search}"
        for name in ("lists", "both", "aligned")
        for search in ("lists", "greedy lists", "top items")
    ]
    assert set(systems) == {"items: top items", "popularity", "item-knn", *list_systems}
    for system, measured in systems.items():
        assert 0 <= measured["mean"]["recall@3"]["mean"] <= 1
        assert (measured["mean"]["repeats"]["mean"], measured["mean"]["legal"]["mean"]) == (0, 1)
        assert ("ndcg@3" in measured["gain"]) == (system != "items: top items")
        assert (measured["seconds"] is None) == (system in ("popularity", "item-knn"))
    assert systems["aligned: lists"]["reference"] == "lists: lists"
    assert systems["both: lists"]["reference"] == "items: top items"
    assert (commands.count("train"), commands.count("rl")) == (len(TASKS), 1)

    # a model that the guard refuses is measured all the same, and named
    run_process = steps.run_process

    def refuse(command: list[str], stdout: TextIO) -> Ran:
        is_refused = command[0] == "rl" and "--allow-worse-slices" not in command
        return Ran(3) if is_refused else run_process(command, stdout)

    monkeypatch.setattr(steps, "run_process", refuse)
    shutil.rmtree(tmp_path / "work" / "aligned")
    assert "worse on a slice after alignment: seeds [0]" in script("lists", *arguments, twice=True)
    assert "no variant 'magic'" in script("lists", *arguments, "--only", "magic", code=1)


TASKS_OF_PLUM = {
    "cpt": {"task": {"history-text": 1, "item-text": 1}, "format": "plain"},
    "sft": {"task": {"sequence": 1}, "weight": "rating", "format": "plain"},
    "evaluate": {"num_beams": 5},
    "train": {"eval_users": 8},
}


@pytest.mark.usefixtures("rated_data")
def test_both_models_of_plum_end_in_a_table(
    script: Run, words: Words, recipe_folder: Path, base: Path, tmp_path: Path, commands: list[str]
) -> None:
    for name, config in TASKS_OF_PLUM.items():
        (recipe_folder / f"{name}.yaml").write_text(json.dumps(config))
    template = {"prompts": ["Of {user.age}:{history}"], "items": ["{sid} {event.rating}"]}
    (tmp_path / "sequence.json").write_text(json.dumps(template))
    general = tmp_path / "general.txt"
    general.write_text("\n\n".join(f"General text {n}." for n in range(40)), encoding="utf-8")
    shown = ("--template", tmp_path / "sequence.json", "--column", "description")
    fields = (*shown, "--feedback", "rating", "--users", "users.csv", "--user-field", "age")
    sizes = ("--model", base, "--tokens", 2000, "--limit", 6, "--general", general)
    out = script("plum", *words, *fields, *sizes, twice=True)
    assert "| PLUM |" in out
    assert "continued pre-training gains R@10" in out
    assert commands.count("train") == 3
    (seed,) = result_of(tmp_path, "result-test.json")["seeds"]
    systems = seed["systems"]
    plain = "without continued pre-training"
    assert set(systems) == {"PLUM", plain, "popularity", "item-knn"}
    assert seed["n"] == 6
    assert seed["perplexity"][0] != seed["perplexity"][1]
    for name, gain in seed["gain"].items():
        assert gain["mean"] == pytest.approx(systems["PLUM"][name] - systems[plain][name])
