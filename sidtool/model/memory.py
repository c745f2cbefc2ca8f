"""The memory that a model is used with: its own or another one, and its weight in the mixture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.base.options import option
from sidtool.memory import Gate, Memory, Reranker
from sidtool.model.contract.contract import (
    MEMORY_COPY,
    MemoryBinding,
    check_mixture,
)
from sidtool.tokenizer.bundle import Bundle

DEFAULT_WEIGHT = 0.3
"""Weight of a memory that was not tuned with the model."""
DEFAULT_POWER = 2.0
DEFAULT_NEW_ITEM_FACTOR = 0.8
"""Of items without training events, where there was nothing to choose it on: on Beauty, new targets
keep most of their recall, and others lose little (docs/memory.md)."""


@dataclass(frozen=True, eq=False)
class WeightedMemory:
    """A memory in use: p(item) = (1 - weight) p_model(item) + weight p_memory(item), where
    p_memory is the memory's scores raised to `power`, those of new items times `new_item_factor`,
    and normalized.

    Raises UsageError as `check_mixture`."""

    memory: Memory
    weight: float = DEFAULT_WEIGHT
    power: float = DEFAULT_POWER
    gate: Gate | None = None
    """Gives each request its own weight; None gives all `weight`."""
    new_item_factor: float = 1.0
    """Multiplies the raised scores of items without training events."""
    reranker: Reranker | None = None
    """Orders the first items of the mixture again."""

    def __post_init__(self) -> None:
        check_mixture(self.weight, self.power, self.new_item_factor)

    @property
    def is_used(self) -> bool:
        """Whether it has a part in any recommendation."""
        return self.gate is not None or self.weight > 0

    def to_json(self) -> dict[str, Any]:
        """What determines its part in a recommendation, as JSON values."""
        gate = None if self.gate is None else self.gate.to_json()
        weight = self.weight if self.gate is None else None
        values = {
            "digest": self.memory.digest,
            "weight": weight,
            "power": self.power,
            "gate": gate,
            "new_item_factor": self.new_item_factor,
        }
        return values if self.reranker is None else {**values, "reranker": self.reranker.digest}


@dataclass(frozen=True)
class MemoryOptions:
    """Which memory to use with a model, in place of what its contract says."""

    location: str | None = option(None, flag="--memory")
    """A memory of build-memory, or URL/NAME@VERSION, in place of the model's own, for example
    tonight's."""
    weight: float | None = option(None, minimum=0, maximum=1, flag="--memory-weight")
    """Share of the memory in the mixture, 0 to 1; 0 leaves the memory out."""
    power: float | None = option(None, above=0, maximum=20, flag="--memory-power")
    """Power to which the memory's scores are raised before they are normalized."""
    rerank: bool = option(True)
    """Order the first items again by the model's re-ranker, if it has one. With --memory-weight or
    --memory-power it is left out: it was fitted to another mixture."""


def choose_memory(
    folder: Path, binding: MemoryBinding | None, bundle: Bundle, options: MemoryOptions
) -> WeightedMemory | None:
    """The memory to use with a model folder, None for the model alone.

    Raises UsageError for a weight or power without a memory, IntegrityError if the memory is
    damaged, CompatibilityError if it is not the contract's, belongs to another bundle, or has other
    settings than the re-ranker was fitted with."""
    if options.location is None and binding is None:
        if options.weight or options.power is not None:
            raise UsageError(
                f"{folder} has no memory, so it takes no weight or power",
                hint="give --memory, or bind one with tune-memory",
            )
        return None
    memory = Memory.open_verified(options.location or folder / MEMORY_COPY)
    if options.location is None and binding is not None and memory.digest != binding.digest:
        raise CompatibilityError(
            f"{folder / MEMORY_COPY} is memory {memory.digest[:12]}, the contract says "
            f"{binding.digest[:12]}"
        )
    memory.check_bundle(bundle)
    weight = DEFAULT_WEIGHT if binding is None else binding.weight
    power = DEFAULT_POWER if binding is None else binding.power
    is_tuned = options.weight is None and options.power is None
    reranker = binding.reranker if binding is not None and is_tuned and options.rerank else None
    if reranker is not None:
        reranker.check_memory(memory.manifest)
    return WeightedMemory(
        memory,
        weight if options.weight is None else options.weight,
        power if options.power is None else options.power,
        binding.gate if binding is not None and options.weight is None else None,
        DEFAULT_NEW_ITEM_FACTOR if binding is None else binding.new_item_factor,
        reranker,
    )
