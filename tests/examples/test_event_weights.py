import math
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidtool.base.errors import DataError, UsageError
from sidtool.data.fields.field_columns import FieldName, FieldOptions
from sidtool.data.items import Items
from sidtool.data.split.make import SplitOptions, make_split
from sidtool.data.split.split import Split
from sidtool.examples.event_weights import EventWeights, WeightOptions
from sidtool.examples.example_file import prompt_and_completion, read_training_examples
from sidtool.examples.lineage import read_lineage
from sidtool.examples.sft_options import SftOptions
from sidtool.examples.sft_run import make_sft
from sidtool.tokenizer.bundle.bundle import Bundle
from tests.examples.cases import shown_items

pytestmark = pytest.mark.filterwarnings("ignore::sidtool.base.errors.SidtoolWarning")

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


def rated_split(events: Path, protocol: Any = "leave-one-out", target: Any = ()) -> Split:
    fields = FieldOptions(feedback=(FieldName("rating"),), target=target)
    return make_split(events, SplitOptions(protocol, fields=fields))


def ratings(events: Path) -> dict[tuple[str, str], float]:
    rows = [line.split(",") for line in events.read_text().splitlines()[1:]]
    return {(user, item): float(rating) for user, item, _, rating in rows}


def items_of(example: dict[str, Any], bundle: Bundle) -> list[str]:
    """The items whose SIDs an example shows, in order."""
    return shown_items(bundle, chain(*prompt_and_completion(example, bundle.space)))


@pytest.mark.parametrize("protocol", ["leave-one-out", "temporal"])
def test_every_target_has_the_weight_of_its_event(
    tmp_path: Path, bundle: Bundle, catalog: Items, events: Path, protocol: Any
) -> None:
    split = rated_split(events, protocol)
    options = WeightOptions("exp(rating/2)", clip=9.0)
    plain, weighted = (tmp_path / f"{name}.jsonl" for name in ("plain", "weighted"))
    sft_options = SftOptions(TASKS, history_length=4)
    make_sft(bundle, catalog, split, plain, sft_options)
    make_sft(bundle, catalog, split, weighted, sft_options, weights=options)
    event_ratings = ratings(events)
    event_weights = {key: min(math.exp(value / 2), 9.0) for key, value in event_ratings.items()}
    users = [sequence.user for sequence in split.train]
    tasks = set()
    rows = zip(read_training_examples(plain), read_training_examples(weighted), strict=True)
    for before, example in rows:
        weight = example.pop("weight", None)
        assert example == before
        tasks.add(example["task"])
        if example["task"] == "title-to-sid":
            assert weight is None
            continue
        items = items_of(example, bundle)
        if example["task"] == "sequence":
            candidates = [[event_weights.get((user, item)) for item in items] for user in users]
        elif example["task"] == "next-item":
            candidates = [event_weights.get((user, items[-1])) for user in users]
        else:
            assert isinstance(weight, float)
            continue
        assert weight in candidates
    assert tasks == set(TASKS)
    trained = [event_weights[user.user, item] for user in split.train for item in user.items]
    record = read_lineage(weighted).weights
    assert record.mean == pytest.approx(np.mean(trained))
    assert (record.smallest, record.largest) == (min(trained), max(trained))
    unclipped = [event_ratings[user.user, item] for user in split.train for item in user.items]
    assert record.clipped == sum(math.exp(rating / 2) > 9 for rating in unclipped)
    expected = np.sum(trained) ** 2 / np.sum(np.square(trained))
    assert record.effective_events == pytest.approx(expected)
    assert read_lineage(plain).weights is None


@pytest.mark.parametrize(
    ("expression", "clip", "message"),
    [
        ("exp(rating/0)", None, "temperature of 'exp.rating/0.' is not a number above 0"),
        ("exp(rating/-1)", None, "temperature"),
        ("exp(rating/x)", None, "temperature"),
        ("exp(rating/nan)", None, "temperature"),
        ("rating", 0.0, "clip must be more than 0, not 0.0"),
        ("rating", math.nan, "clip must be more than 0"),
    ],
)
def test_bad_options_are_refused(expression: str, clip: float | None, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        WeightOptions(expression, clip)


def test_bad_values_are_refused(tmp_path: Path, events: Path) -> None:
    lines = events.read_text().splitlines()

    def with_rating(row: int, text: str) -> Split:
        cells = lines[row].split(",")
        changed = [*lines[:row], ",".join([*cells[:3], text]), *lines[row + 1 :]]
        path = tmp_path / "changed.csv"
        path.write_text("\n".join(changed) + "\n")
        return rated_split(path)

    train = {(user.user, item) for user in rated_split(events).train for item in user.items}
    row = next(n for n, line in enumerate(lines) if tuple(line.split(",")[:2]) in train)
    with pytest.raises(DataError, match="1 training events have no rating"):
        EventWeights.read(WeightOptions("rating"), with_rating(row, ""))
    with pytest.raises(DataError, match="rating -2 gives the weight -2"):
        EventWeights.read(WeightOptions("rating"), with_rating(row, "-2"))
    with pytest.raises(DataError, match="rating 4000 gives the weight inf"):
        EventWeights.read(WeightOptions("exp(rating/1)"), with_rating(row, "4000"))
    EventWeights.read(WeightOptions("exp(rating/1)", clip=9.0), with_rating(row, "4000"))
    EventWeights.read(WeightOptions("exp(rating/1)"), with_rating(row, "-2"))
    with pytest.raises(UsageError, match="no feedback 'stars', it has rating"):
        EventWeights.read(WeightOptions("stars"), rated_split(events))
    with pytest.raises(UsageError, match="no feedback 'rating', it has none"):
        EventWeights.read(WeightOptions("rating"), make_split(events))
    texts = SplitOptions(fields=FieldOptions(feedback=(FieldName("rating", "str"),)))
    with pytest.raises(UsageError, match="rating is a field of texts"):
        EventWeights.read(WeightOptions("rating"), make_split(events, texts))
    zero = tmp_path / "zero.csv"
    zero.write_text("\n".join([lines[0], *(line[: line.rindex(",")] + ",0" for line in lines[1:])]))
    with pytest.raises(DataError, match="all training events have the weight 0 by rating"):
        EventWeights.read(WeightOptions("rating"), rated_split(zero))


def test_no_example_has_weight_0(
    tmp_path: Path, bundle: Bundle, catalog: Items, events: Path
) -> None:
    """Tokens that nothing is learned from would take a part of every budget of tokens."""
    header, *lines = events.read_text().splitlines()
    rows = [f"{line[:-1]}{int(line[-1] == '5')}" for line in lines]  # a click, or none
    clicks, out = tmp_path / "clicks.csv", tmp_path / "train.jsonl"
    clicks.write_text("\n".join([header, *rows]) + "\n")
    options = SftOptions(TASKS, history_length=3)
    make_sft(bundle, catalog, rated_split(clicks), out, options, weights="rating")
    examples = [row for row in read_training_examples(out) if row["task"] != "title-to-sid"]
    assert {row["task"] for row in examples} == TASKS.keys() - {"title-to-sid"}
    for example in examples:
        weight, answer = example["weight"], example.get("completion") or example["text"]
        n_targets = len(items_of({"text": answer}, bundle))
        assert any(weight[-n_targets:]) if isinstance(weight, list) else weight > 0


@pytest.mark.parametrize("expression", [None, "rating"])
def test_an_event_that_is_no_target_has_weight_0_and_labels_have_none(
    tmp_path: Path, bundle: Bundle, catalog: Items, events: Path, expression: str | None
) -> None:
    """A model that predicts feedback learns bad feedback too."""
    split = rated_split(events, target=("rating>=3",))
    event_ratings = ratings(events)
    out = tmp_path / "train.jsonl"
    weights = None if expression is None else WeightOptions(expression)
    tasks = dict.fromkeys(("sequence", "next-item", "predict-rating", "predict-target"), 1.0)
    make_sft(bundle, catalog, split, out, SftOptions(tasks), weights=weights)
    n_zero, labels = 0, set()
    for example in read_training_examples(out):
        if example["task"].startswith("predict"):
            labels.add(example["completion"].strip())
            assert "weight" not in example
            continue
        items = items_of(example, bundle)
        values = [event_ratings[example["user"], item] for item in items]
        if example["task"] == "next-item":
            assert values[-1] >= 3  # the others are no examples
            assert example.get("weight") == (None if expression is None else values[-1])
            continue
        expected = [(1.0 if expression is None else value) * (value >= 3) for value in values]
        assert example["weight"] == expected
        n_zero += expected.count(0)
    assert n_zero
    assert {"yes", "no", "1", "5"} <= labels
    record = read_lineage(out).weights
    assert (record is None) == (expression is None)
    assert record is None or record.smallest >= 3
