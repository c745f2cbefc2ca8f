"""Rarity is a weight of events, and the comparison of reinforcement runs to its end."""

from pathlib import Path

import numpy as np
import pytest


@pytest.mark.parametrize("header", ["user_id,item_id,timestamp", "user_id,item_id"])
def test_rarity_is_a_weight_of_the_events(tmp_path: Path, header: str) -> None:
    from reinforce import RARITY, write_rarity

    from sidtool.data.columns import EventNames
    from sidtool.data.fields.field_columns import FieldName, FieldOptions
    from sidtool.data.split.make import SplitOptions, make_split
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
    assert commands.count("rl") >= 4
    out = capsys.readouterr().out
    for name in ("start", "GRPO", "GSPO", "weighted SFT", "teacher"):
        assert f"| {name}" in out
    commands.clear()
    assert main(texts) == 0
    assert commands == []
