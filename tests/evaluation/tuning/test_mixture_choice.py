"""What is chosen of a memory on validation users, against evaluations: weight, power, gate, and how
far new items are let in."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from sidtool.base.errors import UsageError
from sidtool.data.split import Example, UserSequence
from sidtool.evaluation import EvaluationOptions
from sidtool.evaluation.evaluation import evaluate_examples
from sidtool.evaluation.tuning import TuneMemoryOptions
from sidtool.evaluation.tuning.memory_tuning import candidates_of
from sidtool.evaluation.tuning.mixture_candidates import Candidates, K, gains
from sidtool.evaluation.tuning.mixture_choice import (
    FACTORS,
    LOSS,
    POWERS,
    WEIGHTS,
    MixtureChoice,
    best_cell,
    choose_for_new_items,
    choose_gate,
    fit_gate,
    gate_loss,
    grid_ranks,
)
from sidtool.memory import ItemContent
from sidtool.memory.manifest import ContentSettings
from sidtool.memory.mixture import DEFAULT_NEW_ITEM_FACTOR, ItemDistribution, WeightedMemory
from sidtool.model.prompt import HistoryPrompt
from tests.bundles import small_bundle
from tests.evaluation.shop import memory_of, trie_model, visits
from tests.loaded import loaded_model
from tests.memory.cases import small_memory


def test_fewer_items_than_the_cut_off_choose_nothing() -> None:
    """Of one candidate, every weight and the model alone have the same NDCG@10."""
    with pytest.raises(UsageError, match="num_beams must be at least 10, not 9"):
        TuneMemoryOptions(num_beams=9)


def test_users_of_whom_nothing_is_known_choose_nothing() -> None:
    bundle = small_bundle(begin_end_tokens=False)  # nothing is left of their prompt
    loaded = loaded_model(bundle, history_prompt=HistoryPrompt("sequence", "{history}", 5, 200))
    loaded = replace(loaded, contract=replace(loaded.contract, normalize="trie"))
    users = [Example("u", ("gone",), "i0", 1)]
    candidates = candidates_of(loaded, small_memory(bundle), users, TuneMemoryOptions())
    assert choose_for_new_items(candidates, ["u"])[0].weight == 0


def test_of_equal_values_the_smallest_weight_is_chosen() -> None:
    candidates = users(0, informative=True)
    everyone = np.ones(USERS, dtype=np.bool_)
    ranks = np.full((len(WEIGHTS), len(POWERS), USERS), K)
    assert best_cell(ranks, candidates, everyone)[:2] == (0.0, POWERS[0])
    ranks[4:7, 5] = ranks[4, 6] = 3
    assert best_cell(ranks, candidates, everyone)[:2] == (WEIGHTS[4], POWERS[5])


USERS = 400
WIDTH = 20


def users(seed: int, *, informative: bool) -> Candidates:
    """Model and memory each recommend 20 items at random; one of them has the target first. With
    `informative`, the second feature says which."""
    rng = np.random.default_rng(seed)
    model = rng.dirichlet(np.full(WIDTH, 0.3), USERS)
    memory = rng.dirichlet(np.full(WIDTH, 0.3), USERS)
    trusts_memory = rng.random(USERS) < 0.5
    targets = np.where(trusts_memory, memory.argmax(axis=1), model.argmax(axis=1))
    features = rng.normal(size=(USERS, 5))
    if informative:
        features[:, 1] = trusts_memory + 0.1 * features[:, 1]
    items = np.arange(WIDTH)
    model_scores, memory_scores = np.log(model + 1e-9), np.log(memory + 1e-9)
    return Candidates(
        np.tile(items, (USERS, 1)),
        model_scores,
        memory_scores,
        tuple(ItemDistribution(items, scores) for scores in memory_scores),
        targets,
        np.where(rng.random(USERS) < 0.3, 5, 6),
        features,
        rng.random(USERS) < 0.5,
        np.zeros(WIDTH, dtype=np.bool_),
    )


def test_a_cell_that_keeps_the_rare_targets_of_the_memory_goes_before_a_better_one() -> None:
    candidates = users(0, informative=True)
    rare, common = np.flatnonzero(candidates.is_rare), np.flatnonzero(~candidates.is_rare)
    ranks = np.full((len(WEIGHTS), len(POWERS), USERS), K)
    ranks[-1, POWERS.index(1.0), rare[:20]] = 0  # the memory alone
    ranks[2, 1, [*rare[:18], *common[:9]]] = 0
    ranks[3, 2, [*rare[:17], *common]] = 0
    everyone = np.ones(USERS, dtype=np.bool_)
    assert best_cell(ranks, candidates, everyone)[:2] == (WEIGHTS[2], POWERS[1])
    others = np.arange(USERS) != rare[0]  # of whom the memory has too few to regard
    assert best_cell(ranks, candidates, others)[:2] == (WEIGHTS[3], POWERS[2])


def test_a_memory_of_new_items_alone_has_no_share_with_factor_0() -> None:
    candidates = replace(users(0, informative=True), is_new=np.ones(WIDTH, dtype=np.bool_))
    assert candidates.has_memory.all()
    assert not candidates.with_factor(0.0).has_memory.any()


def test_the_gradient_is_that_of_the_loss() -> None:
    candidates = users(0, informative=True)
    arguments = (
        np.concatenate([np.ones((USERS, 1)), candidates.features], axis=1),
        np.exp(candidates.model_scores),
        np.exp(candidates.memory_scores),
        candidates.targets,
        np.where(candidates.is_rare, 3.0, 1.0),
    )
    parameters = np.random.default_rng(1).normal(size=6)
    _, gradient = gate_loss(parameters, *arguments)
    for index in range(6):
        step = np.zeros(6)
        step[index] = 1e-5
        after, before = (gate_loss(parameters + sign * step, *arguments)[0] for sign in (1, -1))
        assert gradient[index] == pytest.approx((after - before) / 2e-5, rel=1e-4, abs=1e-7)


def test_a_gate_finds_the_feature_that_says_whom_to_trust() -> None:
    candidates = users(2, informative=True)
    ranks = grid_ranks(candidates)
    choice = MixtureChoice.of(candidates)
    gate, power, judged = choice.gate, choice.power, choice.summary
    assert judged["ndcg@10 gate, judged"] > judged["ndcg@10 constant, judged"] + 0.05
    assert np.abs(gate.coefficients).argmax() == 1
    assert gate.coefficients[1] > 0
    gated = candidates.ranks(candidates.raised(power), gate.weights(candidates.features))
    assert gains(gated).mean() > gains(ranks).mean(axis=-1).max()


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_a_gate_is_used_only_if_it_is_better_on_other_users(seed: int) -> None:
    candidates = users(seed, informative=False)
    gate, _, judged = choose_gate(candidates, grid_ranks(candidates))
    better = judged["ndcg@10 gate, judged"] > judged["ndcg@10 constant, judged"] > 0
    # both keep the recall of rare targets, or there are too few of them
    assert (gate is not None) == better


def test_without_targets_there_is_no_gate() -> None:
    candidates = replace(users(0, informative=True), targets=np.full(USERS, -1))
    everyone = np.ones(USERS, dtype=np.bool_)
    assert fit_gate(candidates, candidates.memory_scores, everyone, 0.3, 1.0) is None
    assert (candidates.ranks(candidates.memory_scores, 0.5) == K).all()
    assert choose_gate(candidates, grid_ranks(candidates))[0] is None


@pytest.mark.parametrize("count", [0, 99])
def test_a_half_of_few_users_judges_no_gate(count: int) -> None:
    candidates = replace(users(0, informative=True), in_first_half=np.arange(USERS) < count)
    assert choose_gate(candidates, grid_ranks(candidates))[0] is None


SHOPPERS = 600
ITEMS = 40
NEW = 20
IDS = [f"u{number}" for number in range(SHOPPERS)]


def shop_candidates(seed: int, *, new_score: float, new_share: float) -> Candidates:
    """A memory that is often right about old items, and scores 20 new ones higher by `new_score`.
    A share of the users wants a new item."""
    rng = np.random.default_rng(seed)
    model = rng.dirichlet(np.full(ITEMS, 0.3), SHOPPERS)
    scores = rng.normal(size=(SHOPPERS, ITEMS))
    wants_new = rng.random(SHOPPERS) < new_share
    new_items = rng.integers(ITEMS - NEW, ITEMS, SHOPPERS)
    targets = np.where(wants_new, new_items, rng.integers(0, ITEMS - NEW, SHOPPERS))
    scores[np.arange(SHOPPERS), targets] += 2.0
    scores[:, ITEMS - NEW :] += new_score
    logs = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
    items = np.arange(ITEMS)
    return Candidates(
        np.tile(items, (SHOPPERS, 1)),
        np.log(model + 1e-9),
        logs,
        tuple(ItemDistribution(items, row) for row in logs),
        targets,
        np.where(wants_new, 0, 6),
        rng.normal(size=(SHOPPERS, 5)),
        np.zeros(SHOPPERS, dtype=np.bool_),  # no gate is fitted
        items >= ITEMS - NEW,
    )


def recall(choice: MixtureChoice, candidates: Candidates) -> np.ndarray:
    """Whether the target of each user with a warm one is among the first ten."""
    return (choice.ranks(candidates.select(candidates.is_warm)) < K).astype(np.float64)


@pytest.mark.parametrize("new_score", [3.0, pytest.param(1.0, marks=pytest.mark.slow)])
def test_users_with_warm_targets_lose_less_than_the_noise(new_score: float) -> None:
    candidates = shop_candidates(0, new_score=new_score, new_share=0.3)
    choice, factor = choose_for_new_items(candidates, IDS)
    assert 0 < factor < 1
    without = candidates.with_factor(0.0)
    before = recall(choice, without)
    warm = without.select(without.is_warm)
    assert choice == replace(MixtureChoice.of(warm), summary=choice.summary)
    n = len(before)
    deviation = np.sqrt(before.mean() * (1 - before.mean()) / n)
    recalls = {other: recall(choice, candidates.with_factor(other)) for other in FACTORS}
    lost = {other: before.mean() - recalls[other].mean() for other in FACTORS}
    # the bootstrap's interval is 1.96 deviations to each side, give or take
    assert lost[factor] <= LOSS * 2.2 * deviation
    assert all(lost[other] > LOSS * 1.7 * deviation for other in FACTORS if other > factor)
    # users who want a new item gain
    new = candidates.select(~candidates.is_warm)
    with_new = gains(choice.ranks(new.with_factor(factor))).mean()
    without_new = gains(choice.ranks(new.with_factor(0.0))).mean()
    assert with_new > without_new
    ranks = choice.ranks(candidates.with_factor(factor))
    assert choice.summary["ndcg@10 mixture"] == pytest.approx(gains(ranks).mean())
    assert choice.summary["hr@10 of warm targets, without new items"] == before.mean()
    # the memory's own figure is of all users, beside the one that the factor was chosen with
    all_users_ndcg = MixtureChoice.of(candidates).summary["ndcg@10 candidates by memory"]
    assert choice.summary["ndcg@10 candidates by memory"] == all_users_ndcg
    warm_targets_ndcg = MixtureChoice.of(without.select(without.is_warm)).summary[
        "ndcg@10 candidates by memory"
    ]
    assert (
        choice.summary["ndcg@10 candidates by memory of warm targets, without new items"]
        == warm_targets_ndcg
    )


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
    assert choose_for_new_items(shop_candidates(3, new_score=1.0, new_share=1.0), IDS)[1] == 1


@pytest.mark.parametrize(
    ("shared", "exclude_seen", "factor"),
    [
        (True, True, 1.0),
        (False, False, 0.0),
        (True, False, 0.1),
        pytest.param(False, False, 1.0, marks=pytest.mark.slow),
    ],
)
def test_ranks_are_those_of_an_evaluation(shared: bool, exclude_seen: bool, factor: float) -> None:
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
    options = TuneMemoryOptions(num_beams=40, exclude_seen=exclude_seen)
    candidates = candidates_of(loaded, memory, examples, options).with_factor(factor)
    n_events = Counter(item for user in few for item in user.items)
    assert candidates.is_rare.tolist() == [1 <= n_events[user.item] <= 5 for user in examples]
    is_seen = np.array([example.item in example.history for example in examples])
    assert not exclude_seen or (candidates.targets[is_seen] == -1).all()
    everyone = np.ones(40, dtype=np.bool_)
    _, _, grid = best_cell(grid_ranks(candidates), candidates, everyone)
    assert (grid[0] == grid[0, 0]).all()
    summary = MixtureChoice.of(candidates).summary
    measured = [summary[f"ndcg@10 candidates by {system}"] for system in ("model", "memory")]
    assert measured == [grid[0].max(), grid[-1].max()]
    settings = EvaluationOptions(ks=(10,), exclude_seen=exclude_seen, baselines=False, num_beams=40)
    fitted = fit_gate(candidates, candidates.raised(1.5), everyone, 0.5, 1.0)
    assert fitted is not None
    for weight, power, gate in (
        (0.05, 0.5, None),
        (0.5, 1.0, None),
        (0.9, 4.0, None),
        (1.0, 2.0, None),
        (0.0, 1.5, fitted),
    ):
        choice = MixtureChoice(weight, power, gate, {})
        expected = float(gains(choice.ranks(candidates)).mean())
        weighted = WeightedMemory(memory, weight, power, gate, new_item_factor=factor)
        evaluation = evaluate_examples(replace(loaded, memory=weighted), examples, few, settings)
        assert evaluation.metrics["ndcg@10"] == pytest.approx(expected, abs=1e-9), (weight, power)
        if gate is None:
            assert grid[WEIGHTS.index(weight), POWERS.index(power)] == expected
        if weight == 1:
            alone = evaluation.baselines["memory alone"]["ndcg@10"]
            assert alone == pytest.approx(expected, abs=1e-9)
