"""Models whose SID tokens are no block: against `generate`, against whole sequences, and against
the same model with its tokens in a block."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.model.network.structure import vocabulary_weights
from sidtool.model.vocabulary.tokens import SidTokens
from sidtool.recommendation.search.beam import beam_search
from sidtool.recommendation.search.columns import token_columns
from sidtool.recommendation.search.constraint import SidLogitsProcessor
from sidtool.recommendation.search.score import score_sids
from sidtool.tokenizer.bundle.trie import Trie
from sidtool.tokenizer.sid import SidSpace
from sidtool.training.loss.batches import Targets
from sidtool.training.loss.loss import Loss
from sidtool.training.reinforcement.policy import Policy
from tests.search_cases import TEXT, assert_same, catalog, generate, model_of, path_scores, prompt

SIZES = (5, 12, 4)
SPACE = SidSpace(SIZES)
BLOCK = SidTokens(SPACE, TEXT)
N = len(SPACE.tokens)
TRIE = Trie.from_codes(catalog(SIZES, 40, 0), SIZES)


def text_order() -> SidTokens:
    """Neighbors in the order of their texts, `<s_a_0>`, `<s_a_1>`, `<s_a_10>`, as TokenExtender
    adds them."""
    order = sorted(range(N), key=SPACE.tokens.__getitem__)
    ids = np.empty(N, dtype=np.int64)
    ids[order] = np.arange(TEXT, TEXT + N)
    return SidTokens.of_ids(SPACE, ids.tolist())


def scattered(seed: int = 0) -> SidTokens:
    """Ids in no order, with other tokens between them."""
    rng = np.random.default_rng(seed)
    return SidTokens.of_ids(SPACE, (TEXT + rng.permutation(N + 5)[:N]).tolist())


def moved(architecture: str, tokens: SidTokens) -> tuple[Any, Any]:
    """The model of the block, and one whose rows stand at the ids of `tokens`."""
    original = model_of(architecture, BLOCK)
    model = copy.deepcopy(original)
    with torch.no_grad():
        weights = zip(vocabulary_weights(original), vocabulary_weights(model), strict=True)
        for weight, new in weights:
            new[tokens.token_ids] = weight[BLOCK.token_ids]
        if hasattr(model, "final_logits_bias"):
            bias = original.final_logits_bias[:, BLOCK.token_ids]
            model.final_logits_bias[:, tokens.token_ids] = bias
    return original, model


TABLES = pytest.mark.parametrize("tokens", [text_order(), scattered()], ids=["sorted", "scattered"])
PROMPTS = [prompt(np.random.default_rng(1), length) for length in (4, 11, 7)]


@pytest.mark.parametrize("architecture", ["llama", "t5"])
@settings(max_examples=5)
@given(
    width=st.integers(2, 9),
    seed=st.integers(0, 999),
    missing=st.sets(st.integers(0, sum(SIZES) - 1), max_size=6),
    is_sorted=st.booleans(),
)
def test_items_and_scores_equal_those_of_generate(
    architecture: str, width: int, seed: int, missing: set[int], is_sorted: bool
) -> None:
    ids = (text_order() if is_sorted else scattered(seed)).token_ids.copy()
    for level, size in enumerate(SIZES):
        offset = int(SPACE.offsets[level])
        missing -= {offset + size - 1}  # a level has at least one token
    ids[sorted(missing)] = -1
    tokens = SidTokens.of_ids(SPACE, ids.tolist())
    codes = catalog(SIZES, 200, seed)
    codes = codes[~tokens.lacking(codes)]
    trie = Trie.from_codes(codes, SIZES)
    model = model_of(architecture, BLOCK)
    result = beam_search(
        model, PROMPTS, trie, tokens, num_beams=width, k=width, normalize="vocabulary"
    )
    expected = generate(model, PROMPTS, trie, tokens, width)
    for mine, (sids, scores) in zip(result, expected, strict=True):
        assert_same(mine, sids, scores, trie)
    for normalize in ("level", "trie"):
        scored = score_sids(model, PROMPTS[:1], codes, tokens, normalize=normalize, trie=trie)
        expected = path_scores(model, PROMPTS[0], codes, tokens, normalize, codes)
        np.testing.assert_allclose(scored[0], expected, atol=1e-4)


@pytest.mark.parametrize("normalize", ["level", "vocabulary"])
@TABLES
def test_a_sid_with_a_code_without_a_token_is_impossible(tokens: SidTokens, normalize: Any) -> None:
    ids = tokens.token_ids.copy()
    ids[[2, SIZES[0] + 3]] = -1
    lacking = SidTokens.of_ids(SPACE, ids.tolist())
    codes = catalog(SIZES, 60, 1)
    scores = score_sids(model_of("llama", BLOCK), PROMPTS, codes, lacking, normalize=normalize)
    is_lacking = lacking.lacking(codes)
    assert 0 < is_lacking.sum() < len(codes)
    assert (np.isneginf(scores) == is_lacking).all()


@TABLES
@pytest.mark.parametrize(("architecture", "normalize"), [("llama", "trie"), ("t5", "level")])
def test_a_policy_is_that_of_the_same_model_with_a_block(
    tokens: SidTokens, architecture: str, normalize: Any
) -> None:
    original, model = moved(architecture, tokens)
    ids = torch.tensor([PROMPTS[0], PROMPTS[0][::-1]])
    codes = TRIE.leaf_codes(np.arange(12)).astype(np.int64).reshape(2, 6, 3)
    scores = []
    for network, its_tokens in ((copy.deepcopy(original), BLOCK), (model, tokens)):
        policy = Policy.of(network, its_tokens, TRIE, normalize)  # changes the model's head
        scores.append(policy.scores(network, ids, torch.ones_like(ids), torch.from_numpy(codes)))
    torch.testing.assert_close(scores[0].log_probs, scores[1].log_probs, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(scores[0].entropies, scores[1].entropies, atol=1e-4, rtol=1e-4)


@TABLES
@pytest.mark.parametrize("over", ["trie", "level", "sid"])
def test_the_loss_is_that_of_the_same_logits_in_a_block(tokens: SidTokens, over: Any) -> None:
    rng = np.random.default_rng(5)
    sids = TRIE.leaf_codes(rng.integers(0, TRIE.n_leaves, 7))
    logits = torch.from_numpy(rng.normal(size=(21, tokens.stop + 9)).astype(np.float32))
    at_table = logits.clone()
    at_table[:, tokens.token_ids] = logits[:, BLOCK.token_ids]
    totals = []
    for case_logits, case_tokens in ((logits, BLOCK), (at_table, tokens)):
        loss = Loss(over, case_tokens, TRIE if over == "trie" else None, smoothing=0.1)
        ids = torch.from_numpy(case_tokens.ids(sids, begin_end_tokens=False))  # (7, 3)
        preceding = torch.zeros(7, 3, 2, dtype=torch.long)
        preceding[:, 1, 1] = ids[:, 0]
        preceding[:, 2] = ids[:, :2]
        weighting = torch.ones(21), torch.zeros(21, dtype=torch.bool)
        targets = Targets(ids.flatten(), torch.arange(21), preceding.flatten(0, 1), *weighting)
        parts = loss.parts(targets.ids)
        blocks = [
            case_logits[indexes][:, slice(*columns) if isinstance(columns, tuple) else columns]
            for indexes, columns in parts
        ]
        totals.append(float(loss.total(blocks, parts, targets)))
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)
    assert totals[0] > 0


@TABLES
@pytest.mark.parametrize(
    ("begin_end_tokens", "normalize"), [(False, "vocabulary"), (True, "level"), (False, "trie")]
)
def test_the_constraint_allows_what_it_allows_of_a_block(
    tokens: SidTokens, begin_end_tokens: bool, normalize: Any
) -> None:
    rng = np.random.default_rng(6)
    sids = TRIE.leaf_codes(np.arange(0, 40, 9))
    blocks = BLOCK.ids(sids, begin_end_tokens=begin_end_tokens)
    to_table = np.arange(tokens.stop + 9)
    to_table[BLOCK.token_ids] = tokens.token_ids
    between = np.setdiff1d(np.arange(tokens.start, tokens.stop), tokens.token_ids)
    to_table[7] = [*between, 7][0]  # the prompt's last token is among those of the codes
    scores = torch.from_numpy(rng.normal(size=(len(sids), len(to_table))).astype(np.float32))
    at_table = torch.zeros_like(scores)
    at_table[:, tokens.token_ids] = scores[:, BLOCK.token_ids]
    for cut in range(blocks.shape[1]):
        ids = np.concatenate([np.full((len(sids), 1), 7), blocks[:, :cut]], axis=1)
        options = {"begin_end_tokens": begin_end_tokens, "normalize": normalize}
        expected = SidLogitsProcessor(TRIE, BLOCK, **options)(torch.from_numpy(ids), scores)
        processor = SidLogitsProcessor(TRIE, tokens, **options)
        allowed = processor(torch.from_numpy(to_table[ids]), at_table)
        at_sids = allowed[:, tokens.token_ids]
        torch.testing.assert_close(at_sids, expected[:, BLOCK.token_ids], atol=1e-6, rtol=1e-6)
        others = np.setdiff1d(np.arange(len(to_table)), tokens.token_ids)
        assert (allowed[:, others] == -torch.inf).all()


def test_neighbors_are_a_slice_of_the_head_and_others_are_gathered() -> None:
    for level, columns in enumerate(token_columns(text_order(), "cpu").levels):
        ids = text_order().level_ids[level]
        assert columns.columns == (int(ids.min()), int(ids.max()) + 1)
    gathered = token_columns(scattered(), "cpu").levels[1].columns
    assert gathered.tolist() == sorted(scattered().level_ids[1].tolist())
