"""How the command line watches a training, and prints its results."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sidtool.base.process_setting import is_first_process
from sidtool.base.progress import Log
from sidtool.cli.terminal.console import is_verbose, next_step, note, say, say_json, warn_early
from sidtool.cli.terminal.pace import Pace, Progress
from sidtool.evaluation import HIGH, LOW, OF_ITEM_KNN


def watch() -> tuple[Callable[[Progress | None], Progress | None], Log]:
    """How the command line watches a training: what makes the reporter of its steps from that of a
    stage, and the receiver of its log lines.

    On a terminal the bar shows the last loss, learning rate, speed and metric; elsewhere, and with
    -v, each log line is a line, with the number of steps and the time that is left."""
    is_bar = sys.stderr.isatty()
    figures: dict[str, str] = {}
    pace = Pace()
    total_steps = 0

    def log(entry: Mapping[str, float]) -> None:
        warn_early()
        parts = _spell_log(entry)
        figures.update(parts)
        if parts and (not is_bar or is_verbose()):
            step = f"step {int(entry['step'])}"
            if total_steps:
                step += f" of {total_steps}"
            left = [pace.left] if pace.left and "loss" in entry else []
            note(f"{step}: {', '.join([*parts.values(), *left])}")

    def step_progress(report: Progress | None) -> Progress | None:
        if report is None:
            return None

        def step(done: int, total: int) -> None:
            nonlocal total_steps
            total_steps = total
            pace.report(done, total)
            if is_bar:
                report(done, total, ", ".join(figures.values()))

        return step

    return step_progress, log


def notify(text: str) -> None:
    """A line on stderr, once for all processes of a training."""
    if is_first_process():
        note(text)


def say_summaries(
    summaries: Sequence[Mapping[str, Any]],
    out: Path,
    *,
    json: bool,
    split: str | Path = "SPLIT",
    task: str | None = None,
) -> None:
    """The result of each stage of a training, and the next command, for a model that recommends
    nothing that of a `task`; once for all processes."""
    if not is_first_process():
        return None
    if json:
        say_json(summaries[0] if len(summaries) == 1 else {"stages": summaries})
    else:
        for summary in summaries:
            for key, value in summary.items():
                if value is not None:
                    say(f"{key}: {f'{value:.4g}' if isinstance(value, float) else value}")
    command = "evaluate {out}" if task is None else "evaluate-task {out} {task}"
    return next_step(f"sidtool {command} {{split}}", out=out, task=task, split=split)


def _spell_log(entry: Mapping[str, float]) -> dict[str, str]:
    """The figures of a log line by their name; nothing for an entry without a loss or a
    validation."""
    parts = {}
    if "loss" in entry:
        parts["loss"] = f"loss {entry['loss']:.4g}"
        parts["rate"] = f"learning rate {entry.get('learning_rate', 0.0):.2g}"
    if "tokens_per_second" in entry:
        parts["speed"] = f"{entry['tokens_per_second']:,.0f} tokens/s"
    for name, value in entry.items():
        kind, _, label = name.partition("_")
        if kind not in ("eval", "start") or label.endswith((LOW, HIGH, OF_ITEM_KNN)):
            continue
        if label == "loss":
            parts["validation loss"] = f"validation loss {value:.4g}"
            continue
        label = label.replace("_", " ") if kind == "eval" else name.replace("_", " ")
        beside = []
        if name + LOW in entry:
            beside.append(f"{entry[name + LOW]:.4f} to {entry[name + HIGH]:.4f}")
        if name + OF_ITEM_KNN in entry:
            beside.append(f"item-kNN {entry[name + OF_ITEM_KNN]:.4f}")
        parts[label] = f"{label} {value:.4f}" + (f" ({', '.join(beside)})" if beside else "")
    return parts
