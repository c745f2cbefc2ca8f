"""The trainer of encoder-decoder models: transformers' Seq2SeqTrainer, since TRL trains causal
models only, with what all trainers share."""

from typing import Any

from transformers import Seq2SeqTrainer

from sidtool.errors import UsageError
from sidtool.model.structure import decoder_start_id
from sidtool.objective.batches import EncoderDecoderCollator
from sidtool.trainer.trainer import SidTrainer, padding_id


class EncoderDecoderTrainer(SidTrainer, Seq2SeqTrainer):
    """Trains a model whose encoder reads the prompt of an example and whose decoder writes its
    answer.

    Raises UsageError for packed batches."""

    def __init__(self, *, model: Any, tokenizer: Any, batching: str, **settings: Any) -> None:
        if batching == "packed":
            raise UsageError(
                "examples cannot be packed for an encoder-decoder, which reads one prompt per line",
                hint="leave batching out",
            )
        collator = EncoderDecoderCollator(padding_id(tokenizer), decoder_start_id(model))
        super().__init__(model=model, tokenizer=tokenizer, collator=collator, **settings)
