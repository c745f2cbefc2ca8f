"""Architectures that ignore the tree mask are decoded by `generate`, with the same results."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from sidtool.base.errors import SidtoolWarning
from sidtool.recommendation.search import beam
from sidtool.recommendation.search.beam import beam_search
from sidtool.recommendation.search.driver import decoding_method
from sidtool.recommendation.search.filters import LeafFilter
from tests.models import tiny_model
from tests.recommendation.search.cases import (
    assert_same,
    make,
    path_scores,
    tiny_causal_model,
    vocabulary,
)

torch.set_num_threads(1)


def test_positions_in_the_mask_are_detected() -> None:
    _, tokens = make((5, 6, 4), 60)
    mpt = tiny_causal_model(
        "mpt",
        vocabulary(tokens),
        d_model=32,
        n_heads=4,
        n_layers=2,
        expansion_ratio=2,
        max_seq_len=128,
    )
    assert decoding_method(mpt) == "generate"


@pytest.mark.parametrize("normalize", ["level", "vocabulary", "trie"])
@pytest.mark.parametrize("num_beams", [1, 3, 80])
def test_the_fallback_equals_the_tree(monkeypatch: Any, num_beams: int, normalize: Any) -> None:
    trie, tokens = make((5, 6, 4), 60)
    model = tiny_model("llama", vocab_size=vocabulary(tokens))
    filters = [None, LeafFilter.of(trie, None, np.arange(0, 60, 2))]
    prompts = [[9, 8, 7], [20, 21, 22, 23]]
    want = beam_search(
        model,
        prompts,
        trie,
        tokens,
        num_beams=num_beams,
        k=num_beams,
        normalize=normalize,
        filters=filters,
    )
    monkeypatch.setattr(beam, "decoding_method", lambda _: "generate")
    # the warning comes once per architecture: give the model one of its own
    name = f"Llama{num_beams}{normalize}"
    model.__class__ = type(name, (type(model),), {})
    with pytest.warns(SidtoolWarning, match=f"{name} does not support"):
        result = beam_search(
            model,
            prompts,
            trie,
            tokens,
            num_beams=num_beams,
            k=num_beams,
            normalize=normalize,
            filters=filters,
        )
    if (
        num_beams == 1
    ):  # of 1, `generate` makes a greedy search without scores: the fallback looks a little wider
        codes = trie.leaf_codes(np.concatenate([one.leaves for one in result]))
        for ids, one, sid in zip(prompts, result, codes, strict=True):
            score = path_scores(
                model, ids, sid[None], tokens, normalize, trie.leaf_codes(np.arange(trie.n_leaves))
            )
            np.testing.assert_allclose(one.scores, score, atol=1e-4)
        return
    for mine, one in zip(result, want, strict=True):
        sids = [tuple(row) for row in trie.leaf_codes(one.leaves).tolist()]
        assert_same(mine, sids, one.scores.tolist(), trie)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the notice comes once
        beam_search(model, prompts[:1], trie, tokens, num_beams=2, k=2)
