"""Penalties of similar items, against their definitions over all lists."""

from typing import Any

import numpy as np
import pytest
import torch

from sidtool.base.errors import UsageError
from sidtool.model.prompt.tokens import SidTokens
from sidtool.recommendation.search.list_search import search_lists
from sidtool.recommendation.search.search_options import ListOptions
from sidtool.tokenizer.bundle.trie import Trie
from sidtool.tokenizer.quantize.codebook import Codebook
from sidtool.tokenizer.sid import SidSpace
from tests.recommendation.search.cases import TEXT, model_of, prompt
from tests.recommendation.search.oracle import Codes, ListModel, eligible_counts

torch.set_num_threads(1)

SIZES = (3, 3)
LENGTH = 3


@pytest.mark.parametrize("weight", [4.0, 20.0])
def test_mmr_subtracts_the_largest_similarity_to_an_earlier_item(weight: float) -> None:
    codebook = _codebook()

    def penalty(items: list[Codes]) -> float:
        vectors = codebook.decode(np.array(items, dtype=np.uint16))
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        similar = unit @ unit.T
        return weight * sum(float(similar[i, :i].max()) for i in range(1, len(items)))

    _assert_best(ListOptions(mmr=weight), penalty)


def test_mmr_needs_a_codebook() -> None:
    trie, tokens, model = _case()
    with pytest.raises(UsageError, match="the bundle has none"):
        search_lists(
            model, [[9]], trie, tokens, length=2, num_beams=2, options=ListOptions(mmr=1.0)
        )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mmr": float("nan")}, "mmr must be at least 0, not nan"),
        ({"search": "gumbel", "mmr": 1.0}, "beam or greedy"),
        ({"search": "best"}, "search must be one of beam, greedy, gumbel"),
    ],
)
def test_options_that_do_not_fit_are_refused(settings: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        ListOptions(**settings)


def _assert_best(options: ListOptions, penalty: Any) -> None:
    """A beam that holds everything finds the list with the best score less its penalty, and reports
    the score itself."""
    trie, tokens, model = _case()
    rng = np.random.default_rng(0)
    prompts = [prompt(rng, length) for length in range(2, 10)]
    wanted = {"length": LENGTH, "num_beams": 600, "codebook": _codebook()}
    results = search_lists(model, prompts, trie, tokens, options=options, **wanted)
    plain = search_lists(model, prompts, trie, tokens, **wanted)
    changed = 0
    for ids, (one,), (other,) in zip(prompts, results, plain, strict=True):
        sids = {tuple(row) for row in trie.leaf_codes(np.arange(trie.n_leaves)).tolist()}
        oracle = ListModel(model, ids, tokens, "level", sids, eligible_counts(trie, None))
        ranked = []
        for codes, score in oracle.all_lists(LENGTH):
            items = [codes[i : i + 2] for i in range(0, len(codes), 2)]
            ranked.append((score - penalty(items), score, codes))
        _, score, codes = max(ranked)
        assert tuple(trie.leaf_codes(one.leaves).ravel().tolist()) == codes
        assert one.score == pytest.approx(score, abs=1e-4)
        changed += one.leaves.tolist() != other.leaves.tolist()
    assert changed, "the penalty changed no list: the test shows nothing"


def _case() -> tuple[Trie, SidTokens, Any]:
    codes = np.array([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [2, 0], [2, 2]], dtype=np.uint16)
    tokens = SidTokens(SidSpace(SIZES), TEXT)
    return Trie.from_codes(codes, SIZES), tokens, model_of("llama", tokens)


def _codebook() -> Codebook:
    rng = np.random.default_rng(0)
    levels = [rng.normal(size=(size, 4)).astype(np.float32) for size in SIZES]
    return Codebook("test", tuple(levels), {})
