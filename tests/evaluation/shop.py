"""A small shop with shared SIDs, retired items and random users, for the tests of metrics."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from sidtool.data.split import Example, Split, UserSequence
from sidtool.evaluation import Evaluation, EvaluationOptions, IndexedExamples
from sidtool.evaluation.evaluation import evaluation_of
from sidtool.evaluation.ranking import SystemValues
from sidtool.memory import ItemContent, Memory, build_memory
from sidtool.model import LoadedModel
from sidtool.tokenizer.bundle import Bundle
from tests.bundles import small_bundle
from tests.loaded import loaded_model


def shop(*, shared: bool, retired: Sequence[str] = (), items: int = 40) -> Bundle:
    """40 items "i0" ...; with `shared` on 24 SIDs at most."""
    sizes = (2, 3, 4) if shared else (4, 5, 6)
    bundle = small_bundle(items, sizes, duplicates=shared)
    flags = bundle.items.retired.copy()
    flags[bundle.items.rows(retired)] = True
    items = replace(bundle.items, retired=flags)
    return Bundle.of(items, None, "allow" if shared else "reassign", name="shop")


def visits(
    seed: int = 0, users: int = 30, items: int = 40
) -> tuple[list[UserSequence], list[Example]]:
    """Training events and a test example for each user; a target may repeat an item of its
    history."""
    rng = np.random.default_rng(seed)
    sequences, examples = [], []
    for user in range(users):
        walk = [f"i{number}" for number in rng.integers(0, items, size=rng.integers(3, 9))]
        sequences.append(UserSequence(f"u{user}", tuple(walk[:-1]), tuple(range(len(walk) - 1))))
        examples.append(Example(f"u{user}", tuple(walk[:-1]), walk[-1], len(walk) - 1))
    return sequences, examples


def random_leaves(bundle: Bundle, n: int, k: int, seed: int = 0) -> np.ndarray:
    """(n, k) leaves in random order, padded with -1."""
    rng = np.random.default_rng(seed)
    leaves = np.full((n, k), -1, dtype=np.int64)
    for row in leaves:
        order = rng.permutation(bundle.trie().n_leaves)[:k]
        row[: len(order)] = order
    return leaves


def evaluate_shop(
    bundle: Bundle,
    examples: Sequence[Example],
    leaves: np.ndarray,
    events: Sequence[UserSequence] | None,
    **options: Any,
) -> Evaluation:
    """The evaluation of (n, k) ranked leaves, best first; -1 where there are no more."""
    made = EvaluationOptions(**options)
    indexed = IndexedExamples.of(bundle, examples, exclude_seen=bool(made.exclude_seen))
    values = SystemValues.of_sids(indexed, leaves, made.ks)
    return evaluation_of(indexed, values, leaves, {}, events, made)


def trie_model(*, shared: bool) -> LoadedModel:
    """A model of the shop whose scores are normalized over the trie, as a memory needs them."""
    loaded = loaded_model(shop(shared=shared))
    return replace(loaded, contract=replace(loaded.contract, normalize="trie"))


def memory_of(
    events: Sequence[UserSequence], bundle: Bundle, content: ItemContent | None = None
) -> Memory:
    return build_memory(Split("leave-one-out", tuple(events), (), ()), bundle, content=content)
