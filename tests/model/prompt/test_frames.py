import pytest

from sidtool.base.errors import UsageError
from sidtool.model.prompt.frames import make_frame
from tests.models import tiny_tokenizer


class BeginningTokenizer:
    """A tokenizer that puts its begin token before every text."""

    bos_token = "<bos>"
    bos_token_id = 1
    eos_token = None

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [self.bos_token_id, *text.encode()]}


def test_a_plain_frame_begins_and_ends_with_the_tokens_of_the_tokenizer() -> None:
    frame = make_frame("The history: {history}.", BeginningTokenizer(), separator=", ")
    assert frame.template("{history}") == "<bos>The history: {history}.\n"
    assert (frame.close, frame.separator) == ("", ", ")
    assert make_frame("a{item}b", tiny_tokenizer()).close == "<eos>"


def test_without_a_tokenizer_there_are_no_begin_and_end_texts() -> None:
    frame = make_frame("{item}", None, "text")
    assert (frame.before, frame.after, frame.close) == ("", "", "")
    frame = make_frame("{item}", tiny_tokenizer(), "text")
    assert frame.before == ""  # it has a begin token that it does not add


def test_a_chat_frame_contains_the_markup_around_content_and_completion() -> None:
    frame = make_frame("The history: {history}.", tiny_tokenizer(chat=True), "chat")
    assert frame.template("{history}") == (
        "<|im_start|>user\nThe history: {history}.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert frame.close == "<|im_end|>"
    with pytest.raises(UsageError, match="chat template"):
        make_frame("a{item}b", tiny_tokenizer(), "chat")
