from typing import Any

import numpy as np
import pytest

from sidtool.recommendation.search import score as score_module
from sidtool.recommendation.search.beam import beam_search
from sidtool.recommendation.search.score import score_sids
from tests.search_cases import SOME_ARCHITECTURES, catalog, make_with_model, path_scores, prompt

SIDS = np.random.default_rng(0).permutation(catalog((4, 5, 6), 40, 9, repeats=True))
"""Candidates, most of them in no catalog, some of them twice."""


@pytest.mark.parametrize("normalize", ["level", pytest.param("vocabulary", marks=pytest.mark.slow)])
@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_scores_equal_those_of_whole_sequences(
    architecture: str, normalize: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(score_module, "CANDIDATES", 7)
    monkeypatch.setattr(score_module, "TOKEN_BUDGET", 120)
    _, tokens, model = make_with_model((4, 5, 6), 3, architecture)
    rng = np.random.default_rng(5)
    prompts = [prompt(rng, length) for length in (4, 20, 9)]
    result = score_sids(model, prompts, SIDS, tokens, normalize=normalize)
    assert result.shape == (3, 40)
    for row, ids in zip(result, prompts, strict=True):
        expected = path_scores(model, ids, SIDS, tokens, normalize)
        np.testing.assert_allclose(row, expected, atol=1e-4)


def test_over_the_trie_scores_are_those_of_the_beam_and_unknown_sids_are_impossible(
    monkeypatch: Any,
) -> None:
    monkeypatch.setattr(score_module, "TOKEN_BUDGET", 120)
    trie, tokens, model = make_with_model((4, 5, 6), 60, "qwen3")
    all_codes = trie.leaf_codes(np.arange(trie.n_leaves))
    result = score_sids(model, [[9, 8, 7], [9]], SIDS, tokens, normalize="trie", trie=trie)
    is_in_catalog = (SIDS[:, None] == all_codes).all(-1).any(1)
    assert 0 < is_in_catalog.sum() < len(is_in_catalog)
    assert (result[:, ~is_in_catalog] == -np.inf).all()
    for row, ids in zip(result, ([9, 8, 7], [9]), strict=True):
        want = path_scores(model, ids, SIDS, tokens, "trie", all_codes)
        np.testing.assert_allclose(row[is_in_catalog], want[is_in_catalog], atol=1e-4)
    (beam,) = beam_search(model, [[9, 8, 7]], trie, tokens, num_beams=20, k=20, normalize="trie")
    codes = trie.leaf_codes(beam.leaves)
    again = score_sids(model, [[9, 8, 7]], codes, tokens, normalize="trie", trie=trie)
    np.testing.assert_allclose(again[0], beam.scores, atol=1e-4)


def test_no_candidate_is_likely_after_a_prompt_without_a_token() -> None:
    _, tokens, model = make_with_model((4, 5, 6), 60)
    candidates = catalog((4, 5, 6), 9, 1)
    result = score_sids(model, [[], [9]], candidates, tokens)
    assert (result[0] == -np.inf).all()
    assert np.isfinite(result[1]).all()
    # nor are there scores without candidates
    assert score_sids(model, [[9]], np.zeros((0, 3), dtype=np.uint16), tokens).shape == (1, 0)
