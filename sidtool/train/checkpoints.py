"""The work folder of a training run: whose it is, and where the run goes on.

Knows checkpoints as files and what must be equal for a run to go on; knows nothing of what a step
computes."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidtool.errors import UsageError
from sidtool.output import new_file, remove

RUN_FILE = "run.json"
STATE_FILE = "trainer_state.json"


def open_work(work: Path, mine: Mapping[str, Any], force: bool) -> None:
    """Go on in an unfinished work folder if it is this run's, else start a new one.

    Raises UsageError if it is another run's, unless `force`.
    """
    path = work / RUN_FILE
    if path.exists():
        theirs = json.loads(path.read_text(encoding="utf-8"))
        other = sorted(key for key in {*mine, *theirs} if mine.get(key) != theirs.get(key))
        if not other:
            return
        if not force:
            raise UsageError(
                f"{work} holds an unfinished run with another {other[0]}: "
                f"{theirs.get(other[0])!r}, not {mine.get(other[0])!r}",
                hint="repeat its settings to go on with it; --force starts anew",
            )
    remove(work)
    work.mkdir(parents=True)
    path.write_text(json.dumps(mine, indent=1) + "\n", encoding="utf-8")


def run_digest(fingerprint: Mapping[str, Any]) -> str:
    """One word for all that decides a run."""
    return hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()


def last_checkpoint(work: Path, processes: int = 1) -> Path | None:
    """The newest whole checkpoint in a work folder: Trainer writes its state after weights,
    optimizer and RNG."""
    found = sorted(work.glob("checkpoint-*"), key=lambda path: -int(path.name.rpartition("-")[2]))
    return next((path for path in found if _is_whole(path, processes)), None)


def has_ended(checkpoint: Path) -> bool:
    """Whether training was over at a checkpoint: at its last step, or stopped early."""
    callbacks = _state(checkpoint).get("stateful_callbacks", {})
    return bool(callbacks.get("TrainerControl", {}).get("args", {}).get("should_training_stop"))


def find_best(checkpoint: Path) -> None:
    """Let a checkpoint's state name the best one where it lies now: it has a path of the process
    that wrote it."""
    state = _state(checkpoint)
    best = checkpoint.parent.resolve() / Path(state.get("best_model_checkpoint") or "none").name
    if best.is_dir() and str(best) != state["best_model_checkpoint"]:
        with new_file(checkpoint / STATE_FILE, force=True) as path:
            path.write_text(
                json.dumps(state | {"best_model_checkpoint": str(best)}, indent=2) + "\n",
                encoding="utf-8",
            )


def _state(checkpoint: Path) -> dict[str, Any]:
    return dict(json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8")))


def _is_whole(checkpoint: Path, processes: int) -> bool:
    states = (
        ["rng_state.pth"]
        if processes == 1
        else [f"rng_state_{rank}.pth" for rank in range(processes)]
    )
    if not all((checkpoint / name).is_file() for name in [*states, "optimizer.pt", "scheduler.pt"]):
        return False
    try:
        return bool(_state(checkpoint))
    except (OSError, ValueError):
        return False
