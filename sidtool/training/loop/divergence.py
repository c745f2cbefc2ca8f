"""Stops a training that diverges, before it overwrites its last good checkpoint."""

import math
from pathlib import Path
from typing import Any

from sidtool.base.checkpoint.finite import non_finite
from sidtool.base.errors import SidtoolError
from sidtool.training.loop.checkpoints import last_checkpoint


def check_number(value: float, what: str, trainer: Any) -> None:
    """Raise SidtoolError if a number of the step that is being computed is NaN or infinite."""
    if not math.isfinite(value):
        raise _diverged(trainer, trainer.state.global_step + 1, f"{what} is {value}")


def check_weights(trainer: Any) -> None:
    """Raise SidtoolError if a weight of a trainer's model is NaN or infinite."""
    from sidtool.model.sharded import local_part

    parts = ((name, local_part(weight)) for name, weight in trainer.model.named_parameters())
    if names := _of_every_process(non_finite(parts), trainer.model):
        what = f"{names[0]} is NaN or infinite, as {len(names) - 1} other weights"
        raise _diverged(trainer, trainer.state.global_step, what)


def _of_every_process(names: list[str], model: Any) -> list[str]:
    """The names that any process found in its parts of a model's weights."""
    from sidtool.model.sharded import is_sharded

    if not is_sharded(model):
        return names
    from torch import distributed

    found: list[list[str]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(found, names)
    return list(dict.fromkeys(name for part in found for name in part))


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
