"""Metrics of lists, computed by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.data.split import UserSequence
from sidtool.evaluation.lists import list_metric_names
from sidtool.evaluation.lists.list_metrics import (
    ItemFacts,
    ListTruth,
    item_facts,
    kendall_tau,
    list_values,
)
from tests.bundles import small_bundle

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


def test_a_list_of_three_with_two_of_four_targets() -> None:
    values = values_of(rows(3, 0, 1), truth(0, 4, 3, 2), 3)
    assert values["recall@3"] == pytest.approx(2 / 3)  # of the three that a list of 3 can have
    ideal = 1 + 1 / LOG3 + 0.5
    assert values["ndcg@3"] == pytest.approx((1 + 1 / LOG3) / ideal)
    assert values["kendall_tau"] == -1  # 3 comes after 0 in the session
    # cosines: 3 and 0 .6, 3 and 1 .8, 0 and 1 0
    assert values["diversity"] == pytest.approx(1 - 1.4 / 3)
    assert values["novelty"] == pytest.approx((4 + 1 + 2) / 3)
    assert (values["repeats"], values["legal"], values["length"]) == (0, 1, 3)


def test_repeated_and_illegal_entries() -> None:
    values = values_of(rows(2, 0, 2, -1), truth(0, 2), 5)
    assert values["recall@5"] == 1
    # the repeat at rank 3 gains nothing
    assert values["ndcg@5"] == 1
    assert values["kendall_tau"] == -1
    assert values["diversity"] == pytest.approx(2)
    assert values["novelty"] == pytest.approx((3 + 1) / 2)
    assert values["repeats"] == pytest.approx(1 / 4)
    assert values["legal"] == pytest.approx(3 / 4)
    assert values["length"] == 4


def test_what_is_behind_the_length_does_not_count() -> None:
    values = values_of(rows(1, 0, 2), truth(0, 2), 2)
    assert values["recall@2"] == 0.5
    assert values["ndcg@2"] == pytest.approx((1 / LOG3) / (1 + 1 / LOG3))
    assert math.isnan(values["kendall_tau"])
    assert values["length"] == 2


def test_an_empty_list_finds_nothing() -> None:
    values = values_of(rows(), truth(0), 3)
    assert (values["recall@3"], values["ndcg@3"], values["length"]) == (0, 0, 0)
    undefined = ("kendall_tau", "diversity", "novelty", "repeats", "legal")
    assert all(math.isnan(values[name]) for name in undefined)


def test_a_target_that_cannot_be_recommended_is_never_found() -> None:
    values = values_of(rows(-1, 0), truth(0, -1), 2)
    assert values["recall@2"] == 0.5
    assert values["ndcg@2"] == pytest.approx((1 / LOG3) / (1 + 1 / LOG3))


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
        assert reverse["kendall_tau"] == -1
        assert reverse[f"ndcg@{length}"] == pytest.approx(1)
