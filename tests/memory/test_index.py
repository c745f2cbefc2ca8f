from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.base.errors import CompatibilityError
from sidtool.memory import ItemContent, KnnSettings, Memory, build_memory
from sidtool.memory.mixture import ItemDistribution, MemoryIndex, Mixture, WeightedMemory
from sidtool.memory.mixture import index as module
from sidtool.tokenizer import align
from tests.bundles import small_bundle
from tests.memory.cases import random_histories, slow_scores, small_memory, split_of

BUNDLE = small_bundle()
BUNDLE.items.retired[[4, 9]] = True
MEMORY = small_memory(BUNDLE)

# items from 30 on have no events, and neighbors by content alone
CONTENT = ItemContent.of(BUNDLE)
WITH_NEW_ITEMS = build_memory(split_of(random_histories(0, 40, 30)), BUNDLE, content=CONTENT)

histories = st.lists(st.lists(st.integers(-1, 39), max_size=12), min_size=1, max_size=4)


def slow(
    memory: Memory, history: list[int], power: float, new_item_factor: float
) -> dict[int, float]:
    """Probabilities of the active items by position in SID order."""
    raised = slow_scores(memory, [row for row in history if row >= 0]) ** power
    raised[memory.events == 0] *= new_item_factor
    active = raised[BUNDLE.active]
    values = enumerate(active.tolist())
    return {position: value / active.sum() for position, value in values if value}


def test_a_retrained_bundle_without_an_item_of_the_memory_is_refused() -> None:
    retrained = align(small_bundle(39, seed=1), BUNDLE)
    with pytest.raises(CompatibilityError, match="lacks 1 of the 40 items of the memory") as caught:
        MemoryIndex.of(MEMORY, retrained)
    assert caught.value.hint == "build the memory with this bundle: sidtool build-memory"


@pytest.mark.parametrize("dense", [0, 1000])
@pytest.mark.parametrize("memory", [MEMORY, WITH_NEW_ITEMS], ids=["all old", "with new items"])
@given(
    histories=histories,
    power=st.sampled_from([0.5, 1.0, 3.0]),
    factor=st.sampled_from([0.0, 1e-6, 0.1, 0.9, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_distributions_match_loops_and_the_scores_of_new_items_have_a_factor(
    memory: Memory, dense: int, histories: list[list[int]], power: float, factor: float
) -> None:
    index, plain = (MemoryIndex.of(memory, BUNDLE, scale) for scale in (factor, 1.0))
    arrays = [np.array(history, dtype=np.int64) for history in histories]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "DENSE", dense)
        results = index.distributions(arrays, power)
        apart = [index.distributions([history], power)[0] for history in arrays]
        unscaled = plain.distributions(arrays, power)
    for history, result, alone, whole in zip(histories, results, apart, unscaled, strict=True):
        expected = slow(memory, history, power, factor)
        assert result.positions.tolist() == sorted(expected)
        probabilities = [expected[key] for key in sorted(expected)]
        np.testing.assert_allclose(np.exp(result.log_probs), probabilities, rtol=1e-6)
        np.testing.assert_array_equal(alone.positions, result.positions)
        np.testing.assert_array_equal(alone.log_probs, result.log_probs)
        # a gate reads the scores as they were
        if len(result):
            assert (result.log_mass, result.log_peak) == (whole.log_mass, whole.log_peak)


def test_only_the_best_items_and_the_last_events_are_used(monkeypatch: Any) -> None:
    index = MemoryIndex.of(MEMORY, BUNDLE)
    history = np.arange(0, 12)
    (everything,) = index.distributions([history], 2.0)
    monkeypatch.setattr(module, "ITEMS", 5)
    (best,) = index.distributions([history], 2.0)
    order = np.lexsort((everything.positions, -everything.log_probs))[:5]
    assert best.positions.tolist() == sorted(everything.positions[order].tolist())
    np.testing.assert_allclose(np.exp(best.log_probs).sum(), 1)
    monkeypatch.setattr(module, "HISTORY", 3)
    (last,) = index.distributions([history], 2.0)
    (expected,) = index.distributions([history[-3:]], 2.0)
    np.testing.assert_array_equal(last.log_probs, expected.log_probs)


def test_probabilities_of_items_that_it_lacks_are_zero() -> None:
    one = ItemDistribution(np.array([2, 5]), np.log([0.25, 0.75]))
    result = np.exp(one.log_probs_at(np.array([0, 2, 3, 5, 9])))
    np.testing.assert_allclose(result, [0, 0.25, 0, 0.75, 0])
    nothing = one.select(np.zeros(2, dtype=np.bool_))
    assert np.exp(nothing.log_probs_at(np.array([2]))).tolist() == [0]


def test_a_factor_of_0_leaves_probabilities_however_far_below_the_best_item() -> None:
    raised = ItemDistribution(np.arange(3), np.array([0.0, -800.0, -801.0]))
    rest = raised.with_factor(np.array([True, False, False]), 0.0)
    np.testing.assert_allclose(np.exp(rest.log_probs), [0.7311, 0.2689], atol=1e-4)


def test_the_sources_of_a_score_are_its_parts() -> None:
    index = MemoryIndex.of(MEMORY, BUNDLE)
    history = np.array([3, -1, 7, 3])
    (distribution,) = index.distributions([history], 1.0)
    similar = MEMORY.neighbors.to_scipy().toarray().astype(np.float64)
    recency = MEMORY.manifest.settings.recency
    sources = index.sources(history, distribution.positions)
    for position, parts in zip(distribution.positions.tolist(), sources, strict=True):
        row = int(BUNDLE.active[position])
        values = {3: (1 + recency**2) * similar[3, row], 7: recency * similar[7, row]}
        total = sum(values.values())
        expected = {key: value / total for key, value in values.items() if value}
        assert parts == pytest.approx(expected)
        assert list(parts.values()) == sorted(parts.values(), reverse=True)


def test_an_item_that_one_of_the_two_lacks_has_no_events() -> None:
    rows = np.append(np.arange(39), -1)  # the bundle lacks the last item of the memory
    index = MemoryIndex.of_neighbors(MEMORY.neighbors, MEMORY.events, 1.0, BUNDLE, rows)
    assert MEMORY.events[[0, 3]].all()
    assert index.item_events(np.array([-1, 3, 39])).tolist() == [0, MEMORY.events[3], 0]


def test_a_request_without_a_history_has_no_prior() -> None:
    history = np.array([3, 7])
    none, prior = Mixture.of(WeightedMemory(MEMORY, 0.4), BUNDLE).priors([None, history])
    assert none is None
    assert prior.weight == 0.4
    assert prior.is_mixed


@pytest.mark.parametrize("dense", [0, 1000])
def test_items_whose_weight_is_too_small_count_as_unknown(monkeypatch: Any, dense: int) -> None:
    monkeypatch.setattr(module, "DENSE", dense)
    index = MemoryIndex.of(small_memory(BUNDLE, KnnSettings(recency=1e-300)), BUNDLE)
    history = np.array([3, 7, 5, 5])
    (last,) = index.distributions([history[-1:]], 2.0)
    (distribution,) = index.distributions([history], 2.0)
    np.testing.assert_allclose(np.exp(distribution.log_probs).sum(), 1)
    assert set(last.positions.tolist()) <= set(distribution.positions.tolist())
    for parts in index.sources(history, np.arange(len(BUNDLE.active))):
        assert parts == {} or sum(parts.values()) == pytest.approx(1)
