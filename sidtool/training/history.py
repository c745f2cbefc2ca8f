"""The history of a run as it is stored in its output, and reported while it trains."""

import json
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from sidtool.base.progress import Progress
from sidtool.training.training_run import (
    HISTORY_FILE,
    MACHINE_FIGURES,
    MACHINE_FILE,
    Log,
)

LOGS_FOLDER = "runs"
"""Where TensorBoard's writer puts its files."""

_OF_THE_CALL = "train_runtime"
"""The key of the entry that describes the last call of a resumed run, and its speed."""


def write_history(entries: Iterable[Mapping[str, Any]], folder: Path) -> None:
    """Write the log lines of a run, one JSON object each: to one file what the same run repeats,
    however often it was resumed, and to another what depends on the machine."""
    lines: dict[str, list[str]] = {HISTORY_FILE: [], MACHINE_FILE: []}
    for entry in entries:
        if _OF_THE_CALL in entry:
            continue
        # one that was in a checkpoint has its keys in another order
        figures = sorted(entry.keys() - {"step"})
        measured = {name: entry[name] for name in figures if name in MACHINE_FIGURES}
        repeated = {name: entry[name] for name in figures if name not in MACHINE_FIGURES}
        lines[HISTORY_FILE].append(json.dumps({"step": entry["step"], **repeated}))
        if measured:
            lines[MACHINE_FILE].append(json.dumps({"step": entry["step"], **measured}))
    for name, of_file in lines.items():
        (folder / name).write_text("".join(f"{line}\n" for line in of_file), encoding="utf-8")


def keep_logs(work: Path, folder: Path) -> None:
    """Move the files of TensorBoard from the work folder into the output."""
    if (work / LOGS_FOLDER).is_dir():
        shutil.move(work / LOGS_FOLDER, folder / LOGS_FOLDER)


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
        if self._log and logs and state.is_world_process_zero:
            self._log({"step": state.global_step, **logs, **self._speed(logs)})

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report a step; the last one has a log line, too."""
        self._step_end = time.monotonic()
        if state.global_step >= state.max_steps and args.logging_strategy != "no":
            control.should_log = True
        if self._progress and state.is_world_process_zero:
            self._progress(state.global_step, state.max_steps)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the time of a validation out of the speed."""
        self._leave_out()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leave the time of a checkpoint out of the speed."""
        self._leave_out()

    def _leave_out(self) -> None:
        """Leave the time since the last step, or since this was called, out of the speed."""
        now = time.monotonic()
        if self._last is not None:
            seconds, tokens = self._last
            self._last = (seconds + now - self._step_end, tokens)
        self._step_end = now

    def _speed(self, logs: Mapping[str, float]) -> dict[str, float]:
        if "tokens" not in logs:
            return {}
        now = (time.monotonic(), logs["tokens"])
        last = self._last
        self._last = now
        if last is None or now[0] <= last[0]:
            return {}
        return {"tokens_per_second": (now[1] - last[1]) / (now[0] - last[0])}
