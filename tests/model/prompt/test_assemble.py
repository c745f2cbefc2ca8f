import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from sidtool.base.errors import DataError, UsageError
from sidtool.data import NO_FIELDS, Fields
from sidtool.model.prompt.assemble import (
    assemble_history,
    count_fitting,
    history_prompt_ids,
    text_prompt_ids,
)
from sidtool.model.prompt.prompts import HistoryPrompt, TextPrompt
from sidtool.model.prompt.segments import PromptEncoder, sids, template
from sidtool.model.vocabulary.tokens import SidTokens
from tests.model.prompt.cases import BARE_SPACE, SPACE, extended_tokenizer, histories


@given(histories, st.integers(1, 4), st.integers(5, 60))
def test_a_prompt_contains_the_newest_items_that_fit(
    history: list[tuple[int, ...]], history_length: int, max_length: int
) -> None:
    tokenizer, tokens = extended_tokenizer(SPACE)
    prompt = HistoryPrompt("next-item", "Seen:\n{history}\nNext?\n", history_length, max_length)
    codes = np.array(history, dtype=np.uint16)
    ids = history_prompt_ids(prompt, tokenizer, tokens, codes)
    encoder = PromptEncoder(tokenizer, tokens)
    before = encoder.ids([template("Seen:\n")])
    after = encoder.ids([template("\nNext?\n")])
    history_ids = ids[len(before) : len(ids) - len(after) - 1]
    assert (ids[: len(before)], ids[-1]) == (before, tokens.begin)
    assert ids[len(ids) - len(after) - 1 : -1] == after
    n_items = len(history_ids) // 5
    room = max_length - len(before) - len(after) - 1
    assert n_items == min(history_length, len(history), max(0, room // 5))
    assert history_ids == tokens.ids(codes[len(codes) - n_items :]).ravel().tolist()


@given(histories)
def test_without_begin_token_the_last_sid_ends_a_prompt(history: list[tuple[int, ...]]) -> None:
    tokenizer, tokens = extended_tokenizer(BARE_SPACE)
    codes = np.array(history, dtype=np.uint16)
    prompt = HistoryPrompt("sequence", "{history}", 50, 1000)
    ids = history_prompt_ids(prompt, tokenizer, tokens, codes)
    assert ids == tokens.ids(codes).ravel().tolist()


def test_sids_alone_are_one_segment_for_all_items() -> None:
    frame = HistoryPrompt("sequence", "{history}", 50, 1000).frame
    codes = np.zeros((200, 3), dtype=np.uint16)
    (_, segment, _), n_items = assemble_history(frame, SPACE, codes, None, NO_FIELDS)
    assert (segment, n_items) == (sids(SPACE, codes), 200)


def test_an_item_is_left_out_where_joined_texts_have_more_tokens_than_apart() -> None:
    numbers = {text: number for number, text in enumerate(["a", "b", "c", "d", "ab", "bc", "cd"])}
    merges = [("b", "c"), ("a", "b"), ("c", "d")]  # ab and cd are 2 tokens, abcd is 3
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(numbers, merges)))
    tokenizer.add_tokens(list(BARE_SPACE.tokens))
    tokens = SidTokens(BARE_SPACE, len(numbers))
    codes = np.zeros((1, 3), dtype=np.uint16)
    sid_ids = tokens.ids(codes).ravel().tolist()
    for max_length, expected in ((6, [0, 5, 3, *sid_ids]), (5, [4])):
        prompt = HistoryPrompt("next-item", "ab{history}", 9, max_length, item="cd{sid}{gap}")
        fields = Fields(times=(1,), time=2)
        assert history_prompt_ids(prompt, tokenizer, tokens, codes, None, fields) == expected


def test_before_the_first_item_of_a_sequence_no_time_has_passed() -> None:
    tokenizer, tokens = extended_tokenizer(SPACE)
    prompt = HistoryPrompt("sequence", "{history}", 50, 1000, item="{gap}:{sid}")
    no_items = np.zeros((0, 3), dtype=np.uint16)
    without, empty = (
        history_prompt_ids(prompt, tokenizer, tokens, no_items, None, Fields(time=5.0, times=times))
        for times in (None, ())
    )
    assert without == empty
    with pytest.raises(DataError, match="gap"):
        history_prompt_ids(prompt, tokenizer, tokens, no_items, None, NO_FIELDS)


def test_titles_are_joined_by_the_separator() -> None:
    tokenizer, tokens = extended_tokenizer(SPACE)
    prompt = HistoryPrompt(
        "title-history-to-sid", "{history}\n", 2, 100, history_as="title", separator="\n"
    )
    codes = np.zeros((3, 3), dtype=np.uint16)
    ids = history_prompt_ids(prompt, tokenizer, tokens, codes, ["first", "<s_a_1>", "last"])
    assert tokenizer.decode(ids[:-1]) == "<s_a_1>\nlast\n"
    assert tokens.start + 1 not in ids
    with pytest.raises(UsageError, match="3 items, 0 titles"):
        history_prompt_ids(prompt, tokenizer, tokens, codes)


@given(st.text(alphabet="ab <|", max_size=60), st.integers(1, 80))
def test_only_the_end_of_a_text_is_cut(text: str, max_length: int) -> None:
    tokenizer, tokens = extended_tokenizer(SPACE)
    prompt = TextPrompt("query-to-sid", "Query: {item}\nItem:", max_length)
    if not text.split():
        with pytest.raises(UsageError, match="empty"):
            text_prompt_ids(prompt, tokenizer, tokens, text)
        return
    encoder = PromptEncoder(tokenizer, tokens)
    before = encoder.ids([template("Query: ")])
    after = [*encoder.ids([template("\nItem:")]), tokens.begin]
    unlimited = TextPrompt("query-to-sid", "Query: {item}\nItem:", 1000)
    whole = text_prompt_ids(unlimited, tokenizer, tokens, text)[len(before) : -len(after)]
    room = max(1, max_length - len(before) - len(after))
    assert text_prompt_ids(prompt, tokenizer, tokens, text) == [*before, *whole[:room], *after]


@given(st.lists(st.integers(1, 9), max_size=8), st.integers(0, 40), st.integers(0, 3))
def test_count_fitting_is_the_longest_tail_that_fits(
    lengths: list[int], room: int, separator_length: int
) -> None:
    def tokens_of_last(n: int) -> int:
        return sum(lengths[len(lengths) - n :]) + separator_length * max(0, n - 1)

    fitting = [n for n in range(len(lengths) + 1) if tokens_of_last(n) <= room or n == 0]
    assert count_fitting(lengths, room, separator_length) == max(fitting)
