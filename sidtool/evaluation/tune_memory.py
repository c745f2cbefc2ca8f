"""Chooses the weight and the power of a memory on validation users, by NDCG@10, and whether a gate
gives each request its own weight.

The model answers each user once: the best items of an even mixture are ranked again for every
weight and power. A choice that keeps the memory's recall of rare targets goes before all others."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sidtool.contract.memory_binding import MemoryBinding
from sidtool.contract.split_check import check_model_split
from sidtool.decoder.mixture import RankedItems, check_normalize
from sidtool.errors import DataError, UsageError
from sidtool.evaluation.fit_gate import fit_gate
from sidtool.evaluation.mixture_candidates import Candidates, K, gains
from sidtool.evaluation.ranking import IndexedExamples, example_queries
from sidtool.extras import require
from sidtool.memory.gate import Gate
from sidtool.memory.memory import Memory
from sidtool.model.bind_memory import bind_memory
from sidtool.model.load import LoadedModel, check_model_folder, load_model_folder
from sidtool.model.memory import WeightedMemory
from sidtool.output import refuse_existing
from sidtool.output_name import FOLDER
from sidtool.recommendation.query import WINDOW, Progress, QuerySession, in_windows
from sidtool.splits.record import check_split
from sidtool.splits.split import Example, Split, evenly_spaced

WEIGHTS = (0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
POWERS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0, 4.0)
GATE_USERS = 100
"""A gate is fitted to each half of the users only if it has at least so many."""
GATE_POWERS = (1.0, 1.5, 2.0, 3.0)
RARE_IMPORTANCE = (1.0, 3.0, 5.0)
"""How much a user with a rare target counts when a gate is fitted, against others."""
RARE_SHARE = 0.9
"""Of the memory's recall@10 of rare targets, what a mixture should keep on the users on which it is
chosen. On other users it keeps a little less; the aim is 0.85 there."""
RARE_HITS = 20
"""With fewer rare targets among the memory's first ten, their recall is noise and not regarded."""


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
    keeps_rare: NDArray[np.bool_] | None = None
    """(weights, powers): whether rare targets keep RARE_SHARE of their recall; None if all do"""

    @classmethod
    def of(cls, ranks: NDArray[np.int64], candidates: Candidates, users: NDArray[np.bool_]) -> Self:
        """The grid of (weights, powers, n) ranks, over a part of the n users."""
        qualities = [[quality(cell, ranks, candidates, users) for cell in row] for row in ranks]
        keeps_rare, values = np.moveaxis(np.array(qualities), -1, 0)
        return cls(values, int(users.sum()), keeps_rare.astype(bool))

    @property
    def best(self) -> tuple[float, float]:
        """Weight and power of the best value; of equal ones the smallest weight."""
        values = self.values
        if self.keeps_rare is not None and self.keeps_rare.any():
            values = np.where(self.keeps_rare, values, -1.0)
        weight, power = np.unravel_index(int(values.argmax()), values.shape)
        return WEIGHTS[int(weight)], POWERS[int(power)]

    @property
    def summary(self) -> dict[str, float]:
        """The values that a contract records."""
        weight, power = self.best
        return {
            "users": float(self.users),
            "ndcg@10 model": float(self.values[0].max()),
            "ndcg@10 memory": float(self.values[-1].max()),
            "ndcg@10 mixture": float(self.values[WEIGHTS.index(weight), POWERS.index(power)]),
        }


def quality(
    ranks: NDArray[np.int64],
    grid_ranks: NDArray[np.int64],
    candidates: Candidates,
    users: NDArray[np.bool_],
) -> tuple[bool, float]:
    """Whether (n,) ranks keep the memory's recall of rare targets, and their NDCG@10, over a part
    of the users: the larger is better."""
    rare = users & candidates.is_rare
    memory_hits = int((grid_ranks[-1, POWERS.index(1.0)][rare] < K).sum())
    hits = int((ranks[rare] < K).sum())
    keeps_rare = memory_hits < RARE_HITS or hits >= RARE_SHARE * memory_hits
    return keeps_rare, float(gains(ranks[users]).mean())


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
    are best on the validation examples of a split, and a gate if it is better on users that it was
    not fitted to. The model's weights are not changed.

    Raises CompatibilityError if the model, its bundle or the memory may have learned from held-out
    events or the memory is of another bundle, UsageError if `out` exists without `force` or the
    model's scores are not normalized over the trie.

    Examples:
        >>> split = sidtool.open_split("split")
        >>> memory = sidtool.build_memory(split, sidtool.open_bundle("shop.zarr"))
        >>> chosen = {"options": sidtool.TrainOptions(softmax_over="trie")}
        >>> chosen["sft_fields"] = {"max_steps": 1, "eval_strategy": "no"}
        >>> _ = sidtool.train("base+sid", "train.jsonl", "model", **chosen)
        >>> binding = sidtool.tune_memory("model", split, memory, "mixed")
        >>> 0 <= binding.weight <= 1
        True
    """
    options = options or TuneMemoryOptions()
    examples = plan_tune_memory(model, split, memory, out, options, force=force)
    loaded = load_model_folder(model)
    candidates = _candidates(loaded, memory, examples, options, progress)
    ranks = _grid_ranks(candidates)
    grid = Grid.of(ranks, candidates, np.ones(candidates.users, dtype=np.bool_))
    weight, power = grid.best
    gate, gated_power, judged = choose_gate(candidates, ranks)
    if gate is not None:
        power = gated_power
    summary = grid.summary | judged
    binding = MemoryBinding(memory.digest, weight, power, summary, gate)
    bind_memory(model, memory, binding, out, force=force)
    return binding


def plan_tune_memory(
    model: str | Path,
    split: Split,
    memory: Memory,
    out: str | Path,
    options: TuneMemoryOptions,
    *,
    force: bool = False,
) -> Sequence[Example]:
    """The validation examples on which `tune_memory` chooses; reads no weights and writes nothing.
    Raises as `tune_memory`."""
    refuse_existing(Path(out), force, FOLDER)
    require("models")
    contract, bundle, _ = check_model_folder(model)
    check_normalize(contract.normalize)
    memory.check_bundle(bundle)
    name = f"split {split.reference}"
    check_model_split(contract, bundle, name, split.reference)
    check_split("the memory", memory.manifest.split, name, split.reference)
    return _chosen_examples(split.valid, options)


def _chosen_examples(examples: Sequence[Example], options: TuneMemoryOptions) -> Sequence[Example]:
    """Evenly spread examples. Raises DataError without any."""
    if not examples:
        raise DataError("there are no validation examples to tune the memory on")
    return evenly_spaced(examples, options.users)


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
    examples = _chosen_examples(examples, options)
    candidates = _candidates(loaded, memory, examples, options, progress)
    everyone = np.ones(candidates.users, dtype=np.bool_)
    return Grid.of(_grid_ranks(candidates), candidates, everyone)


def choose_gate(
    candidates: Candidates, grid_ranks: NDArray[np.int64]
) -> tuple[Gate | None, float, dict[str, float]]:
    """A gate, its power, and NDCG@10 of constant weight and gate on users that they were not chosen
    on: each half of the users judges the choice of the other. The gate is None if it is not better
    there."""
    constant_ranks = np.full(candidates.users, K)
    gate_ranks = np.full(candidates.users, K)
    for half in (candidates.in_first_half, ~candidates.in_first_half):
        if half.sum() < GATE_USERS:
            return None, 0.0, {}
        weight, power = Grid.of(grid_ranks, candidates, ~half).best
        constant = grid_ranks[WEIGHTS.index(weight), POWERS.index(power)]
        constant_ranks[half] = constant[half]
        _, _, ranks = _best_gate(candidates, grid_ranks, ~half)
        gate_ranks[half] = ranks[half]
    everyone = np.ones(candidates.users, dtype=np.bool_)
    of_constant = quality(constant_ranks, grid_ranks, candidates, everyone)
    of_gate = quality(gate_ranks, grid_ranks, candidates, everyone)
    judged = {"ndcg@10 constant, judged": of_constant[1], "ndcg@10 gate, judged": of_gate[1]}
    if of_gate <= of_constant:
        return None, 0.0, judged
    gate, power, _ = _best_gate(candidates, grid_ranks, everyone)
    return gate, power, judged


def _best_gate(
    candidates: Candidates, grid_ranks: NDArray[np.int64], users: NDArray[np.bool_]
) -> tuple[Gate | None, float, NDArray[np.int64]]:
    """The best gate for a part of the users, its power, and the ranks of all users' targets."""
    weight, power = Grid.of(grid_ranks, candidates, users).best
    best: tuple[Gate | None, float, NDArray[np.int64]] = (None, power, np.full(len(users), K))
    best_quality = (False, -1.0)
    for power in GATE_POWERS:
        raised = candidates.raised(power)
        for importance in RARE_IMPORTANCE:
            gate = fit_gate(candidates, raised, users, weight, importance)
            if gate is None:
                continue
            ranks = candidates.ranks(raised, gate.weights(candidates.features))
            gate_quality = quality(ranks, grid_ranks, candidates, users)
            if gate_quality > best_quality:
                best = (gate, power, ranks)
                best_quality = gate_quality
    return best


def _grid_ranks(candidates: Candidates) -> NDArray[np.int64]:
    """(weights, powers, n) ranks of the targets."""
    ranks = np.empty((len(WEIGHTS), len(POWERS), candidates.users), dtype=np.int64)
    for column, power in enumerate(POWERS):
        raised = candidates.raised(power)
        for row, weight in enumerate(WEIGHTS):
            ranks[row, column] = candidates.ranks(raised, weight)
    return ranks


def _candidates(
    loaded: LoadedModel,
    memory: Memory,
    examples: Sequence[Example],
    options: TuneMemoryOptions,
    progress: Progress | None,
) -> Candidates:
    """What the model and the memory recommend for the examples."""
    even = replace(loaded, memory=WeightedMemory(memory, weight=0.5, power=1.0))
    session = QuerySession.of(even)
    assert session.mixture is not None
    indexed = IndexedExamples.of(loaded.bundle, examples, exclude_seen=options.exclude_seen)
    ranked: list[RankedItems] = []
    for batch in in_windows(example_queries(session, indexed), WINDOW, len(examples), progress):
        k = options.num_beams
        ranked += session.search_items(loaded.model, batch, k=k, num_beams=k)
    index = session.mixture.index
    return Candidates.of(indexed, index, ranked, index.distributions(indexed.histories, 1.0))
