import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from sidtool.base.errors import CompatibilityError
from sidtool.model.network.structure import check_embedding_rows
from sidtool.model.vocabulary.tokenizer import add_sid_tokens, check_token_ids
from sidtool.model.vocabulary.tokens import SidTokens
from sidtool.tokenizer.sid import SPELLINGS, SidSpace
from tests.models import tiny_model, tiny_tokenizer


@given(
    sizes=st.lists(st.integers(1, 12), min_size=1, max_size=4).map(tuple),
    spelling=st.sampled_from(sorted(SPELLINGS)),
    before=st.lists(st.text("xyz", min_size=1, max_size=4), max_size=3, unique=True),
)
@settings(max_examples=25, deadline=None)
def test_every_token_is_where_arithmetic_says(
    sizes: tuple[int, ...], spelling: str, before: list[str]
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(before)
    old_ids = dict(tokenizer.get_vocab())
    space = SidSpace(sizes, **SPELLINGS[spelling])  # type: ignore[arg-type]
    tokens = add_sid_tokens(tokenizer, space)
    assert tokens.start == len(old_ids)
    ids = tokenizer.convert_tokens_to_ids(list(space.tokens))
    assert ids == list(range(tokens.start, tokens.stop))
    vocabulary = tokenizer.get_vocab()
    assert {text: place for text, place in vocabulary.items() if place < tokens.start} == old_ids
    first_codes = [space.token(level, 0) for level in range(space.levels)]
    assert tokenizer.convert_ids_to_tokens(tokens.level_starts.tolist()) == first_codes
    assert not set(space.tokens) & set(tokenizer.all_special_tokens)


def test_a_vocabulary_with_holes_is_refused() -> None:
    """The tokenizer numbers new tokens by its token count, so an id beyond it would be given
    twice."""
    tokenizer = tiny_tokenizer()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["vocab"]["far"] = len(tokenizer) + 7
    holed = type(tokenizer)(tokenizer_object=Tokenizer.from_str(json.dumps(state)))
    message = "'far' has id 478, but SID tokens start at id 472"
    with pytest.raises(CompatibilityError, match=message):
        add_sid_tokens(holed, SidSpace((30, 2)))


def test_another_block_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokens = add_sid_tokens(tokenizer, SidSpace((3, 2)))
    with pytest.raises(CompatibilityError, match=r"gives <s_a_0> the id \d+, its contract says"):
        check_token_ids(tokenizer, SidTokens(tokens.space, tokens.start + 1))
    with pytest.raises(CompatibilityError, match="gives <s_b_2> the id None"):
        check_token_ids(tokenizer, SidTokens(SidSpace((3, 4), begin=None, end=None), tokens.start))


@pytest.mark.parametrize("tied", [True, False])
def test_fewer_embedding_rows_than_tokens_are_refused(tied: bool) -> None:
    model = tiny_model("llama", vocab_size=100, tied=tied)
    space = SidSpace((8,))  # ten tokens
    check_embedding_rows(model, SidTokens(space, 90).stop)
    message = "100 embedding rows, but its added tokens need 101"
    with pytest.raises(CompatibilityError, match=message):
        check_embedding_rows(model, SidTokens(space, 91).stop)
