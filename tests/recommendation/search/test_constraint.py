import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LogitsProcessorList

from sidtool.base.errors import DataError
from sidtool.model.network import decoder_start_id
from sidtool.recommendation.search import LeafFilter, Normalize, SidLogitsProcessor
from tests.search_cases import beam_config, catalog, generate, make, make_with_model, vocabulary

SIZES = (4, 3, 5)


@given(
    items=st.integers(1, 40),
    seed=st.integers(0, 99),
    begin_end_tokens=st.booleans(),
    cuts=st.lists(
        st.tuples(st.integers(0, 39), st.integers(0, 5), st.booleans()), min_size=1, max_size=6
    ),
)
def test_tokens_that_continue_a_valid_sid_are_allowed(
    items: int, seed: int, begin_end_tokens: bool, cuts: Any
) -> None:
    trie, tokens = make(SIZES, items, seed)
    sids = trie.leaf_codes(np.arange(trie.n_leaves))
    rows, wants = [], []
    for which, cut, text_before in cuts:
        sid = sids[which % len(sids)]
        full = tokens.ids(sid[None], begin_end_tokens=begin_end_tokens)[0].tolist()
        done = full[:cut]
        before = tokens.ids(sids[:1], begin_end_tokens=begin_end_tokens)[0].tolist()
        rows.append(([7, 9] if text_before else before) + done)
        if begin_end_tokens and len(done) in (0, len(full)):
            wants.append([tokens.begin])
        elif begin_end_tokens and len(done) == len(full) - 1:
            wants.append([tokens.end])
        else:
            level = (len(done) - begin_end_tokens) % len(SIZES)
            below = sids[(sids[:, :level] == sid[:level]).all(axis=1)]
            wants.append(tokens.level_ids[level][np.unique(below[:, level])].tolist())
    longest = max(map(len, rows))
    ids = torch.tensor([[7] * (longest - len(row)) + row for row in rows])
    scores = torch.randn(len(rows), vocabulary(tokens))
    result = SidLogitsProcessor(trie, tokens, begin_end_tokens=begin_end_tokens)(ids, scores)
    for row, want in enumerate(wants):
        assert torch.isfinite(result[row]).nonzero().ravel().tolist() == want
        assert torch.equal(result[row][want], scores[row][want])


@pytest.mark.parametrize("architecture", ["qwen3", "t5", "bart"])
def test_generate_with_the_processor_equals_generate_with_the_prefix_function(
    architecture: str,
) -> None:
    trie, tokens, model = make_with_model((6, 6, 6), 120, architecture)
    prompts = [[9, 8, 7], [20, 21, 22]]
    plain = copy.copy(model)
    plain.generation_config = beam_config(5, 3)
    encodes = model.config.is_encoder_decoder
    if encodes:  # BART's own settings force the last token to be the end of a text
        plain.generation_config.decoder_start_token_id = decoder_start_id(model)
    output = plain.generate(
        torch.tensor(prompts),
        attention_mask=torch.ones(2, 3, dtype=torch.long),
        logits_processor=LogitsProcessorList([SidLogitsProcessor(trie, tokens)]),
    )
    expected = generate(model, prompts, trie, tokens, 5)
    codes = tokens.codes(output[:, 1 if encodes else 3 :].numpy()).reshape(2, 5, 3)
    assert [[tuple(sid) for sid in row.tolist()] for row in codes] == [sids for sids, _ in expected]


def test_level_normalization_is_over_all_codes_of_the_level() -> None:
    trie, tokens = make((6, 6, 6), 30)
    scores = torch.randn(1, vocabulary(tokens))
    result = SidLogitsProcessor(trie, tokens, normalize="level")(torch.tensor([[9]]), scores)
    want = scores[0, tokens.start : tokens.start + 6].log_softmax(-1)
    good = torch.isfinite(result[0, tokens.start : tokens.start + 6])
    torch.testing.assert_close(result[0, tokens.start : tokens.start + 6][good], want[good])


@pytest.mark.parametrize("normalize", ["level", "trie"])
def test_a_begin_or_end_token_that_must_follow_has_the_probability_1(normalize: Normalize) -> None:
    trie, tokens = make(SIZES, 30)
    processor = SidLogitsProcessor(trie, tokens, begin_end_tokens=True, normalize=normalize)
    sid = tokens.ids(trie.leaf_codes(np.arange(1)), begin_end_tokens=False)[0].tolist()
    result = processor(torch.tensor([[7, 7, 7], sid]), torch.randn(2, vocabulary(tokens)))
    assert (result[0, tokens.begin], result[1, tokens.end]) == (0, 0)
    assert torch.isfinite(result).sum() == 2


def test_each_prompt_has_a_separate_filter() -> None:
    trie, tokens = make(SIZES, 40)
    firsts = trie.leaf_codes(np.arange(trie.n_leaves))[:, 0]
    filters = [
        LeafFilter.of(trie, trie.positions(np.flatnonzero(firsts == code)), np.zeros(0, int))
        for code in (1, 2)
    ]
    processor = SidLogitsProcessor(trie, tokens, filters=filters)
    result = processor(torch.full((4, 1), 9), torch.zeros(4, vocabulary(tokens)))
    allowed = [tokens.start + code for code in (1, 1, 2, 2)]
    assert torch.isfinite(result).nonzero()[:, 1].tolist() == allowed


def test_a_dead_end_raises() -> None:
    trie, tokens = make(SIZES, 5)
    legal = {tuple(row[:2]) for row in catalog(SIZES, 5, 0).tolist()}
    a, b = next((a, b) for a in range(4) for b in range(3) if (a, b) not in legal)
    first, second = (int(start) for start in tokens.level_starts[:2])
    for tail in ([first + a, second + b], [7, second], [second]):
        ids = torch.tensor([tail])
        with pytest.raises(DataError, match="no valid SID"):
            SidLogitsProcessor(trie, tokens)(ids, torch.zeros(1, vocabulary(tokens)))
        processor = SidLogitsProcessor(trie, tokens, strict=False)
        assert (processor(ids, torch.zeros(1, vocabulary(tokens))) == -torch.inf).all()
