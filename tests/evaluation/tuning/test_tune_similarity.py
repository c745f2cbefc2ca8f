from dataclasses import replace

import numpy as np
import pytest

from sidtool.base.errors import DataError, RefusedError, UsageError
from sidtool.data.split import Example, Split
from sidtool.evaluation.tuning import TuneSimilarityOptions, tune_similarity
from sidtool.evaluation.tuning.memory_tuning import GRID, _trials, coordinate_search
from sidtool.memory import DEFAULT, ItemContent, SplitPairs, build_memory
from sidtool.tokenizer.bundle import Bundle
from tests.bundles import small_bundle
from tests.memory.cases import random_histories, split_of

BUNDLE = small_bundle()
CONTENT = ItemContent.of(BUNDLE)
ITEMS = len(BUNDLE.items)


def ordered_split(users: int = 60) -> Split:
    """Users walk along a circle of items, all in the same direction."""
    rng = np.random.default_rng(0)

    def walk(length: int) -> list[str]:
        start = int(rng.integers(ITEMS))
        return [f"i{(start + step) % ITEMS}" for step in range(length)]

    split = split_of([walk(5) for _ in range(users)])
    walks = [walk(2) for _ in range(users)]
    valid = (Example(f"v{user}", (one,), other, 1) for user, (one, other) in enumerate(walks))
    return replace(split, valid=tuple(valid))


SPLIT = ordered_split()


def ndcg(
    split: Split, bundle: Bundle = BUNDLE, *, exclude_seen: bool = False, **settings: float
) -> float:
    """NDCG@10 by loops over the memory that `build_memory` makes with these settings."""
    values = dict(settings)
    weight = values.pop("content_weight", 0.0)
    knn = replace(DEFAULT, **values)
    content = CONTENT.weighted(weight) if weight else None
    memory = build_memory(split, bundle, knn, content=content)
    similarity = memory.neighbors.to_scipy().toarray().astype(np.float64)
    item_rows = {item: row for row, item in enumerate(bundle.items.ids)}
    gains = []
    for example in split.valid:
        history = [item_rows[item] for item in example.history if item in item_rows][-50:]
        scores = np.zeros(len(item_rows))
        for age, row in enumerate(reversed(history)):
            scores += knn.recency**age * similarity[row]
        scores[bundle.items.retired] = 0
        if exclude_seen:
            scores[[item_rows[item] for item in example.history if item in item_rows]] = 0
        ranked = [row for row in np.argsort(-scores, kind="stable")[:10] if scores[row] > 0]
        is_hit = np.array(ranked) == item_rows[example.item]
        gains.append(float((is_hit / np.log2(np.arange(len(ranked)) + 2)).sum()))
    return sum(gains) / len(gains)


def long_split() -> Split:
    """Users whose first item alone says which one is next, and who repeat another one after it."""
    pairs = [[f"i{number}", f"i{number + 1}"] for number in range(0, 20, 2)]
    valid = [
        Example(f"v{number}", (first, *["i39"] * 60), then, 61)
        for number, (first, then) in enumerate(pairs)
    ]
    return split_of([*pairs * 9, ["i39"]], valid)


def test_the_direction_is_used_where_it_matters_and_test_examples_are_not_read() -> None:
    tuned = tune_similarity(SPLIT, BUNDLE)
    assert tuned.settings.reverse < 1
    assert tuned.ndcg > ndcg(SPLIT, reverse=1.0) + 0.05
    assert tuned.start_ndcg == pytest.approx(ndcg(SPLIT), abs=1e-9)
    assert (tuned.users, tuned.content) == (60, None)
    again = tune_similarity(replace(SPLIT, test=tuple(reversed(SPLIT.valid))), BUNDLE)
    assert (again.settings, again.ndcg) == (tuned.settings, tuned.ndcg)


@pytest.mark.parametrize("weight", [0.0, 0.8])
def test_the_metric_is_that_of_the_built_memory(weight: float) -> None:
    split = replace(split_of(random_histories(0, 60, ITEMS)), valid=SPLIT.valid)
    trial = _trials(SplitPairs(split), BUNDLE, split.valid, CONTENT, TuneSimilarityOptions())
    settings = {"reverse": 0.3, "normalization": 0.2, "recency": 0.6, "distance": 0.5}
    settings["content_weight"] = weight
    values = {**DEFAULT.to_json(), **settings}
    assert trial(values) == pytest.approx(ndcg(split, **settings), abs=1e-9)


def test_a_trial_reads_as_much_of_a_history_as_the_memory() -> None:
    split = long_split()
    trial = _trials(SplitPairs(split), BUNDLE, split.valid, None, TuneSimilarityOptions())
    values = {**DEFAULT.to_json(), "content_weight": 0.0, "recency": 1.0}
    # the item that says something is older than the 50 that are read
    assert trial(values) == ndcg(split, recency=1.0) == 0.0


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_the_promise_is_what_the_built_memory_computes(exclude_seen: bool) -> None:
    bundle = small_bundle()
    bundle.items.retired[[3, 8, 21]] = True
    rng = np.random.default_rng(4)
    histories = random_histories(0, 60, ITEMS + 3)
    valid = [
        Example(f"v{number}", tuple(history), f"i{rng.integers(ITEMS)}", len(history))
        for number, history in enumerate(random_histories(1, 40, ITEMS + 3, longest=90))
    ]
    split = split_of(histories, valid)
    tuned = tune_similarity(split, bundle, options=TuneSimilarityOptions(exclude_seen=exclude_seen))
    built = ndcg(split, bundle, exclude_seen=exclude_seen, **tuned.settings.to_json())
    assert tuned.ndcg == pytest.approx(built, abs=1e-9)
    start = ndcg(split, bundle, exclude_seen=exclude_seen)
    assert tuned.start_ndcg == pytest.approx(start, abs=1e-9)


def test_fixed_settings_are_not_tuned() -> None:
    fixed = {"reverse": 0.9, "content_weight": 0.3}
    options = TuneSimilarityOptions(users=20, fixed=fixed)
    tuned = tune_similarity(SPLIT, BUNDLE, CONTENT, options)
    assert tuned.settings.reverse == 0.9
    assert (tuned.content.settings, tuned.users) == (replace(CONTENT.settings, weight=0.3), 20)


def test_wrong_inputs_are_refused() -> None:
    with pytest.raises(DataError, match="no validation examples"):
        tune_similarity(split_of(random_histories(0, 9, ITEMS)), BUNDLE)
    with pytest.raises(UsageError, match="users must be at least 1"):
        TuneSimilarityOptions(users=0)
    with pytest.raises(UsageError, match="there is no option neighbours, known are distance"):
        TuneSimilarityOptions(fixed={"neighbours": 5, "content_weight": 0.5})
    leaking = split_of([["i1", "i2", "i3"]], [Example("u0", ("i1", "i2"), "i3", 2)])
    with pytest.raises(RefusedError, match="1 held-out event"):
        tune_similarity(leaking, BUNDLE)


def test_the_grid_contains_the_defaults() -> None:
    for name, value in DEFAULT.to_json().items():
        if name != "neighbors":
            assert value in GRID[name]


STEPS = {"x": (0, 1, 2, 3), "y": (0, 1, 2, 3)}


def test_a_second_round_sees_what_the_first_chose() -> None:
    steps: list[tuple[int, int]] = []
    best, quality = coordinate_search(
        {"x": 0, "y": 0, "z": 7},
        STEPS,
        lambda values: -2 * abs(values["y"] - 3) - abs(values["x"] - values["y"]),
        lambda *step: steps.append(step),
    )
    assert (best, quality) == ({"x": 3, "y": 3, "z": 7}, 0)
    assert steps == [(step, 16) for step in range(1, 17)]


def test_settings_are_tried_once_and_ties_keep_the_earlier() -> None:
    tried: list[tuple[int, ...]] = []

    def constant(values: dict[str, int]) -> float:
        tried.append(tuple(values.values()))
        return 1.0

    assert coordinate_search({"x": 1, "y": 2}, STEPS, constant) == ({"x": 1, "y": 2}, 1.0)
    assert len(tried) == len(set(tried)) == 7
