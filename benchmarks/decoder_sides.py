"""The two sides that decoder.py compares: `generate` of transformers, and sidtool's decoder."""

from collections.abc import Callable
from typing import Any

import numpy as np
from decoder_cases import LEVELS, PROMPT


def prefix_function(codes: Any, text: int, start: int = PROMPT) -> Callable[[int, Any], list[int]]:
    """The usual prefix function: a dictionary from a prefix to the tokens that may follow; a SID
    begins at the token `start` of a row."""
    offsets = text + 256 * np.arange(len(LEVELS))
    following: dict[tuple[int, ...], dict[int, None]] = {}
    for row in (codes + offsets).tolist():
        for depth, token in enumerate(row):
            following.setdefault(tuple(row[:depth]), {})[token] = None
    lists = {prefix: list(tokens) for prefix, tokens in following.items()}
    return lambda _, ids: lists.get(tuple(ids[start:].tolist()), [0])


def run_generate(model: Any, prompts: list[list[int]], width: int, allowed: Any) -> Any:
    """Beam search of transformers; (prompts, width, levels) token ids."""
    import torch
    from transformers import GenerationConfig

    ids = torch.tensor(prompts, device=model.device)
    config = GenerationConfig(
        num_beams=width,
        num_return_sequences=width,
        max_new_tokens=len(LEVELS),
        do_sample=False,
        length_penalty=0.0,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=False,
    )
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        generation_config=config,
        prefix_allowed_tokens_fn=allowed,
    )
    return out.sequences[:, -len(LEVELS) :].view(len(prompts), width, -1).cpu().numpy()


def run_beam(
    model: Any,
    prompts: list[list[int]],
    width: int,
    trie: Any,
    tokens: Any,
    normalize: str,
    targets: list[int] | None = None,
) -> Any:
    """sidtool's decoder, one batch."""
    from sidtool.recommendation.search.beam import beam_search

    return beam_search(
        model,
        prompts,
        trie,
        tokens,
        num_beams=width,
        k=width,
        normalize=normalize,
        targets=targets,
        token_budget=1 << 30,
    )


def check_results(
    generated: Any,
    model: Any,
    prompts: list[list[int]],
    width: int,
    trie: Any,
    tokens: Any,
    codes: Any,
) -> None:
    """Every SID is in an independently built set, and vocabulary normalization gives the SIDs of
    `generate`."""
    legal = set(map(tuple, codes.tolist()))
    exact = run_beam(model, prompts, width, trie, tokens, "vocabulary")
    level = run_beam(model, prompts, width, trie, tokens, "level")
    for row, (by_vocabulary, by_level) in enumerate(zip(exact, level, strict=True)):
        sids = set(map(tuple, trie.leaf_codes(by_vocabulary.leaves).tolist()))
        level_sids = set(map(tuple, trie.leaf_codes(by_level.leaves).tolist()))
        for emitted in (sids, level_sids):
            if not emitted <= legal or len(emitted) < width:
                raise SystemExit(f"prompt {row}: an invalid SID, or fewer than {width}")
        equal = sids & set(map(tuple, tokens.codes(generated[row]).tolist()))
        if len(equal) < width - 1:  # the last rank may be a tie
            raise SystemExit(f"prompt {row}: generate has {len(equal)} of the {width} SIDs")
