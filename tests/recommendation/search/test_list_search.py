from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.base.errors import DataError, UsageError
from sidtool.model.vocabulary.tokens import SidTokens
from sidtool.recommendation.search import driver
from sidtool.recommendation.search.filters import LeafFilter
from sidtool.recommendation.search.list_search import search_lists
from sidtool.recommendation.search.results import ItemList
from sidtool.tokenizer.bundle.trie import Trie
from sidtool.tokenizer.sid import SidSpace
from tests.models import tiny_encoder_decoder, tiny_model
from tests.recommendation.search.oracle import Codes, ListModel, eligible_counts
from tests.search_cases import TEXT, catalog, model_of, prompt, vocabulary

SIZES = (3, 4, 3)


def space(sizes: tuple[int, ...], begin_end: bool) -> SidTokens:
    """The tokens of a space with or without begin and end tokens."""
    marks = {} if begin_end else {"begin": None, "end": None}
    return SidTokens(SidSpace(sizes, **marks), TEXT)


def list_model(
    model: Any, ids: Any, trie: Trie, tokens: SidTokens, normalize: str, leaf_filter: Any
) -> ListModel:
    """The oracle of one prompt."""
    sids = {tuple(row) for row in trie.leaf_codes(np.arange(trie.n_leaves)).tolist()}
    return ListModel(model, ids, tokens, normalize, sids, eligible_counts(trie, leaf_filter))


def codes_of(one: ItemList, trie: Trie) -> Codes:
    """The codes of a list behind one another."""
    return tuple(trie.leaf_codes(one.leaves).ravel().tolist())


def score_of(one: ItemList) -> float:
    """Log-probability of a list."""
    return float(one.scores.sum(dtype=np.float64))


def assert_legal(one: ItemList, trie: Trie, leaf_filter: LeafFilter | None, length: int) -> None:
    """A list has distinct eligible items, and as many as it can have."""
    n_eligible = trie.n_items if leaf_filter is None else leaf_filter.n_eligible
    assert len(one.positions) == len(one.scores) == min(length, n_eligible)
    assert len(set(one.positions.tolist())) == len(one.positions)
    assert trie.leaves(one.positions).tolist() == one.leaves.tolist()
    if leaf_filter is not None:
        assert leaf_filter.passes(one.positions).all()


@st.composite
def catalogs(draw: st.DrawFn, most: int) -> tuple[Trie, list[LeafFilter | None]]:
    """A catalog whose items may share SIDs or be retired, and filters of two prompts."""
    codes = catalog(SIZES, draw(st.integers(1, most)), draw(st.integers(0, 99)), repeats=True)
    if draw(st.booleans()):  # few SIDs, with several items each
        codes = np.sort(codes[:, :1] % 2, axis=0) * np.ones((1, 3), dtype=np.uint16)
    active = np.arange(len(codes))
    if draw(st.booleans()):
        active = np.sort(np.random.default_rng(most).choice(2 * most, len(codes), replace=False))
    trie = Trie.from_codes(codes.astype(np.uint16), SIZES, active)
    rows = st.lists(st.integers(0, 2 * most), max_size=most)
    rows = rows.map(lambda numbers: np.array(numbers, np.int64))
    filters: list[LeafFilter | None] = []
    for _ in range(2):
        allow, deny = draw(st.none() | rows), draw(rows)
        allowed = None if allow is None else trie.positions(allow)
        filters.append(draw(st.sampled_from([None, LeafFilter.of(trie, allowed, deny)])))
    return trie, filters


@pytest.mark.parametrize("architecture", ["llama", "t5"])
@settings(max_examples=5)
@given(
    case=catalogs(5),
    length=st.integers(1, 6),
    normalize=st.sampled_from(["level", "trie", "vocabulary"]),
    begin_end=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_wide_beam_finds_every_list(
    architecture: str, case: Any, length: int, normalize: Any, begin_end: bool, seed: int
) -> None:
    trie, filters = case
    length = min(length, 4)  # of 5 items there are 120 lists
    tokens = space(SIZES, begin_end)
    model = model_of(architecture, tokens)
    rng = np.random.default_rng(seed)
    prompts = [prompt(rng, 9), prompt(rng, 3)]
    settings = {"length": length, "num_beams": 300, "n_lists": 300, "normalize": normalize}
    results = search_lists(model, prompts, trie, tokens, filters=filters, **settings)
    for ids, leaf_filter, lists in zip(prompts, filters, results, strict=True):
        oracle = list_model(model, ids, trie, tokens, normalize, leaf_filter)
        expected = dict(oracle.beams(length, None)) if oracle.length(length) else {}
        scores = {codes_of(one, trie): score_of(one) for one in lists}
        assert (len(scores), scores.keys()) == (len(lists), expected.keys())
        for codes, score in scores.items():
            assert score == pytest.approx(expected[codes], abs=1e-4, rel=1e-5)
        assert all(np.diff([score_of(one) for one in lists]) <= 1e-4)
        for one in lists:
            assert_legal(one, trie, leaf_filter, length)


@pytest.mark.parametrize("architecture", ["gemma3", "gpt2", "bart"])
@settings(max_examples=4)
@given(
    case=catalogs(30),
    length=st.integers(1, 7),
    width=st.integers(1, 5),
    begin_end=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_narrow_beam_is_a_beam_search(
    architecture: str, case: Any, length: int, width: int, begin_end: bool, seed: int
) -> None:
    trie, filters = case
    tokens = space(SIZES, begin_end)
    model = model_of(architecture, tokens)
    rng = np.random.default_rng(seed)
    prompts = [prompt(rng, 2), prompt(rng, 12)]
    results = search_lists(
        model, prompts, trie, tokens, length=length, num_beams=width, filters=filters
    )
    for ids, leaf_filter, lists in zip(prompts, filters, results, strict=True):
        oracle = list_model(model, ids, trie, tokens, "level", leaf_filter)
        if not oracle.length(length):
            assert lists == []
            continue
        (codes, score), *_ = oracle.beams(length, width)
        (one,) = lists
        assert_legal(one, trie, leaf_filter, length)
        assert score_of(one) == pytest.approx(score, abs=1e-4, rel=1e-5)
        assert codes_of(one, trie) == codes
        item_scores = []
        levels = trie.levels
        for place in range(0, len(codes), levels):
            steps = [oracle.steps(codes[:i])[codes[i]] for i in range(place, place + levels)]
            item_scores.append(float(np.sum(steps)))
        np.testing.assert_allclose(one.scores, item_scores, atol=1e-4)


def test_lists_do_not_depend_on_the_batch() -> None:
    trie, tokens, model = _case()
    rng = np.random.default_rng(1)
    prompts = [prompt(rng, length) for length in (3, 20, 7)] + [[]]
    denied = np.arange(trie.n_items - 2)
    filters = [None, LeafFilter.of(trie, None, denied), None, None]
    wanted = {"length": 4, "num_beams": 3, "filters": filters}
    together = search_lists(model, prompts, trie, tokens, **wanted)
    apart = search_lists(model, prompts, trie, tokens, token_budget=1, **wanted)
    assert [len(lists) for lists in together] == [1, 1, 1, 0]
    assert len(together[1][0].leaves) == 2
    for one, other in zip(together, apart, strict=True):
        assert [beam.leaves.tolist() for beam in one] == [beam.leaves.tolist() for beam in other]


def test_trees_that_are_too_large_are_refused() -> None:
    trie, tokens, model = _case()
    with pytest.raises(UsageError, match="5000 beams are too many: 2340 fit"):
        search_lists(model, [[9]], trie, tokens, length=2, num_beams=5000)


@pytest.mark.parametrize(
    ("architecture", "prompt_length", "length", "message"),
    [
        ("gpt2", 10, 1, "a prompt with its answer has 17 tokens"),
        ("bart", 16, 3, "an answer has 18 tokens, the model has 16 positions"),
    ],
)
def test_a_model_without_positions_for_the_list_is_refused(
    architecture: str, prompt_length: int, length: int, message: str
) -> None:
    trie, tokens, _ = _case()
    make_model = tiny_encoder_decoder if architecture == "bart" else tiny_model
    model = make_model(architecture, vocab_size=vocabulary(tokens), max_position_embeddings=16)
    prompts = [[9], [9] * prompt_length]
    search_lists(model, prompts, trie, tokens, length=length, num_beams=2)
    with pytest.raises(DataError, match=message):
        search_lists(model, prompts, trie, tokens, length=length + 1, num_beams=2)


def test_a_model_whose_attention_cannot_be_steered_is_refused(monkeypatch: Any) -> None:
    trie, tokens, model = _case()
    monkeypatch.setattr(driver, "decoding_method", lambda _: None)
    with pytest.raises(UsageError, match="it cannot write lists"):
        search_lists(model, [[9]], trie, tokens, length=2, num_beams=2)


def test_logits_that_are_no_numbers_are_an_error() -> None:
    trie, tokens, _ = _case()
    model = tiny_model("llama", vocab_size=vocabulary(tokens), seed=3)
    search_lists(model, [[9]], trie, tokens, length=2, num_beams=2)
    model.lm_head.weight.data.fill_(torch.nan)
    with pytest.raises(DataError, match="NaN"):
        search_lists(model, [[9]], trie, tokens, length=2, num_beams=2)


def _case() -> tuple[Trie, SidTokens, Any]:
    tokens = space(SIZES, True)
    trie = Trie.from_codes(catalog(SIZES, 20, 4, repeats=True), SIZES)
    return trie, tokens, model_of("llama", tokens)
