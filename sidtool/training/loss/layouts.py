"""A batch for another kind of model: a causal teacher reads prompt and answer of an encoder-decoder
as one sequence, an encoder-decoder teacher reads a causal batch with one answer per line in two."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from sidtool.model.structure import decoder_start_id, is_encoder_decoder
from sidtool.recommendation.search.partial_head import Part

Inputs = Mapping[str, torch.Tensor]


def inputs_for(model: Any, inputs: Inputs, parts: Sequence[Part]) -> tuple[Inputs, Sequence[Part]]:
    """What a model reads of a training batch, and where in its logits those of `parts` are.

    A causal batch for an encoder-decoder must be padded, with the targets of a line behind one
    prompt."""
    has_decoder = "decoder_input_ids" in inputs
    if has_decoder == is_encoder_decoder(model):
        return inputs, parts
    if has_decoder:
        return _as_causal(inputs, parts)
    return _as_encoder_decoder(inputs, parts, decoder_start_id(model))


def _as_causal(inputs: Inputs, parts: Sequence[Part]) -> tuple[Inputs, Sequence[Part]]:
    prompts = inputs["input_ids"]  # (lines, longest prompt)
    answers = inputs["decoder_input_ids"][:, 1:]  # (lines, longest answer - 1)
    n_decoded = inputs["decoder_input_ids"].shape[1]
    lengths = inputs["attention_mask"].sum(1)  # (lines,)
    width = prompts.shape[1] + answers.shape[1]
    ids = torch.zeros(len(prompts), width, dtype=prompts.dtype, device=prompts.device)
    ids[:, : prompts.shape[1]] = prompts
    columns = lengths[:, None] + torch.arange(answers.shape[1], device=ids.device)
    ids = ids.scatter(1, columns, answers)
    mask = torch.arange(width, device=ids.device) < (lengths + answers.shape[1])[:, None]
    moved = []
    for positions, part_columns in parts:
        line = positions // n_decoded
        # the decoder's first token stands where the prompt's last one does
        column = lengths[line] - 1 + positions % n_decoded
        moved.append((line * width + column, part_columns))
    return {"input_ids": ids, "attention_mask": mask.long()}, moved


def _as_encoder_decoder(
    inputs: Inputs, parts: Sequence[Part], start: int
) -> tuple[Inputs, Sequence[Part]]:
    ids = inputs["input_ids"]
    n_lines, width = ids.shape
    lengths = inputs["attention_mask"].sum(1)  # (lines,)
    positions = torch.cat([part_positions for part_positions, _ in parts])
    # a line's prompt ends with the token before its first target
    prompt_lengths = lengths.scatter_reduce(
        0, positions // width, positions % width + 1, "amin"
    )  # (lines,)
    n_decoded = int((lengths - prompt_lengths).max().clamp_min(1))
    columns = prompt_lengths[:, None] + torch.arange(n_decoded - 1, device=ids.device)
    answers = ids.gather(1, columns.clamp_max(width - 1))
    starts = torch.full((n_lines, 1), start, dtype=ids.dtype, device=ids.device)
    longest = int(prompt_lengths.max())
    mask = torch.arange(longest, device=ids.device) < prompt_lengths[:, None]
    moved = []
    for part_positions, part_columns in parts:
        line = part_positions // width
        column = part_positions % width + 1 - prompt_lengths[line]
        moved.append((line * n_decoded + column, part_columns))
    teacher_inputs = {
        "input_ids": ids[:, :longest],
        "attention_mask": mask.long(),
        "decoder_input_ids": torch.cat([starts, answers], dim=1),
    }
    return teacher_inputs, moved
