"""Fitting a gate: gradients, what it finds, and when it is not used."""

from dataclasses import replace

import numpy as np
import pytest

from sidtool.evaluation import EvaluationOptions, TuneMemoryOptions
from sidtool.evaluation.evaluation import evaluate_examples
from sidtool.evaluation.memory_tuning import candidates_of
from sidtool.evaluation.mixture_candidates import Candidates, K, gains
from sidtool.evaluation.mixture_choice import SmoothNdcg, choose_gate, fit_gate, grid_ranks
from sidtool.memory import ItemDistribution, WeightedMemory
from tests.evaluation.shop import memory_of, trie_model, visits

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
        rng.random(USERS) < 0.3,
        features,
        rng.random(USERS) < 0.5,
        np.ones(USERS, dtype=np.bool_),
        np.zeros(WIDTH, dtype=np.bool_),
    )


def test_the_gradient_is_that_of_the_loss() -> None:
    candidates = users(0, informative=True)
    objective = SmoothNdcg(
        np.concatenate([np.ones((USERS, 1)), candidates.features], axis=1),
        np.exp(candidates.model_scores),
        np.exp(candidates.memory_scores),
        candidates.targets,
        np.where(candidates.is_rare, 3.0, 1.0),
    )
    parameters = np.random.default_rng(1).normal(size=6)
    _, gradient = objective.loss(parameters)
    for index in range(6):
        step = np.zeros(6)
        step[index] = 1e-5
        rise = objective.loss(parameters + step)[0] - objective.loss(parameters - step)[0]
        assert gradient[index] == pytest.approx(rise / 2e-5, rel=1e-4, abs=1e-7)


def test_a_gate_finds_the_feature_that_says_whom_to_trust() -> None:
    candidates = users(2, informative=True)
    ranks = grid_ranks(candidates)
    gate, power, judged = choose_gate(candidates, ranks)
    assert gate is not None
    assert judged["ndcg@10 gate, judged"] > judged["ndcg@10 constant, judged"] + 0.05
    assert np.abs(gate.coefficients).argmax() == 1
    assert gate.coefficients[1] > 0
    gated = candidates.ranks(candidates.raised(power), gate.weights(candidates.features))
    assert gains(gated).mean() > gains(ranks).mean(axis=-1).max()


@pytest.mark.parametrize("seed", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))])
def test_a_gate_is_used_only_if_it_is_better_on_other_users(seed: int) -> None:
    candidates = users(seed, informative=False)
    gate, _, judged = choose_gate(candidates, grid_ranks(candidates))
    better = judged["ndcg@10 gate, judged"] > judged["ndcg@10 constant, judged"]
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


@pytest.mark.parametrize("shared", [False, True])
def test_the_ranks_of_a_gate_are_those_of_an_evaluation(shared: bool) -> None:
    loaded = trie_model(shared=shared)
    events, examples = visits(users=40)
    memory = memory_of(events, loaded.bundle)
    options = TuneMemoryOptions(num_beams=40)
    candidates = candidates_of(loaded, memory, examples, options, None)
    raised = candidates.raised(1.5)
    gate = fit_gate(candidates, raised, np.ones(40, dtype=np.bool_), 0.5, 1.0)
    assert gate is not None
    ranks = candidates.ranks(raised, gate.weights(candidates.features))
    mixture = replace(loaded, memory=WeightedMemory(memory, 0.0, 1.5, gate))
    how = EvaluationOptions(ks=(10,), baselines=False, num_beams=40)
    metrics = evaluate_examples(mixture, examples, events, how).metrics
    assert gains(ranks).mean() == pytest.approx(metrics["ndcg@10"], abs=1e-9)
