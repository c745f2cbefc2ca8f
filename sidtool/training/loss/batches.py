"""Batches of tokenized training examples: padded, several per line, or for an encoder-decoder;
and their targets, which the loss is computed for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from sidtool.examples import TokenizedExample

IGNORED = -100
"""The label of a token that is not a target."""


def padded_batch(batch: Sequence[TokenizedExample], *, pad: int) -> dict[str, torch.Tensor]:
    """One example per line, padded to the longest with the token id `pad`.

    Examples -> input_ids, labels and attention_mask (examples, longest) int64, weights
    (examples, longest) float32, 0 at tokens that are no targets, and is_reversed of that shape."""
    tensors, _ = _lay_out([[example] for example in batch], pad)
    lengths = torch.tensor([len(example.ids) for example in batch])
    mask = torch.arange(tensors["input_ids"].shape[1])[None] < lengths[:, None]
    return tensors | {"attention_mask": mask.long()}


def packed_batch(batch: Sequence[TokenizedExample], *, pad: int) -> dict[str, torch.Tensor]:
    """Several examples per line, each with positions from 0. Loss and gradient are those of
    `padded_batch`, without the padding. transformers derives the attention mask that separates
    examples from the positions, under sdpa attention and without a cache only.

    Examples -> input_ids, labels and position_ids (lines, longest) int64, weights
    (lines, longest) float32, 0 at tokens that are no targets, and is_reversed of that shape."""
    # lines no longer than the longest example, by first fit decreasing
    ordered = sorted(batch, key=lambda example: -len(example.ids))
    width = len(ordered[0].ids)
    lines: list[list[TokenizedExample]] = []
    room: list[int] = []
    for example in ordered:
        length = len(example.ids)
        fitting = (number for number, free in enumerate(room) if free >= length)
        line = next(fitting, len(lines))
        if line == len(lines):
            lines.append([])
            room.append(width)
        lines[line].append(example)
        room[line] -= length
    tensors, positions = _lay_out(lines, pad)
    return tensors | {"position_ids": positions}


def encoder_decoder_batch(
    batch: Sequence[TokenizedExample], *, pad: int, start: int
) -> dict[str, torch.Tensor]:
    """One example per line: the encoder reads what precedes the first target, the decoder the token
    id `start` and what follows.

    Examples -> input_ids and attention_mask (examples, longest prompt), decoder_input_ids
    (examples, longest answer), labels (examples, longest answer + 1) int64, and weights of that
    shape float32. The first label belongs to the start token, which is no target."""
    prompts, answers = [], []
    for ids, targets, weights, *_ in batch:
        first = int(targets.argmax())  # the first target
        stop = len(ids) - int(targets[::-1].argmax())  # behind the last target
        prompts.append(TokenizedExample(ids[:first], targets[:first], weights[:first]))
        # the start token, then the tokens from the first target to the last
        answer_ids = np.insert(ids[first:stop], 0, start)
        are_targets = np.insert(targets[first:stop], 0, False)
        answer_weights = np.insert(weights[first:stop], 0, 0)
        answers.append(TokenizedExample(answer_ids, are_targets, answer_weights))
    encoder = padded_batch(prompts, pad=pad)
    decoder, _ = _lay_out([[answer] for answer in answers], pad)
    # nothing is predicted from the last token
    decoder["decoder_input_ids"] = decoder.pop("input_ids")[:, :-1]
    return {name: encoder[name] for name in ("input_ids", "attention_mask")} | decoder


def parts_by_length(
    batch: Mapping[str, torch.Tensor], n_lines: int
) -> list[dict[str, torch.Tensor]]:
    """An `encoder_decoder_batch` in parts of at most `n_lines` lines with prompts of
    similar length, each without the padding that all of its prompts have."""
    lengths = batch["attention_mask"].sum(1)  # (lines,)
    parts = []
    for lines in lengths.argsort(stable=True).split(n_lines):
        part = {name: values[lines] for name, values in batch.items()}
        longest = int(lengths[lines].max())
        for name in ("input_ids", "attention_mask"):
            part[name] = part[name][:, :longest]
        parts.append(part)
    return parts


def _lay_out(
    lines: Sequence[Sequence[TokenizedExample]], pad: int
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Input ids, labels and weights, and positions: (lines, longest line) each."""
    shape = (len(lines), max(sum(len(example.ids) for example in line) for line in lines))
    input_ids = np.full(shape, pad, dtype=np.int64)
    labels = np.full(shape, IGNORED, dtype=np.int64)
    weights = np.zeros(shape, dtype=np.float32)
    is_reversed = np.zeros(shape, dtype=np.bool_)
    positions = np.zeros(shape, dtype=np.int64)
    for number, line in enumerate(lines):
        start = 0
        for ids, targets, token_weights, _, was_reversed in line:
            span = slice(start, start + len(ids))
            input_ids[number, span] = ids
            labels[number, span] = np.where(targets, ids, IGNORED)
            weights[number, span] = np.where(targets, token_weights, 0)
            positions[number, span] = np.arange(len(ids))
            is_reversed[number, span] = was_reversed
            start += len(ids)
        # positions restart at 0: padding counts as another sequence
        positions[number, start:] = np.arange(shape[1] - start)
    arrays = {"input_ids": input_ids, "labels": labels, "weights": weights}
    arrays["is_reversed"] = is_reversed
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return tensors, torch.from_numpy(positions)


@dataclass(frozen=True)
class Targets:
    """The n targets of a batch, in the order of its lines."""

    ids: torch.Tensor
    """(n,) int64 token ids"""
    positions: torch.Tensor
    """(n,) int64: place in the flattened batch of the token before each, whose logits predict it"""
    preceding: torch.Tensor
    """(n, levels - 1) int64: the token ids before each"""
    weights: torch.Tensor
    """(n,) float32 weights of the loss, which are equal within a SID"""
    is_reversed: torch.Tensor
    """(n,) bool: whether augmentation reversed the example of each"""

    @classmethod
    def pop(cls, inputs: dict[str, torch.Tensor], levels: int) -> "Targets":
        """The targets of a batch; what the model does not read is removed from it."""
        # what the predicted tokens follow: with an encoder-decoder, the decoder's part
        ids = inputs.get("decoder_input_ids", inputs["input_ids"])  # (lines, length)
        labels, weights = inputs.pop("labels"), inputs.pop("weights")  # (lines, length) each
        is_reversed = inputs.pop("is_reversed")
        # (n,) each: where the token before a target is
        line, before = (labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
        # (levels - 1,): where the preceding tokens are, counted from the last one of them
        offsets = torch.arange(2 - levels, 1, device=before.device)
        columns_before = (before[:, None] + offsets).clamp_min(0)  # (n, levels - 1)
        return cls(
            ids=labels[line, before + 1],
            positions=line * ids.shape[1] + before,
            preceding=ids[line[:, None], columns_before],
            weights=weights[line, before + 1],
            is_reversed=is_reversed[line, before + 1],
        )
