"""Ranks of items from ranked SIDs, against a slow count of the items before them."""

import tracemalloc
from typing import Any

import numpy as np
import pytest

from sidtool.data.split import Example
from sidtool.evaluation import IndexedExamples, rank_examples
from sidtool.evaluation.ranking import COVERED, SystemValues, first_items, item_ranks, sid_ranks
from sidtool.recommendation import RecommendOptions, Request, query, recommend
from sidtool.tokenizer.bundle import Bundle
from tests.evaluation.shop import random_leaves, shop, visits
from tests.loaded import loaded_model

K = 30


def groups(bundle: Bundle, leaves: Any, banned: set[str]) -> list[list[str]]:
    """The item ids of each leaf, banned ones left out."""
    trie = bundle.trie()
    rows = (trie.item_rows(trie.leaf_positions(leaf)) for leaf in leaves if leaf >= 0)
    named = [[bundle.items.ids[row] for row in group] for group in rows]
    return [[item for item in group if item not in banned] for group in named]


@pytest.mark.parametrize(("shared", "exclude_seen"), [(False, False), (True, True)])
def test_ranks_count_only_items_that_may_be_recommended(shared: bool, exclude_seen: bool) -> None:
    bundle = shop(shared=shared, retired=["i3", "i4", "i5"])
    _, examples = visits()
    indexed = IndexedExamples.of(bundle, examples, exclude_seen=exclude_seen)
    leaves = random_leaves(bundle, len(examples), K)
    leaves[::4, 3:] = -1
    if exclude_seen and not shared:  # the decoder's filter takes these away
        for row, ranked in enumerate(leaves):
            eligible = ranked[~np.isin(ranked, indexed.denied_positions(row))]
            ranked[:] = [*eligible, *[-1] * (K - len(eligible))]
    ranks, sids = item_ranks(indexed, leaves), sid_ranks(indexed, leaves)
    first = first_items(indexed, leaves, 10)
    hits = 0
    for row, example in enumerate(examples):
        banned = set(example.history) if exclude_seen else set()
        order = groups(bundle, leaves[row], banned)
        flat = [item for group in order for item in group]
        places = [place for place in first[row] if place >= 0]
        assert [bundle.items.ids[bundle.active[place]] for place in places] == flat[:10]
        at = next((n for n, group in enumerate(order) if example.item in group), None)
        if at is None:
            assert ranks.group_size[row] == sids.group_size[row] == 0
            continue
        hits += 1
        assert ranks.before[row] == sum(map(len, order[:at]))
        assert ranks.group_size[row] == len(order[at])
        assert (sids.group_size[row], sids.before[row]) == (1, at)
    assert hits > 5


def test_the_other_items_of_shared_sids_are_not_kept() -> None:
    bundle = shop(shared=True, items=2000)
    _, examples = visits(users=300, items=2000)
    indexed = IndexedExamples.of(bundle, examples, exclude_seen=False)
    leaves = random_leaves(bundle, len(examples), K)
    first_items(indexed, leaves[:1], 10)
    tracemalloc.start()
    try:
        first_items(indexed, leaves, 10)
        assert tracemalloc.get_traced_memory()[1] < 300_000
    finally:
        tracemalloc.stop()


def test_targets_that_cannot_be_recommended_are_misses() -> None:
    bundle = shop(shared=False, retired=["i1"])
    examples = [
        Example("u", ("i2", "ghost", "i1"), "i0", 3),
        Example("u", ("i2",), "i1", 1),  # retired
        Example("u", ("i2",), "ghost", 1),
        Example("u", ("i2", "i0"), "i2", 2),  # seen
    ]
    indexed = IndexedExamples.of(bundle, examples, exclude_seen=True)
    assert (indexed.target_positions >= 0).tolist() == [True, False, False, False]
    # nor can an item for which a model has no tokens
    adopted = bundle.without(bundle.items.rows(["i0"]))
    targets = IndexedExamples.of(adopted, examples, exclude_seen=False).targets
    assert (targets >= 0).tolist() == [False, False, False, True]
    # a retired item stays in the history
    assert indexed.histories[0].tolist() == bundle.items.rows(["i2", "i1"]).tolist()
    with_seen = IndexedExamples.of(bundle, examples, exclude_seen=False).target_positions
    assert (with_seen >= 0).tolist() == [True, False, False, True]
    everything = np.tile(np.arange(bundle.trie().n_leaves), (4, 1))
    assert (item_ranks(indexed, everything).group_size > 0).tolist() == [True, False, False, False]


@pytest.mark.parametrize(("shared", "exclude_seen"), [(False, False), (True, True)])
def test_the_ranking_is_what_recommend_returns(
    shared: bool, exclude_seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = shop(shared=shared, retired=["i3"])
    _, examples = visits(users=12)
    model = loaded_model(bundle)
    steps: list[tuple[int, int]] = []
    monkeypatch.setattr(query, "WINDOW", 5)
    indexed = IndexedExamples.of(bundle, examples, exclude_seen=exclude_seen)
    leaves = rank_examples(
        model, indexed, k=10, num_beams=20, progress=lambda *step: steps.append(step)
    ).leaves
    assert steps == [(5, 12), (10, 12), (12, 12)]
    requests = [Request(example.user, example.history) for example in examples]
    options = RecommendOptions(k=10, num_beams=20, exclude_seen=exclude_seen)
    answers = recommend(model, requests, options)
    for answer, places in zip(answers, first_items(indexed, leaves, 10), strict=True):
        assert [bundle.items.ids[bundle.active[place]] for place in places] == list(answer.items)


def test_items_that_repeat_a_sid_count_once_among_sids() -> None:
    bundle = shop(shared=True)
    _, examples = visits()
    indexed = IndexedExamples.of(bundle, examples, exclude_seen=False)
    positions = np.argsort(np.random.default_rng(0).random((len(examples), 30)), axis=1)
    leaves = bundle.trie().leaves(positions)
    assert len(np.unique(leaves[0])) < 30
    first = SystemValues.of_items(indexed, positions, [10]).first_items
    assert (first == positions[:, :COVERED]).all()
    ranks = sid_ranks(indexed, leaves)
    for row, target in enumerate(indexed.target_leaves.tolist()):
        distinct = list(dict.fromkeys(leaves[row].tolist()))
        sid_rank = (ranks.before[row], ranks.group_size[row])
        assert sid_rank == ((distinct.index(target), 1) if target in distinct else (0, 0))
