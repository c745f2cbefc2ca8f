"""What tests of whole runs share: their weights, and how they are stopped."""

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file


class Stopped(Exception):
    """Raised in place of a kill."""


def weights(folder: Path, name: str = "model.safetensors") -> dict[str, torch.Tensor]:
    """The tensors of a model folder."""
    return dict(load_file(folder / name))


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether all bits are equal."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def valid_of(examples: Path) -> Path:
    """The validation users beside training examples."""
    return examples.with_name("valid.jsonl")


def kill_at(
    checkpoints: Sequence[str], command: Sequence[str], out: Path, environment: Mapping[str, str]
) -> None:
    """Run a training that writes the folder `out` once for each checkpoint, and kill it as soon as
    the checkpoint is there."""
    for checkpoint in checkpoints:
        process = subprocess.Popen(command, env=environment)
        written = out.with_name(f"{out.name}.partial") / checkpoint
        while process.poll() is None and not written.exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not out.exists()
