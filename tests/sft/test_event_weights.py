"""Weights of training examples against the values of the events that they show."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidtool.bundle.bundle import Bundle
from sidtool.data.items import Items
from sidtool.errors import CompatibilityError, DataError, UsageError
from sidtool.sft.event_weights import EventWeights, WeightOptions
from sidtool.sft.example_file import prompt_and_completion, read_training_examples
from sidtool.sft.lineage import read_lineage
from sidtool.sft.make_sft import make_sft
from sidtool.sft.training_examples import SftOptions
from sidtool.splits.files import SplitOptions, make_split
from sidtool.splits.split import Split

TASKS = {"sequence": 1.0, "next-item": 1.0, "history-to-title": 1.0, "title-to-sid": 1.0}
RNG = np.random.default_rng(5)


@pytest.fixture(scope="module")
def events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Events of 12 users in random order of rows; no user has an item twice, and some items are not
    in the bundle."""
    rows = []
    for user in range(12):
        for time, item in enumerate(RNG.permutation(44)[: RNG.integers(3, 14)]):
            rows.append((f"u{user}", f"i{item}", time, int(RNG.integers(1, 6))))
    path = tmp_path_factory.mktemp("events") / "events.csv"
    lines = [",".join(map(str, rows[row])) for row in RNG.permutation(len(rows))]
    path.write_text("\n".join(["user_id,item_id,timestamp,rating", *lines]) + "\n")
    return path


def ratings(events: Path) -> dict[tuple[str, str], float]:
    rows = [line.split(",") for line in events.read_text().splitlines()[1:]]
    return {(user, item): float(rating) for user, item, _, rating in rows}


def shown_items(example: dict[str, Any], bundle: Bundle) -> list[str]:
    """The items whose SIDs an example shows, in order."""
    space = bundle.space
    sides = prompt_and_completion(example, space)
    tokens = [token for side in sides for segment in side for token in segment.sid_tokens]
    codes = np.array([token for token in tokens if token < space.n_codes])
    rows, _ = bundle.items.rows_at(codes.reshape(-1, space.levels) - space.offsets)
    return [bundle.items.ids[row] for row in rows]


@pytest.mark.parametrize("protocol", ["leave-one-out", "temporal"])
def test_every_target_has_the_weight_of_its_event(
    tmp_path: Path, bundle: Bundle, catalog: Items, events: Path, protocol: Any
) -> None:
    split = make_split(events, SplitOptions(protocol))
    options = WeightOptions(events, "exp(rating/2)", clip=9.0)
    plain, weighted = (tmp_path / f"{name}.jsonl" for name in ("plain", "weighted"))
    sft_options = SftOptions(TASKS, history_length=4)
    make_sft(bundle, catalog, split, plain, sft_options)
    make_sft(bundle, catalog, split, weighted, sft_options, weights=options)
    rating_of = ratings(events)
    weight_of = {key: min(math.exp(value / 2), 9.0) for key, value in rating_of.items()}
    users = [sequence.user for sequence in split.train]
    tasks = set()
    for before, example in zip(
        read_training_examples(plain), read_training_examples(weighted), strict=True
    ):
        weight = example.pop("weight", None)
        assert example == before
        tasks.add(example["task"])
        if example["task"] == "title-to-sid":
            assert weight is None
            continue
        items = shown_items(example, bundle)
        if example["task"] == "sequence":
            candidates = [[weight_of.get((user, item)) for item in items] for user in users]
        elif example["task"] == "next-item":
            candidates = [weight_of.get((user, items[-1])) for user in users]
        else:
            assert isinstance(weight, float)
            continue
        assert weight in candidates
    assert tasks == set(TASKS)
    trained = [weight_of[user.user, item] for user in split.train for item in user.items]
    record = read_lineage(weighted).weights
    assert record is not None
    assert record.mean == pytest.approx(np.mean(trained))
    assert (record.smallest, record.largest) == (min(trained), max(trained))
    unclipped = [rating_of[user.user, item] for user in split.train for item in user.items]
    assert record.clipped == sum(math.exp(rating / 2) > 9 for rating in unclipped)
    expected = np.sum(trained) ** 2 / np.sum(np.square(trained))
    assert record.effective_events == pytest.approx(expected)
    assert read_lineage(plain).weights is None


def test_a_column_is_a_weight_as_it_is(bundle: Bundle, events: Path) -> None:
    split = make_split(events)
    weights = EventWeights.read(WeightOptions(events, "rating"), split)
    rating_of = ratings(events)
    for sequence in split.train:
        first = weights.first_row[sequence.user]
        for item, position in zip(sequence.items, sequence.positions, strict=True):
            assert weights.weights[first + position] == rating_of[sequence.user, item]


@pytest.mark.parametrize(
    ("expression", "clip", "message"),
    [
        ("exp(rating/0)", None, "temperature of 'exp.rating/0.' is not a number above 0"),
        ("exp(rating/-1)", None, "temperature"),
        ("exp(rating/x)", None, "temperature"),
        ("exp(rating/nan)", None, "temperature"),
        ("rating", 0.0, "largest weight is a number above 0, not 0.0"),
        ("rating", math.nan, "largest weight"),
    ],
)
def test_bad_options_are_refused(expression: str, clip: float | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        WeightOptions(Path("events.csv"), expression, clip)


def test_bad_values_are_refused(tmp_path: Path, events: Path) -> None:
    split = make_split(events)
    lines = events.read_text().splitlines()

    def with_rating(row: int, text: str) -> Path:
        cells = lines[row].split(",")
        changed = [*lines[:row], ",".join([*cells[:3], text]), *lines[row + 1 :]]
        path = tmp_path / "changed.csv"
        path.write_text("\n".join(changed) + "\n")
        return path

    for text in ("", "good", "nan", "inf", "1_0"):
        with pytest.raises(DataError, match=f"row 3: rating is '{text}', not a number"):
            EventWeights.read(WeightOptions(with_rating(3, text), "rating"), split)
    with pytest.raises(DataError, match="rating -2 gives the weight -2"):
        EventWeights.read(WeightOptions(with_rating(3, "-2"), "rating"), split)
    with pytest.raises(DataError, match="rating 4000 gives the weight inf"):
        EventWeights.read(WeightOptions(with_rating(3, "4000"), "exp(rating/1)"), split)
    EventWeights.read(WeightOptions(with_rating(3, "4000"), "exp(rating/1)", clip=9.0), split)
    EventWeights.read(WeightOptions(with_rating(3, "-2"), "exp(rating/1)"), split)
    with pytest.raises(UsageError, match="no column 'stars' for the value"):
        EventWeights.read(WeightOptions(events, "stars"), split)
    zero = tmp_path / "zero.csv"
    zero.write_text("\n".join([lines[0], *(line[: line.rindex(",")] + ",0" for line in lines[1:])]))
    with pytest.raises(DataError, match="all training events have the weight 0 by rating"):
        EventWeights.read(WeightOptions(zero, "rating"), split)


def test_other_events_are_refused(tmp_path: Path, events: Path, split: Split) -> None:
    fewer = tmp_path / "fewer.csv"
    fewer.write_text("\n".join(events.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(CompatibilityError, match=r"fewer.csv has events .* was made from"):
        EventWeights.read(WeightOptions(fewer, "rating"), make_split(events))
    with pytest.raises(UsageError, match="was made from windows"):
        EventWeights.read(WeightOptions(events, "rating"), split)
