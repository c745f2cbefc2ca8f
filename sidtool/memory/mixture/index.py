"""A memory in use: its items are looked up in a bundle, and each history has a distribution over
them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import CompatibilityError
from sidtool.base.options import check_options, option
from sidtool.memory.memory import Memory
from sidtool.memory.mixture.gate import (
    GATE_FEATURES,
    NO_ITEMS,
    Gate,
    ItemDistribution,
    Prior,
    check_mixture,
    gate_features,
)
from sidtool.memory.mixture.reranker import Reranker
from sidtool.memory.rows import SparseRows, row_entries
from sidtool.memory.similarity import age_weights, largest
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import ItemRows, SidPositions

HISTORY = 50
"""Items of a history that are read, the last ones: bounds the cost of a request."""
ITEMS = 300
"""Items of a distribution, the best ones: bounds the cost of a beam."""
DENSE = 8
"""Scores are summed in one array over all items if that has at most so many times the entries."""


@dataclass(frozen=True, eq=False)
class MemoryIndex:
    """A memory whose items are looked up in a bundle."""

    neighbors: SparseRows
    """By the memory's rows; its items are positions in SID order, without those not active."""
    recency: float
    memory_rows: NDArray[np.int64]
    """(bundle items,): the memory's row of each, -1 if it has none"""
    events: NDArray[np.int64]
    """Training events of each item, by the memory's rows"""
    n_active: int
    is_new: NDArray[np.bool_]
    """(n_active,): by position, the items without training events"""
    new_item_factor: float = 1.0
    """By which the raised scores of items without training events are multiplied."""

    @classmethod
    def of(cls, memory: Memory, bundle: Bundle, new_item_factor: float = 1.0) -> "MemoryIndex":
        """Raises CompatibilityError unless the bundle is the memory's or a later version of it."""
        memory.check_bundle(bundle)
        n = memory.manifest.items
        rows = ItemRows(np.arange(n))
        if memory.manifest.bundle.digest != bundle.identity.digest:
            rows = bundle.items.rows(list(memory.ids))
            n_lacking = n - len(np.unique(rows[rows >= 0]))
            if n_lacking:
                raise CompatibilityError(
                    f"bundle {bundle.manifest.name!r} lacks {n_lacking} of the {n} items of the "
                    "memory, which was built for an earlier version of it",
                    hint="build the memory with this bundle: sidtool build-memory",
                )
        recency = memory.manifest.settings.recency
        index = cls.of_neighbors(memory.neighbors, memory.events, recency, bundle, rows)
        return replace(index, new_item_factor=new_item_factor)

    @classmethod
    def of_neighbors(
        cls,
        neighbors: SparseRows,
        events: NDArray[np.int64],
        recency: float,
        bundle: Bundle,
        rows: ItemRows,
    ) -> "MemoryIndex":
        """The index of the n items of a memory, given by row their neighbors, their events, and
        their `rows` in the bundle, -1 if it has none."""
        in_bundle = rows >= 0
        memory_rows = np.full(len(bundle.items), -1, dtype=np.int64)
        memory_rows[rows[in_bundle]] = np.flatnonzero(in_bundle)
        is_new = np.append(events, 0)[memory_rows[bundle.active]] == 0  # row -1 has 0 events
        positions = bundle.trie().positions_of(rows)
        if not np.array_equal(positions, np.arange(len(positions))):
            # neighbors by position, not by the memory's row, and without those not active
            neighbor_positions = positions[neighbors.items]
            is_active = neighbor_positions >= 0
            n_before = np.concatenate([[0], np.cumsum(is_active)])
            columns = neighbor_positions[is_active].astype(np.uint32)
            weights = neighbors.weights[is_active]
            neighbors = SparseRows(n_before[neighbors.offsets], columns, weights)
        return cls(neighbors, recency, memory_rows, events, len(bundle.active), is_new)

    def distributions(self, histories: Sequence[ItemRows], power: float) -> list[ItemDistribution]:
        """The distribution for each history of bundle rows (-1: unknown), oldest first: scores as
        those of item-kNN, raised to `power`, those of new items times `new_item_factor`, and
        normalized. It is empty if no item of the history has an active neighbor, or none that the
        factor leaves."""
        distributions = []
        for history in histories:
            # a position may occur for several items of the history: its values are summed
            positions, values, _ = self._entries(history)
            if not len(positions):
                distributions.append(NO_ITEMS)
                continue
            if self.n_active <= DENSE * len(positions):
                sums = np.bincount(positions, values, minlength=self.n_active)
                items = np.flatnonzero(sums)
                scores = sums[items].astype(np.float64, copy=False)
            else:
                # rows of neighbors are ascending runs, which a stable sort merges
                order = positions.argsort(kind="stable")
                ordered = positions[order]
                is_first = np.ones(len(ordered), dtype=np.bool_)
                np.not_equal(ordered[1:], ordered[:-1], out=is_first[1:])
                items = ordered[is_first].astype(np.int64)
                sums = np.bincount(is_first.cumsum() - 1, values[order])
                scores = sums.astype(np.float64, copy=False)
            log_mass = float(np.log(scores.sum()))
            best = largest(scores, ITEMS)
            log_scores = np.log(scores[best])
            log_best = float(log_scores.max())
            raised = ItemDistribution(
                positions=SidPositions(items[best]),
                # relative to the best item, so that a high power does not underflow
                log_probs=power * (log_scores - log_best),
                log_mass=log_mass,
                log_peak=log_best - log_mass,
            )
            is_new = self.is_new[raised.positions]
            distributions.append(raised.with_factor(is_new, self.new_item_factor))  # normalizes
        return distributions

    def features(
        self, histories: Sequence[ItemRows], distributions: Sequence[ItemDistribution]
    ) -> NDArray[np.float64]:
        """(n, GATE_FEATURES) what a gate reads of n histories of bundle rows and their
        distributions; zeros for one without items."""
        features = np.zeros((len(histories), len(GATE_FEATURES)))
        offsets = self.neighbors.offsets
        for row, (history, distribution) in enumerate(zip(histories, distributions, strict=True)):
            if len(distribution):
                rows = ItemRows(history[history >= 0])
                stored = self.memory_rows[rows]
                neighbors = np.where(stored < 0, 0, offsets[stored + 1] - offsets[stored])
                features[row] = gate_features(distribution, self.item_events(rows), neighbors)
        return features

    def item_events(self, rows: ItemRows) -> NDArray[np.int64]:
        """(n,) training events of items by their bundle rows; 0 for -1 and for new items."""
        stored = np.where(rows < 0, -1, self.memory_rows[rows])
        return np.where(stored < 0, 0, self.events[stored])

    def sources(self, history: ItemRows, positions: SidPositions) -> list[dict[int, float]]:
        """For each of (k,) items by position, the parts of its score that the items of a history
        have: row in the bundle -> share, largest first."""
        neighbors, values, events = self._entries(history)
        items = history[history >= 0][-HISTORY:]
        sources = []
        for position in positions.tolist():
            matches = neighbors == position
            parts: dict[int, float] = {}
            pairs = zip(items[events[matches]].tolist(), values[matches].tolist(), strict=True)
            for row, value in pairs:
                parts[row] = parts.get(row, 0.0) + value
            total = sum(parts.values())
            ordered = sorted(parts.items(), key=lambda part: -part[1])
            sources.append({row: value / total for row, value in ordered})
        return sources

    def _entries(
        self, history: ItemRows
    ) -> tuple[NDArray[np.uint32], NDArray[np.float64], NDArray[np.int64]]:
        """(e,) each: every neighbor of every item of a history, by its position; its similarity,
        weighted by the item's age; and the index of the item among the last HISTORY known ones."""
        items = history[history >= 0][-HISTORY:]
        events, entries = row_entries(self.neighbors.offsets, self.memory_rows[items])
        positions = self.neighbors.items[entries]
        item_weights = age_weights([len(items)], self.recency)
        values = self.neighbors.weights[entries] * item_weights[events]
        is_positive = values > 0  # the weight of an old item may be too small
        if is_positive.all():
            return positions, values, events
        return positions[is_positive], values[is_positive], events[is_positive]


DEFAULT_NEW_ITEM_FACTOR = 0.8
"""Of items without training events, where there was nothing to choose it on: on Beauty, new targets
keep most of their recall, and others lose little (docs/memory.md)."""


@dataclass(frozen=True)
class MemoryOptions:
    """Which memory to use with a model, in place of what its contract says. Raises UsageError for
    a number out of range."""

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

    def __post_init__(self) -> None:
        check_options(self)


@dataclass(frozen=True, eq=False)
class WeightedMemory:
    """A memory in use: p(item) = (1 - weight) p_model(item) + weight p_memory(item), where
    p_memory is the memory's scores raised to `power`, those of new items times `new_item_factor`,
    and normalized.

    Raises UsageError as `check_mixture`."""

    memory: Memory
    weight: float = 0.3
    power: float = 2.0
    """the defaults are those of a memory that was not tuned with the model"""
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


@dataclass(frozen=True, eq=False)
class Mixture:
    """A memory in use with one bundle."""

    index: MemoryIndex
    power: float
    weight: float
    gate: Gate | None = None
    """Gives each request its own weight, in place of `weight`."""

    @classmethod
    def of(cls, memory: WeightedMemory, bundle: Bundle) -> "Mixture":
        """Raises CompatibilityError if the memory is of another bundle."""
        index = MemoryIndex.of(memory.memory, bundle, memory.new_item_factor)
        return cls(index, memory.power, memory.weight, memory.gate)

    def priors(self, histories: Sequence[ItemRows | None]) -> list[Prior | None]:
        """The prior of each request by its history of bundle rows; None without a history."""
        present = [history for history in histories if history is not None]
        distributions = self.index.distributions(present, self.power)
        weights = [self.weight] * len(present)
        if self.gate is not None:
            weights = self.gate.weights(self.index.features(present, distributions)).tolist()
        priors = map(Prior, distributions, weights)
        return [None if history is None else next(priors) for history in histories]
