"""What the parts of decoder.py share: random models, catalogs and prompts, and the clock."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

TEXT = 151_900
VOCABULARY = 152_960
LEVELS = (256, 256, 256, 256)
PROMPT = 128


def qwen3(hidden: int, layers: int, vocabulary: int) -> Any:
    """A random Qwen3: 512 x 8 has 25 M parameters beside its embeddings."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=max(1, hidden // 128),
        head_dim=64,
        tie_word_embeddings=True,
        initializer_range=0.06,  # large enough that beams differ
    )
    return Qwen3ForCausalLM(config).eval()


def catalog(n: int) -> Any:
    """(n, 4) distinct random codes in order."""
    rng = np.random.default_rng(0)
    keys = np.sort(rng.integers(0, 1 << 32, n + n // 50 + 100, dtype=np.uint64))
    keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])]
    keys = keys[np.sort(rng.permutation(len(keys))[:n])]
    return np.stack(
        [((keys >> np.uint64(s)) & np.uint64(255)).astype(np.uint16) for s in (24, 16, 8, 0)],
        axis=1,
    )


def prompts_of(n: int, text: int = TEXT) -> list[list[int]]:
    """Random prompts of one length."""
    return np.random.default_rng(1).integers(10, text, (n, PROMPT)).tolist()


def trie_and_tokens(codes: Any, text: int = TEXT) -> tuple[Any, Any]:
    """The trie of a catalog and its token ids."""
    from sidtool.model.vocabulary.tokens import SidTokens
    from sidtool.tokenizer.bundle.trie import Trie
    from sidtool.tokenizer.sid import SidSpace

    return Trie.from_codes(codes, LEVELS), SidTokens(SidSpace(LEVELS), text)


def medians(
    repeats: int, *sides: Callable[[], Any], clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Median seconds of each side by a clock, run in turns after one warm-up round."""
    times: list[list[float]] = [[] for _ in sides]
    for turn in range(repeats + 1):
        for side, taken in zip(sides, times, strict=True):
            start = clock()
            side()
            if turn:
                taken.append(clock() - start)
    return [float(np.median(taken)) for taken in times]
