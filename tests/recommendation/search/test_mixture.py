from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.memory.mixture.gate import NO_PRIOR, ItemDistribution, Prior
from sidtool.recommendation.search.beam import beam_search
from sidtool.recommendation.search.filters import LeafFilter
from sidtool.recommendation.search.results import mix, rank_items
from tests.search_cases import SOME_ARCHITECTURES, make_with_model, path_scores, prompt


def distribution(rng: np.random.Generator, items: int, share: float = 0.5) -> ItemDistribution:
    """A random sparse distribution over the items of a trie; its largest entries are far apart."""
    positions = np.flatnonzero(rng.random(items) < share)
    weights = rng.exponential(size=len(positions)) ** 3 + 1e-12
    return ItemDistribution(positions, np.log(weights / weights.sum()))


def brute_force(
    scores: np.ndarray, trie: Any, prior: Prior, leaf_filter: LeafFilter | None = None
) -> tuple[list[int], np.ndarray]:
    """Positions by mixed probability, best first, and these probabilities."""
    starts = np.arange(trie.n_leaves + 1) if trie.leaf_start is None else trie.leaf_start
    sizes = np.diff(starts)
    weight = prior.weight if len(prior.distribution) else 0.0
    # items share the probability of their SID only where a memory tells them apart
    model = np.repeat(np.exp(scores.astype(np.float64)) / (sizes if weight else 1), sizes)
    memory = np.zeros(trie.n_items)
    memory[prior.distribution.positions] = np.exp(prior.distribution.log_probs)
    mixture_scores = (1 - weight) * model + weight * memory
    order = [
        position
        for position in np.argsort(-mixture_scores, kind="stable").tolist()
        if leaf_filter is None or leaf_filter.passes(np.array([position])).all()
    ]
    return order, mixture_scores[order]


@settings(max_examples=15)
@given(
    sizes=st.sampled_from([(6, 6, 6), (3, 9, 4), (12, 5), (9,), (4, 3, 3, 6)]),
    items=st.integers(1, 60),
    weights=st.lists(st.sampled_from([0.01, 0.3, 0.5, 0.9, 1.0]), min_size=1, max_size=3),
    repeats=st.booleans(),
    filtered=st.booleans(),
    architecture=st.sampled_from(["llama", "t5", "bart"]),
    k=st.integers(1, 70),
    seed=st.integers(0, 1000),
)
def test_a_wide_beam_equals_brute_force(
    sizes: Any,
    items: int,
    weights: list[float],
    repeats: bool,
    filtered: bool,
    architecture: str,
    k: int,
    seed: int,
) -> None:
    trie, tokens, model = make_with_model(sizes, items, architecture, seed=seed, repeats=repeats)
    rng = np.random.default_rng(seed)
    prompts = [prompt(rng, int(length)) for length in rng.integers(1, 20, len(weights))]
    shares = [0.5, 0.0, 1.0][: len(weights)]
    memories = [distribution(rng, trie.n_items, share) for share in shares]
    priors = list(map(Prior, memories, weights))
    filters: list[LeafFilter | None] = [None] * len(prompts)
    if filtered:
        allowed = trie.positions(rng.permutation(trie.n_items)[: max(1, items // 2)])
        denied = rng.permutation(trie.n_items)[: items // 3]
        filters = [LeafFilter.of(trie, allow, denied) for allow in (allowed, None, allowed)]
        filters = filters[: len(prompts)]
    options: dict[str, Any] = {"num_beams": trie.n_leaves, "k": k, "normalize": "trie"}
    results = beam_search(model, prompts, trie, tokens, filters=filters, priors=priors, **options)
    codes = trie.leaf_codes(np.arange(trie.n_leaves))
    for ids, result, prior, leaf_filter in zip(prompts, results, priors, filters, strict=True):
        ranked = rank_items(result, trie, leaf_filter, prior, k)
        scores = path_scores(model, ids, codes, tokens, "trie", codes)
        order, mixture_scores = brute_force(scores, trie, prior, leaf_filter)
        assert len(ranked.positions) == min(k, len(order))
        assert len(set(ranked.positions.tolist())) == len(ranked.positions)
        assert set(ranked.positions.tolist()) <= set(order)
        expected = mixture_scores[: len(ranked.positions)]
        if prior.weight < 1:
            np.testing.assert_allclose(np.exp(ranked.scores), expected, rtol=2e-4, atol=1e-6)
        by_position = dict(zip(order, mixture_scores.tolist(), strict=True))
        actual = [by_position[position] for position in ranked.positions.tolist()]
        np.testing.assert_allclose(actual, expected, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize(("num_beams", "repeats"), [(1, False), (3, True), (10, False)])
def test_weight_1_gives_the_ranking_of_the_memory(num_beams: int, repeats: bool) -> None:
    """A beam of any width: the best item of a memory may be alone below its prefix."""
    trie, tokens, model = make_with_model((8, 8, 8), 200, "qwen3", seed=3, repeats=repeats)
    rng = np.random.default_rng(0)
    for _ in range(20):
        memory = distribution(rng, trie.n_items)
        best = memory.positions[np.lexsort((memory.positions, -memory.log_probs))]
        prior = Prior(memory, 1.0)
        options = {"num_beams": num_beams, "k": num_beams, "normalize": "trie", "priors": [prior]}
        (result,) = beam_search(model, [prompt(rng, 5)], trie, tokens, **options)
        ranked = rank_items(result, trie, None, prior, num_beams)
        assert ranked.positions.tolist() == best[:num_beams].tolist()
        np.testing.assert_array_equal(ranked.scores, np.sort(memory.log_probs)[::-1][:num_beams])
        np.testing.assert_allclose(ranked.memory_shares, 1)


def test_weight_1_fills_up_with_the_model() -> None:
    trie, tokens, model = make_with_model((6, 6, 6), 60)
    memory = ItemDistribution(np.array([7, 31]), np.log([0.25, 0.75]))
    prior = Prior(memory, 1.0)
    options: dict[str, Any] = {"num_beams": 60, "k": 60, "normalize": "trie"}
    (alone,) = beam_search(model, [[9, 8]], trie, tokens, **options)
    (result,) = beam_search(model, [[9, 8]], trie, tokens, priors=[prior], **options)
    ranked = rank_items(result, trie, None, prior, 12)
    others = [leaf for leaf in alone.leaves.tolist() if leaf not in (7, 31)]
    assert ranked.positions.tolist() == [31, 7, *others[:10]]


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_without_memory_mass_scores_are_those_of_the_model_to_the_bit(architecture: str) -> None:
    trie, tokens, model = make_with_model((6, 6, 6), 100, architecture)
    rng = np.random.default_rng(1)
    prompts = [prompt(rng, 7), prompt(rng, 12)]
    empty = Prior(ItemDistribution(np.zeros(0, dtype=np.int64), np.zeros(0)), 0.7)
    options: dict[str, Any] = {"num_beams": 9, "k": 9, "normalize": "trie"}
    alone = beam_search(model, prompts, trie, tokens, **options)
    for priors in ([None, None], [empty, empty], [None, empty]):
        results = beam_search(model, prompts, trie, tokens, priors=priors, **options)
        for result, expected in zip(results, alone, strict=True):
            np.testing.assert_array_equal(result.leaves, expected.leaves)
            np.testing.assert_array_equal(result.scores, expected.scores)
            np.testing.assert_array_equal(result.model_scores, expected.scores)


def test_mixtures_do_not_depend_on_the_batch() -> None:
    trie, tokens, model = make_with_model((6, 6, 6), 150, "gemma3")
    rng = np.random.default_rng(2)
    prompts = [prompt(rng, length) for length in (5, 18, 9, 40)]
    priors = [Prior(distribution(rng, 150, share), 0.4) for share in (0.2, 0.0, 0.9, 0.5)]
    options: dict[str, Any] = {"num_beams": 7, "k": 7, "normalize": "trie", "priors": priors}
    together = beam_search(model, prompts, trie, tokens, **options)
    apart = beam_search(model, prompts, trie, tokens, token_budget=1, **options)
    for one, other in zip(together, apart, strict=True):
        assert one.leaves.tolist() == other.leaves.tolist()
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)


def test_the_share_of_the_memory_is_reported() -> None:
    memory = ItemDistribution(np.array([1, 2]), np.log([0.5, 0.5]))
    ranked = mix(np.arange(3), np.log([0.2, 0.6, 0.2]), Prior(memory, 0.25), 3)
    assert ranked.positions.tolist() == [1, 2, 0]
    np.testing.assert_allclose(np.exp(ranked.scores), [0.575, 0.275, 0.15])
    np.testing.assert_allclose(ranked.memory_shares, [0.125 / 0.575, 0.125 / 0.275, 0])


def test_equal_items_are_in_sid_order() -> None:
    assert mix(np.array([5, 2, 9]), np.full(3, -1.0), NO_PRIOR, 2).positions.tolist() == [2, 5]
