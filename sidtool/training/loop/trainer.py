"""The trainers of causal models, on TRL's SFTTrainer, and of encoder-decoder models, on
transformers' Seq2SeqTrainer, since TRL trains causal models only. They share sidtool's loss,
validation by recommending, and a contract in every checkpoint. Checkpoints, schedules, distribution
and resumption are those of the libraries' trainers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from datasets import Dataset
from torch.optim import Optimizer
from transformers import PrinterCallback, Seq2SeqTrainer, TrainerCallback, TrainingArguments
from trl import SFTTrainer

from sidtool.base.errors import UsageError
from sidtool.evaluation import Validator
from sidtool.examples import TokenizedExample, TokenizedExamples
from sidtool.model.network import (
    Lora,
    TokenEmbeddings,
    decoder_start_id,
    freeze_unread_embeddings,
    is_sharded,
    whole_model,
)
from sidtool.recommendation.search import PartialHead
from sidtool.training.loop.machine import check_active, class_forward, float32_attention
from sidtool.training.loop.optimizer import MuonAdamW
from sidtool.training.loop.watched import WatchedTrainer
from sidtool.training.loss.augment import AugmentedExamples
from sidtool.training.loss.batches import (
    IGNORED,
    Targets,
    encoder_decoder_batch,
    packed_batch,
    padded_batch,
    parts_by_length,
)
from sidtool.training.loss.loss import Loss, Teachers
from sidtool.training.loss.part_examples import PartExamples, PartOrder
from sidtool.training.loss.probes import narrows_exactly, packs_exactly, part_logits


class SidTrainer(WatchedTrainer):
    """Trains a model on tokenized examples, of which `collator` makes batches. A subclass has the
    trainer of a library among its bases.

    All weights that require gradients are trained; `lora` and `token_embeddings` are the parts
    added to the model, if any. `order` is that of examples in parts."""

    packed = False
    """whether a line of a batch may have several examples"""

    def __init__(
        self,
        *,
        model: Any,
        args: TrainingArguments,
        examples: TokenizedExamples | AugmentedExamples | PartExamples,
        tokenizer: Any,
        loss: Loss,
        collator: Callable[[Sequence[TokenizedExample]], dict[str, torch.Tensor]],
        validator: Validator | None,
        callbacks: list[TrainerCallback],
        lora: Lora | None = None,
        token_embeddings: TokenEmbeddings | None = None,
        muon: bool = False,
        teachers: Teachers | None = None,
        order: PartOrder | None = None,
    ) -> None:
        # TRL requires a datasets.Dataset, which would format every example again in every epoch:
        # give it one example, then replace the data set
        placeholder = Dataset.from_dict({"input_ids": [[0]], "labels": [[0]]})

        def collate_and_count(batch: Sequence[TokenizedExample]) -> dict[str, torch.Tensor]:
            n_tokens = sum(len(example.ids) for example in batch)  # without padding
            return loss.countable(collator(batch)) | {"tokens": torch.tensor(n_tokens)}

        super().__init__(
            model=model,
            args=args,
            data_collator=collate_and_count,
            train_dataset=placeholder,
            eval_dataset=placeholder if validator else None,
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        self.train_dataset = examples
        self.remove_callback(PrinterCallback)
        self._validator = validator
        self._muon = muon
        self._loss = loss
        self._teachers = teachers
        self._order = order
        # the loss is divided by the targets of all accumulated batches
        self.model_accepts_loss_kwargs = True
        self.lora = lora
        self.token_embeddings = lora.embeddings if lora else token_embeddings
        column_logits = self.token_embeddings.logits if self.token_embeddings else None
        self._head = PartialHead(self.model, column_logits).install()
        check_active(args, self.accelerator)
        self.narrow = narrows_exactly(self.model, self._head, loss.columns())
        # tokens without padding, targets
        self.n_seen = torch.zeros(2, dtype=torch.int64, device=args.device)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """The optimizer of the parent class, or Muon with AdamW."""
        if not self._muon:
            return super().create_optimizer(*args, **kwargs)
        self.optimizer: Optimizer | None = MuonAdamW(
            self.accelerator.unwrap_model(self.model),
            lr=self.args.learning_rate,
            weight_decay=self.args.weight_decay,
            bf16=self.args.bf16,
            divided=self.is_fsdp_enabled,
            betas=(self.args.adam_beta1, self.args.adam_beta2),
            eps=self.args.adam_epsilon,
            fused=True,
        )
        return self.optimizer

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        return self._order or super()._get_train_sampler(train_dataset)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """A step of the parent class, with faster attention for bfloat16 on a CPU."""
        bf16_on_cpu = self.args.device.type == "cpu" and self.args.bf16
        # FSDP2 casts weights and states itself, without autocast
        casts = bf16_on_cpu and not self.is_fsdp_enabled
        with float32_attention() if casts else nullcontext():
            return super().training_step(*args, **kwargs)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Cross-entropy at the targets, weighted mean over the targets of the whole step."""
        n_tokens = inputs.pop("tokens")
        self.n_seen += torch.stack([n_tokens, (inputs["labels"] != IGNORED).sum()])
        targets = Targets.pop(inputs, self._loss.tokens.space.levels)
        parts = self._loss.parts(targets.ids)
        requests = [(targets.positions[indexes], columns) for indexes, columns in parts]
        blocks = part_logits(model, self._head, inputs, requests, narrow=self.narrow)
        teacher_blocks = self._teachers.blocks(inputs, targets, parts) if self._teachers else ()
        total = self._loss.total(blocks, parts, targets, teacher_blocks)
        # all weights of a step may be 0, and so is its loss then
        smallest = torch.finfo(torch.float32).tiny
        if num_items_in_batch is None:
            return total / targets.weights.sum().clamp_min(smallest)
        # DDP and FSDP average over processes what is a sum over them
        ranks = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return total * ranks / num_items_in_batch.clamp_min(smallest)

    def _get_num_items_in_batch(self, batch_samples: Any, device: torch.device) -> Any:
        """The weight of the targets in all batches of a step, which has one or more."""
        weight = torch.stack([batch["weights"][:, 1:].sum() for batch in batch_samples]).sum()
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            return self.accelerator.gather(weight.to(device)).sum()
        return weight.to(device)

    def validation_figures(self) -> Mapping[str, float]:
        """The figures of recommending to the validation users."""
        assert self._validator is not None
        with self.evaluated_model() as model:
            sums = self._validator.sums(model, self.args.process_index, self.args.world_size)
        sums_on_device = torch.from_numpy(sums).to(self.args.device)
        return self._validator.figures(self.accelerator.reduce(sums_on_device).tolist())

    @contextmanager
    def evaluated_model(self) -> Iterator[Any]:
        """The model in eval mode and without what the trainer wraps around it; of divided weights
        every process has the whole."""
        model = self.accelerator.unwrap_model(self.model).eval()
        sharded = is_sharded(model)
        # a model with weights in two precisions runs only under autocast
        has_mixed_dtypes = len({weight.dtype for weight in model.parameters()}) > 1
        autocast = torch.autocast(self.args.device.type, torch.bfloat16, enabled=has_mixed_dtypes)
        with class_forward(model), whole_model(model), torch.no_grad(), autocast:
            if sharded and self.token_embeddings:
                self.token_embeddings.write_rows()
            yield model


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
        can_pack = batching != "padded" and packs_exactly(model)
        self.packed = can_pack and (teachers is None or teachers.packs)
        if batching == "packed" and not self.packed:
            raise UsageError(
                "examples cannot be packed: the model or a teacher does not keep them separate",
                hint="packing needs sdpa attention; batching=padded works with any",
            )
        collator = packed_batch if self.packed else padded_batch
        super().__init__(
            model=model,
            tokenizer=tokenizer,
            teachers=teachers,
            collator=partial(collator, pad=padding_id(tokenizer)),
            **settings,
        )


LINES_PER_PART = 16
"""Examples that run together on a CPU, where padding costs more than further calls."""


class EncoderDecoderTrainer(SidTrainer, Seq2SeqTrainer):
    """Trains a model whose encoder reads the prompt of an example and whose decoder writes its
    answer."""

    def __init__(self, *, model: Any, tokenizer: Any, **settings: Any) -> None:
        freeze_unread_embeddings(model)
        pad, start = padding_id(tokenizer), decoder_start_id(model)
        collator = partial(encoder_decoder_batch, pad=pad, start=start)
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


def padding_id(tokenizer: Any) -> int:
    """The id that batches are padded with: nothing attends to it."""
    ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(token_id for token_id in ids if token_id is not None)
