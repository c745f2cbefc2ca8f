"""The trainer of encoder-decoder models: transformers' Seq2SeqTrainer, since TRL trains causal
models only, with what all trainers share."""

from typing import Any

import torch
from transformers import Seq2SeqTrainer

from sidtool.model.structure import decoder_start_id, freeze_unread_embeddings
from sidtool.training.loop.trainer import SidTrainer, padding_id
from sidtool.training.loss.batches import EncoderDecoderCollator, parts_by_length

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
