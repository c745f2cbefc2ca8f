"""The comparison of reinforcement with supervised training: its order of work with stand-ins for
training and evaluation, and one real run on a tiny catalog."""

import json
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pytest

from sidtool.recipes import Ran

SECONDS = {"joint-dpo-0.0001": 40.0, "joint-dpo-0.001": 60.0}
HIT_RATES = {"joint-dpo-0.0001": 0.2, "joint-dpo-0.001": 0.5, "more-sft-0.001": 0.3}


@pytest.fixture
def comparison(recipe_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A comparison whose commands only write what they would, and note their arguments."""
    import reinforce
    from recipe import Dataset, Recipe, RecipeRun

    calls: list[list[str]] = []
    refused = {"grpo"}

    def run_command(arguments: list[str], stdout: TextIO) -> Ran:
        calls.append(arguments)
        out = Path(arguments[arguments.index("-o") + 1])
        is_refused = any(f"algorithm={name}" in arguments for name in refused)
        if is_refused and "--allow-worse-slices" not in arguments:
            return Ran(reinforce.REFUSED)
        out.mkdir(parents=True)
        (out / "model.safetensors").write_text(out.parent.name)
        stdout.write(json.dumps({"tokens": 1000}))
        return Ran(0)

    for name in ("items.jsonl", "interactions.csv"):
        (tmp_path / name).touch()
    recipe = Recipe(
        Dataset.open(tmp_path), RecipeRun(recipe_folder, seeds=(3, 4)), tmp_path / "work"
    )
    recipe.steps.run_command = run_command
    for name in ("bundle", "split", "training_examples", "initial_model"):
        path = recipe.work / name
        path.mkdir()
        monkeypatch.setattr(recipe, name, lambda *arguments, path=path: path)

    def train(bundle: Path, seed: int) -> Path:
        model = recipe.work / f"seed-{seed}" / "model"
        return recipe.steps.run(model, "train", bundle, "-o", model)

    monkeypatch.setattr(recipe, "train", train)
    rates = {"joint DPO": (1e-4, 1e-3), "GRPO": (1e-4,), "more SFT": (1e-3,), "teacher": (1e-3,)}
    result = reinforce.Comparison(recipe, rates)

    def seconds(*prefixes: str) -> float:
        name = prefixes[0].split("/")[1]
        return 100.0 if name == "model" else SECONDS.get(name, 20.0)

    monkeypatch.setattr(recipe.steps, "seconds", seconds)

    def values(cell: Any, part: str) -> Any:
        share = HIT_RATES.get(cell.model.parent.name, 0.1)
        column = (np.arange(10) < 10 * share).astype(np.float64)
        return reinforce.Values(("hr@10", "ndcg@10", "survival@1"), np.stack([column] * 3, axis=1))

    monkeypatch.setattr(result, "values", values)
    result.calls = calls
    return result


def options_of(calls: list[list[str]], folder: str) -> list[str]:
    (call,) = [call for call in calls if f"/{folder}/" in call[call.index("-o") + 1]]
    return call


def test_rates_are_selected_and_controls_take_the_time_of_the_algorithms(comparison: Any) -> None:
    assert comparison.rate("joint DPO") == 1e-3
    # one epoch of the recipe takes 100 seconds; the algorithms take 60 and 20
    assert comparison.budget_epochs() == pytest.approx(0.4)
    comparison.cell("more SFT", 4, 1e-3)
    call = options_of(comparison.calls, "more-sft-0.001")
    assert {"num_train_epochs=0.4", "learning_rate=0.001", "seed=4"} <= set(call)
    assert call[0] == "train"
    student = comparison.cell("teacher", 4, 1e-3)
    assert "num_train_epochs=0.2" in options_of(comparison.calls, "teacher-itself")
    call = options_of(comparison.calls, "teacher-0.001")
    assert "num_train_epochs=0.15" in call
    assert call[call.index("--teacher") + 1].endswith("seed-4/teacher-itself/model")
    assert (student.seconds, student.tokens) == (40.0, 2000)


def test_the_budget_is_measured_once(comparison: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = comparison.budget_epochs()
    monkeypatch.setitem(SECONDS, "joint-dpo-0.001", 5000.0)
    assert comparison.budget_epochs() == first


def test_a_refused_model_is_measured_and_marked(comparison: Any) -> None:
    cell = comparison.cell("GRPO", 3, 1e-4)
    assert cell.refused
    flags = ["--allow-worse-slices" in call for call in comparison.calls if call[0] == "rl"]
    assert flags == [False, True]
    comparison.cells.clear()
    comparison.calls.clear()
    again = comparison.cell("GRPO", 3, 1e-4)
    assert again.refused
    assert comparison.calls == []


def test_another_failure_of_a_command_ends_the_run(
    comparison: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sidtool.recipes import StepError

    monkeypatch.setattr(comparison.recipe.steps, "run_command", lambda *arguments: Ran(1))
    with pytest.raises(StepError, match="ended with exit code 1"):
        comparison.cell("GRPO", 3, 1e-4)


def test_the_tables_have_every_variant(comparison: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import reinforce
    from reinforce_table import result_tables

    from sidtool.data.split.split import Split
    from sidtool.data.split.values import Example, UserSequence

    examples = tuple(Example(f"u{row}", ("a",), "a" if row < 5 else "b", 1) for row in range(10))
    split = Split("leave-one-out", (UserSequence("u", ("a",) * 30, range(30)),), (), examples)
    monkeypatch.setattr(reinforce.Comparison, "split", split)
    result = reinforce.run_comparison(comparison, "test")
    systems = result["systems"]
    assert systems["joint DPO"]["learning_rate"] == 1e-3
    difference = systems["joint DPO"]["differences"]["more SFT"]["all"]["ndcg@10"]
    assert difference["mean"] == pytest.approx(0.2)
    groups = systems["joint DPO"]["seeds"][0]["groups"]
    # the first five examples are hits, and those of the frequent item "a"
    assert (groups["frequent"]["ndcg@10"], groups["cold"]["ndcg@10"]) == (1, 0)
    assert groups["macro"]["ndcg@10"] == 0.5
    text = result_tables(json.loads(json.dumps(result)))
    assert "| GRPO (refused 2 of 2) | 0.0001 | 0.1000" in text
    assert "| joint DPO | +200.0 (" in text.split("less more SFT")[1]


@pytest.mark.parametrize("header", ["user_id,item_id,timestamp", "user_id,item_id"])
def test_rarity_is_a_weight_of_the_events(tmp_path: Path, header: str) -> None:
    from reinforce import RARITY, write_rarity

    from sidtool.data.columns import EventNames
    from sidtool.data.fields.field_columns import FieldName, FieldOptions
    from sidtool.data.split.files import SplitOptions, make_split
    from sidtool.examples.event_weights import EventWeights, WeightOptions

    rng = np.random.default_rng(0)
    rows = [(f"u{row % 7}", f"i{rng.integers(9)}", str(rng.integers(50))) for row in range(60)]
    events = tmp_path / "events.csv"
    lines = [",".join(row[: header.count(",") + 1]) for row in rows]
    events.write_text("\n".join([header, *lines]) + "\n")
    order = "column" if "timestamp" in header else "row"
    split = make_split(events, SplitOptions(columns=EventNames(order_by=order)))
    path = write_rarity(events, split, tmp_path / "rarity.csv")
    fields = FieldOptions(feedback=(FieldName(RARITY),))
    weighted = make_split(path, SplitOptions(columns=EventNames(order_by=order), fields=fields))
    assert weighted.reference == split.reference
    weights = EventWeights.read(WeightOptions(f"exp({RARITY}/2)"), weighted)
    assert weights is not None
    trained = [item for user in split.train for item in user.items]
    first = split.train[0]
    weight = weights.values[first.positions[1]]  # those of the first user are the first ones
    assert weight == pytest.approx(trained.count(first.items[1]) ** -0.5)


def test_windows_have_no_weighted_variant(tmp_path: Path) -> None:
    from recipe import Dataset
    from reinforce import VARIANTS, WEIGHTED, chosen_variants

    from sidtool.recipes import StepError

    windows = Dataset(tmp_path, tmp_path, protocol="given")
    assert chosen_variants(None, windows) == [name for name in VARIANTS if name != WEIGHTED]
    with pytest.raises(StepError, match="windows, which have no weights"):
        chosen_variants("GRPO; weighted SFT", windows)


def test_unknown_variants_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from reinforce import main

    (tmp_path / "items.jsonl").touch()
    (tmp_path / "interactions.csv").touch()
    assert main([str(tmp_path), "-o", str(tmp_path / "work"), "--only", "PPO"]) == 1
    assert "no variant 'PPO': choose from joint DPO; " in capsys.readouterr().err


@pytest.mark.slow
def test_the_comparison_ends_with_tables(
    data: Path,
    recipe_folder: Path,
    tmp_path: Path,
    commands: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    from reinforce import main

    arguments = [data, "-o", tmp_path / "work", "--encoder", tmp_path / "encoder"]
    arguments += ["--recipe", recipe_folder, "--seeds", "0", "--rl-rates", "1e-3"]
    arguments += ["--sft-rates", "1e-3", "--set", "max_steps=2", "--set", "eval_users=8"]
    texts = [str(part) for part in arguments]
    assert main(texts) == 0
    assert commands.count("rl") >= 5
    out = capsys.readouterr().out
    for name in ("start", "joint DPO", "GSPO", "weighted SFT", "teacher"):
        assert f"| {name}" in out
    commands.clear()
    assert main(texts) == 0
    assert commands == []
