"""The trainer of causal models: TRL's SFTTrainer with what all trainers share."""

from typing import Any

from trl import SFTTrainer

from sidtool.base.errors import UsageError
from sidtool.training.loop.trainer import Examples, SidTrainer, padding_id
from sidtool.training.loss.batches import PackedCollator, PaddedCollator
from sidtool.training.loss.shortcuts import packs_exactly
from sidtool.training.loss.teachers import Teachers
from sidtool.training.settings import SoftmaxOver


class CausalTrainer(SidTrainer, SFTTrainer):
    """Trains a causal model on padded or packed examples.

    Raises UsageError if the loss or the batching does not fit the model."""

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

    @property
    def _uses_library_loss(self) -> bool:
        """Whether the settings select a loss of TRL, which is over the whole vocabulary."""
        return bool(self.args.loss_type != "nll" or self.aux_loss_enabled)

    def _check_loss(self, examples: Examples) -> None:
        if self._uses_library_loss:
            check_library_loss(examples, self._teachers is not None, self._loss.over)


def check_library_loss(examples: Examples, has_teachers: bool, softmax_over: SoftmaxOver) -> None:
    """Raise UsageError if a loss of TRL cannot have what a run has."""
    if examples.is_weighted:
        raise UsageError(
            "weights of examples cannot be combined with another loss_type or a router loss"
        )
    if has_teachers:
        raise UsageError("--teacher cannot be combined with another loss_type or a router loss")
    if softmax_over != "vocabulary":
        raise UsageError(
            f"softmax_over={softmax_over} cannot be combined with another loss_type or a router "
            "loss",
            hint="softmax_over=vocabulary",
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
