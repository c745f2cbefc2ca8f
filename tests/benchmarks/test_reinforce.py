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
