"""SID vocabularies and a tokenizer that contains one, for the tests of prompts."""

from functools import cache
from typing import Any

from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sidtool.model.vocabulary.tokens import SidTokens
from sidtool.tokenizer.sid import SidSpace
from tests.models import tiny_tokenizer

SPACE = SidSpace((4, 3, 5))
BARE_SPACE = SidSpace((4, 3, 5), template="<{level}_{code}>", begin=None, end=None)

SPECIAL = ("<|im_start|>", "<|im_end|>", "<bos>", "<eos>", "<pad>", "<s_a_99>")
markup = st.sampled_from([*SPACE.tokens, *BARE_SPACE.tokens[:3], *SPECIAL])
catalog_texts = st.lists(st.one_of(markup, st.text(max_size=8)), max_size=6).map("".join)
"""Text that contains SID and special tokens."""

codes = st.tuples(*(st.integers(0, size - 1) for size in SPACE.sizes))
histories = st.lists(codes, min_size=1, max_size=5)
"""Lists of codes, one tuple per item."""


@cache
def extended_tokenizer(space: SidSpace) -> tuple[Any, SidTokens]:
    """A tiny tokenizer with the SID tokens of a space, and where they start; the same one for all
    tests, which only read it."""
    tokenizer = tiny_tokenizer(chat=True)
    start = len(tokenizer)
    tokenizer.add_tokens(list(space.tokens), special_tokens=False)
    return tokenizer, SidTokens(space, start)


SPACES = ("\n", "\n\n", "\t", "\u2581\u2581")
"""White space that Gemma's tokenizers have as added tokens."""


def sentencepiece_tokenizer(*, in_vocabulary: bool, byte_fallback: bool) -> Any:
    """A tokenizer of Gemma's kind: white space and a tag are added tokens.

    `in_vocabulary`: the base vocabulary has them, too, as Gemma's does. `byte_fallback`: it has a
    token for each byte."""
    words = ["<pad>", "<eos>", "<bos>", "<unk>"]
    words += [*SPACES, "<table>"] if in_vocabulary else []
    words += [f"<0x{byte:02X}>" for byte in range(256)] if byte_fallback else []
    words += "\u2581abcdefghijklmnopqrstuvwxyz<>|_/0123456789."
    merges = [("\u2581", "\u2581"), ("\n", "\n")] if in_vocabulary else []
    numbers = {word: number for number, word in enumerate(words)}
    backend = Tokenizer(
        models.BPE(numbers, merges, unk_token="<unk>", byte_fallback=byte_fallback, fuse_unk=True)
    )
    backend.normalizer = normalizers.Replace(" ", "\u2581")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(steps)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<bos>",
        unk_token="<unk>",
    )
    added = ["<start_of_turn>", *SPACES, "<table>"]
    tokenizer.add_tokens([AddedToken(text, normalized=False, special=False) for text in added])
    return tokenizer


@cache
def all_tokenizers() -> tuple[tuple[Any, SidTokens], ...]:
    """Byte-level and SentencePiece tokenizers with the SID tokens of `SPACE`."""
    made = [extended_tokenizer(SPACE)]
    for in_vocabulary in (True, False):
        for byte_fallback in (True, False):
            tokenizer = sentencepiece_tokenizer(
                in_vocabulary=in_vocabulary, byte_fallback=byte_fallback
            )
            start = len(tokenizer)
            tokenizer.add_tokens(list(SPACE.tokens), special_tokens=False)
            made.append((tokenizer, SidTokens(SPACE, start)))
    return tuple(made)
