"""Chooses the weight and the power of a memory on validation users, by NDCG@10, whether a gate
gives each request its own weight, and whether a re-ranker orders the best items.

The model answers each user once: the best items of an even mixture are ranked again for every
weight and power. A choice that keeps the memory's recall of rare targets goes before all others.
New items are let in as far as users with other targets do not lose by them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sidtool.base.errors import DataError
from sidtool.base.extras import require
from sidtool.base.options import options_from
from sidtool.base.output import refuse_existing
from sidtool.base.output_name import FOLDER
from sidtool.base.progress import Progress
from sidtool.data.split import Example, Split, SplitReference, check_split, evenly_spaced
from sidtool.evaluation.mixture_candidates import Candidates
from sidtool.evaluation.mixture_choice import choose_for_new_items
from sidtool.evaluation.options import TuneMemoryOptions
from sidtool.evaluation.ranking import IndexedExamples, example_queries
from sidtool.evaluation.reranker_fit import choose_reranker
from sidtool.memory import FeatureIndex, Memory, MemoryIndex, Reranker, WeightedMemory
from sidtool.model import LoadedModel, bind_memory, check_model_folder, load_model_folder
from sidtool.model.contract import MemoryBinding, check_model_split
from sidtool.recommendation import WINDOW, QuerySession, in_windows
from sidtool.recommendation.search import RankedItems, check_normalize


def tune_memory(
    model: str | Path,
    split: Split,
    memory: Memory,
    out: str | Path,
    options: TuneMemoryOptions | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
    **given: Any,
) -> MemoryBinding:
    """Write a copy of a model folder that is bound to a memory, with the weight and the power that
    are best on the validation examples of a split, and a gate and a re-ranker if they are better on
    users that they were not fitted to. The model's weights are not changed. The options may also be
    given as keywords.

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
    options = options_from(TuneMemoryOptions, options, given)
    options = options.with_seen(split.reference.targets_repeat)
    examples = plan_tune_memory(model, split, memory, out, options, force=force)
    loaded = load_model_folder(model)
    binding = choose_binding(loaded, memory, examples, split.reference, options, progress)
    bind_memory(model, memory, binding, out, force=force)
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
    choice, factor = choose_for_new_items(candidates, [example.user for example in examples])
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
        {**choice.summary, **judged},
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
