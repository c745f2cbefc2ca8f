"""How far new items are let in: as far as users with warm targets do not lose."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from sidtool.data.split import UserSequence
from sidtool.evaluation import EvaluationOptions, TuneMemoryOptions
from sidtool.evaluation.evaluation import evaluate_examples
from sidtool.evaluation.memory_tuning import candidates_of
from sidtool.evaluation.mixture_candidates import Candidates, K, gains
from sidtool.evaluation.mixture_choice import FACTORS, LOSS, MixtureChoice, choose_for_new_items
from sidtool.memory import DEFAULT_NEW_ITEM_FACTOR, ItemContent, ItemDistribution, WeightedMemory
from sidtool.memory.manifest import ContentSettings
from tests.evaluation.shop import memory_of, trie_model, visits

USERS = 600
ITEMS = 40
NEW = 20
IDS = [f"u{number}" for number in range(USERS)]


def shop_candidates(seed: int, *, new_score: float, new_share: float) -> Candidates:
    """A memory that is often right about old items, and scores 20 new ones higher by `new_score`.
    A share of the users wants a new item."""
    rng = np.random.default_rng(seed)
    model = rng.dirichlet(np.full(ITEMS, 0.3), USERS)
    scores = rng.normal(size=(USERS, ITEMS))
    wants_new = rng.random(USERS) < new_share
    targets = np.where(
        wants_new, rng.integers(ITEMS - NEW, ITEMS, USERS), rng.integers(0, ITEMS - NEW, USERS)
    )
    scores[np.arange(USERS), targets] += 2.0
    scores[:, ITEMS - NEW :] += new_score
    logs = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
    items = np.arange(ITEMS)
    return Candidates(
        np.tile(items, (USERS, 1)),
        np.log(model + 1e-9),
        logs,
        tuple(ItemDistribution(items, row) for row in logs),
        targets,
        np.zeros(USERS, dtype=np.bool_),
        rng.normal(size=(USERS, 5)),
        np.zeros(USERS, dtype=np.bool_),  # no gate is fitted
        ~wants_new,
        items >= ITEMS - NEW,
    )


def recall(choice: MixtureChoice, candidates: Candidates) -> np.ndarray:
    """Whether the target of each user with a warm one is among the first ten."""
    return (choice.ranks(candidates.select(candidates.is_warm)) < K).astype(np.float64)


@pytest.mark.parametrize("new_score", [1.0, 3.0])
def test_users_with_warm_targets_lose_less_than_the_noise(new_score: float) -> None:
    candidates = shop_candidates(0, new_score=new_score, new_share=0.3)
    choice, factor = choose_for_new_items(candidates, IDS)
    assert 0 < factor < 1
    without = candidates.with_factor(0.0)
    before = recall(choice, without)
    assert choice == replace(
        MixtureChoice.of(without.select(without.is_warm)), summary=choice.summary
    )
    n = len(before)
    deviation = np.sqrt(before.mean() * (1 - before.mean()) / n)
    lost = {
        each: before.mean() - recall(choice, candidates.with_factor(each)).mean()
        for each in FACTORS
    }
    # the bootstrap's interval is 1.96 deviations to each side, give or take
    assert lost[factor] <= LOSS * 2.2 * deviation
    assert all(lost[each] > LOSS * 1.7 * deviation for each in FACTORS if each > factor)
    # users who want a new item gain
    new = candidates.select(~candidates.is_warm)
    with_new = gains(choice.ranks(new.with_factor(factor))).mean()
    without_new = gains(choice.ranks(new.with_factor(0.0))).mean()
    assert with_new > without_new
    ranks = choice.ranks(candidates.with_factor(factor))
    assert choice.summary["ndcg@10 mixture"] == pytest.approx(gains(ranks).mean())
    assert choice.summary["hr@10 of warm targets, without new items"] == before.mean()
    assert choice.summary["users"] == USERS
    # the memory's own figure is of all users, beside the one that the factor was chosen with
    of_all = MixtureChoice.of(candidates).summary["ndcg@10 memory"]
    assert choice.summary["ndcg@10 memory"] == of_all
    of_warm = MixtureChoice.of(without.select(without.is_warm)).summary["ndcg@10 memory"]
    assert choice.summary["ndcg@10 memory of warm targets, without new items"] == of_warm


def test_new_items_that_hurt_nobody_keep_their_scores() -> None:
    candidates = shop_candidates(1, new_score=-9.0, new_share=0.3)
    choice, factor = choose_for_new_items(candidates, IDS)
    assert factor == 1
    expected = MixtureChoice.of(candidates)
    assert (choice.weight, choice.power) == (expected.weight, expected.power)


def test_a_memory_without_new_items_has_the_default() -> None:
    candidates = shop_candidates(2, new_score=3.0, new_share=0.3)
    candidates = replace(candidates, is_new=np.zeros(ITEMS, dtype=np.bool_))
    choice, factor = choose_for_new_items(candidates, IDS)
    assert factor == DEFAULT_NEW_ITEM_FACTOR
    assert choice == MixtureChoice.of(candidates)


def test_users_who_all_want_new_items_lose_nothing() -> None:
    candidates = shop_candidates(3, new_score=1.0, new_share=1.0)
    assert choose_for_new_items(candidates, IDS)[1] == 1


@pytest.mark.parametrize(("shared", "factor"), [(False, 0.0), (True, 0.1)])
def test_ranks_with_a_factor_are_those_of_an_evaluation(shared: bool, factor: float) -> None:
    loaded = trie_model(shared=shared)
    events, examples = visits(users=40)
    old = {item for user in events[:3] for item in user.items}
    few = tuple(
        UserSequence(user.user, items, tuple(range(len(items))))
        for user in events
        if len(items := tuple(item for item in user.items if item in old)) > 1
    )
    cosines = np.triu(np.random.default_rng(0).random((40, 40)), k=1).astype(np.float32)
    content = ItemContent(sparse.csr_matrix(cosines), ContentSettings("codes"))
    memory = memory_of(few, loaded.bundle, content)
    assert (memory.events == 0).any()
    options = TuneMemoryOptions(num_beams=40)
    candidates = candidates_of(loaded, memory, examples, options, None).with_factor(factor)
    how = EvaluationOptions(ks=(10,), baselines=False, num_beams=40)
    for weight, power in ((0.4, 1.5), (1.0, 2.0)):
        ranks = candidates.ranks(candidates.raised(power), weight)
        mixed = WeightedMemory(memory, weight, power, new_item_factor=factor)
        evaluation = evaluate_examples(replace(loaded, memory=mixed), examples, few, how)
        assert gains(ranks).mean() == pytest.approx(evaluation.metrics["ndcg@10"], abs=1e-9)
        if weight == 1:
            alone = evaluation.baselines["memory alone"]["ndcg@10"]
            assert alone == pytest.approx(evaluation.metrics["ndcg@10"], abs=1e-9)
