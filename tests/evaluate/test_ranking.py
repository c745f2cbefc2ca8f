"""From ranked SIDs to the places of items, against a slow account of who stands where."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from sidtool.bundle.bundle import Bundle
from sidtool.data.splits import Example
from sidtool.errors import DataError
from sidtool.evaluate.metrics import metric_values
from sidtool.evaluate.ranking import Asked, first_items, item_places, sid_places
from tests.evaluate.shop import random_leaves, shop, visits

K = 30


def groups(bundle: Bundle, leaves: Any, banned: set[str]) -> list[list[str]]:
    """The item ids of each leaf, banned ones left out."""
    named = [
        [bundle.items.ids[row] for row in bundle.trie().leaf_rows(leaf)]
        for leaf in leaves
        if leaf >= 0
    ]
    return [[item for item in group if item not in banned] for group in named]


@pytest.mark.parametrize("exclude_seen", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_places_count_what_may_be_given(shared: bool, exclude_seen: bool) -> None:
    bundle = shop(shared=shared, retired=["i3", "i4", "i5"])
    _, examples = visits()
    asked = Asked.of(bundle, examples, exclude_seen=exclude_seen)
    leaves = random_leaves(bundle, len(examples), K)
    if exclude_seen and not shared:  # the decoder's filter takes these away
        for row, ranked in enumerate(leaves):
            kept = ranked[~np.isin(ranked, asked.denied(row))]
            ranked[:] = [*kept, *[-1] * (K - len(kept))]
    places, sids = item_places(asked, leaves), sid_places(asked, leaves)
    first = first_items(asked, leaves, 10)
    hits = 0
    for row, example in enumerate(examples):
        banned = set(example.history) if exclude_seen else set()
        order = groups(bundle, leaves[row], banned)
        flat = [item for group in order for item in group]
        assert [
            bundle.items.ids[bundle.active[place]] for place in first[row] if place >= 0
        ] == flat[:10]
        at = next((n for n, group in enumerate(order) if example.item in group), None)
        if at is None:
            assert places.group[row] == sids.group[row] == 0
            continue
        hits += 1
        assert (places.before[row], places.group[row]) == (
            sum(map(len, order[:at])),
            len(order[at]),
        )
        assert sids.group[row] == 1
        assert sids.before[row] == at
    assert hits > 5


def test_a_shared_sid_is_no_full_hit_on_the_item() -> None:
    bundle = shop(shared=True)
    _, examples = visits()
    asked = Asked.of(bundle, examples, exclude_seen=False)
    leaves = random_leaves(bundle, len(examples), K)
    items, sids = (
        metric_values(item_places(asked, leaves)),
        metric_values(sid_places(asked, leaves)),
    )
    assert (items <= sids + 1e-12).all()
    assert items.mean() < sids.mean()


def test_what_can_never_be_right() -> None:
    bundle = shop(shared=False, retired=["i1"])
    examples = [
        Example("u", ("i2", "ghost", "i1"), "i0", 3),
        Example("u", ("i2",), "i1", 1),  # retired
        Example("u", ("i2",), "ghost", 1),
        Example("u", ("i2", "i0"), "i2", 2),  # seen
    ]
    asked = Asked.of(bundle, examples, exclude_seen=True)
    assert (asked.answerable >= 0).tolist() == [True, False, False, False]
    # a retired item still tells what somebody liked
    assert asked.histories[0].tolist() == bundle.items.rows(["i2", "i1"]).tolist()
    assert (Asked.of(bundle, examples, exclude_seen=False).answerable >= 0).tolist() == [
        True,
        False,
        False,
        True,
    ]
    everything = np.tile(np.arange(bundle.trie().n_leaves), (4, 1))
    assert (item_places(asked, everything).group > 0).tolist() == [True, False, False, False]


def served(bundle: Bundle, *, task: bool = True) -> Any:
    """A tiny random model that is served with plain SID histories."""
    torch = pytest.importorskip("torch")
    from sidtool.model.compat import Verdict
    from sidtool.model.contract import Contract
    from sidtool.model.load import LoadedModel
    from sidtool.prompt.prompts import HistoryPrompt
    from tests.models import tiny_model, tiny_tokenizer

    torch.set_num_threads(1)
    tokenizer = tiny_tokenizer()
    start = len(tokenizer)
    tokenizer.add_tokens(list(bundle.space.tokens))
    history_prompt = (
        HistoryPrompt("next-item", "History: {history} Next: ", 5, 200) if task else None
    )
    contract = Contract(
        bundle.identity,
        bundle.space,
        start,
        "tiny",
        None,
        {},
        "tuned",
        history_prompt=history_prompt,
    )
    model = tiny_model("llama", vocab_size=len(tokenizer))
    return LoadedModel(model, tokenizer, contract, bundle, Verdict("same"))


@pytest.mark.parametrize("exclude_seen", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_the_model_is_asked_as_recommend_asks_it(
    shared: bool, exclude_seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sidtool.evaluate import ranking
    from sidtool.recommend.recommend import Request, recommend

    bundle = shop(shared=shared, retired=["i3"])
    _, examples = visits(users=12)
    model = served(bundle)
    steps: list[tuple[int, int]] = []
    monkeypatch.setattr(ranking, "CHUNK", 5)
    asked = Asked.of(bundle, examples, exclude_seen=exclude_seen)
    leaves = ranking.rank_sids(
        model, asked, k=10, width=20, progress=lambda *step: steps.append(step)
    )
    assert steps == [(5, 12), (10, 12), (12, 12)]
    requests = [Request(example.user, example.history) for example in examples]
    answers = recommend(model, requests, k=10, width=20, exclude_seen=exclude_seen)
    for answer, places in zip(answers, first_items(asked, leaves, 10), strict=True):
        assert [bundle.items.ids[bundle.active[place]] for place in places] == list(answer.items)


def test_the_ranking_comes_from_the_history() -> None:
    from sidtool.evaluate.ranking import rank_sids

    bundle = shop(shared=False)
    histories = [("i1", "i2"), ("i2", "i1"), ("i7",)]
    asked = Asked.of(
        bundle, [Example("u", history, "i0", 2) for history in histories], exclude_seen=False
    )
    ranked = rank_sids(served(bundle), asked, k=10, width=40)
    assert all((one != other).any() for one, other in pairwise(ranked))


def test_a_model_without_a_task_is_refused() -> None:
    from sidtool.evaluate.ranking import rank_sids

    bundle = shop(shared=False)
    asked = Asked.of(bundle, visits(users=1)[1], exclude_seen=False)
    with pytest.raises(DataError, match="how it is served"):
        rank_sids(served(bundle, task=False), asked, k=5, width=5)


def test_a_catalog_smaller_than_k_ends_early() -> None:
    from sidtool.evaluate.ranking import rank_sids

    bundle = shop(shared=False, items=6)
    asked = Asked.of(bundle, [Example("u", ("i1", "i2"), "i3", 2)], exclude_seen=True)
    [ranked] = rank_sids(served(bundle), asked, k=10, width=10)
    assert sorted(ranked[:4]) == sorted(set(range(6)) - set(asked.denied(0).tolist()))
    assert (ranked[4:] == -1).all()
