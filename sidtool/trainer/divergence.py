"""Stops a training that diverges, before it overwrites its last good checkpoint."""

import math
from pathlib import Path
from typing import Any

from sidtool.checkpoint.finite import non_finite
from sidtool.errors import SidtoolError
from sidtool.trainer.checkpoints import last_checkpoint


def check_number(value: float, what: str, trainer: Any) -> None:
    """Raise SidtoolError if a number of the step that is being computed is NaN or infinite."""
    if not math.isfinite(value):
        raise _diverged(trainer, trainer.state.global_step + 1, f"{what} is {value}")


def check_weights(trainer: Any) -> None:
    """Raise SidtoolError if a weight of a trainer's model is NaN or infinite."""
    if names := non_finite(trainer.model.named_parameters()):
        what = f"{names[0]} is NaN or infinite, as {len(names) - 1} other weights"
        raise _diverged(trainer, trainer.state.global_step, what)


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
