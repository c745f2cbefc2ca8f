"""Records of tensors, made once per example, as one file in a checkpoint.

Made again beside other examples they would differ in the last bits, and a resumed run in its
weights."""

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from safetensors.torch import load_file, save_file


class PromptRecord(Protocol):
    """A dataclass of tensors, of the same shape in all records of a file but for the prompt."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def prompt(self) -> torch.Tensor:
        """(P,) token ids"""


Record = TypeVar("Record")


def save_records(records: Mapping[int, PromptRecord], path: Path) -> None:
    """Store at least one record by the number of its example."""
    first = next(iter(records.values()))
    stacked = {
        field.name: [getattr(record, field.name) for record in records.values()]
        for field in fields(first)
    }
    prompts = stacked.pop("prompt")
    tensors = {name: torch.stack(rows) for name, rows in stacked.items()}
    tensors["prompt"] = torch.cat(prompts)
    tensors["length"] = torch.tensor([len(prompt) for prompt in prompts])
    tensors["number"] = torch.tensor(list(records))
    save_file(tensors, path)


def load_records(kind: Callable[..., Record], path: Path) -> dict[int, Record]:
    """The records that `save_records` stored; `kind` is their class."""
    tensors = load_file(path)
    numbers = tensors.pop("number").tolist()
    prompts = tensors.pop("prompt").split(tensors.pop("length").tolist())
    return {
        number: kind(prompt=prompts[row], **{name: rows[row] for name, rows in tensors.items()})
        for row, number in enumerate(numbers)
    }
