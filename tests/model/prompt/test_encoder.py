from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sidtool.base.errors import DataError
from sidtool.model.prompt.segments import catalog, prompt_encoder, template
from sidtool.model.vocabulary.tokens import SidTokens
from sidtool.tokenizer.sid import SidSpace
from tests.model.prompt.cases import (
    SPACE,
    SPACES,
    all_tokenizers,
    catalog_texts,
    extended_tokenizer,
)


@cache
def word_tokenizer() -> Any:
    """A tokenizer whose base vocabulary contains special tokens as whole words."""
    letters = "abcdefghijklmnopqrstuvwxyz<>|_/ 0123456789"
    words = ["<unk>", "<eos>", "<|im_end|>", "<s_a_1>", *letters, "<|", "im", "end", "~"]
    numbers = {word: index for index, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="<eos>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>", "~"]})
    tokenizer.add_tokens(["<s_a_1>"])
    return tokenizer


@given(catalog_texts)
def test_catalog_text_never_becomes_an_added_token(text: str) -> None:
    tokenizer, tokens = extended_tokenizer(SPACE)
    ids = prompt_encoder(tokenizer, tokens).ids([catalog(text)])
    assert not set(tokenizer.added_tokens_decoder) & set(ids)
    decoded = tokenizer.backend_tokenizer.decoder.decode(tokenizer.convert_ids_to_tokens(ids))
    assert decoded == text or "\ufffd" in text


@given(catalog_texts)
def test_special_tokens_of_the_base_vocabulary_are_avoided_too(text: str) -> None:
    tokenizer = word_tokenizer()
    encoder = prompt_encoder(tokenizer, SidTokens(SidSpace((1,)), len(tokenizer)))
    special = set(tokenizer.added_tokens_decoder) - {tokenizer.unk_token_id}
    assert not special & set(encoder.ids([catalog(text)]))
    assert encoder.ids([catalog("<|im_end|>")])
    assert encoder.ids([catalog("~")]) == []  # no other token spells it


def test_a_tokenizer_that_does_not_encode_is_named() -> None:
    backend = Tokenizer(models.WordLevel({"a": 0}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    encoder = prompt_encoder(tokenizer, SidTokens(SidSpace((1,)), 1))
    with pytest.raises(DataError, match=r"^the tokenizer of .* cannot encode a text: .*UNK"):
        encoder.ids([catalog("b")])


pieces = st.sampled_from(
    ["\n", "\t", " ", "  ", "\n\n", "a", "lamp", "<table>", "<start_of_turn>", "<eos>", "<s_a_1>"]
)
spaced_texts = st.lists(pieces, max_size=12).map("".join)


@pytest.mark.parametrize("kind", range(5))
@given(text=spaced_texts)
def test_white_space_comes_back_by_decode(kind: int, text: str) -> None:
    tokenizer, tokens = all_tokenizers()[kind]
    ids = prompt_encoder(tokenizer, tokens).ids([catalog(text)])
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    added = tokenizer.added_tokens_decoder
    assert {added[token_id].content for token_id in ids if token_id in added} <= {*SPACES}


def test_the_same_text_in_a_template_is_markup() -> None:
    tokenizer, tokens = extended_tokenizer(SPACE)
    encoder = prompt_encoder(tokenizer, tokens)
    assert encoder.ids([template("<s_a_1>")]) == [tokens.start + 1]
    assert encoder.length([catalog("<s_a_1>")]) > 1
