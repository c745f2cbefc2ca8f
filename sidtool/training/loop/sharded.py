"""Checkpoints of a training whose weights are divided among processes (FSDP2).

They are those of one process, with whole weights and whole optimizer states, so any number of
processes can resume them. A tensor is gathered on the CPU of the first process at a time."""

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from sidtool.base.errors import DataError
from sidtool.model import Lora, TokenEmbeddings, gathered, is_sharded, part_like
from sidtool.training.loop.watched import WatchedTrainer


class ShardedTrainer(WatchedTrainer):
    """Saves and loads weights, adapters and optimizer, divided among processes or not."""

    lora: Lora | None
    token_embeddings: TokenEmbeddings | None
    """the rows that are trained beside adapters or alone"""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model into a checkpoint; every process must call this."""
        if is_sharded(self.model):
            self._save(output_dir)
        else:
            super().save_model(output_dir, _internal_call)

    def whole_state(self) -> dict[str, torch.Tensor] | None:
        """As the parent class, each tensor whole."""
        keep = self.args.should_save
        sharded = is_sharded(self.model)
        if self.lora:
            state = self.lora.state()
            return gathered(state, keep=keep) if sharded else state
        if not sharded:
            return None
        # by `keep_vars` tied weights are one tensor
        state = gathered(self.model.state_dict(keep_vars=True), keep=keep)
        if self.token_embeddings:
            rows = gathered(self.token_embeddings.named(self.model), keep=keep)
            self.token_embeddings.write_rows_to(state, rows)
        return state

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.lora:
            self.lora.load(Path(resume_from_checkpoint))
        elif self.is_fsdp_enabled:
            load_weights(self.model, Path(resume_from_checkpoint), self.token_embeddings)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if self.lora or self.is_fsdp_enabled:
            self._load_from_checkpoint(str(self.state.best_model_checkpoint))
        else:
            super()._load_best_model()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not is_sharded(self.model):
            super()._save_optimizer_and_scheduler(output_dir)
            return
        optimizer_state = _whole_optimizer_state(self.optimizer, keep=self.args.should_save)
        if self.args.should_save:
            torch.save(optimizer_state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not is_sharded(self.model):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        folder = Path(checkpoint)
        stored = torch.load(folder / OPTIMIZER_NAME, map_location="cpu", weights_only=True)
        self.optimizer.load_state_dict(_divided_optimizer_state(stored, self.optimizer))
        self.lr_scheduler.load_state_dict(torch.load(folder / SCHEDULER_NAME, weights_only=True))


@torch.no_grad()
def load_weights(model: nn.Module, folder: Path, embeddings: TokenEmbeddings | None) -> None:
    """Load the safetensors files of a checkpoint into a model and the trained rows of its
    `embeddings`, divided among processes or not; each process reads the files. Raises DataError
    for a weight that the model does not have."""
    weights = model.state_dict()
    rows = {}
    if embeddings:
        rows = {f"{name}.weight": row for name, row in embeddings.named(model).items()}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                if name not in weights:
                    raise DataError(
                        f"{path} has {name}, which {type(model).__name__} has not",
                        hint="--force starts again",
                    )
                value = file.get_tensor(name)
                weights[name].copy_(part_like(weights[name], value))
                if embeddings and name in rows:
                    rows[name].copy_(part_like(rows[name], value[embeddings.rows]))


def _whole_optimizer_state(optimizer: Any, *, keep: bool) -> dict[str, Any]:
    """The state of an optimizer as that of one process has it; empty without `keep`."""
    stored = optimizer.state_dict()
    states = {}
    for number, values in stored["state"].items():
        tensors = {key: value for key, value in values.items() if isinstance(value, torch.Tensor)}
        states[number] = {**values, **gathered(tensors, keep=keep)}
    return {**stored, "state": states} if keep else {}


def _divided_optimizer_state(stored: dict[str, Any], optimizer: Any) -> dict[str, Any]:
    """The state of one process with what has the shape of a weight divided as the weight is."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    states = {}
    for number, values in stored["state"].items():
        weight = weights[number]
        states[number] = {
            key: part_like(weight, value) if _has_shape(value, weight) else value
            for key, value in values.items()
        }
    return {**stored, "state": states}


def _has_shape(value: Any, weight: torch.Tensor) -> bool:
    return isinstance(value, torch.Tensor) and value.shape == weight.shape
