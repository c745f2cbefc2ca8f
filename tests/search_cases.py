"""Catalogs, oracles and tiny models for the decoder's tests."""

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from sidtool.model.vocabulary.tokens import SidTokens
from sidtool.tokenizer.bundle.trie import Trie
from sidtool.tokenizer.sid import SidSpace
from tests.models import ARCHITECTURES, ENCODER_DECODERS, tiny_encoder_decoder, tiny_model
from tests.recommendation.search.oracle import ListModel

TEXT = 50
"""Token ids below this are text; the SID block starts here."""

EVERY_ARCHITECTURE = ARCHITECTURES + ENCODER_DECODERS
SOME = ("llama", "gemma3", "gpt2", "t5", "bart")
SOME_ARCHITECTURES = [
    pytest.param(name, marks=[] if name in SOME else pytest.mark.slow)
    for name in EVERY_ARCHITECTURE
]
"""One architecture of each kind of position and of head; `make test-slow` runs the others."""


def beam_config(num_beams: int, levels: int) -> GenerationConfig:
    """Beam search of transformers for exactly one SID, whose score is a sum."""
    return GenerationConfig(
        num_beams=num_beams,
        num_return_sequences=num_beams,
        max_new_tokens=levels,
        do_sample=False,
        length_penalty=0.0,
        early_stopping=False,
        pad_token_id=0,
    )


def model_of(architecture: str, tokens: SidTokens, *, tied: bool = False) -> Any:
    """A tiny model whose vocabulary fits the tokens, made once."""
    return _made_once(architecture, vocabulary(tokens), tied)


@cache
def _made_once(architecture: str, vocab_size: int, tied: bool) -> Any:
    make_model = tiny_model if architecture in ARCHITECTURES else tiny_encoder_decoder
    return make_model(architecture, vocab_size=vocab_size, tied=tied)


def catalog(sizes: tuple[int, ...], items: int, seed: int, *, repeats: bool = False) -> Any:
    """(n, levels) sorted random codes, with at most `items` rows; `repeats` lets items share a
    SID."""
    rng = np.random.default_rng(seed)
    capacity = int(np.prod(sizes))
    keys = rng.choice(capacity, size=items if repeats else min(items, capacity), replace=repeats)
    return np.stack(np.unravel_index(np.sort(keys), sizes), axis=1).astype(np.uint16)


def make(
    sizes: tuple[int, ...], items: int, seed: int = 0, *, repeats: bool = False
) -> tuple[Trie, SidTokens]:
    """The trie of a random catalog, and its tokens right behind the text."""
    trie = Trie.from_codes(catalog(sizes, items, seed, repeats=repeats), sizes)
    return trie, SidTokens(SidSpace(sizes), TEXT)


def make_with_model(
    sizes: tuple[int, ...],
    items: int,
    architecture: str = "llama",
    seed: int = 0,
    *,
    repeats: bool = False,
) -> tuple[Trie, SidTokens, Any]:
    """A random catalog as of `make`, and a model of its tokens, which no caller changes."""
    trie, tokens = make(sizes, items, seed, repeats=repeats)
    return trie, tokens, model_of(architecture, tokens)


def vocabulary(tokens: SidTokens) -> int:
    """A vocabulary size a little above the number of tokens, as Qwen's."""
    return tokens.stop + 5


def prompt(rng: np.random.Generator, length: int) -> list[int]:
    """A random text prompt."""
    return rng.integers(5, TEXT, length).tolist()


def valid_sids(trie: Trie) -> set[tuple[int, ...]]:
    """Every SID of a trie."""
    return {tuple(row) for row in trie.leaf_codes(np.arange(trie.n_leaves)).tolist()}


def generate(
    model: Any, prompts: Sequence[Sequence[int]], trie: Trie, tokens: SidTokens, width: int
) -> list[tuple[list[tuple[int, ...]], list[float]]]:
    """The oracle: transformers' own beam search with `prefix_allowed_tokens_fn`, prompts padded on
    the left, or for an encoder on the right."""
    encodes = model.config.is_encoder_decoder
    longest = max(map(len, prompts))
    start = 1 if encodes else longest  # of the SID in a sequence
    following: dict[tuple[int, ...], list[int]] = {}
    for sid in sorted(valid_sids(trie)):
        ids = [int(level[code]) for level, code in zip(tokens.level_ids, sid, strict=True)]
        for depth, token in enumerate(ids):
            allowed_tokens = following.setdefault(tuple(ids[:depth]), [])
            if token not in allowed_tokens:
                allowed_tokens.append(token)

    def allowed(_: int, ids: torch.Tensor) -> list[int]:
        # a beam that is already at minus infinity has no prefix
        return following.get(tuple(ids[start:].tolist()), [0])

    def padded(rows: Sequence[Sequence[int]]) -> torch.Tensor:
        pairs = [([0] * (longest - len(row)), row) for row in rows]
        return torch.tensor([[*row, *pad] if encodes else [*pad, *row] for pad, row in pairs])

    ids, mask = padded(prompts), padded([[1] * len(prompt) for prompt in prompts])
    if encodes:  # BART's own settings force the last token to be the end
        model = copy.copy(model)
        first = model.config.decoder_start_token_id
        model.generation_config = GenerationConfig(decoder_start_token_id=first)
    out = model.generate(
        ids,
        attention_mask=mask,
        generation_config=beam_config(width, trie.levels),
        prefix_allowed_tokens_fn=allowed,
        return_dict_in_generate=True,
        output_scores=True,
    )
    results = []
    for row in range(len(prompts)):
        # a beam that `generate` did not fill keeps a score of minus 1e9, or minus infinity
        rows = [i for i in range(row * width, (row + 1) * width) if out.sequences_scores[i] > -1e8]
        codes = tokens.codes(out.sequences[rows][:, start:].numpy())
        sids = [tuple(sid) for sid in codes.tolist()]
        results.append((sids, out.sequences_scores[rows].tolist()))
    return results


def path_scores(
    model: Any, prompt: Any, codes: Any, tokens: SidTokens, normalize: str, all_codes: Any = None
) -> np.ndarray[Any, Any]:
    """(m,): the score of each SID, the sum of its `path_log_probs`."""
    return path_log_probs(model, prompt, codes, tokens, normalize, all_codes).sum(axis=1)


def path_log_probs(
    model: Any, prompt: Any, codes: Any, tokens: SidTokens, normalize: str, all_codes: Any = None
) -> np.ndarray[Any, Any]:
    """The second oracle: the prefixes of each of (m, levels) SIDs run as ordinary sequences after
    the prompt; (m, levels) log-probabilities of its codes.

    Over the trie of (n, levels) `all_codes`, those of a SID that is none of them are not all
    finite."""
    catalog = [] if all_codes is None else np.asarray(all_codes).tolist()
    oracle = ListModel(model, prompt, tokens, normalize, set(map(tuple, catalog)), {})
    sids = list(map(tuple, np.asarray(codes).tolist()))
    for level in range(tokens.space.levels):
        oracle.compute(sorted({sid[:level] for sid in sids}))
    steps = [[oracle.steps(sid[:level])[code] for level, code in enumerate(sid)] for sid in sids]
    return np.array(steps, dtype=np.float32)


def assert_same(
    result: Any, sids: Sequence[tuple[int, ...]], scores: Sequence[float], trie: Trie
) -> None:
    """Scores within 1e-4 and float32's last digits; the same SIDs in the same order wherever scores
    differ by more."""
    result_sids = [tuple(row) for row in trie.leaf_codes(result.leaves).tolist()]
    assert len(result_sids) == len(sids)
    np.testing.assert_allclose(result.scores, scores, atol=1e-4, rtol=1e-5)
    for place, (a, b) in enumerate(zip(result_sids, sids, strict=True)):
        if a != b:  # a tie: the other's SID stands near by with the same score
            near = [i for i, score in enumerate(scores) if abs(score - scores[place]) <= 2e-4]
            assert a in [sids[i] for i in near] or place == max(near) == len(sids) - 1


def tiny_causal_model(name: str, vocab_size: int, **config: Any) -> Any:
    """A tiny model of an architecture that only the decoder's tests use."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape = {"hidden_size": 32, "intermediate_size": 48}
        shape |= {"num_hidden_layers": 2, "num_attention_heads": 4}
        made = AutoConfig.for_model(
            name,
            vocab_size=vocab_size,
            num_key_value_heads=2,
            pad_token_id=0,
            initializer_range=0.3,
            **shape,
            **config,
        )
        return AutoModelForCausalLM.from_config(made, dtype=torch.float32).eval()
