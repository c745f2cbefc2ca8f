from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from sidtool.base.errors import DataError, UsageError
from sidtool.recommendation.search import driver
from sidtool.recommendation.search.beam import beam_search
from sidtool.recommendation.search.driver import batches, decoding_method, require_mask
from sidtool.recommendation.search.partial_head import DecodingHead
from sidtool.recommendation.search.results import check_scores
from tests.models import tiny_model
from tests.search_cases import (
    EVERY_ARCHITECTURE,
    SOME_ARCHITECTURES,
    assert_same,
    generate,
    make,
    make_with_model,
    model_of,
    path_scores,
    prompt,
    vocabulary,
)


@pytest.mark.parametrize("tied", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("architecture", EVERY_ARCHITECTURE)
def test_every_architecture_runs_as_a_tree(architecture: str, tied: bool) -> None:
    _, tokens = make((4, 5, 6), 20)
    assert decoding_method(model_of(architecture, tokens, tied=tied)) == "sliced"


@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
@settings(max_examples=4)
@given(
    sizes=st.sampled_from([(6, 6, 6), (3, 9, 4), (12, 5), (4, 3, 3, 6)]),
    items=st.integers(1, 40),
    width=st.integers(2, 9),  # of 1, `generate` makes a greedy search without scores
    lengths=st.lists(st.integers(1, 24), min_size=1, max_size=3),
    shared=st.sampled_from([0, 0, 20]),
    seed=st.integers(0, 1000),
    tied=st.booleans(),
)
def test_scores_and_items_equal_those_of_generate(
    architecture: str,
    sizes: Any,
    items: int,
    width: int,
    lengths: Any,
    shared: int,
    seed: int,
    tied: bool,
) -> None:
    trie, tokens = make(sizes, items, seed)
    model = model_of(architecture, tokens, tied=tied)
    rng = np.random.default_rng(seed)
    start = prompt(rng, shared)
    prompts = [start + prompt(rng, length) for length in lengths]
    result = beam_search(
        model, prompts, trie, tokens, num_beams=width, k=width, normalize="vocabulary"
    )
    expected = generate(model, prompts, trie, tokens, width)
    for mine, (sids, scores) in zip(result, expected, strict=True):
        assert_same(mine, sids, scores, trie)


@pytest.mark.parametrize(
    "normalize",
    ["trie", *(pytest.param(over, marks=pytest.mark.slow) for over in ("level", "vocabulary"))],
)
@pytest.mark.parametrize("architecture", SOME_ARCHITECTURES)
def test_a_wide_beam_ranks_the_whole_catalog(architecture: str, normalize: Any) -> None:
    trie, tokens, model = make_with_model((5, 7, 6), 60, architecture)
    rng = np.random.default_rng(1)
    codes = trie.leaf_codes(np.arange(trie.n_leaves))
    prompts = [prompt(rng, length) for length in (3, 29, 11)]
    results = beam_search(model, prompts, trie, tokens, num_beams=500, k=500, normalize=normalize)
    for ids, result in zip(prompts, results, strict=True):
        want = path_scores(model, ids, codes, tokens, normalize, codes)
        if normalize == "trie":
            # a distribution over the catalog
            np.testing.assert_allclose(np.exp(want).sum(), 1, atol=1e-4)
        order = np.argsort(-want)
        sids = [tuple(row) for row in codes[order].tolist()]
        assert_same(result, sids, want[order].tolist(), trie)


def test_work_that_changes_no_result_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    trie, tokens = make((6, 6, 6), 80)
    model = tiny_model("llama", vocab_size=vocabulary(tokens))
    assert decoding_method(model) == "sliced"
    passes, queries = [], []
    normalizers = DecodingHead.normalizers
    monkeypatch.setattr(
        DecodingHead,
        "normalizers",
        lambda head, hidden: passes.append(hidden.shape[:2]) or normalizers(head, hidden),
    )
    attention = model.model.layers[-1].self_attn
    for layer in (attention.q_proj, attention.o_proj):
        layer.register_forward_pre_hook(lambda _, inputs: queries.append(inputs[0].shape[:2]))
    beam_search(model, [[7, 8, 9], [10]], trie, tokens, num_beams=5, k=5, normalize="vocabulary")
    assert passes == [(2, 1 + 5), (2, 5)]  # of the root and the first level together
    assert queries[:2] == [(2, 1), (2, 1)]  # the ends of the prompts


@pytest.mark.parametrize(
    "architecture", ["gemma3", "t5", pytest.param("bart", marks=pytest.mark.slow)]
)
def test_scores_do_not_depend_on_the_batch(architecture: str) -> None:
    trie, tokens, model = make_with_model((6, 6, 6), 80, architecture)
    rng = np.random.default_rng(2)
    start, first = prompt(rng, 18), prompt(rng, 5)
    behind = [start + prompt(rng, 3), start + prompt(rng, 9), start]
    prompts = [first, *behind, prompt(rng, 40)]
    together = beam_search(model, prompts, trie, tokens, num_beams=7, k=7)
    for budget in (1, 100):
        apart = beam_search(model, prompts, trie, tokens, num_beams=7, k=7, token_budget=budget)
        for a, b in zip(together, apart, strict=True):
            assert a.leaves.tolist() == b.leaves.tolist()
            np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)


@pytest.mark.parametrize(
    ("sizes", "items", "repeats"),
    [
        ((4, 4, 4), 1, False),
        ((1, 1), 1, False),
        ((9,), 6, False),
        ((3, 300, 2), 200, False),
        ((4, 3, 4), 40, True),
    ],
)
def test_unusual_catalogs_are_ranked(sizes: tuple[int, ...], items: int, repeats: bool) -> None:
    trie, tokens, model = make_with_model(sizes, items, repeats=repeats)
    result = beam_search(model, [[7, 8, 9], [10]], trie, tokens, num_beams=100, k=1000)
    for one in result:
        assert sorted(one.leaves.tolist()) == list(range(min(trie.n_leaves, 1000)))
        assert (np.diff(one.scores) <= 0).all()


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)]
)
def test_low_precision_scores_are_close(dtype: torch.dtype) -> None:
    trie, tokens = make((6, 6, 6), 100)
    model = tiny_model("qwen3", vocab_size=vocabulary(tokens)).to(dtype)
    assert decoding_method(model) == "sliced"
    whole = tiny_model("qwen3", vocab_size=vocabulary(tokens))
    leaves = trie.leaf_codes(np.arange(100))
    exact = path_scores(whole, [9, 8, 7], leaves, tokens, "level")
    (result,) = beam_search(model, [[9, 8, 7]], trie, tokens, num_beams=100, k=100)
    np.testing.assert_allclose(result.scores, exact[result.leaves], atol=0.5)


@pytest.mark.parametrize(("coarse", "method"), [(1, "sliced"), (2, "sliced"), (6, None)])
def test_a_model_that_rounds_coarsely_behind_some_tokens_is_searched(
    coarse: int, method: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ordinary, calls = driver._ordinary_logits, iter(range(100))

    def rounded(*inputs: Any) -> torch.Tensor:
        logits = ordinary(*inputs)
        logits[0, 0] += 0.1 * (next(calls) < coarse)
        return logits

    monkeypatch.setattr(driver, "_ordinary_logits", rounded)
    assert decoding_method(tiny_model("llama", vocab_size=300)) == method


def test_training_mode_is_restored_and_dropout_is_off() -> None:
    trie, tokens = make((6, 6, 6), 100)
    model = tiny_model("gpt2", vocab_size=vocabulary(tokens), resid_pdrop=0.5)
    want = beam_search(model, [[9, 8, 7]], trie, tokens, num_beams=9, k=9)[0]
    model.train()
    model.transformer.h[0].eval()
    before = [module.training for module in model.modules()]
    result = beam_search(model, [[9, 8, 7]], trie, tokens, num_beams=9, k=9)[0]
    assert result.leaves.tolist() == want.leaves.tolist()
    assert [module.training for module in model.modules()] == before


def test_nan_logits_after_the_probe_are_refused() -> None:
    trie, tokens = make((6, 6, 6), 100)
    model = tiny_model("llama", vocab_size=vocabulary(tokens), tied=False)
    assert decoding_method(model) == "sliced"
    model.lm_head.weight.data.fill_(torch.nan)
    with pytest.raises(DataError, match="NaN"):
        beam_search(model, [[9, 8, 7]], trie, tokens, num_beams=3, k=3)
    with pytest.raises(DataError, match="NaN"):
        check_scores(np.array([-0.5, np.nan]))


def test_the_refusal_of_an_architecture_says_what_failed() -> None:
    trie, tokens = make((6, 6, 6), 100)
    model = tiny_model("llama", vocab_size=vocabulary(tokens), tied=False)
    model.config.layer_types = ["linear_attention"] * model.config.num_hidden_layers
    message = r"mask \(layers of kind \['linear_attention'\]\)"
    with pytest.raises(UsageError, match=message) as refused:
        beam_search(model, [[9, 8, 7]], trie, tokens, num_beams=3, k=3)
    assert isinstance(refused.value.__cause__, NotImplementedError)


def test_windows_that_count_the_tokens_of_a_tree_are_refused() -> None:
    """Those of GPT-Neo, which a small tree does not reach."""
    kinds = {"attention_types": [[["global", "local"], 1]], "window_size": 256}
    shape = {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "vocab_size": 60}
    config = AutoConfig.for_model("gpt_neo", **shape, **kinds)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with pytest.raises(UsageError, match=r"mask \(layers of kind \['global', 'local'\]\)"):
        require_mask(model, "nothing is searched")


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(0, 20), st.integers(1, 300))
def test_batches_hold_each_prompt_once_within_the_budget(
    lengths: list[int], tree: int, budget: int
) -> None:
    result = list(batches(lengths, tree, budget))
    filled = [i for i, length in enumerate(lengths) if length]
    assert sorted(i for batch in result for i in batch) == filled
    for batch in result:
        assert len(batch) == 1 or len(batch) * (max(lengths[i] for i in batch) + tree) <= budget
