"""The work folder of a training run: which run it belongs to, and the checkpoint to resume from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidtool.errors import UsageError
from sidtool.output import new_file, remove

RUN_FILE = "run.json"
STATE_FILE = "trainer_state.json"


def open_work_folder(work: Path, fingerprint: Mapping[str, Any], force: bool) -> None:
    """Keep an unfinished work folder of the same run, else start a new one.

    Raises UsageError if it belongs to a different run, unless `force`."""
    path = work / RUN_FILE
    if path.exists():
        stored = json.loads(path.read_text(encoding="utf-8"))
        keys = sorted({*fingerprint, *stored})
        different = [key for key in keys if fingerprint.get(key) != stored.get(key)]
        if not different:
            return
        if not force:
            key = different[0]
            raise UsageError(
                f"{work} has an unfinished run with different {key}: "
                f"{stored.get(key)!r}, not {fingerprint.get(key)!r}",
                hint="repeat its settings to resume it; --force starts again",
            )
    remove(work)
    work.mkdir(parents=True)
    path.write_text(json.dumps(fingerprint, indent=1) + "\n", encoding="utf-8")


def last_checkpoint(work: Path, processes: int = 1) -> Path | None:
    """The newest complete checkpoint in a work folder."""
    checkpoints = sorted(work.glob("checkpoint-*"), key=_step, reverse=True)
    return next((path for path in checkpoints if _is_complete(path, processes)), None)


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
        with new_file(checkpoint / STATE_FILE, force=True) as path:
            path.write_text(text, encoding="utf-8")


def _state(checkpoint: Path) -> dict[str, Any]:
    return dict(json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8")))


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _is_complete(checkpoint: Path, processes: int) -> bool:
    names = ["optimizer.pt", "scheduler.pt"]
    if processes == 1:
        names.append("rng_state.pth")
    else:
        names += [f"rng_state_{rank}.pth" for rank in range(processes)]
    if not all((checkpoint / name).is_file() for name in names):
        return False
    try:
        # Trainer writes its state last
        return bool(_state(checkpoint))
    except (OSError, ValueError):
        return False
