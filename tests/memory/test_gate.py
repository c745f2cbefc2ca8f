import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.base.errors import UsageError
from sidtool.memory.build import build_memory
from sidtool.memory.mixture.gate import GATE_FEATURES, LIMIT, Gate, check_mixture
from sidtool.memory.mixture.index import MemoryIndex, WeightedMemory
from tests.bundles import small_bundle
from tests.memory.cases import random_histories, slow_scores, split_of

BUNDLE = small_bundle()
BUNDLE.items.retired[[4, 9]] = True
# few users, so that some items have no neighbors
MEMORY = build_memory(split_of(random_histories(1, 6, 40)), BUNDLE)
INDEX = MemoryIndex.of(MEMORY, BUNDLE)

histories = st.lists(st.lists(st.integers(-1, 39), max_size=12), min_size=1, max_size=4)


def slow_features(history: list[int]) -> list[float]:
    rows = [row for row in history if row >= 0]
    scores = slow_scores(MEMORY, rows)[BUNDLE.active]
    if not scores.any():
        return [0.0] * len(GATE_FEATURES)
    covered = sum(MEMORY.neighbors.offsets[row + 1] > MEMORY.neighbors.offsets[row] for row in rows)
    total = scores.sum()
    return [
        math.log(total),
        math.log(scores.max() / total),
        math.log1p(len(rows)),
        math.log1p(MEMORY.events[rows[-1]]),
        covered / len(rows),
    ]


@given(histories=histories, power=st.sampled_from([0.5, 1.0, 3.0]))
@settings(max_examples=60, deadline=None)
def test_features_agree_with_loops_at_any_power(histories: list[list[int]], power: float) -> None:
    arrays = [np.array(history, dtype=np.int64) for history in histories]
    features = INDEX.features(arrays, INDEX.distributions(arrays, power))
    expected = [slow_features(history) for history in histories]
    np.testing.assert_allclose(features, expected, rtol=1e-6, atol=1e-9)


def gate(**changes: Any) -> Gate:
    values: dict[str, Any] = {"means": (1.0,) * 5, "scales": (2.0,) * 5, "intercept": 0.5}
    values["coefficients"] = (0.0, 1.0, 0.0, 0.0, -1.0)
    return Gate(**(values | changes))


def test_weights_are_a_logistic_function_of_features_within_those_of_validation_users() -> None:
    rows = [[9.0, 3.0, 0, 0, 1.0], [0, 1.0, 0, 0, 5.0], [0, 7.0, 0, 0, 1.0], [0, 1e9, 0, 0, 1.0]]
    expected = [1 / (1 + math.exp(-logit)) for logit in (1.5, -1.5, 3.5, 3.5)]  # 1e9 counts as 7
    np.testing.assert_allclose(gate().weights(np.array(rows)), expected)
    assert Gate.from_json(gate().to_json()) == gate()


def test_a_memory_is_mixed_within_bounds() -> None:
    check_mixture(0.0, 1e-9, 0.0)
    check_mixture(1.0, 20.0, 1.0)
    for wrong in ((-0.1, 1, 1), (1.1, 1, 1), (1, 0, 1), (1, 20.1, 1), (1, 1, -0.1), (1, 1, 1.1)):
        with pytest.raises(UsageError, match=r"is from 0 to 1|is above 0, at most 20"):
            check_mixture(*wrong)
    assert not WeightedMemory(MEMORY, 0.0).is_used
    assert WeightedMemory(MEMORY, 0.0, gate=gate()).is_used


@pytest.mark.parametrize("size", [LIMIT, -LIMIT])
def test_the_largest_gates_give_weights_inside_of_0_and_1(size: float) -> None:
    extreme = gate(means=(size,) * 5, scales=(1 / LIMIT,) * 5, coefficients=(size,) * 5)
    weights = extreme.weights(np.array([[0.0] * 5, [50.0] * 5]))
    assert ((weights > 0) & (weights < 1)).all()


def test_a_gate_of_fewer_features_reads_the_first_ones() -> None:
    """So a feature can be appended, and gates that were stored before stay what they are."""
    features = np.random.default_rng(4).normal(size=(3, len(GATE_FEATURES)))
    first = {"means": (1.0,) * 4, "scales": (2.0,) * 4, "coefficients": (0.3, 1.0, 0.2, -1.0)}
    older, without_last = gate(**first), gate(coefficients=(*first["coefficients"], 0.0))
    np.testing.assert_allclose(older.weights(features), without_last.weights(features))


@pytest.mark.parametrize(
    "changes",
    [
        {"means": (0.0,) * 4},
        {"scales": ()},
        {"coefficients": (0.0,) * 6},
        *({"scales": (1.0, 1.0, scale, 1.0, 1.0)} for scale in (0.0, -1.0)),
        {"means": (0.0, 0.0, 0.0, 0.0, float("nan"))},
        {"coefficients": (0.0, 0.0, 0.0, 0.0, float("inf"))},
        *({"intercept": value} for value in (float("nan"), 1e300)),
    ],
)
def test_malformed_gates_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="a gate "):
        gate(**changes)
