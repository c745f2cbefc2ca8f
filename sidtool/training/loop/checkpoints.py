"""The checkpoints in the work folder of a training run, with the counts of the run, and the one to
resume from. A training that diverges is stopped before it overwrites its last good checkpoint."""

import json
import math
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidtool.base.checkpoint import check_folder, non_finite
from sidtool.base.documents import parse_json
from sidtool.base.errors import SidtoolError
from sidtool.base.output import write_whole
from sidtool.base.records import JsonRecord

STATE_FILE = "trainer_state.json"
TOTALS_FILE = "totals.json"
"""The counts of a run, in each checkpoint."""


@dataclass(frozen=True)
class Totals(JsonRecord):
    """The counts of a run, summed over its processes."""

    loss: float = 0.0
    """sum of the losses of all steps"""
    seen: tuple[int, ...] = (0, 0)
    """the trainer's `n_seen`"""
    seconds: float = 0.0
    logged_loss: float = 0.0
    """`loss` at the last log line"""
    logged_step: int = 0
    """the step of the last log line"""
    processes: int = 1
    """the number of processes that counted last"""
    stop_step: int | None = None
    """where the training was stopped before its end"""

    @classmethod
    def read(cls, checkpoint: Path) -> "Totals":
        """The totals in a checkpoint. Raises OSError, ValueError or TypeError if they are missing
        or damaged."""
        return cls.from_json(parse_json((checkpoint / TOTALS_FILE).read_bytes()))

    def write(self, checkpoint: Path) -> None:
        """Write the totals into a checkpoint."""
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / TOTALS_FILE).write_text(json.dumps(self.to_json()), encoding="utf-8")


def last_checkpoint(work: Path) -> Path | None:
    """The newest complete checkpoint in a work folder, whatever the number of processes that wrote
    it. One with a file that was cut off, as by a power failure, is not complete."""
    for checkpoint in sorted(work.glob("checkpoint-*"), key=_step, reverse=True):
        with suppress(OSError, ValueError, TypeError, SidtoolError):
            processes = Totals.read(checkpoint).processes
            ranks = [""] if processes == 1 else [f"_{rank}" for rank in range(processes)]
            names = ["optimizer.pt", "scheduler.pt", *(f"rng_state{rank}.pth" for rank in ranks)]
            # a zip, as torch writes them, has its index at its end
            is_written = all(zipfile.is_zipfile(checkpoint / name) for name in names)
            has_weights = any(checkpoint.glob("*.safetensors"))
            check_folder(checkpoint)
            if is_written and has_weights and _state(checkpoint):  # Trainer writes its state last
                return checkpoint
    return None


def has_ended(checkpoint: Path) -> bool:
    """Whether training had ended at a checkpoint: at its last step or by early stopping."""
    callbacks = _state(checkpoint).get("stateful_callbacks", {})
    return bool(callbacks.get("TrainerControl", {}).get("args", {}).get("should_training_stop"))


def relocate_best(checkpoint: Path) -> None:
    """Correct the path of the best checkpoint in a checkpoint's state if the work folder moved."""
    state = _state(checkpoint)
    recorded = state.get("best_model_checkpoint")
    if not recorded:
        return
    best = checkpoint.parent.resolve() / Path(recorded).name
    if best.is_dir() and str(best) != recorded:
        text = json.dumps(state | {"best_model_checkpoint": str(best)}, indent=2) + "\n"
        write_whole(checkpoint / STATE_FILE, text)


def _state(checkpoint: Path) -> dict[str, Any]:
    return dict(json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8")))


def _step(checkpoint: Path) -> int:
    number = checkpoint.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1


def check_number(value: float, what: str, trainer: Any) -> None:
    """Raise SidtoolError if a number of the step that is being computed is NaN or infinite."""
    if not math.isfinite(value):
        raise _diverged(trainer, trainer.state.global_step + 1, f"{what} is {value}")


def check_weights(trainer: Any) -> None:
    """Raise SidtoolError if a weight of a trainer's model is NaN or infinite, in any process."""
    from torch import distributed

    from sidtool.model.network import is_sharded, local_part

    parts = ((name, local_part(weight)) for name, weight in trainer.model.named_parameters())
    names = non_finite(parts)
    if is_sharded(trainer.model):
        gathered: list[list[str]] = [[] for _ in range(distributed.get_world_size())]
        distributed.all_gather_object(gathered, names)
        names = list(dict.fromkeys(name for part in gathered for name in part))
    if names:
        problem = f"{names[0]} is NaN or infinite, as {len(names) - 1} other weights"
        raise _diverged(trainer, trainer.state.global_step, problem)


def _diverged(trainer: Any, step: int, what: str) -> SidtoolError:
    arguments = trainer.args
    checkpoint = last_checkpoint(Path(arguments.output_dir))
    last_good = "there is no checkpoint"
    if checkpoint is not None:
        last_good = f"{checkpoint} is the last good checkpoint"
    return SidtoolError(
        f"training diverged at step {step} of {trainer.state.max_steps}: {what}; {last_good}",
        hint=f"lower learning_rate (now {arguments.learning_rate:g}), raise warmup_steps, or train "
        "without bf16",
    )
