"""The checkpoints in the work folder of a training run, and the one to resume from."""

import json
from pathlib import Path
from typing import Any

from sidtool.base.output import write_whole
from sidtool.training.loop.totals import Totals

STATE_FILE = "trainer_state.json"


def last_checkpoint(work: Path) -> Path | None:
    """The newest complete checkpoint in a work folder, whatever the number of processes that wrote
    it."""
    checkpoints = sorted(work.glob("checkpoint-*"), key=_step, reverse=True)
    return next((path for path in checkpoints if _is_complete(path)), None)


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


def _is_complete(checkpoint: Path) -> bool:
    names = ["optimizer.pt", "scheduler.pt"]
    processes = Totals.read(checkpoint).processes
    if processes == 1:
        names.append("rng_state.pth")
    else:
        names += [f"rng_state_{rank}.pth" for rank in range(processes)]
    if not all((checkpoint / name).is_file() for name in names):
        return False
    if not any(checkpoint.glob("*.safetensors")):
        return False
    try:
        # Trainer writes its state last
        return bool(_state(checkpoint))
    except (OSError, ValueError, TypeError):
        return False
