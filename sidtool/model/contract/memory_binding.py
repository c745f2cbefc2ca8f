"""What a contract records of the memory that was tuned with a model."""

from collections.abc import Mapping
from dataclasses import dataclass

from sidtool.base.errors import UsageError
from sidtool.base.records import JsonRecord
from sidtool.data.split import SplitReference
from sidtool.memory import Gate

MEMORY_COPY = "memory.zarr"
"""The copy of its memory in a model folder."""


@dataclass(frozen=True)
class MemoryBinding(JsonRecord):
    """What a contract records of a memory that was tuned with the model."""

    digest: str
    weight: float
    power: float
    validation: Mapping[str, float]
    """NDCG@10 of model, memory and mixture, and the number of users"""
    gate: Gate | None = None
    """gives each request its own weight, in place of `weight`"""
    new_item_factor: float = 1.0
    """multiplies the raised scores of items without training events"""
    split: SplitReference | None = None
    """the split on whose validation users all of this was chosen; None in contracts before 0.3"""

    def __post_init__(self) -> None:
        check_weight(self.weight, self.power)
        check_new_item_factor(self.new_item_factor)


def check_new_item_factor(factor: float) -> None:
    """Raise UsageError unless a factor is from 0 to 1."""
    if not 0 <= factor <= 1:
        raise UsageError(f"the factor of new items is from 0 to 1, not {factor}")


def check_weight(weight: float, power: float) -> None:
    """Raise UsageError unless a weight is from 0 to 1, and a power above 0 and at most 20."""
    if not 0 <= weight <= 1:
        raise UsageError(f"the weight of a memory is from 0 to 1, not {weight}")
    if not 0 < power <= 20:
        raise UsageError(f"the power of a memory is above 0, at most 20, not {power}")
