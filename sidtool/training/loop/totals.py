"""The counts of a training run, and their file in a checkpoint."""

import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sidtool.base.documents import parse_json
from sidtool.base.records import JsonRecord

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

    @classmethod
    def read(cls, checkpoint: Path) -> "Totals":
        """The totals in a checkpoint; zeros if it has none."""
        with suppress(OSError, ValueError, TypeError):
            return cls.from_json(parse_json((checkpoint / TOTALS_FILE).read_bytes()))
        return cls()

    def write(self, checkpoint: Path) -> None:
        """Write the totals into a checkpoint."""
        checkpoint.mkdir(parents=True, exist_ok=True)
        (checkpoint / TOTALS_FILE).write_text(json.dumps(self.to_json()), encoding="utf-8")
