import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.errors import DataError, UsageError
from sidtool.data import Fields, FieldTypes
from sidtool.data.split import Example, UserSequence
from sidtool.evaluation import SLICES, EvaluationOptions, StoredEvaluation
from sidtool.evaluation.evaluation import evaluate_examples
from sidtool.evaluation.groups import example_groups, field_groups, fulfilling, target_weights
from sidtool.evaluation.metrics import averages
from tests.bundles import small_bundle
from tests.evaluation.shop import evaluate_shop
from tests.loaded import loaded_model


def examples_of(targets: list[str]) -> list[Example]:
    return [Example(f"u{number}", ("x",), item, 1) for number, item in enumerate(targets)]


def events_of(counts: dict[str, int]) -> list[UserSequence]:
    items = tuple(item for item, count in counts.items() for _ in range(count))
    return [UserSequence("u", items, tuple(range(len(items))))]


@pytest.mark.parametrize(
    ("name", "counts"),
    [("cold", [0]), ("rare", [1, 5]), ("occasional", [6, 20]), ("frequent", [21, 99]),
     ("popular", [100, 500])],
)  # fmt: skip
def test_the_number_of_training_events_decides_the_slice(name: str, counts: list[int]) -> None:
    for count in counts:
        groups = example_groups(examples_of(["i"]), events_of({"i": count, "other": 1}))
        warm = {"warm"} if count else set()
        assert groups.keys() == {"all", "macro", name, *warm}
    for no_events in (None, []):
        assert example_groups(examples_of(["i"]), no_events).keys() == {"all", "macro"}


@given(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=30), st.integers(0, 2**32 - 1))
def test_the_groups_of_any_examples(targets: list[str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = dict(zip("abcdefg", rng.integers(0, 130, 7).tolist(), strict=True))
    groups = example_groups(examples_of(targets), events_of({**counts, "x": 1}))
    slices = [groups[name] for name in SLICES if name in groups and name != "warm"]
    assert (np.sum(slices, axis=0) == 1).all()  # each example is in one slice
    values = rng.random((len(targets), 1))
    pairs = list(zip(values[:, 0], targets, strict=True))
    by_item = [np.mean([value for value, target in pairs if target == i]) for i in set(targets)]
    macro = averages(["m"], values, groups["macro"])["m"]
    assert macro == pytest.approx(float(np.mean(by_item)))


TYPES = FieldTypes({"rating": "int"}, {"device": "str"}, {"age": "int"})


def examples(rows: list[tuple[Any, Any, Any]]) -> list[Example]:
    made = []
    for number, (age, device, rating) in enumerate(rows):
        user, item = f"u{number % 7}", f"i{number % 9}"
        fields = Fields({"age": age}, {}, {"device": device})
        made.append(Example(user, ("i1",), item, 1, fields, {"rating": rating}))
    return made


def test_few_values_are_groups_in_order() -> None:
    held_out = examples([(9, "b", 1), (10, None, 2), (9, "a", None), (None, "b", 1)])
    groups = {name: list(inside) for name, inside in field_groups(held_out, "user.age").items()}
    assert groups == {"9": [1, 0, 1, 0], "10": [0, 1, 0, 0], "unknown": [0, 0, 0, 1]}
    assert list(groups) == ["9", "10", "unknown"]
    assert list(field_groups(held_out, "context.device")) == ["a", "b", "unknown"]
    assert list(field_groups(held_out, "feedback.rating")) == ["1", "2", "unknown"]


def test_many_numbers_are_quarters() -> None:
    ages = [*range(40), *range(40)]
    groups = field_groups(examples([(age, "", 1) for age in ages]), "user.age")
    assert list(groups) == ["0 to 9", "10 to 19", "20 to 29", "30 to 39"]
    for label, inside in groups.items():
        first, last = map(int, label.split(" to "))
        assert inside.tolist() == [float(first <= age <= last) for age in ages]
    skewed = field_groups(examples([(max(age, 29), "", 1) for age in ages]), "user.age")
    assert next(iter(skewed)) == "29"
    assert sum(inside.sum() for inside in skewed.values()) == 80


def test_rare_texts_are_one_group() -> None:
    cities = [city for n in range(15) for city in [f"c{n:02}"] * (20 - n)]
    groups = field_groups(examples([(1, city, 1) for city in cities]), "context.device")
    assert list(groups) == [*(f"c{n:02}" for n in range(9)), "all others"]
    assert groups["all others"].sum() == sum(20 - n for n in range(9, 15))
    # the value "other" is a group of its own
    cities = ["other"] * 30 + [f"c{n:02}" for n in range(15)]
    groups = field_groups(examples([(1, city, 1) for city in cities]), "context.device")
    assert (groups["other"].sum(), groups["all others"].sum()) == (30, 7)


def test_groups_and_weights_enter_an_evaluation() -> None:
    rng = np.random.default_rng(0)
    bundle = small_bundle(40)
    rows = [(int(rng.integers(3)), "tv", [None, 0, 1, 5][rng.integers(4)]) for _ in range(60)]
    held_out = examples(rows)
    leaves = np.stack([rng.permutation(bundle.trie().n_leaves)[:20] for _ in held_out])
    options = {"ks": (5, 10), "by": ("user.age",), "weight": "rating", "seed": 3}
    evaluation = evaluate_shop(bundle, held_out, leaves, None, **options)
    names = evaluation.values.names
    for age, group in evaluation.by["user.age"].items():
        inside = np.array([str(example.fields.user["age"]) == age for example in held_out])
        assert group.n == inside.sum()
        assert group.metrics == pytest.approx(averages(names, evaluation.values.values[inside]))
    ratings = np.array([example.feedback["rating"] or 0.0 for example in held_out], dtype=float)
    assert evaluation.weighted.n == (ratings > 0).sum()
    expected = averages(names, evaluation.values.values, ratings)
    assert evaluation.weighted.metrics == pytest.approx(expected)
    stored = json.loads(json.dumps(evaluation.to_json()))
    assert set(stored["by"]["user.age"]) == {"0", "1", "2"}
    assert stored["settings"]["weight"] == "rating"
    read = StoredEvaluation.from_json(stored)
    assert read.by["user.age"]["1"].n == evaluation.by["user.age"]["1"].n
    assert read.weighted is not None


def test_only_targets_that_fulfill_a_condition_remain() -> None:
    held_out = examples([(1, "", rating) for rating in (1, 5, None, 4)])
    left = fulfilling(held_out, ["rating>=4"], TYPES)
    assert [example.feedback["rating"] for example in left] == [5, 4]
    with pytest.raises(DataError, match="no target of the 4 examples fulfills rating>5 and rat"):
        fulfilling(held_out, ["rating>5", "rating<2"], TYPES)
    with pytest.raises(UsageError, match="no feedback 'stars'"):
        fulfilling(held_out, ["stars>5"], TYPES)


def test_unknown_fields_are_refused() -> None:
    held_out = examples([(1, "tv", 1)])
    for name in ("age", "user.", "item.age"):
        with pytest.raises(UsageError, match=r"is not one of user.FIELD"):
            field_groups(held_out, name)
    with pytest.raises(UsageError, match=r"--by user.city: the split has no such field, only age"):
        field_groups(held_out, "user.city")
    with pytest.raises(UsageError, match="--weight stars: the split has no such field"):
        target_weights(held_out, "stars")
    with pytest.raises(UsageError, match="field of texts"):
        target_weights(examples([(1, "", "good")]), "rating")
    for rating in (-1, 0, None):
        with pytest.raises(DataError, match="not negative, and one is above 0"):
            target_weights(examples([(1, "", rating)]), "rating")


@pytest.mark.parametrize("wrong", [{"by": ("user.city",)}, {"weight": "stars"}])
def test_unknown_fields_are_refused_before_the_model_runs(wrong: dict[str, Any]) -> None:
    def ranker(*_: Any, **__: Any) -> Any:
        raise AssertionError("the model has run")

    loaded = loaded_model(small_bundle(12))
    options = EvaluationOptions(**wrong)
    with pytest.raises(UsageError, match="the split has no such field"):
        evaluate_examples(loaded, examples([(1, "tv", 1)]), None, options, ranker=ranker)


def test_numbers_keep_their_digits() -> None:
    days = [20240101, 20240102, 20240103, 0.5]
    groups = field_groups(examples([(day, "", 1) for day in days]), "user.age")
    assert list(groups) == ["0.5", "20240101", "20240102", "20240103"]
    times = [2**53 + number for number in range(40)]  # float64 has the even ones only
    groups = field_groups(examples([(time, "", 1) for time in times]), "user.age")
    assert sum(inside.sum() for inside in groups.values()) == 40
    assert next(iter(groups)).startswith(f"{2**53} to ")
