"""Renders the chat template of a tokenizer, a program of unknown origin, under limits.

Transformers runs it in Jinja's sandbox, which forbids access to Python but not endless loops or
huge texts."""

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from sidtool.base.checkpoint import loading
from sidtool.base.errors import DataError

MAX_CHARACTERS = 1 << 18
"""Of a template and of what it renders; the longest known template has 20,000."""
MAX_PRODUCTS = 32
SECONDS = 2.0
MEMORY = 1 << 28
"""Bytes that rendering may take; enforced on Linux."""


def render(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> str:
    """The text of messages by the tokenizer's chat template.

    Raises DataError if the template fails or exceeds a limit."""
    path = getattr(tokenizer, "name_or_path", "") or "the tokenizer"
    with loading(f"the chat template of {path}", "as a template"):
        with _limited_memory(), _limited_time():
            _check_source(str(tokenizer.chat_template))
            text: str = tokenizer.apply_chat_template(messages, tokenize=False)
        if len(text) > MAX_CHARACTERS:
            raise ValueError(f"it renders {len(text)} characters, the limit is {MAX_CHARACTERS}")
        return text


def _check_source(source: str) -> None:
    """Refuse arithmetic that takes long without executing a further line."""
    from jinja2 import Environment

    if len(source) > MAX_CHARACTERS:
        raise ValueError(f"it has {len(source)} characters, the limit is {MAX_CHARACTERS}")
    operators = [value for _, kind, value in Environment().lex(source) if kind == "operator"]
    if "**" in operators or operators.count("*") > MAX_PRODUCTS:
        raise ValueError("it computes powers or too many products")


@contextmanager
def _limited_time() -> Iterator[None]:
    """Stop this thread at the first line of Python that it executes after the limit."""
    end = time.monotonic() + SECONDS
    before = sys.gettrace()

    def check(frame: FrameType, event: str, argument: Any) -> Any:
        if time.monotonic() > end:
            raise DataError(f"a chat template takes longer than {SECONDS:g} s to render")
        return check

    sys.settrace(check)
    try:
        yield
    finally:
        sys.settrace(before)


@contextmanager
def _limited_memory() -> Iterator[None]:
    """Let allocations beyond the limit fail."""
    statistics = Path("/proc/self/statm")
    if not statistics.exists():
        yield
        return
    import resource

    in_use = int(statistics.read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = in_use + MEMORY
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
