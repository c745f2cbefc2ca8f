"""Chooses the weight and the power of a memory on validation users, by NDCG@10.

The model answers each user once: the best items of an even mixture are ranked again for every
weight and power."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sidtool.decoder.mixture import Prior, RankedItems
from sidtool.errors import DataError, UsageError
from sidtool.evaluation.ranking import IndexedExamples, example_queries
from sidtool.memory.memory import Memory
from sidtool.model.bind_memory import bind_memory
from sidtool.model.load import LoadedModel, load_model_folder
from sidtool.model.memory import MemoryBinding, WeightedMemory
from sidtool.model.split_check import check_model_split
from sidtool.output import refuse_existing
from sidtool.recommendation.query import WINDOW, Progress, QuerySession, in_windows
from sidtool.splits.record import check_split
from sidtool.splits.split import Example, Split

WEIGHTS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
POWERS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)
K = 10
"""Cut-off of the metric."""


@dataclass(frozen=True)
class TuneMemoryOptions:
    """How weight and power are chosen. Raises UsageError for a number below 1."""

    users: int | None = None
    """Validation examples, evenly spread; None takes all."""
    num_beams: int = 100
    """Beam width, and the number of items that are ranked again."""
    exclude_seen: bool = False

    def __post_init__(self) -> None:
        for name, value in (("users", self.users), ("num_beams", self.num_beams)):
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, not {value}")


@dataclass(frozen=True, eq=False)
class Grid:
    """NDCG@10 of every weight and power."""

    values: NDArray[np.float64]
    """(weights, powers)"""
    users: int

    @property
    def best(self) -> tuple[float, float]:
        """Weight and power of the best value; of equal ones the smallest weight."""
        weight, power = np.unravel_index(int(self.values.argmax()), self.values.shape)
        return WEIGHTS[int(weight)], POWERS[int(power)]

    @property
    def summary(self) -> dict[str, float]:
        """The values that a contract records."""
        return {
            "users": float(self.users),
            "ndcg@10 model": float(self.values[0].max()),
            "ndcg@10 memory": float(self.values[-1].max()),
            "ndcg@10 mixture": float(self.values.max()),
        }


def tune_memory(
    model: str | Path,
    split: Split,
    memory: Memory,
    out: str | Path,
    options: TuneMemoryOptions | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
) -> MemoryBinding:
    """Write a copy of a model folder that is bound to a memory, with the weight and the power that
    are best on the validation examples of a split. The model's weights are not changed.

    Raises CompatibilityError if the model, its bundle or the memory may have learned from held-out
    events or the memory is of another bundle, UsageError if `out` exists without `force` or the
    model's scores are not normalized over the trie."""
    refuse_existing(Path(out), force)
    loaded = load_model_folder(model)
    name = f"split {split.reference}"
    check_model_split(loaded.contract, loaded.bundle, name, split.reference)
    check_split("the memory", memory.manifest.split, name, split.reference)
    grid = search_grid(loaded, memory, split.valid, options, progress=progress)
    weight, power = grid.best
    binding = MemoryBinding(memory.digest, weight, power, grid.summary)
    bind_memory(model, memory, binding, out, force=force)
    return binding


def search_grid(
    loaded: LoadedModel,
    memory: Memory,
    examples: Sequence[Example],
    options: TuneMemoryOptions | None = None,
    *,
    progress: Progress | None = None,
) -> Grid:
    """The metric of every weight and power on these examples. Raises DataError without any."""
    options = options or TuneMemoryOptions()
    if not examples:
        raise DataError("there are no validation examples to tune the memory on")
    if options.users is not None and options.users < len(examples):
        steps = range(options.users)
        examples = [examples[step * len(examples) // options.users] for step in steps]
    even = replace(loaded, memory=WeightedMemory(memory, weight=0.5, power=1.0))
    session = QuerySession.of(even)
    assert session.mixture is not None
    indexed = IndexedExamples.of(loaded.bundle, examples, exclude_seen=options.exclude_seen)
    targets = iter(indexed.target_positions.tolist())
    sums = np.zeros((len(WEIGHTS), len(POWERS)))
    queries = example_queries(session, indexed)
    for batch in in_windows(queries, WINDOW, len(examples), progress):
        k = options.num_beams
        results = session.search_items(loaded.model, batch, k=k, num_beams=k)
        priors = session.mixture.priors([query.history for query in batch])
        for result, prior in zip(results, priors, strict=True):
            assert prior is not None
            sums += _gains(result, prior, next(targets))
    return Grid(sums / len(examples), len(examples))


def _gains(result: RankedItems, prior: Prior, target: int) -> NDArray[np.float64]:
    """(weights, powers): the discounted gain of the target if the items are ranked again."""
    gains = np.zeros((len(WEIGHTS), len(POWERS)))
    matches = np.flatnonzero(result.positions == target)
    if not len(matches):
        return gains
    for column, power in enumerate(POWERS):
        distribution = prior.distribution.raised(power)
        memory_scores = distribution.log_probs_at(result.positions)
        for row, weight in enumerate(WEIGHTS):
            log_model, log_memory = Prior(distribution, weight).log_shares
            scores = np.logaddexp(log_model + result.model_scores, log_memory + memory_scores)
            score = scores[matches[0]]
            ties = (scores == score) & (result.positions < target)
            rank = int((scores > score).sum() + ties.sum())
            gains[row, column] = 1 / np.log2(rank + 2) if rank < K else 0.0
    return gains
