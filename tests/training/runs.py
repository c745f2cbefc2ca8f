"""What tests of whole runs share: their weights, and how they are stopped."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from sidtool.training import HISTORY_FILE
from sidtool.training.reinforcement.reinforcement import RlSummary, rl
from sidtool.training.training import TrainingSummary
from tests.doc_blocks import ROOT

Make = Callable[..., Path]
Train = Callable[..., TrainingSummary]
FAST = {"num_train_epochs": 2, "per_device_train_batch_size": 16, "learning_rate": 3e-3}
FAST |= {"save_strategy": "no"}
OFTEN = {"eval_strategy": "steps", "save_strategy": "steps"}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
"""Of a process that trains."""

RL = {**OFTEN, "num_generations": 4, "per_device_train_batch_size": 16, "learning_rate": 1e-2}
RL |= {"warmup_steps": 0, "logging_steps": 1, "max_steps": 4, "eval_steps": 2, "save_steps": 2}
RL |= {"eval_users": 6, "eval_num_beams": 10}


class Stopped(Exception):
    """Raised in place of a kill."""


def weights(folder: Path, name: str = "model.safetensors") -> dict[str, torch.Tensor]:
    return dict(load_file(folder / name))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether all bits are equal."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def short_rl(
    start: Path, made: Path, out: Path, *, stop: int | None = None, **more: Any
) -> RlSummary:
    """A short reinforcement; `stop` is the step after which it stops as if killed, `more` are
    arguments of `rl`, settings too."""

    def progress(done: int, total: int) -> None:
        if done == stop:
            raise Stopped

    settings = {"allow_worse_slices": True, "progress": progress, **RL, **more}
    return rl(start, made, out, **settings)


def valid_of(examples: Path) -> Path:
    """The validation users beside training examples."""
    return examples.with_name("valid.jsonl")


def history(folder: Path, name: str = HISTORY_FILE) -> list[dict[str, Any]]:
    """The entries of a log beside a model."""
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]
