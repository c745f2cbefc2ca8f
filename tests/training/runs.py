"""What tests of whole runs share: their weights, and how they are stopped."""

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
