"""SID vocabularies and a tokenizer that contains one, for the tests of prompts."""

from functools import cache
from typing import Any

from hypothesis import strategies as st

from sidtool.prompt.tokens import SidTokens
from sidtool.sid import SidSpace
from tests.models import tiny_tokenizer

SPACE = SidSpace((4, 3, 5))
BARE_SPACE = SidSpace((4, 3, 5), template="<{level}_{code}>", begin=None, end=None)

markup = st.sampled_from(
    [
        *SPACE.tokens,
        *BARE_SPACE.tokens[:3],
        "<|im_start|>",
        "<|im_end|>",
        "<bos>",
        "<eos>",
        "<pad>",
        "<s_a_99>",
    ]
)
catalog_texts = st.lists(st.one_of(markup, st.text(max_size=8)), max_size=6).map("".join)
"""Text that contains SID and special tokens."""

histories = st.lists(
    st.tuples(*(st.integers(0, size - 1) for size in SPACE.sizes)), min_size=1, max_size=5
)
"""Lists of codes, one tuple per item."""


@cache
def extended_tokenizer(space: SidSpace) -> tuple[Any, SidTokens]:
    """A tiny tokenizer with the SID tokens of a space, and where they start."""
    tokenizer = tiny_tokenizer(chat=True)
    start = len(tokenizer)
    tokenizer.add_tokens(list(space.tokens), special_tokens=False)
    return tokenizer, SidTokens(space, start)
