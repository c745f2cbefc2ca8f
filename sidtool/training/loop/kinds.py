"""The trainer of causal models, TRL's SFTTrainer with what all trainers share, and that of
encoder-decoder models, transformers' Seq2SeqTrainer, since TRL trains causal models only."""

from typing import Any

import torch
from transformers import Seq2SeqTrainer
from trl import SFTTrainer

from sidtool.base.errors import UsageError
from sidtool.model import decoder_start_id, freeze_unread_embeddings
from sidtool.training.loop.trainer import SidTrainer, padding_id
from sidtool.training.loss.batches import (
    EncoderDecoderCollator,
    PackedCollator,
    PaddedCollator,
    parts_by_length,
)
from sidtool.training.loss.shortcuts import packs_exactly
from sidtool.training.loss.teachers import Teachers


class CausalTrainer(SidTrainer, SFTTrainer):
    """Trains a causal model on padded or packed examples.

    Raises UsageError if the batching does not fit the model."""

    def __init__(
        self,
        *,
        model: Any,
        tokenizer: Any,
        batching: str,
        teachers: Teachers | None = None,
        **settings: Any,
    ) -> None:
        self.packed = _resolve_packing(model, batching, teachers)
        collator = PackedCollator if self.packed else PaddedCollator
        super().__init__(
            model=model,
            tokenizer=tokenizer,
            teachers=teachers,
            collator=collator(padding_id(tokenizer)),
            **settings,
        )


def _resolve_packing(model: Any, batching: str, teachers: Teachers | None) -> bool:
    if batching == "padded":
        return False
    can_pack = packs_exactly(model) and (teachers is None or teachers.packs)
    if batching == "packed" and not can_pack:
        raise UsageError(
            "examples cannot be packed: the model or a teacher does not keep them separate",
            hint="packing needs sdpa attention; batching=padded works with any",
        )
    return can_pack


LINES_PER_PART = 16
"""Examples that run together on a CPU, where padding costs more than further calls."""


class EncoderDecoderTrainer(SidTrainer, Seq2SeqTrainer):
    """Trains a model whose encoder reads the prompt of an example and whose decoder writes its
    answer."""

    def __init__(self, *, model: Any, tokenizer: Any, **settings: Any) -> None:
        freeze_unread_embeddings(model)
        collator = EncoderDecoderCollator(padding_id(tokenizer), decoder_start_id(model))
        super().__init__(model=model, tokenizer=tokenizer, collator=collator, **settings)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of the parent class. On a CPU, prompts of similar length run together: histories
        differ much in length, and batches cannot be packed."""
        on_cpu = inputs["input_ids"].device.type == "cpu"
        if num_items_in_batch is None or not on_cpu or self.is_fsdp_enabled:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        n_tokens = inputs.pop("tokens")
        parts = parts_by_length(inputs, LINES_PER_PART)
        losses = [
            super(EncoderDecoderTrainer, self).compute_loss(
                model,
                part | {"tokens": n_tokens if number == 0 else torch.zeros_like(n_tokens)},
                num_items_in_batch=num_items_in_batch,
            )
            for number, part in enumerate(parts)
        ]
        return torch.stack(losses).sum()
