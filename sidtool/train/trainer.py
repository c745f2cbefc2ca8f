"""TRL's SFTTrainer on tokenized rows: loss at the targets alone, validation by recommending,
contract in checkpoints.

Knows how a step computes its loss and what a checkpoint holds; knows nothing of where settings come
from. Checkpoints, optimizers, schedules, distribution and resumption are the parents'."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from torch.optim import Optimizer
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState
from trl import SFTConfig, SFTTrainer

from sidtool.errors import UsageError
from sidtool.recommend.partial_head import PartialHead, full_blocks
from sidtool.train.augment import AugmentedExamples
from sidtool.train.dataset import (
    IGNORED,
    Example,
    PackedCollator,
    PaddedCollator,
    TokenizedExamples,
)
from sidtool.train.lora import Lora
from sidtool.train.loss import Loss
from sidtool.train.machine import float32_attention
from sidtool.train.optimizer import MuonAdamW
from sidtool.train.shortcuts import narrows_exactly, packs_exactly
from sidtool.train.teachers import Teachers
from sidtool.train.token_embeddings import TokenEmbeddings
from sidtool.train.validation import Validator


class SidTrainer(SFTTrainer):
    """Trains on `TokenizedExamples`. `validator` recommends, and `mark` makes a folder of weights a sidtool
    model.

    `learning` is what the model learns with, where that is not all of its weights; `teachers`
    answer what it is asked."""

    def __init__(
        self,
        *,
        model: Any,
        args: SFTConfig,
        rows: TokenizedExamples | AugmentedExamples,
        tokenizer: Any,
        loss: Loss,
        batching: str,
        validator: Validator | None,
        mark: Callable[[Path], None],
        callbacks: list[TrainerCallback],
        learning: TokenEmbeddings | Lora | None = None,
        muon: bool = False,
        teachers: Teachers | None = None,
    ) -> None:
        pad = next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)
        packed = (
            batching != "padded" and packs_exactly(model) and (teachers is None or teachers.packs)
        )
        if batching == "packed" and not packed:
            raise UsageError(
                "rows cannot be packed: the model, or a teacher, would see one row from another",
                hint="packing needs sdpa attention; batching=padded works with any",
            )
        # TRL insists on a datasets.Dataset, whose rows are formatted anew in every epoch: show it
        # one row, then swap
        one = Dataset.from_dict({"input_ids": [[0]], "labels": [[0]]})
        super().__init__(
            model=model,
            args=args,
            data_collator=_counted((PackedCollator if packed else PaddedCollator)(pad)),
            train_dataset=one,
            eval_dataset=one if validator else None,
            processing_class=tokenizer,
            callbacks=callbacks,
        )
        self.train_dataset = rows
        self.remove_callback(PrinterCallback)
        self.packed, self._validator, self._mark, self._muon = packed, validator, mark, muon
        self._loss, self._teachers = loss, teachers
        self.model_accepts_loss_kwargs = (
            True  # this loss is divided by the targets of all accumulated batches
        )
        self.lora = learning if isinstance(learning, Lora) else None
        new_rows = self.lora.rows if self.lora else learning
        self._head = PartialHead(
            self.model, new_rows.logits if isinstance(new_rows, TokenEmbeddings) else None
        ).install()
        if self._another_loss and (teachers or loss.over != "vocabulary"):
            own = "learning from teachers" if teachers else f"softmax_over={loss.over}"
            raise UsageError(
                f"{own} is a loss of its own, so it goes with no other loss_type and no router loss",
                hint=None if teachers else "softmax_over=vocabulary",
            )
        self.narrow = narrows_exactly(self.model, self._head, loss.columns)
        self.seen = torch.zeros(
            2, dtype=torch.int64, device=args.device
        )  # tokens without padding, targets

    @property
    def _another_loss(self) -> bool:
        """Whether the parent's loss is asked for, which is over the whole vocabulary."""
        return bool(self.args.loss_type != "nll" or self.aux_loss_enabled)

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """The parents' optimizer, or Muon beside AdamW, once."""
        if not self._muon:
            return super().create_optimizer(*args, **kwargs)
        if isinstance(self.optimizer, Optimizer):
            return self.optimizer
        adamw = {
            "betas": (self.args.adam_beta1, self.args.adam_beta2),
            "eps": self.args.adam_epsilon,
            "fused": True,
        }
        rates = {
            "lr": self.args.learning_rate,
            "weight_decay": self.args.weight_decay,
            "bf16": self.args.bf16,
        }
        self.optimizer: Optimizer | None = MuonAdamW(
            self.accelerator.unwrap_model(self.model), **rates, **adamw
        )
        return self.optimizer

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """A step of the parents', with the faster attention on a CPU that computes in bfloat16."""
        slow = self.args.device.type == "cpu" and self.args.bf16
        with float32_attention() if slow else nullcontext():
            return super().training_step(*args, **kwargs)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Cross-entropy at the targets, mean over the targets of the whole step."""
        self.seen += torch.stack([inputs.pop("tokens"), (inputs["labels"] != IGNORED).sum()])
        if return_outputs or self._another_loss:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.pop("labels")[
            :, 1:
        ]  # (lines, length - 1): what the position before is asked for
        line, place = (labels != IGNORED).nonzero(as_tuple=True)
        positions, targets = line * (labels.shape[1] + 1) + place, labels[line, place]
        parts = self._loss.parts(targets)
        asked = [(positions[which], columns) for which, columns in parts]

        def run() -> torch.Tensor:
            return model(**inputs, use_cache=False).logits

        blocks = self._head.blocks(run, asked) if self.narrow else full_blocks(run(), asked)
        taught = self._teachers.blocks(inputs, asked) if self._teachers else ()
        behind = torch.arange(2 - self._loss.tokens.space.levels, 1, device=place.device)
        before = inputs["input_ids"][line[:, None], (place[:, None] + behind).clamp_min(0)]
        total = self._loss.total(blocks, parts, targets, before, taught)
        if num_items_in_batch is None:
            return total / max(len(positions), 1)
        ranks = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return (
            total * ranks / num_items_in_batch
        )  # DDP takes the mean over ranks of what is a sum over them

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Metrics of recommending to the validation users."""
        if self._validator is None:
            return {}
        model = self.accelerator.unwrap_model(self.model).eval()
        mixed = (
            len({weight.dtype for weight in model.parameters()}) > 1
        )  # such a model runs under autocast alone
        low = torch.autocast(self.args.device.type, torch.bfloat16, enabled=mixed)
        with _own_forward(model), torch.no_grad(), low:
            sums = self._validator.sums(model, self.args.process_index, self.args.world_size)
        hits, gains, users = self.accelerator.reduce(
            torch.from_numpy(sums).to(self.args.device)
        ).tolist()
        k = self._validator.k
        metrics = {f"eval_hr@{k}": hits / users, f"eval_ndcg@{k}": gains / users}
        self.log(dict(metrics))
        self.control: TrainerControl = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def restore(self, checkpoint: Path) -> None:
        """Become what training made of the model, out of the checkpoint at which it had ended."""
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        self._load_from_checkpoint(str(checkpoint))
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint:
            self._load_best_model()

    def write_model(self, folder: Path) -> None:
        """Write the model as any command takes it: weights or adapters, tokenizer, contract and
        bundle."""
        if self.lora:
            self.lora.save(folder)
        else:
            self.accelerator.unwrap_model(self.model).save_pretrained(folder)
        self.processing_class.save_pretrained(folder)
        self._mark(folder)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        if self.lora is None:
            super()._save(output_dir, state_dict)
        if not self.args.should_save:  # some of the parents' branches come here on every rank
            return
        if self.lora:
            self.write_model(folder)
        else:
            self._mark(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.lora:
            self.lora.load(Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if self.lora:
            self.lora.load(Path(self.state.best_model_checkpoint))
        else:
            super()._load_best_model()

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """None: the contract says what a model is."""


def _counted(
    layout: PaddedCollator | PackedCollator,
) -> Callable[[Sequence[Example]], dict[str, torch.Tensor]]:
    """A layout that also says, as `tokens` (), how many tokens of the batch are no padding."""

    def lay_out(batch: Sequence[Example]) -> dict[str, torch.Tensor]:
        return layout(batch) | {"tokens": torch.tensor(sum(len(ids) for ids, _ in batch))}

    return lay_out


@contextmanager
def _own_forward(model: nn.Module) -> Iterator[None]:
    """Within, the model's forward is its class's: TRL and accelerate put closures over it, which no
    copy can follow."""
    patched = model.__dict__.pop("forward", None)
    try:
        yield
    finally:
        if patched is not None:
            model.__dict__["forward"] = patched


class ProgressCallback(TrainerCallback):
    """Tells `progress` how many steps of how many are done, and `log` what a log line or a
    validation says."""

    def __init__(
        self,
        progress: Callable[[int, int], None] | None,
        log: Callable[[dict[str, float]], None] | None,
    ) -> None:
        self._progress, self._log = progress, log

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Every `logging_steps`, after a validation and at the end, on the first process."""
        if self._log and logs and state.is_world_process_zero:
            self._log({"step": state.global_step, **logs})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """After every step, on the first process."""
        if self._progress and state.is_world_process_zero:
            self._progress(state.global_step, state.max_steps)


def set_dropout(model: nn.Module, rate: float | None) -> None:
    """Override the dropout rate of a model, except on attention weights; None leaves it.

    Raises UsageError if the architecture has no dropout.
    """
    if rate is None:
        return
    layers = [
        module
        for name, module in model.named_modules()
        if isinstance(module, nn.Dropout)
        and "attn_dropout" not in name
        and "attention_dropout" not in name
    ]
    if rate and not layers:
        raise UsageError(
            f"dropout={rate}, but {type(model).__name__} has no dropout layers",
            hint="leave dropout out",
        )
    for layer in layers:
        layer.p = rate
