"""A model before and after items were added to its bundle, measured alone, with a memory, and
beside text-kNN."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from compared import compare
from new_items import text_knn
from numpy.typing import NDArray

from sidtool.data.split.split import Split
from sidtool.data.split.values import Example
from sidtool.data.vectors import Vectors
from sidtool.evaluation.bootstrap import paired_differences
from sidtool.evaluation.evaluation import evaluate_examples
from sidtool.evaluation.options import EvaluationOptions
from sidtool.evaluation.results import Evaluation
from sidtool.model.load import LoadedModel
from sidtool.recommendation.recommend_options import RecommendOptions
from sidtool.recommendation.recommendations import recommend
from sidtool.recommendation.requests import Request
from sidtool.tokenizer.make.diff import diff

METRIC, K, WIDTH = "hr@10", 10, 50
SCORED_USERS = 500
"""Users with a new target for whom every new item is scored, which takes one tree per user."""


@dataclass(frozen=True, eq=False)
class Growth:
    """A model with its memory before and after items were added, and what both are measured on."""

    before: LoadedModel
    after: LoadedModel
    split: Split
    vectors: Vectors
    """(n, dim) vectors of the items, in the order of the later bundle's rows"""
    exclude_seen: bool

    @cached_property
    def new_items(self) -> tuple[str, ...]:
        """The ids of the items that were added."""
        return tuple(diff(self.before.bundle, self.after.bundle).added)

    def targets(self, *, new: bool) -> list[Example]:
        """The test examples whose target is new, or those whose target is old."""
        new_items = set(self.new_items)
        return [example for example in self.split.test if (example.item in new_items) == new]

    def without_new_items(self, examples: Sequence[Example]) -> list[Example]:
        """The examples with the old items of their histories alone, where there are any."""
        new_items = set(self.new_items)
        old = [
            replace(
                example, history=tuple(item for item in example.history if item not in new_items)
            )
            for example in examples
        ]
        return [example for example in old if example.history]


def measure(model: LoadedModel, examples: Sequence[Example], exclude_seen: bool) -> Evaluation:
    """An evaluation without baselines; of a model with a memory also of the two alone."""
    options = EvaluationOptions(num_beams=WIDTH, exclude_seen=exclude_seen)
    return evaluate_examples(model, examples, None, options)


def after_adding(growth: Growth, seed: int) -> dict[str, Any]:
    """The model before and after: users whose target is an old item with both, users whose target
    is a new one with the later."""
    old = growth.targets(new=False)
    new = growth.targets(new=True)
    new_items = set(growth.new_items)
    events = [item for sequence in growth.split.train for item in sequence.items]
    alone = replace(growth, before=alone_of(growth.before), after=alone_of(growth.after))
    return {
        "moved": len(diff(growth.before.bundle, growth.after.bundle).moved),
        "added": len(new_items),
        "training_events_of_new_items": sum(item in new_items for item in events),
        "valid_targets_that_are_new": sum(
            example.item in new_items for example in growth.split.valid
        ),
        "memory": memory_record(growth.after),
        "old_targets": {
            "n": len(old),
            **before_and_after(alone, old),
            "with_memory": before_and_after(growth, old),
        },
        "new_targets": {
            **full_catalog(growth, new),
            "histories_without_new_items": full_catalog(growth, growth.without_new_items(new)),
        },
        "new_targets_among_new_items": only_new_items(growth, new, seed),
    }


def alone_of(model: LoadedModel) -> LoadedModel:
    """The model without its memory."""
    return replace(model, memory=None)


def memory_record(model: LoadedModel) -> dict[str, Any]:
    """The settings, weight and power of a model's memory."""
    weighted = model.memory
    assert weighted is not None
    manifest = weighted.memory.manifest
    content = 0 if manifest.content is None else manifest.content.weight
    return {**weighted.to_json(), **asdict(manifest.settings), "content_weight": content}


def before_and_after(growth: Growth, examples: Sequence[Example]) -> dict[str, Any]:
    """The metric of both models, and the paired difference."""
    before = measure(growth.before, examples, growth.exclude_seen)
    after = measure(growth.after, examples, growth.exclude_seen)
    return {
        "before": before.metrics[METRIC],
        "after": after.metrics[METRIC],
        "difference": asdict(compare(after, before)["all"][METRIC]),
    }


def full_catalog(growth: Growth, examples: Sequence[Example]) -> dict[str, Any]:
    """The metric of the later model, alone and with its memory, of the memory alone and of
    text-kNN, where every item may be recommended."""
    evaluation = measure(growth.after, examples, growth.exclude_seen)
    hits = text_hits(growth, examples)
    parts = evaluation.baselines  # without those of the mixture if the memory has the weight 0
    return {
        "n": len(examples),
        "beam": parts.get("model alone", evaluation.metrics)[METRIC],
        "with_memory": evaluation.metrics[METRIC],
        "with_memory_interval": evaluation.confidence_interval[METRIC],
        "memory_alone": parts["memory alone"][METRIC] if "memory alone" in parts else None,
        "text_knn": float(hits.mean()),
    }


def only_new_items(growth: Growth, examples: Sequence[Example], seed: int) -> dict[str, Any]:
    """Hit rates where only new items may be recommended: by beam search under an allow list, by
    scoring every one of them, and by text-kNN."""
    order = np.random.default_rng(seed).permutation(len(examples))[:SCORED_USERS]
    sample = [examples[index] for index in order.tolist()]
    new_items = growth.new_items
    alone = list_hits(alone_of(growth.after), sample, growth)
    with_memory = list_hits(growth.after, sample, growth)
    by_text = text_hits(growth, sample, only=growth.after.bundle.items.rows(new_items))
    users = [example.user for example in sample]
    return {
        "n": len(sample),
        "items": len(new_items),
        "chance": K / len(new_items),
        **{name: float(hits.mean()) for name, hits in alone.items()},
        "with_memory": {name: float(hits.mean()) for name, hits in with_memory.items()},
        "text_knn": float(by_text.mean()),
        "with_memory_over_text_knn": {
            name: hit_difference(hits, by_text, users) for name, hits in with_memory.items()
        },
    }


def list_hits(
    model: LoadedModel, examples: Sequence[Example], growth: Growth
) -> dict[str, NDArray[np.float64]]:
    """(n,) whether each target is among the first K of the new items, by allow list and by
    candidate scoring."""
    requests = [Request(history=example.history) for example in examples]
    options = RecommendOptions(k=K, num_beams=WIDTH, exclude_seen=growth.exclude_seen)
    allowed = replace(options, allow=growth.new_items)
    answers = {
        "allow_list": recommend(model, requests, allowed),
        "candidate_scoring": recommend(model, requests, options, candidates=growth.new_items),
    }
    hits = {}
    for name, recommendations in answers.items():
        pairs = zip(examples, recommendations, strict=True)
        is_hit = [example.item in ranked.items for example, ranked in pairs]
        hits[name] = np.array(is_hit, dtype=np.float64)
    return hits


def text_hits(
    growth: Growth, examples: Sequence[Example], *, only: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """(n,) whether each target is among the first K of text-kNN; `only` as in `text_knn`."""
    items = growth.after.bundle.items
    histories = [items.rows(example.history) for example in examples]
    targets = items.rows([example.item for example in examples])
    ranked = text_knn(growth.vectors, histories, K, exclude_seen=growth.exclude_seen, only=only)
    return (ranked == targets[:, None]).any(axis=1).astype(np.float64)


def hit_difference(
    hits: NDArray[np.float64], other_hits: NDArray[np.float64], users: Sequence[str]
) -> dict[str, float]:
    """The paired difference of two hit rates, with its interval."""
    differences = paired_differences([METRIC], hits[:, None], other_hits[:, None], users)
    return asdict(differences["all"][METRIC])
