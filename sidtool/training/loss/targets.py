"""The targets of a batch: what the loss is computed for."""

from dataclasses import dataclass

import torch

from sidtool.training.loss.batches import IGNORED


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
    memory_log_probs: torch.Tensor | None = None
    """(n,) float32: the memory's log-probability of the item whose SID the target is part of, minus
    infinity for 0, NaN where the memory says nothing; None without a memory"""

    @classmethod
    def pop(cls, inputs: dict[str, torch.Tensor], levels: int) -> "Targets":
        """The targets of a batch that a collator made; what the model does not read is removed from
        the batch."""
        weights = inputs.pop("weights")
        log_probs = inputs.pop("memory_log_probs", None)
        # what the predicted tokens follow: with an encoder-decoder, the decoder's part
        ids = inputs.get("decoder_input_ids", inputs["input_ids"])
        labels = inputs.pop("labels")
        # (lines, length - 1): the label of the next token
        line, column = (labels[:, 1:] != IGNORED).nonzero(as_tuple=True)  # (n,) each
        offsets = torch.arange(2 - levels, 1, device=column.device)
        columns_before = (column[:, None] + offsets).clamp_min(0)
        return cls(
            labels[line, column + 1],
            line * ids.shape[1] + column,
            ids[line[:, None], columns_before],
            weights[line, column + 1],
            None if log_probs is None else log_probs[line, column + 1],
        )
