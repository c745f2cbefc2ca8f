"""How the command line watches a training."""

import sys
from collections.abc import Callable, Mapping

from sidtool.terminal.console import Progress, is_verbose, note

Log = Callable[[Mapping[str, float]], None]
"""Called with a log line of a training: its step and figures by name."""


def watch() -> tuple[Callable[[Progress | None], Progress | None], Log]:
    """How the command line watches a training: what makes the reporter of its steps from that of a
    stage, and the receiver of its log lines.

    On a terminal the bar shows the last loss, learning rate, speed and metric; elsewhere, and with
    -v, each log line is a line."""
    is_bar = sys.stderr.isatty()
    figures: dict[str, str] = {}

    def log(entry: Mapping[str, float]) -> None:
        parts = _spell_log(entry)
        figures.update(parts)
        if parts and (not is_bar or is_verbose()):
            note(f"step {int(entry['step'])}: {', '.join(parts.values())}")

    def steps_of(report: Progress | None) -> Progress | None:
        if report is None or not is_bar:
            return None
        return lambda done, total: report(done, total, ", ".join(figures.values()))

    return steps_of, log


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
        if name.startswith(("eval_", "start_")):
            label = name.removeprefix("eval_").replace("_", " ")
            parts[label] = f"{label} {value:.4f}"
    return parts
