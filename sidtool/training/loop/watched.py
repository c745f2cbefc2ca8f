"""What a run has done over all of its calls: a resumed call starts from the counts in its
checkpoint, so that its log and its summary cover the whole run.

Checkpoints of weights that FSDP2 divides among processes are those of one process, with whole
weights and whole optimizer states, so any number of processes can resume them. A tensor is gathered
on the CPU of the first process at a time."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from sidtool.base.errors import DataError
from sidtool.base.progress import Log, Progress
from sidtool.model.contract import Selection
from sidtool.model.network import Lora, TokenEmbeddings, gathered, is_sharded, part_like, whole
from sidtool.training.loop.checkpoints import Totals, check_number, check_weights
from sidtool.training.loop.machine import peak_cuda_gib, resident_gib


class WatchedTrainer(Trainer):
    """Counts losses, time and `n_seen`, a tensor of counts that a subclass increases, and stops at
    a loss or a gradient that is no number. Saves and loads weights, adapters and optimizer, divided
    among processes or not."""

    n_seen: torch.Tensor
    write_contract: Callable[[Path, Selection | None], object]
    """writes contract and bundle into a model folder; set before training"""
    lora: Lora | None = None
    token_embeddings: TokenEmbeddings | None = None
    """the rows that are trained beside adapters or alone"""
    stop_step: int | None = None
    """the step at which the training stops; None while it is not known"""
    _earlier_seconds = 0.0
    _loss_sum = 0.0
    _logged = (0.0, 0)
    _started_at: float | None = None

    def train(self, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        """Train; a resumed call continues the counts of its checkpoint."""
        if resume_from_checkpoint:
            self.continue_counts(Path(resume_from_checkpoint))
        self.start_clock()
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def create_scheduler(self, num_training_steps: int, *args: Any, **kwargs: Any) -> Any:
        """The schedule of the parent class; a warmup of the only step would train at rate 0."""
        if num_training_steps == 1:
            self.args.warmup_steps = 0
        return super().create_scheduler(num_training_steps, *args, **kwargs)

    def start_clock(self) -> None:
        """Count the time from here on, if it is not counted yet."""
        if self._started_at is None:
            self._started_at = time.monotonic()

    def restore(self, checkpoint: Path) -> None:
        """Load the result of a training that had ended at this checkpoint."""
        self.state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        self.continue_counts(checkpoint)
        self._load_from_checkpoint(str(checkpoint))
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint:
            self._load_best_model()

    def continue_counts(self, checkpoint: Path) -> None:
        """Count from what a checkpoint has; the first process has the sums of all."""
        earlier = Totals.read(checkpoint)
        self._earlier_seconds = earlier.seconds
        self._logged = (earlier.logged_loss, earlier.logged_step)
        if earlier.stop_step is not None:  # where the earlier calls of the run stopped
            self.stop_step = earlier.stop_step
        if self.args.process_index == 0:
            self._loss_sum = earlier.loss * self.args.world_size
            self.n_seen += torch.tensor(earlier.seen, device=self.n_seen.device)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """A step of the parent class, whose loss is checked and counted."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        check_number(float(loss), "the loss", self)
        self._loss_sum += float(loss)
        return loss

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        """The norm before the step that applies the gradient; in float16 the step is skipped."""
        norm = super()._get_grad_norm(*args, **kwargs)
        if isinstance(norm, torch.Tensor):
            norm = whole(norm)
        if norm is not None and self.accelerator.scaler is None:
            check_number(float(norm), "the norm of the gradient", self)
        return norm

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the model into a checkpoint; every process must call this."""
        if is_sharded(self.model):
            self._save(output_dir)
        else:
            super().save_model(output_dir, _internal_call)

    def whole_state(self) -> dict[str, torch.Tensor] | None:
        """The tensors to save by name, whole, on processes that save; every process must call this.
        None where the model itself has all of its weights, whole."""
        keep = self.args.should_save
        sharded = is_sharded(self.model)
        if self.lora:
            adapters = self.lora.state()
            return gathered(adapters, keep=keep) if sharded else adapters
        if not sharded:
            return None
        # with `keep_vars` tied weights are one tensor, which is gathered once
        weights = gathered(self.model.state_dict(keep_vars=True), keep=keep)
        if self.token_embeddings:
            trained_rows = gathered(self.token_embeddings.named(self.model), keep=keep)
            self.token_embeddings.write_rows_to(weights, trained_rows)
        return weights

    def write_model(self, folder: Path) -> None:
        """Write a complete model folder: weights or adapters, tokenizer, contract and bundle. Every
        process must call this; the first writes."""
        state = self.whole_state()
        if not self.args.should_save:
            return
        if self.lora and state is not None:
            self.lora.save(folder, state)
        else:
            self.accelerator.unwrap_model(self.model).save_pretrained(folder, state_dict=state)
        self.processing_class.save_pretrained(folder)
        self.write_contract(folder, self.selection())

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        # the parent classes call this on the process that writes, or on every process
        check_weights(self)
        folder = Path(output_dir or self.args.output_dir)
        if self.lora:
            self.write_model(folder)
            return
        super()._save(output_dir, self.whole_state())
        if self.args.should_save:
            self.write_contract(folder, self.selection())

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write no model card: the contract describes the model."""

    @property
    def seconds(self) -> float:
        """The time in training, of earlier calls too."""
        started = time.monotonic() if self._started_at is None else self._started_at
        return self._earlier_seconds + time.monotonic() - started

    def totals(self) -> Totals:
        """The counts of the run until now; every process must call this."""
        loss = torch.tensor(self._loss_sum / self.args.world_size, dtype=torch.float64)
        if self.args.world_size > 1:
            loss = self.accelerator.reduce(loss.to(self.args.device))
        seen = self.accelerator.reduce(self.n_seen).tolist()
        logged_loss, logged_step = self._logged
        return Totals(
            loss.item(),
            tuple(seen),
            self.seconds,
            logged_loss,
            logged_step,
            self.args.world_size,
            self.stop_step,
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the mean loss since the last log line, also where a checkpoint lies in between; the
        tokens and seconds of the whole run; and the memory of the first process."""
        if "loss" in logs:
            totals = self.totals()
            steps = max(1, self.state.global_step - totals.logged_step)
            logs = {**logs, "loss": (totals.loss - totals.logged_loss) / steps}
            logs["tokens"] = totals.seen[0]
            measured = {"seconds": totals.seconds, "memory_gib": resident_gib()}
            if (on_gpu := peak_cuda_gib()) is not None:
                measured["gpu_memory_gib"] = on_gpu
            logs |= {name: round(value, 3) for name, value in measured.items()}
            self._logged = (totals.loss, self.state.global_step)
        super().log(logs, start_time)

    def validation_figures(self) -> Mapping[str, float]:
        """The figures of a validation by name; every process must call this."""
        raise NotImplementedError

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Log and return the figures of a validation."""
        check_weights(self)
        metrics = {f"eval_{name}": value for name, value in self.validation_figures().items()}
        self.log(dict(metrics))
        self.control: TrainerControl = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def selection(self) -> Selection | None:
        """The validation that selected the weights; None without validation."""
        value = self.state.best_metric
        if value is None:
            return None
        name = str(self.args.metric_for_best_model).removeprefix("eval_")
        return Selection(name, float(value), int(self.state.best_global_step or 0))

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """The best weights are saved, also where `save_steps` is a multiple of `eval_steps`."""
        is_best = bool(super()._determine_best_metric(metrics, trial))
        self.control.should_save |= is_best and self.args.load_best_model_at_end
        return is_best

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        totals = self.totals()
        if self.args.should_save:
            step = self.state.global_step
            totals.write(Path(self.args.output_dir) / f"checkpoint-{step}")
        super()._save_checkpoint(*args, **kwargs)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.lora:
            self.lora.load(Path(resume_from_checkpoint))
        elif self.is_fsdp_enabled:
            self._load_divided(Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    @torch.no_grad()
    def _load_divided(self, folder: Path) -> None:
        """Load a checkpoint into weights and trained rows that may be divided among processes;
        each process reads the files."""
        weights = self.model.state_dict()
        embeddings = self.token_embeddings
        rows = {}
        if embeddings:
            rows = {f"{name}.weight": row for name, row in embeddings.named(self.model).items()}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118
                    if name not in weights:
                        raise DataError(
                            f"{path} has {name}, which {type(self.model).__name__} has not",
                            hint="--force starts again",
                        )
                    value = file.get_tensor(name)
                    weights[name].copy_(part_like(weights[name], value))
                    if embeddings and name in rows:
                        rows[name].copy_(part_like(rows[name], value[embeddings.rows]))

    def _load_best_model(self) -> None:
        if self.lora or self.is_fsdp_enabled:
            self._load_from_checkpoint(str(self.state.best_model_checkpoint))
        else:
            super()._load_best_model()

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not is_sharded(self.model):
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state_dict = self.optimizer.state_dict()
        whole_states = {}  # number of a weight -> what the optimizer keeps for it, undivided
        for number, values in state_dict["state"].items():
            tensors = {key: value for key, value in values.items() if torch.is_tensor(value)}
            whole_states[number] = values | gathered(tensors, keep=self.args.should_save)
        if self.args.should_save:
            torch.save({**state_dict, "state": whole_states}, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not is_sharded(self.model):
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        folder = Path(checkpoint)
        stored = torch.load(folder / OPTIMIZER_NAME, map_location="cpu", weights_only=True)
        groups = self.optimizer.param_groups
        weights = [weight for group in groups for weight in group["params"]]
        for number, values in stored["state"].items():
            weight = weights[number]
            for key, value in values.items():
                if torch.is_tensor(value) and value.shape == weight.shape:
                    values[key] = part_like(weight, value)
        self.optimizer.load_state_dict(stored)
        self.lr_scheduler.load_state_dict(torch.load(folder / SCHEDULER_NAME, weights_only=True))


class StopCallback(TrainerCallback):
    """Ends a training at its `stop_step`, or at the first one after so many seconds, with a log
    line, a validation and a checkpoint, where the run has these at all."""

    def __init__(self, trainer: WatchedTrainer, max_seconds: float | None) -> None:
        self._trainer = trainer
        self._max_seconds = max_seconds

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop here if it is time."""
        trainer, step = self._trainer, state.global_step
        last = min(trainer.stop_step or state.max_steps, state.max_steps)
        if self._max_seconds is not None and step < last and trainer.seconds > self._max_seconds:
            trainer.stop_step = step
        if trainer.stop_step is not None and step >= trainer.stop_step:
            control.should_training_stop = True
            control.should_log = args.logging_strategy != "no"
            control.should_evaluate = args.eval_strategy != "no"
            control.should_save = args.save_strategy != "no"


class ProgressCallback(TrainerCallback):
    """Reports steps to `progress`, and log lines and validations to `log`, on the first process. A
    log line also has `tokens_per_second`, since the line before."""

    def __init__(self, progress: Progress | None, log: Log | None) -> None:
        self._progress = progress
        self._log = log
        self._last: tuple[float, float] | None = None
        self._step_end = time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Report a log line: every `logging_steps`, after a validation and at the end."""
        if not (self._log and logs and state.is_world_process_zero):
            return
        speed = {}
        if "tokens" in logs:
            seconds, tokens = time.monotonic(), logs["tokens"]
            if self._last is not None and seconds > self._last[0]:
                rate = (tokens - self._last[1]) / (seconds - self._last[0])
                speed["tokens_per_second"] = rate
            self._last = (seconds, tokens)
        self._log({"step": state.global_step, **logs, **speed})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report a step; the last one has a log line, too."""
        self._step_end = time.monotonic()
        if state.global_step >= state.max_steps and args.logging_strategy != "no":
            control.should_log = True
        if self._progress and state.is_world_process_zero:
            self._progress(state.global_step, state.max_steps)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the time of a validation or a checkpoint, which is that since the last step or
        since this was called, out of the speed."""
        now = time.monotonic()
        if self._last is not None:
            seconds, tokens = self._last
            self._last = (seconds + now - self._step_end, tokens)
        self._step_end = now

    on_save = on_evaluate
