import resource
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from sidtool.base.errors import DataError, UsageError
from sidtool.model.prompt.frames import make_frame, render
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
    content = "<|im_start|>user\nThe history: {history}.<|im_end|>\n<|im_start|>assistant\n"
    assert frame.template("{history}") == content
    assert frame.close == "<|im_end|>"
    with pytest.raises(UsageError, match="chat template"):
        make_frame("a{item}b", tiny_tokenizer(), "chat")


MESSAGES = [{"role": "user", "content": "hello"}]
LOOP = "{% for a in range(100000) %}"


@pytest.mark.parametrize(
    "template",
    [
        f"{LOOP}{LOOP}{LOOP}x",
        f"{LOOP}{LOOP}{LOOP}{{% endfor %}}{{% endfor %}}{{% endfor %}}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{{ 9 ** 9 ** 9 }}",
        "{{ 'a' * 10000000000 }}",
        "{{ 'a' * 1000000000 }}",
        "{{ 'a' | center(10000000000) }}",
        "{{ '%10000000000d' % 1 }}",
        "{{ '{:>10000000000}'.format(1) }}",
        "{{ lipsum(n=100000) }}",
        "{% set ns = namespace(x='a') %}" + "{% set ns.x = ns.x ~ ns.x %}" * 40 + "{{ ns.x }}",
        "{% set ns = namespace(x=['a']) %}" + "{% set ns.x = ns.x + ns.x %}" * 40,
        "{% set ns = namespace(x=7) %}"
        + "{% for a in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}{{ ns.x }}",
        "x" * 300_000,
        f"{LOOP}{{{{ messages }}}}{{% endfor %}}",
        "{{ " + "(" * 10_000,
        "{{ messages.__class__.__mro__ }}",
        "{{ cycler.__init__.__globals__ }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ raise_exception('no') }}",
        "{{ raise_exception('a\nb') }}",
        "{{ messages[7].content }}",
        "{{ 1 / 0 }}",
        "{% if %}",
        "{{ nothing() }}",
    ],
    ids=lambda template: template[:40],
)
def test_a_template_is_limited(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidtool.model.prompt.frames.SECONDS", 0.3)
    tokenizer = tiny_tokenizer(chat=True)
    tokenizer.chat_template = template
    with pytest.raises(DataError, match="chat template") as caught:
        render(tokenizer, MESSAGES)
    assert str(caught.value).isprintable()
    assert sys.gettrace() is None


class PausingTokenizer(BeginningTokenizer):
    """A tokenizer whose template says that it is rendered, and waits."""

    chat_template = "{{ messages }}"

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()

    def apply_chat_template(self, messages: object, tokenize: bool) -> str:
        self.begun.set()
        return str(self.may_end.wait(60))


def test_overlapping_threads_leave_the_limit_of_memory_as_it_was() -> None:
    before = resource.getrlimit(resource.RLIMIT_AS)
    tokenizers = [PausingTokenizer(), PausingTokenizer()]
    with ThreadPoolExecutor() as pool:
        rendered = [pool.submit(render, tokenizer, MESSAGES) for tokenizer in tokenizers]
        assert all(tokenizer.begun.wait(60) for tokenizer in tokenizers)
        for tokenizer, text in zip(tokenizers, rendered, strict=True):
            tokenizer.may_end.set()
            assert text.result() == "True"
    assert resource.getrlimit(resource.RLIMIT_AS) == before
