"""Rendering: text and segments are inverse, serving equals training, and no catalog text becomes
markup."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sidtool.errors import DataError, UsageError
from sidtool.prompt.render import (
    TEXT_CHARACTERS,
    PromptEncoder,
    Segment,
    catalog,
    encode_catalog_text,
    fitting,
    prompt_ids,
    shortened,
    sids,
    spell,
    template,
    unspell,
)
from sidtool.prompt.serving import Serving
from sidtool.prompt.tokens import SidTokens
from sidtool.sid import SidSpace
from tests.models import tiny_tokenizer

SPACE = SidSpace((4, 3, 5))
BARE = SidSpace((4, 3, 5), template="<{level}_{code}>", begin=None, end=None)


@cache
def extended(space: SidSpace) -> tuple[Any, SidTokens]:
    tokenizer = tiny_tokenizer(chat=True)
    start = len(tokenizer)
    tokenizer.add_tokens(list(space.tokens), special_tokens=False)
    return tokenizer, SidTokens(space, start)


@cache
def wordy() -> Any:
    """A tokenizer whose base vocabulary itself holds the special tokens, as whole words."""
    words = [
        "<unk>",
        "<eos>",
        "<|im_end|>",
        "<s_a_1>",
        *"abcdefghijklmnopqrstuvwxyz<>|_/ 0123456789",
        "<|",
        "im",
        "end",
    ]
    backend = Tokenizer(
        models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", eos_token="<eos>"
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    tokenizer.add_tokens(["<s_a_1>"])
    return tokenizer


evil = st.sampled_from(
    [
        *SPACE.tokens,
        *BARE.tokens[:3],
        "<|im_start|>",
        "<|im_end|>",
        "<bos>",
        "<eos>",
        "<pad>",
        "<s_a_99>",
    ]
)
texts = st.lists(st.one_of(evil, st.text(max_size=8)), max_size=6).map("".join)
codes = st.lists(
    st.tuples(*(st.integers(0, size - 1) for size in SPACE.sizes)), min_size=1, max_size=5
)


@given(texts)
def test_catalog_text_never_becomes_an_added_token(text: str) -> None:
    tokenizer, _tokens = extended(SPACE)
    added = set(tokenizer.added_tokens_decoder)
    ids = encode_catalog_text(tokenizer, text)
    assert not added & set(ids)
    assert (
        tokenizer.backend_tokenizer.decoder.decode(tokenizer.convert_ids_to_tokens(ids)) == text
        or "\ufffd" in text
    )


@given(texts)
def test_special_tokens_of_the_base_vocabulary_are_avoided_too(text: str) -> None:
    tokenizer = wordy()
    forbidden = set(tokenizer.added_tokens_decoder) - {tokenizer.unk_token_id}
    assert not forbidden & set(encode_catalog_text(tokenizer, text))
    assert encode_catalog_text(tokenizer, "<|im_end|>")


def test_the_same_text_in_a_template_is_markup() -> None:
    tokenizer, tokens = extended(SPACE)
    encoder = PromptEncoder(tokenizer, tokens)
    assert encoder.ids([template("<s_a_1>")]) == [tokens.start + 1]
    assert len(encoder.ids([catalog("<s_a_1>")])) > 1


segments = st.lists(
    st.one_of(
        st.text(max_size=6).filter(lambda t: "<" not in t).map(template),
        texts.map(catalog),
        codes.map(lambda c: sids(SPACE, np.array(c, dtype=np.uint16), markers=True)),
    ),
    max_size=7,
)


@given(segments)
def test_a_rows_text_tokenizes_as_its_segments(pieces: list[Segment]) -> None:
    # adjacent template pieces are one piece in the text
    merged: list[Segment] = []
    for piece in pieces:
        if merged and piece.kind == merged[-1].kind == "template":
            merged[-1] = template(merged[-1].text + piece.text)
        elif piece.text or piece.places:
            merged.append(piece)
    text, spans = spell(SPACE, merged)
    tokenizer, tokens = extended(SPACE)
    encoder = PromptEncoder(tokenizer, tokens)
    assert encoder.ids(unspell(SPACE, text, spans)) == encoder.ids(merged)
    assert [text[start:stop] for start, stop in spans] == [
        p.text for p in merged if p.kind == "catalog"
    ]


def test_spans_that_do_not_fit_are_refused() -> None:
    with pytest.raises(DataError, match="does not fit"):
        unspell(SPACE, "abc", [(2, 9)])


@given(codes, st.integers(1, 4), st.integers(5, 60))
def test_a_prompt_is_the_tail_of_the_history_in_its_frame(
    history: list[tuple[int, ...]], length: int, room: int
) -> None:
    tokenizer, tokens = extended(SPACE)
    serving = Serving("next-item", "Seen:\n{history}\nNext?\n", length, room)
    array = np.array(history, dtype=np.uint16)
    ids = prompt_ids(serving, tokenizer, tokens, array)
    encoder = PromptEncoder(tokenizer, tokens)
    before, after = encoder.ids([template("Seen:\n")]), encoder.ids([template("\nNext?\n")])
    body = ids[len(before) : len(ids) - len(after) - 1]
    assert ids[: len(before)] == before
    assert ids[-1] == tokens.begin
    assert ids[len(ids) - len(after) - 1 : -1] == after
    shown = len(body) // 5
    assert shown <= min(length, len(history))
    assert body == tokens.ids(array[len(array) - shown :]).ravel().tolist()
    assert shown == min(length, len(history), max(0, (room - len(before) - len(after) - 1) // 5))


@given(codes)
def test_without_markers_a_prompt_ends_with_the_last_sid(history: list[tuple[int, ...]]) -> None:
    tokenizer, tokens = extended(BARE)
    array = np.array(history, dtype=np.uint16)
    ids = prompt_ids(
        Serving("sequence", "{history}", 50, 1000, markers=False), tokenizer, tokens, array
    )
    assert ids == tokens.ids(array).ravel().tolist()


def test_titles_are_joined_and_needed() -> None:
    tokenizer, tokens = extended(SPACE)
    serving = Serving(
        "title-history-to-sid", "{history}\n", 2, 100, history_as="title", separator="\n"
    )
    array = np.zeros((3, 3), dtype=np.uint16)
    ids = prompt_ids(serving, tokenizer, tokens, array, ["first", "<s_a_1>", "last"])
    assert tokenizer.decode(ids[:-1]) == "<s_a_1>\nlast\n"
    assert tokens.start + 1 not in ids
    with pytest.raises(UsageError, match="titles"):
        prompt_ids(serving, tokenizer, tokens, array)


@given(st.text(alphabet="ab \n<>", max_size=900))
def test_a_long_text_is_cut_at_a_word(text: str) -> None:
    shown, words = shortened(text), text.split()
    assert len(shown) <= TEXT_CHARACTERS
    assert shortened(shown) == shown
    if len(" ".join(words)) <= TEXT_CHARACTERS:
        assert shown.split() == words
    elif " " in shown:
        assert shown.split() == words[: len(shown.split())]


@given(st.lists(st.integers(1, 9), max_size=8), st.integers(0, 40), st.integers(0, 3))
def test_fitting_is_the_longest_tail(lengths: list[int], room: int, joint: int) -> None:
    def taken(n: int) -> int:
        return sum(lengths[len(lengths) - n :]) + joint * max(0, n - 1)

    assert fitting(lengths, room, joint) == max(
        n for n in range(len(lengths) + 1) if taken(n) <= room or n == 0
    )


@settings(max_examples=30)
@given(st.text(max_size=20), st.integers(1, 50), st.booleans())
def test_serving_travels_through_json(text: str, length: int, markers: bool) -> None:
    serving = Serving("sequence", text.replace("{", "") + "{history}", length, 99, markers)
    assert Serving.from_json({**serving.to_json(), "later": 1}) == serving


def test_a_serving_needs_its_slot_and_keys() -> None:
    with pytest.raises(DataError, match="history"):
        Serving("sequence", "nothing", 1, 1)
    with pytest.raises(DataError, match="incomplete"):
        Serving.from_json({"task": "sequence", "template": "{history}"})
