"""The survival of a target's prefixes in the beam against a beam search over an enumerated trie."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.memory.mixture.gate import ItemDistribution, Prior
from sidtool.recommendation.search.beam import beam_search
from sidtool.recommendation.search.filters import LeafFilter
from sidtool.tokenizer.bundle.trie import Trie
from tests.search_cases import make_with_model, path_log_probs, prompt

SIZES = (5, 6, 4)


def surviving_prefixes(
    prefix_scores: np.ndarray, codes: np.ndarray, num_beams: int, eligible: np.ndarray
) -> list[set[tuple[int, ...]]]:
    """Per level the prefixes in a beam over (n, levels) prefix scores of n enumerated SIDs."""
    beams: list[set[tuple[int, ...]]] = [{()}]
    for level in range(codes.shape[1]):
        candidates = {
            tuple(sid[: level + 1]): scores[level]
            for sid, scores in zip(codes[eligible].tolist(), prefix_scores[eligible], strict=True)
            if tuple(sid[:level]) in beams[-1]
        }
        best = sorted(candidates, key=lambda prefix: -candidates[prefix])
        beams.append(set(best[:num_beams]))
    return beams[1:]


def expected_survival(codes: np.ndarray, beams: list[set[tuple[int, ...]]]) -> list[int]:
    """For each SID, the number of levels at which its prefix is in the beam."""
    levels = list(enumerate(beams, 1))
    return [sum(tuple(sid[:n]) in beam for n, beam in levels) for sid in codes.tolist()]


def survival_of_all(
    model: Any, ids: list[int], trie: Trie, tokens: Any, leaf_filter: Any, prior: Any, **extra: Any
) -> list[int]:
    """The survival of every leaf as the target: one prompt per leaf."""
    n = trie.n_leaves
    lists = {"filters": [leaf_filter] * n, "priors": [prior] * n, "targets": list(range(n))}
    results = beam_search(model, [ids] * n, trie, tokens, k=1, **lists, **extra)
    return [result.survived for result in results]


@settings(max_examples=10)
@given(
    items=st.integers(1, 40),
    num_beams=st.integers(1, 12),
    normalize=st.sampled_from(["level", "vocabulary", "trie"]),
    deny=st.booleans(),
    architecture=st.sampled_from(["llama", "t5", "bart"]),
    seed=st.integers(0, 1000),
)
def test_survival_equals_that_of_an_enumerated_beam(
    items: int, num_beams: int, normalize: Any, deny: bool, architecture: str, seed: int
) -> None:
    trie, tokens, model = make_with_model(SIZES, items, architecture, seed=seed)
    rng = np.random.default_rng(seed)
    ids = prompt(rng, 6)
    codes = trie.leaf_codes(np.arange(trie.n_leaves))
    log_probs = path_log_probs(model, ids, codes, tokens, normalize, codes)
    eligible = np.arange(trie.n_leaves) % 3 > 0 if deny else np.ones(trie.n_leaves, dtype=bool)
    leaf_filter = LeafFilter.of(trie, None, np.flatnonzero(~eligible)) if deny else None
    beams = surviving_prefixes(log_probs.cumsum(axis=1), codes, num_beams, eligible)
    survived = survival_of_all(
        model, ids, trie, tokens, leaf_filter, None, num_beams=num_beams, normalize=normalize
    )
    assert survived == expected_survival(codes, beams)


@pytest.mark.parametrize(("num_beams", "weight"), [(1, 0.2), (3, 0.7), (8, 1.0)])
def test_survival_with_a_memory(num_beams: int, weight: float) -> None:
    trie, tokens, model = make_with_model(SIZES, 50, seed=4)
    rng = np.random.default_rng(4)
    ids = prompt(rng, 6)
    codes = trie.leaf_codes(np.arange(trie.n_leaves))
    model_probs = np.exp(path_log_probs(model, ids, codes, tokens, "trie", codes).cumsum(axis=1))
    positions = np.arange(0, 50, 4)
    shares = rng.dirichlet(np.ones(len(positions)) * 0.3) + 1e-9
    memory = np.zeros(50)
    memory[positions] = shares
    # a prefix ranks by its model probability and the largest share of an item below it
    largest = np.empty(codes.shape)
    for level in range(len(SIZES)):
        for row, sid in enumerate(codes):
            below = (codes[:, : level + 1] == sid[: level + 1]).all(axis=1)
            largest[row, level] = memory[below].max()
    # with weight 1 the model still orders items of which the memory knows nothing
    mixture_probs = max(1 - weight, 1e-300) * model_probs + weight * largest
    beams = surviving_prefixes(mixture_probs, codes, num_beams, np.ones(50, dtype=bool))
    prior = Prior(ItemDistribution(positions, np.log(shares)), weight)
    survived = survival_of_all(
        model, ids, trie, tokens, None, prior, num_beams=num_beams, normalize="trie"
    )
    assert survived == expected_survival(codes, beams)


def test_following_a_target_changes_no_result() -> None:
    trie, tokens, model = make_with_model(SIZES, 60, seed=1)
    prompts = [[9, 8], [], [7, 6, 5]]
    plain = beam_search(model, prompts, trie, tokens, num_beams=4, k=4)
    targets = [int(plain[0].leaves[0]), 3, -1]
    followed = beam_search(model, prompts, trie, tokens, num_beams=4, k=4, targets=targets)
    for one, other in zip(plain, followed, strict=True):
        assert one.leaves.tolist() == other.leaves.tolist()
        assert one.scores.tolist() == other.scores.tolist()
    assert [result.survived for result in plain] == [0, 0, 0]
    assert [result.survived for result in followed] == [3, 0, 0]  # no prompt, no target
