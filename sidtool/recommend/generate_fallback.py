"""Beam search through `generate`, for architectures that a 4-D mask cannot steer: correct, and many
times slower.

Knows `generate`; everything that makes it constrained is in the logits processor.
"""

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessorList

from sidtool.bundle.trie import Trie
from sidtool.errors import SidtoolWarning
from sidtool.prompt.tokens import SidTokens
from sidtool.recommend.constraint import SidLogitsProcessor
from sidtool.recommend.filters import LeafFilter
from sidtool.recommend.partial_head import Normalize

if TYPE_CHECKING:
    from sidtool.recommend.beam import Found

GIVEN_UP = -1e8
"""`generate` starts beams that stand for nothing at minus 1e9."""

_told: set[str] = set()


def beam_search(
    model: Any,
    prompts: Sequence[Sequence[int]],
    trie: Trie,
    tokens: SidTokens,
    width: int,
    k: int,
    normalize: Normalize,
    filters: Sequence[LeafFilter | None],
) -> "list[Found]":
    """As `sidtool.recommend.beam.beam_search`, one prompt at a time. Tells once an architecture why
    it is slow."""
    name = type(model).__name__
    if name not in _told:
        _told.add(name)
        message = f"{name} does not honour a 4-D attention mask: decoding through `generate`, many times slower"
        warnings.warn(message, SidtoolWarning, stacklevel=4)
    return [
        _one(model, prompt, trie, tokens, width, k, normalize, one)
        for prompt, one in zip(prompts, filters, strict=True)
    ]


def _one(
    model: Any,
    prompt: Sequence[int],
    trie: Trie,
    tokens: SidTokens,
    width: int,
    k: int,
    normalize: Normalize,
    one: LeafFilter | None,
) -> "Found":
    from sidtool.recommend.beam import best

    processor = SidLogitsProcessor(trie, tokens, normalize=normalize, filters=[one], strict=False)
    ids = torch.tensor([list(prompt)], device=model.device)
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        generation_config=beam_config(max(width, 2), trie.levels),  # of 1 it makes a greedy search
        logits_processor=LogitsProcessorList([processor]),
    )
    alive = output.sequences_scores > GIVEN_UP
    codes = tokens.codes(output.sequences[alive][:, len(prompt) :].cpu().numpy())
    leaves = _leaves(trie, codes)
    return best(leaves, output.sequences_scores[alive].float().cpu().numpy(), k)


def beam_config(width: int, levels: int) -> GenerationConfig:
    """Beam search for exactly one SID: no sampler, no end token, the sum of log-probabilities as
    the score."""
    return GenerationConfig(
        num_beams=width,
        num_return_sequences=width,
        max_new_tokens=levels,
        do_sample=False,
        length_penalty=0.0,
        early_stopping=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )


def _leaves(trie: Trie, codes: Any) -> Any:
    """Leaf ids of (m, levels) codes that are in the trie."""
    nodes = np.zeros(len(codes), dtype=np.int64)
    for level in range(trie.levels):
        first, stop = trie.children[level][nodes], trie.children[level][nodes + 1]
        ranges = zip(first.tolist(), stop.tolist(), codes[:, level].tolist(), strict=True)
        nodes = np.array(
            [a + np.searchsorted(trie.codes[level][a:b], code) for a, b, code in ranges],
            dtype=np.int64,
        )
    return nodes
