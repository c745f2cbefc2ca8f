"""Beam search through `generate`, for architectures that a 4-D attention mask cannot steer: the
same results, many times slower."""

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from sidtool.base.errors import SidtoolWarning
from sidtool.model import decoder_start_id, is_encoder_decoder
from sidtool.model.prompt import SidTokens
from sidtool.recommendation.search.constraint import SidLogitsProcessor
from sidtool.recommendation.search.device_trie import leaves_of
from sidtool.recommendation.search.filters import LeafFilter
from sidtool.recommendation.search.results import (
    EMPTY_RESULT,
    BeamResult,
    Normalize,
    best_leaves,
    check_scores,
)
from sidtool.tokenizer.bundle import Trie
from sidtool.tokenizer.sid import Leaves

UNUSED_BEAM = -1e8
"""Scores below this belong to beams that `generate` never filled: it starts them at -1e9."""

_warned: set[str] = set()


def generate_beams(
    model: Any,
    prompts: Sequence[Sequence[int]],
    trie: Trie,
    tokens: SidTokens,
    num_beams: int,
    k: int,
    normalize: Normalize,
    filters: Sequence[LeafFilter | None],
    targets: Sequence[int],
) -> list[BeamResult]:
    """The k best SIDs after each prompt, as `beam_search` defines them, one prompt at a time.
    An empty prompt has none.

    Warns once per architecture."""
    name = type(model).__name__
    if name not in _warned:
        _warned.add(name)
        warnings.warn(
            f"{name} does not support a 4-D attention mask: decoding uses `generate`, which is "
            "many times slower",
            SidtoolWarning,
            stacklevel=3,
        )
    writer = without_own_settings(model)
    results = []
    target_codes = trie.leaf_codes(Leaves(np.maximum(targets, 0)))
    target_ids = tokens.ids(target_codes, begin_end_tokens=False)  # (prompts, levels)
    for prompt, leaf_filter, target, path in zip(
        prompts, filters, targets, target_ids, strict=True
    ):
        if not prompt:
            results.append(EMPTY_RESULT)
            continue
        processor = SidLogitsProcessor(
            trie, tokens, normalize=normalize, filters=[leaf_filter], strict=False
        )
        start = 1 if is_encoder_decoder(writer) else len(prompt)
        beams = _BeamsOfLevels(start)
        ids = torch.tensor([list(prompt)], device=model.device)
        # one beam would make it a greedy search, which returns no scores
        config = beam_config(max(num_beams, 2), trie.levels)
        output = writer.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            generation_config=config,
            logits_processor=LogitsProcessorList([beams, processor]),
        )
        check_scores(output.sequences_scores.float().cpu().numpy())
        used = output.sequences_scores > UNUSED_BEAM
        sids = output.sequences[used][:, start:].cpu().numpy()
        scores = output.sequences_scores[used].float().cpu().numpy()
        result = best_leaves(leaves_of(trie, tokens.codes(sids)), scores, k)
        if target >= 0:
            result = result._replace(survived=_survived([*beams.levels, sids], path))
        results.append(result)
    return results


class _BeamsOfLevels(LogitsProcessor):
    """Changes no score, and keeps the prefixes that `generate` extends: one array per level but the
    last."""

    def __init__(self, prompt_length: int) -> None:
        self._prompt_length = prompt_length
        self.levels: list[NDArray[np.int64]] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] > self._prompt_length:
            self.levels.append(input_ids[:, self._prompt_length :].cpu().numpy())
        return scores


def _survived(levels: Sequence[NDArray[np.int64]], target: NDArray[np.int64]) -> int:
    """The number of levels whose (beams, length) prefixes contain that of the target's (levels,)
    token ids."""
    held = [(beams == target[: beams.shape[1]]).all(axis=1).any() for beams in levels]
    return int(np.sum(held))


def without_own_settings(model: Any) -> Any:
    """The model, but without the generation settings of its checkpoint, which `generate` adds to
    those of a call: penalties, forced tokens, a minimum length. Weights are shared."""
    twin = copy.copy(model)
    twin.generation_config = GenerationConfig()
    if is_encoder_decoder(model):
        twin.generation_config.decoder_start_token_id = decoder_start_id(model)
    return twin


def beam_config(num_beams: int, levels: int) -> GenerationConfig:
    """Beam search for exactly one SID: no sampling, no end token, the sum of log-probabilities as
    the score."""
    return GenerationConfig(
        num_beams=num_beams,
        num_return_sequences=num_beams,
        max_new_tokens=levels,
        do_sample=False,
        length_penalty=0.0,
        early_stopping=False,
        pad_token_id=0,
        return_dict_in_generate=True,
        output_scores=True,
    )
