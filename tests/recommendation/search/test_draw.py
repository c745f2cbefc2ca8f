"""Sampling without replacement against enumeration of a small trie."""

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sidtool.base.errors import UsageError
from sidtool.model.prompt.tokens import SidTokens
from sidtool.recommendation.search.draw import (
    LeafSample,
    gumbel_noise,
    perturb_children,
    sample_leaves,
)
from sidtool.recommendation.search.score import score_sids
from sidtool.tokenizer.bundle.trie import Trie
from sidtool.tokenizer.sid import SidSpace
from tests.models import tiny_encoder_decoder, tiny_model

PROMPT = [5, 9, 3, 14, 7]
SPACE = SidSpace((3, 2, 3))
TOKENS = SidTokens(SPACE, 40)
CODES = np.array(
    [[0, 0, 0], [0, 0, 2], [0, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 2], [2, 0, 1]],
    dtype=np.uint16,
)
TRIE = Trie.from_codes(CODES, SPACE.sizes)
NOTHING = np.zeros(0, dtype=np.int64)
DRAWS = 4000


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.set_num_threads(1)
    return tiny_model("llama", vocab_size=60)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def probabilities(model: torch.nn.Module) -> NDArray[np.float64]:
    """(leaves,): the policy, by exact scoring."""
    scores = score_sids(model, [PROMPT], CODES, TOKENS, normalize="trie", trie=TRIE)[0]
    return np.exp(scores.astype(np.float64))


def draw(
    model: torch.nn.Module,
    size: int,
    excluded: NDArray[np.int64] = NOTHING,
    draws: int = DRAWS,
    tokens: SidTokens = TOKENS,
) -> list[LeafSample]:
    generator = torch.Generator().manual_seed(7)
    return sample_leaves(
        model,
        [PROMPT] * draws,
        TRIE,
        tokens,
        size=size,
        excluded=[excluded] * draws,
        generator=generator,
        token_budget=1 << 20,
    )


def inclusion_probabilities(weights: NDArray[np.float64], size: int) -> NDArray[np.float64]:
    """The chance of each leaf to be among `size` draws without replacement, by enumerating them."""
    chances = np.zeros(len(weights))
    for order in permutations(np.flatnonzero(weights), size):
        left = weights.sum()
        chance = 1.0
        for leaf in order:
            chance *= weights[leaf] / left
            left -= weights[leaf]
        chances[list(order)] += chance
    return chances


def test_log_probabilities_are_those_of_exact_scoring(
    model: torch.nn.Module, probabilities: NDArray[np.float64]
) -> None:
    for sample in draw(model, 5, draws=20):
        assert len(set(sample.leaves.tolist())) == 5
        expected = probabilities[sample.leaves]
        np.testing.assert_allclose(np.exp(sample.log_probs), expected, rtol=1e-4)


def test_log_probabilities_over_a_table_of_token_ids(model: torch.nn.Module) -> None:
    tokens = SidTokens.of_ids(SPACE, [44, 51, 40, 59, 41, 57, 43, 42, 45, 46])
    scores = score_sids(model, [PROMPT], CODES, tokens, normalize="trie", trie=TRIE)[0]
    assert np.exp(scores).sum() == pytest.approx(1, abs=1e-4)
    for sample in draw(model, 5, draws=20, tokens=tokens):
        np.testing.assert_allclose(sample.log_probs, scores[sample.leaves], atol=1e-4)


@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_log_probabilities_of_an_encoder_decoder(architecture: str) -> None:
    network = tiny_encoder_decoder(architecture, vocab_size=60)
    scores = score_sids(network, [PROMPT], CODES, TOKENS, normalize="trie", trie=TRIE)[0]
    for sample in draw(network, 5, draws=20):
        np.testing.assert_allclose(sample.log_probs, scores[sample.leaves], atol=1e-4)


@pytest.mark.parametrize("excluded", [NOTHING, np.array([2, 5])])
def test_leaves_are_included_as_often_as_by_draws_one_by_one(
    model: torch.nn.Module, probabilities: NDArray[np.float64], excluded: NDArray[np.int64]
) -> None:
    weights = probabilities.copy()
    weights[excluded] = 0
    samples = draw(model, 3, excluded)
    counts = np.bincount(np.concatenate([sample.leaves for sample in samples]), minlength=8)
    expected = inclusion_probabilities(weights, 3)
    error = np.sqrt(expected * (1 - expected) / DRAWS)
    assert (np.abs(counts / DRAWS - expected) <= 4 * error + 1e-12).all()
    assert counts[excluded].sum() == 0


@pytest.mark.parametrize("excluded", [NOTHING, np.array([1])])
def test_weighted_sums_are_unbiased(
    model: torch.nn.Module, probabilities: NDArray[np.float64], excluded: NDArray[np.int64]
) -> None:
    rewards = np.random.default_rng(0).normal(size=8)
    may_be_drawn = np.setdiff1d(np.arange(8), excluded)
    expected = (probabilities * rewards)[may_be_drawn].sum()
    sums = np.array(
        [
            (np.exp(sample.log_probs) / sample.inclusion * rewards[sample.leaves]).sum()
            for sample in draw(model, 3, excluded)
        ]
    )
    assert abs(sums.mean() - expected) <= 4 * sums.std() / np.sqrt(DRAWS)
    # the sum of a sample with replacement would be the mean of three rewards
    with_replacement = np.sqrt((probabilities * (rewards - expected) ** 2).sum() / 3)
    assert sums.std() < 2 * with_replacement


def test_a_sample_of_all_leaves_is_the_whole_distribution(
    model: torch.nn.Module, probabilities: NDArray[np.float64]
) -> None:
    for size in (8, 20):
        for sample in draw(model, size, draws=5):
            assert sorted(sample.leaves) == list(range(8))
            np.testing.assert_array_equal(sample.inclusion, 1.0)


def test_the_same_generator_gives_the_same_sample(model: torch.nn.Module) -> None:
    one, other = draw(model, 3, draws=30), draw(model, 3, draws=30)
    assert all((a.leaves == b.leaves).all() for a, b in zip(one, other, strict=True))
    assert len({tuple(sample.leaves) for sample in one}) > 5


def test_too_many_beams_are_refused(model: torch.nn.Module) -> None:
    wide = np.stack(np.unravel_index(np.arange(20000), (200, 10, 10)), axis=1).astype(np.uint16)
    trie = Trie.from_codes(wide, (200, 10, 10))
    with pytest.raises(UsageError, match="beams are too many"):
        sample_leaves(
            model,
            [PROMPT],
            trie,
            TOKENS,
            size=10000,
            excluded=[NOTHING],
            generator=torch.Generator(),
        )


@given(
    parent=st.floats(-30, 30),
    log_probs=st.lists(st.floats(-60, 0), min_size=1, max_size=6),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_the_largest_child_has_the_value_of_its_node(
    parent: float, log_probs: list[float], seed: int
) -> None:
    values = torch.tensor([[*log_probs, -1.0]], dtype=torch.float64)
    valid = torch.tensor([[True] * len(log_probs) + [False]])
    noise = gumbel_noise(tuple(values.shape), torch.Generator().manual_seed(seed))
    perturbed = perturb_children(torch.tensor([parent], dtype=torch.float64), values, valid, noise)
    assert perturbed[0, -1] == -torch.inf
    assert perturbed.max().item() == pytest.approx(parent)
    order = (values + noise)[0, :-1].argsort()
    assert (perturbed[0, :-1][order].diff() >= -1e-9).all()
