"""Chooses what a memory needs on validation users, by NDCG@10.

`tune_memory` chooses its weight and power beside a model, whether a gate gives each request its own
weight, and whether a re-ranker orders the best items. The model answers each user once: the best
items of an even mixture are ranked again for every weight and power. A choice that keeps the
memory's recall of rare targets goes before all others. New items are let in as far as users with
other targets do not lose by them.

`tune_similarity` chooses the settings of a memory, or of item-kNN, by it alone. The counts of
pairs, by direction, and the nearest items by content are computed once; each trial weighs them
anew, and ranks as the memory that is built does."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sidtool.base.errors import DataError
from sidtool.base.extras import require
from sidtool.base.inputs import keeps_inputs
from sidtool.base.locations import opened
from sidtool.base.options import check_options, option, options_from
from sidtool.base.output import refuse_existing
from sidtool.base.output_name import FOLDER
from sidtool.base.progress import Progress
from sidtool.data.split import (
    Example,
    Split,
    SplitManifest,
    SplitReference,
    check_split,
    evenly_spaced,
    open_split,
)
from sidtool.evaluation.held_out import open_model_split
from sidtool.evaluation.metrics import find_targets, metric_values
from sidtool.evaluation.ranking import IndexedExamples, example_queries, rank_index
from sidtool.evaluation.tuning.mixture_candidates import Candidates, K
from sidtool.evaluation.tuning.mixture_choice import choose_for_new_items
from sidtool.evaluation.tuning.reranker_fit import choose_reranker
from sidtool.memory import (
    DEFAULT,
    ItemContent,
    KnnSettings,
    Memory,
    PairCounter,
    SplitPairs,
    content_similarity,
)
from sidtool.memory.mixture import FeatureIndex, MemoryIndex, Reranker, WeightedMemory
from sidtool.model import LoadedModel, bind_memory, check_model_folder, load_model_folder
from sidtool.model.contract import MemoryBinding, check_model_split, refuse_base_as_output
from sidtool.recommendation import WINDOW, QuerySession, in_windows
from sidtool.recommendation.search import RankedItems, SeenOptions, check_normalize
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import ItemRows


@dataclass(frozen=True, kw_only=True)
class TuneMemoryOptions(SeenOptions):
    """How weight and power are chosen. Raises UsageError for a number out of range."""

    users: int | None = option(None, minimum=1)
    """Validation examples, evenly spread; default: all."""
    num_beams: int = option(100, minimum=10)
    """Beam width, and the number of items that are ranked again; NDCG@10 needs at least 10."""
    rerank: bool = option(True)
    """Fit a re-ranker too, and use it if it is better on users that it was not fitted to."""

    def __post_init__(self) -> None:
        check_options(self)


@keeps_inputs("a model")
def tune_memory(
    model: str | Path,
    split: Split | str | Path,
    memory: Memory | str | Path,
    out: str | Path,
    options: TuneMemoryOptions | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
    **keywords: Any,
) -> MemoryBinding:
    """Write a copy of a model folder that is bound to a memory, with the weight and the power that
    are best on the validation examples of a split, and a gate and a re-ranker if they are better on
    users that they were not fitted to. The model's weights are not changed. `split` and `memory`
    may be values, or where they are. The options may also be given as keywords.

    Raises CompatibilityError if the model, its bundle or the memory may have learned from held-out
    events, the memory is of another bundle or the model is replaced meanwhile, UsageError if `out`
    exists without `force`, is the base of adapters, or the model's scores are not normalized over
    the trie, DataError without validation examples.

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
    options = options_from(TuneMemoryOptions, options, keywords)
    memory, split = opened(memory, "open_memory"), open_model_split(model, split)
    options = options.with_seen(split.reference.targets_repeat)
    examples = plan_tune_memory(model, split, memory, out, options, force=force)
    loaded = load_model_folder(model)
    binding = choose_binding(loaded, memory, examples, split.reference, options, progress)
    bind_memory(model, memory, binding, out, tuned_with=loaded.contract, force=force)
    return binding


def choose_binding(
    loaded: LoadedModel,
    memory: Memory,
    examples: Sequence[Example],
    split: SplitReference,
    options: TuneMemoryOptions,
    progress: Progress | None = None,
) -> MemoryBinding:
    """The weight, power, gate, factor of new items and re-ranker that are chosen on validation
    examples of a split."""
    candidates = candidates_of(loaded, memory, examples, options, progress)
    users = [example.user for example in examples]
    choice, factor = choose_for_new_items(candidates, users)
    reranker: Reranker | None = None
    judged: dict[str, float] = {}
    if options.rerank and (choice.weight > 0 or choice.gate is not None):
        features = FeatureIndex.of(memory, MemoryIndex.of(memory, loaded.bundle), loaded.bundle)
        indexed = IndexedExamples.of(
            loaded.bundle, examples, exclude_seen=bool(options.exclude_seen)
        )
        reranker, judged = choose_reranker(
            candidates.with_factor(factor), choice, indexed, features, memory.manifest
        )
    return MemoryBinding(
        memory.digest,
        choice.weight,
        choice.power,
        {"users": float(len(set(users))), **choice.summary, **judged},
        choice.gate,
        factor,
        split,
        reranker,
    )


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
    refuse_base_as_output(Path(out), contract)
    check_normalize(contract.normalize)
    memory.check_bundle(bundle)
    name = f"split {split.reference}"
    check_model_split(contract, bundle, name, split.reference)
    check_split("the memory", memory.manifest.split, name, split.reference)
    if not split.valid:
        raise DataError("there are no validation examples to tune the memory on")
    return evenly_spaced(split.valid, options.users)


def candidates_of(
    loaded: LoadedModel,
    memory: Memory,
    examples: Sequence[Example],
    options: TuneMemoryOptions,
    progress: Progress | None = None,
) -> Candidates:
    """What the model and the memory recommend for the examples."""
    even = replace(loaded, memory=WeightedMemory(memory, weight=0.5, power=1.0))
    session = QuerySession.of(even)
    assert session.mixture is not None
    indexed = IndexedExamples.of(loaded.bundle, examples, exclude_seen=bool(options.exclude_seen))
    ranked: list[RankedItems] = []
    for batch in in_windows(example_queries(session, indexed), WINDOW, len(examples), progress):
        k = options.num_beams
        ranked += session.search_items(loaded.model, batch, k=k, num_beams=k)
    index = session.mixture.index
    return Candidates.of(indexed, index, ranked, index.distributions(indexed.histories, 1.0))


Grid = Mapping[str, Sequence[Any]]
"""The values to try of each setting."""
Settings = dict[str, Any]

ROUNDS = 2
"""The second round sees the other settings' choices of the first."""
CONTENT = "content_weight"
GRID: Grid = {
    "normalization": (0.5, 0.4, 0.3, 0.2, 0.1),
    CONTENT: (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2),
    "recency": (1.0, 0.9, 0.75, 0.6, 0.45, 0.3),
    "reverse": (1.0, 0.7, 0.5, 0.3, 0.1, 0.0),
    "distance": (1.0, 0.95, 0.85, 0.7, 0.5),
    "shrinkage": (0.0, 1.0, 2.0, 5.0, 10.0, 20.0),
}
"""The values that are tried, those that matter most first."""


@dataclass(frozen=True, kw_only=True)
class TuneSimilarityOptions(SeenOptions):
    """How settings are chosen. Raises UsageError for fewer than one user, and for fixed settings
    of item-kNN that are unknown or out of range."""

    users: int | None = option(5000, minimum=1)
    """Validation examples for --tune, evenly spread."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Settings that are not tuned, by name: fields of KnnSettings, and `content_weight`."""

    def __post_init__(self) -> None:
        check_options(self)
        settings = {name: value for name, value in self.fixed.items() if name != CONTENT}
        options_from(KnnSettings, None, settings)  # refuses unknown names, and values out of range


@dataclass(frozen=True, eq=False)
class TunedSimilarity:
    """What was chosen for a memory."""

    settings: KnnSettings
    content: ItemContent | None
    """None if items are not similar by content"""
    users: int
    """validation examples that it was chosen on"""
    ndcg: float
    """NDCG@10 of the memory alone on them"""
    start_ndcg: float
    """the same with the settings that the search started from"""


def tune_similarity(
    split: Split | SplitManifest | str | Path,
    bundle: Bundle | str | Path,
    content: ItemContent | None = None,
    options: TuneSimilarityOptions | None = None,
    *,
    counter: PairCounter | None = None,
    progress: Callable[[int, int], None] | None = None,
    **keywords: Any,
) -> TunedSimilarity:
    """The settings of a memory with the best NDCG@10 on validation examples of a split. The options
    may also be given as keywords. `split`, `bundle` and a `counter` are as in `build_memory`.

    Test examples are not read. Raises DataError without validation examples, CompatibilityError if
    the bundle's codebook may have learned from held-out events, RefusedError if a held-out event is
    among the training events."""
    options = options_from(TuneSimilarityOptions, options, keywords)
    bundle = opened(bundle, "open_source")
    if isinstance(split, str | Path):
        split = open_split(split, recorded=bundle.manifest.made_from.event_columns)
    options = options.with_seen(split.reference.targets_repeat)
    bundle.check_split("the memory", split.reference)
    counter = counter or SplitPairs(split)
    examples = counter.validation_examples(options.users)
    if not examples:
        raise DataError("the split has no validation examples to tune the memory on")
    trials = _trials(counter, bundle, examples, content, options)
    start = asdict(DEFAULT) | {CONTENT: 0.0 if content is None else content.settings.weight}
    start |= options.fixed
    names = GRID.keys() - options.fixed.keys() - ({CONTENT} if content is None else set())
    grid = {name: values for name, values in GRID.items() if name in names}
    best, ndcg = coordinate_search(start, grid, trials, progress)
    weight = best.pop(CONTENT)
    weighted_content = content.weighted(weight) if content is not None and weight else None
    n = len(examples)
    return TunedSimilarity(KnnSettings(**best), weighted_content, n, ndcg, trials(start))


def _trials(
    counter: PairCounter,
    bundle: Bundle,
    validation_examples: Sequence[Example],
    content: ItemContent | None,
    options: TuneSimilarityOptions,
) -> Callable[[Settings], float]:
    """The NDCG@10 of settings, as a function of them."""
    ids = bundle.items.id_texts
    events = counter.count(ids, DEFAULT.distance)
    examples = IndexedExamples.of(
        bundle, validation_examples, exclude_seen=bool(options.exclude_seen)
    )
    targets = examples.target_positions

    @lru_cache(maxsize=1)  # trials of recency have the same similarities
    def index_of(weight: float, settings: KnnSettings) -> MemoryIndex:
        weighted = None
        if content is not None and weight:
            weighted = content_similarity(content.nearest, weight, events)
        counter.count(ids, settings.distance)
        _, neighbors = counter.similar(events, settings, weighted)
        rows = ItemRows(np.arange(len(ids)))
        return MemoryIndex.of_neighbors(neighbors, events, 1.0, bundle, rows)

    def ndcg(values: Settings) -> float:
        settings = KnnSettings(**{name: values[name] for name in values if name != CONTENT})
        # recency weights histories, not similarities: any value of it has the index of 1
        index = index_of(values[CONTENT], replace(settings, recency=1.0))
        index = replace(index, recency=settings.recency)
        ranked = rank_index(index, examples, power=1.0, k=K)
        ndcg_values = metric_values(find_targets(ranked, targets), [K])[:, 1]
        return float(ndcg_values.mean())

    return ndcg


def coordinate_search(
    start: Mapping[str, Any],
    grid: Grid,
    quality: Callable[[Settings], float],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Settings, float]:
    """The settings with the best quality, and that quality: from `start`, every value of one
    setting after the other, in ROUNDS. Equal results keep the earlier setting."""
    best = dict(start)
    qualities = {tuple(best.values()): quality(best)}
    trials = [(name, value) for name, values in grid.items() for value in values] * ROUNDS
    for done, (name, value) in enumerate(trials, start=1):
        candidate = best | {name: value}
        key = tuple(candidate.values())
        if key not in qualities:
            qualities[key] = quality(candidate)
        if qualities[key] > qualities[tuple(best.values())]:
            best = candidate
        if progress is not None:
            progress(done, len(trials))
    return best, qualities[tuple(best.values())]
