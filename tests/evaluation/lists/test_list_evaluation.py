import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.errors import DataError, UsageError
from sidtool.data import FieldName, FieldOptions
from sidtool.data.split import SessionRule, Split, SplitOptions, UserSequence
from sidtool.data.split.make import make_split
from sidtool.evaluation.bootstrap import intervals, paired_differences
from sidtool.evaluation.lists import ListEvaluationOptions, evaluate_lists, list_metric_names
from sidtool.evaluation.lists.list_evaluation import (
    TOP_ITEMS,
    _makers,
    differences,
    evaluate_list_makers,
    list_maker,
    means,
)
from sidtool.evaluation.lists.list_metrics import (
    ItemFacts,
    ListTruth,
    item_facts,
    kendall_tau,
    list_truth,
    list_values,
)
from sidtool.recommendation import RecommendOptions, Request
from sidtool.tokenizer.bundle import Bundle
from tests.bundles import small_bundle
from tests.loaded import loaded_model
from tests.recommendation.test_recommend_lists import list_shop
from tests.recommendation.test_recommend_memory import mixed
from tests.tokenizer.quantize.material import with_prices

DIRECTIONS = np.array([[1, 0], [0, 1], [-1, 0], [0.6, 0.8], [1, 0]], dtype=np.float32)
FACTS = ItemFacts(DIRECTIONS, np.array([1.0, 2.0, 3.0, 4.0, 5.0]))
LOG3 = math.log2(3)


def rows(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def truth(*targets: int, order: list[float] | None = None) -> ListTruth:
    places = np.arange(len(targets)) if order is None else np.array(order)
    return ListTruth(rows(*targets), places.astype(np.float64))


def values_of(items: np.ndarray, held_out: ListTruth, length: int) -> dict[str, float]:
    values = list_values(items, held_out, FACTS, length)
    return dict(zip(list_metric_names(length), values.tolist(), strict=True))


SECOND = (1 / LOG3) / (1 + 1 / LOG3)
"""NDCG of a list whose second item is one of two targets."""
UNDEFINED = math.nan


@pytest.mark.parametrize(
    ("items", "targets", "length", "expected"),
    [
        # recall is of the three that a list of 3 can have; 3 comes after 0 in the session;
        # cosines: 3 and 0 .6, 3 and 1 .8, 0 and 1 0
        (
            (3, 0, 1),
            (0, 4, 3, 2),
            3,
            (2 / 3, (1 + 1 / LOG3) / (1.5 + 1 / LOG3), -1, 1 - 1.4 / 3, (4 + 1 + 2) / 3, 0, 1, 3),
        ),
        # the repeat at rank 3 gains nothing, and -1 is illegal
        ((2, 0, 2, -1), (0, 2), 5, (1, 1, -1, 2, (3 + 1) / 2, 1 / 4, 3 / 4, 4)),
        # what is behind the length does not count
        ((1, 0, 2), (0, 2), 2, (0.5, SECOND, UNDEFINED, 1, (2 + 1) / 2, 0, 1, 2)),
        ((), (0,), 3, (0, 0, *[UNDEFINED] * 5, 0)),
        # a target that cannot be recommended is never found
        ((-1, 0), (0, -1), 2, (0.5, SECOND, UNDEFINED, UNDEFINED, 1, 0, 0.5, 2)),
    ],
)
def test_values_of_lists_computed_by_hand(
    items: tuple[int, ...], targets: tuple[int, ...], length: int, expected: tuple[float, ...]
) -> None:
    values = list_values(rows(*items), truth(*targets), FACTS, length)
    assert values == pytest.approx(expected, nan_ok=True)


def test_a_feedback_that_ties_orders_no_pair() -> None:
    held_out = truth(0, 1, 2, 3, order=[-5, -5, -3, np.nan])
    assert math.isnan(kendall_tau(rows(1, 0), held_out))
    assert kendall_tau(rows(1, 2), held_out) == 1
    # of (2, 1), (2, 0), (1, 0) and those with 3, two are in the opposite order and one ties
    assert kendall_tau(rows(2, 1, 0, 3), held_out) == -1
    assert kendall_tau(rows(1, 2, 0), held_out) == 0


def test_a_bundle_without_a_codebook_has_no_diversity() -> None:
    facts = ItemFacts(None, FACTS.information)
    values = list_values(rows(0, 1), truth(0), facts, 2)
    assert math.isnan(values[list_metric_names(2).index("diversity")])


def test_information_is_that_of_smoothed_shares() -> None:
    # one event more of each of three items: 2 of 4, 1 of 4, 1 of 4
    bundle = small_bundle(3)
    information = item_facts(bundle, [UserSequence("u", ("i0",), (0,))]).information
    assert dict(zip(bundle.items.ids, information, strict=True)) == {"i0": 1, "i1": 2, "i2": 2}


@given(st.permutations(range(5)), st.integers(1, 5), st.integers(1, 6))
def test_a_list_that_is_the_session_is_perfect(session: list[int], n: int, length: int) -> None:
    held_out = truth(*session[:n])
    values = values_of(rows(*session[: min(n, length)]), held_out, length)
    assert values[f"recall@{length}"] == pytest.approx(1)
    assert values[f"ndcg@{length}"] == pytest.approx(1)
    if min(n, length) > 1:
        assert values["kendall_tau"] == 1
        reverse = values_of(rows(*session[: min(n, length)][::-1]), held_out, length)
        assert (reverse["kendall_tau"], reverse[f"ndcg@{length}"]) == (-1, pytest.approx(1))


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Split:
    """Six users of three sessions of two to four items."""
    rng = np.random.default_rng(2)
    lines = ["user_id,item_id,timestamp,rating"]
    for user in range(6):
        items = iter(rng.permutation(40).tolist())
        for session in range(3):
            for at in range(int(rng.integers(2, 5))):
                time = 880_000_000 + 86_400 * session + at
                lines.append(f"u{user},i{next(items)},{time},{rng.integers(1, 6)}")
    path = tmp_path_factory.mktemp("events") / "events.csv"
    path.write_text("\n".join(lines) + "\n")
    fields = FieldOptions(feedback=(FieldName("rating"),))
    options = SplitOptions("last-session", fields=fields, sessions=SessionRule(gap=3600))
    return make_split(path, options)


def test_the_session_itself_is_a_perfect_list(split: Split) -> None:
    options = ListEvaluationOptions(length=4)
    session_items = {example.user: example.items for example in split.test}
    makers = {
        "truth": lambda requests: (session_items[request.user] for request in requests),
        "fixed": lambda requests: [("i0", "i0", "gone", "lost") for _ in requests],
    }
    bundle = small_bundle(40)
    evaluation = evaluate_list_makers(bundle, makers, split.test, split.train, options)
    assert list(evaluation.systems) == ["truth", "fixed", "popularity", "item-knn"]
    truth = evaluation.systems["truth"]
    for name in ("recall@4", "ndcg@4", "kendall_tau", "legal"):
        assert (truth[name].mean, truth[name].low, truth[name].high) == (1, 1, 1)
    fixed = evaluation.systems["fixed"]
    assert fixed["repeats"].mean == pytest.approx(1 / 4)
    assert fixed["legal"].mean == pytest.approx(2 / 4)
    assert evaluation.coverage["fixed"] == pytest.approx(1 / 40)
    distinct = {item for example in split.test for item in example.items}
    assert evaluation.coverage["truth"] == pytest.approx(len(distinct) / 40)
    gain = evaluation.differences["fixed"]["recall@4"]
    assert gain.mean == pytest.approx(1 - fixed["recall@4"].mean)
    assert evaluation.counts["targets"] == sum(len(example.items) for example in split.test)
    value = evaluation.to_json()
    assert "values" not in value
    assert value["systems"]["truth"]["length"]["mean"] == truth["length"].mean


def test_popularity_is_counted_by_hand(split: Split) -> None:
    counts: dict[str, int] = {f"i{n}": 0 for n in range(40)}
    for sequence in split.train:
        for item in sequence.items:
            counts[item] += 1
    popular = sorted(counts, key=lambda item: (-counts[item], item))[:3]
    options = ListEvaluationOptions(length=3)
    makers = {"popular": lambda requests: [popular for _ in requests]}
    bundle = small_bundle(40)
    evaluation = evaluate_list_makers(bundle, makers, split.test, split.train, options)
    assert evaluation.systems["popular"] == evaluation.systems["popularity"]
    bits = [-np.log2((counts[item] + 1) / (sum(counts.values()) + 40)) for item in popular]
    assert evaluation.systems["popular"]["novelty"].mean == pytest.approx(np.mean(bits))


def test_scores_are_normalized_as_requested(split: Split) -> None:
    """A model is compared with itself, decoded as it was trained."""
    loaded = loaded_model(small_bundle(40))
    loaded = dataclasses.replace(loaded, contract=dataclasses.replace(loaded.contract, stages=()))
    options = ListEvaluationOptions(
        length=4, num_beams=12, baselines=False, normalize="trie", exclude_seen=False
    )
    evaluation = evaluate_lists(loaded, split, options, against=loaded)
    makers = {
        over: list_maker(loaded, RecommendOptions(k=4, num_beams=12, normalize=over))
        for over in ("trie", "level")
    }
    expected = evaluate_list_makers(loaded.bundle, makers, split.test, split.train, options)
    assert evaluation.systems[TOP_ITEMS] == expected.systems["trie"]
    assert evaluation.systems["other model"] == expected.systems["level"]
    assert expected.systems["trie"] != expected.systems["level"]
    assert evaluation.settings["normalize"] == "trie"


def test_seen_items_are_illegal_where_they_are_excluded(split: Split) -> None:
    def last_seen(requests: Sequence[Request]) -> Iterable[Sequence[str]]:
        return [(request.history[-1],) for request in requests]

    bundle = small_bundle(40)
    for exclude_seen, legal in ((False, 1.0), (True, 0.0)):
        options = ListEvaluationOptions(length=2, exclude_seen=exclude_seen, baselines=False)
        makers = {"seen": last_seen}
        evaluation = evaluate_list_makers(bundle, makers, split.test, split.train, options)
        assert evaluation.systems["seen"]["legal"].mean == legal
        assert list(evaluation.systems) == ["seen"]


def test_a_feedback_orders_the_targets(split: Split) -> None:
    bundle = small_bundle(40)
    for example in split.test:
        truth = list_truth(bundle, example, exclude_seen=False, order="rating")
        ratings = [target.feedback["rating"] for target in example.targets]
        assert truth.order.tolist() == [-rating for rating in ratings]
        assert truth.targets.tolist() == bundle.items.rows(list(example.items)).tolist()


def test_vectors_are_those_of_the_codebook(split: Split) -> None:
    bundle = small_bundle(40)
    row = 7
    codes = bundle.items.codes[row]
    summed = sum(level[code] for level, code in zip(bundle.codebook.levels, codes, strict=True))
    for codebook in (bundle.codebook, with_prices(bundle.codebook)):
        facts = item_facts(Bundle.of(bundle.items, codebook, "reassign", name="b"), split.train)
        direction = summed / np.linalg.norm(summed)
        np.testing.assert_allclose(facts.directions[row], direction, rtol=1e-5)
    assert item_facts(small_bundle(40, codebook=False), split.train).directions is None


def test_no_examples_are_refused(split: Split) -> None:
    with pytest.raises(DataError, match="no examples"):
        evaluate_list_makers(small_bundle(40), {}, (), split.train, ListEvaluationOptions())


RNG = np.random.default_rng(4)
USERS = [f"u{n % 30}" for n in range(40)]
NAMES = ("recall", "tau", "length")


def with_gaps(share: float) -> np.ndarray:
    values = RNG.normal(size=(40, 3))
    values[RNG.random(40) < share, 1] = np.nan
    return values


def test_a_mean_is_over_the_examples_that_have_a_value() -> None:
    values = with_gaps(0.5)
    result = means(NAMES, values, USERS, seed=3)
    assert list(result) == list(NAMES)
    defined = np.isfinite(values[:, 1])
    assert result["tau"].n == defined.sum() < 40
    assert result["tau"].mean == pytest.approx(np.nanmean(values[:, 1]))
    ends = intervals(("tau",), values[defined, 1:2], np.array(USERS)[defined], seed=3)
    spread = ends["all"]["tau"][1] - ends["all"]["tau"][0]
    assert result["tau"].high - result["tau"].low == pytest.approx(spread, rel=0.2)
    whole = intervals(("recall", "length"), values[:, [0, 2]], USERS, seed=3)["all"]
    assert (result["recall"].low, result["recall"].high) == whole["recall"]


def test_a_metric_without_a_value_has_no_mean() -> None:
    assert set(means(NAMES, with_gaps(1.0), USERS, seed=0)) == {"recall", "length"}


def test_a_difference_is_over_the_examples_that_both_have() -> None:
    one, other = with_gaps(0.3), with_gaps(0.3)
    result = differences(NAMES, one, other, USERS, seed=1)
    both = np.isfinite(one[:, 1] - other[:, 1])
    assert result["tau"].mean == pytest.approx((one - other)[both, 1].mean())
    others = (one[:, [0, 2]], other[:, [0, 2]])
    whole = paired_differences(("recall", "length"), *others, USERS, seed=1)["all"]
    assert result["recall"] == whole["recall"]


def test_a_model_of_lists_with_a_memory_is_refused_before_a_list_is_made() -> None:
    """Also as the model that another one is compared with, whose lists come last."""
    shop = list_shop()
    loaded = replace(shop, contract=replace(shop.contract, normalize="trie"))
    with pytest.raises(UsageError, match="they are not mixed with a memory"):
        _makers(mixed(loaded, 0.5), ListEvaluationOptions(), None)
