from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from sidtool.data.split import Split
from sidtool.evaluation import EvaluationOptions, IndexedExamples
from sidtool.evaluation.evaluation import evaluate_examples
from sidtool.evaluation.tuning import TuneMemoryOptions, reranker_fit
from sidtool.evaluation.tuning.memory_tuning import candidates_of, choose_binding
from sidtool.evaluation.tuning.mixture_candidates import K, gains
from sidtool.evaluation.tuning.mixture_choice import MixtureChoice
from sidtool.evaluation.tuning.reranker_fit import RankedUsers, fit_part, fit_reranker
from sidtool.memory import build_memory
from sidtool.memory.mixture import (
    N_FEATURES,
    TRAINING_EVENTS,
    FeatureIndex,
    MemoryIndex,
    Reranker,
    WeightedMemory,
)
from sidtool.memory.mixture.reranker import RERANK_FEATURES
from tests.evaluation.shop import memory_of, trie_model, visits
from tests.memory.cases import small_memory

MANIFEST = small_memory().manifest
USERS = 500
WIDTH = 12
HINT = [feature.name for feature in RERANK_FEATURES].index("largest cosine")


@pytest.fixture(autouse=True)
def short_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two networks, with half of the passes, whose steps are twice as large."""
    monkeypatch.setattr(reranker_fit, "NETWORKS", 2)
    monkeypatch.setattr(reranker_fit, "EPOCHS", 6)
    monkeypatch.setattr(reranker_fit, "LEARNING_RATE", 4e-3)


def users(seed: int, *, hint: float, rare_loses: bool = False, width: int = WIDTH) -> RankedUsers:
    """Users with random lists, whose targets a feature tells; with `rare_loses` it tells the
    contrary for targets with few events."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(USERS, width, N_FEATURES)).astype(np.float32)
    targets = rng.integers(0, width, size=USERS)
    events = rng.integers(0, 40, size=USERS)
    signs = np.where(rare_loses & (events <= 5), -1.0, 1.0)
    features[np.arange(USERS), targets, HINT] += hint * signs
    return RankedUsers(
        features,
        np.sort(rng.normal(size=(USERS, width)), axis=1)[:, ::-1].copy(),
        np.where(rng.random(USERS) < 0.8, targets, -1),
        rng.random(USERS) < 0.9,
        events,
        rng.random(USERS) < 0.5,
        tuple(f"u{number}" for number in range(USERS)),
    )


def fit_to(
    ranked: RankedUsers, *, exclude_seen: bool = False
) -> tuple[Reranker | None, dict[str, float]]:
    """What is fitted to users and judged by them, in a catalog without new items."""
    return fit_reranker(ranked, ranked, MANIFEST, exclude_seen=exclude_seen)


def test_it_finds_the_feature_that_tells_the_target() -> None:
    ranked = users(0, hint=3.0)
    fitted, judged = fit_to(ranked, exclude_seen=True)
    assert fitted.exclude_seen
    assert len(fitted.networks) == 2
    gain = judged["ndcg@10 re-ranked, judged"] - judged["ndcg@10 mixture, judged"]
    assert gain > 0.02
    assert 0 < judged["ndcg@10 gain, low"] < gain < judged["ndcg@10 gain, high"]
    inputs = fitted.standardized(ranked.features[:, 0])
    assert np.abs(fitted.contributions(inputs)).mean(axis=0).argmax() == HINT


def test_noise_is_not_used_and_neither_is_what_costs_rare_targets() -> None:
    fitted, judged = fit_to(users(1, hint=0.0))
    assert fitted is None
    assert judged["ndcg@10 mixture, judged"] > 0
    fitted, judged = fit_to(users(2, hint=2.0, rare_loses=True))
    assert fitted is None
    assert judged["ndcg@10 re-ranked, judged"] > judged["ndcg@10 mixture, judged"]
    assert "ndcg@10 gain, low" not in judged


def test_too_few_users_are_not_fitted_to() -> None:
    ranked = users(0, hint=3.0)
    few = replace(ranked, targets=np.where(np.arange(USERS) < 240, ranked.targets, -1))
    assert fit_to(few) == (None, {})


@pytest.mark.slow
def test_the_same_users_give_the_same_re_ranker_whatever_was_drawn_before() -> None:
    first = fit_to(users(0, hint=3.0))
    torch.rand(3)
    assert fit_to(users(0, hint=3.0)) == first


def test_it_is_fitted_to_lists_without_new_items_and_judged_by_those_that_are_served() -> None:
    other = users(0, hint=-3.0)
    fitted, judged = fit_reranker(users(0, hint=3.0), other, MANIFEST, exclude_seen=False)
    assert fitted is None
    assert judged["ndcg@10 re-ranked, judged"] < judged["ndcg@10 mixture, judged"]
    assert fit_to(other)[0] is not None


@pytest.mark.parametrize(
    ("of_items", "of_targets", "has_bonus"), [(0.05, 0.35, True), (0.4, 0.02, False)]
)
def test_new_items_get_a_bonus_where_they_are_targets_more_often_than_listed(
    of_items: float, of_targets: float, has_bonus: bool
) -> None:
    ranked = users(0, hint=3.0)
    rng = np.random.default_rng(1)
    rows = np.arange(USERS)
    without = rng.random(ranked.log_mixture.shape) < of_items
    ranked.features[..., TRAINING_EVENTS] = np.where(without, 0, 1)
    is_new = rng.random(USERS) < of_targets
    ranked.features[rows, ranked.targets, TRAINING_EVENTS] = np.where(is_new, 0, 1)
    served = replace(ranked, target_events=np.where(is_new, 0, 9))
    without_new = replace(served, targets=np.where(is_new, -1, served.targets))
    fitted, _ = fit_reranker(without_new, served, MANIFEST, exclude_seen=False)
    assert (fitted.new_item_bonus > 0) == has_bonus


def test_lists_without_new_items_have_the_others_in_their_order() -> None:
    loaded = trie_model(shared=False)
    events, examples = visits(users=60)
    without = {"i7", "i8", "i9"}
    old = [replace(user, items=tuple(i for i in user.items if i not in without)) for user in events]
    memory = memory_of(old, loaded.bundle)
    candidates = candidates_of(loaded, memory, examples, TuneMemoryOptions(num_beams=40))
    index = FeatureIndex.of(memory, MemoryIndex.of(memory, loaded.bundle), loaded.bundle)
    indexed = IndexedExamples.of(loaded.bundle, examples, exclude_seen=False)
    choice = MixtureChoice(0.3, 2.0, None, {})
    assert candidates.lists_new_items
    ranked = RankedUsers.of(candidates.without_new_items(), choice, indexed, index)
    n_events = Counter(item for user in old for item in user.items)
    assert ranked.target_events.tolist() == [n_events[example.item] for example in examples]
    is_new = np.array([example.item in without for example in examples])
    assert is_new.any()
    assert (ranked.targets[is_new] == -1).all()
    assert (ranked.targets[~is_new] >= 0).all()
    n_new = int(candidates.is_new.sum())
    assert n_new >= len(without)
    assert (np.isfinite(ranked.log_mixture).sum(axis=1) == 40 - n_new).all()
    assert (np.diff(ranked.log_mixture[:, : 40 - n_new], axis=1) <= 0).all()


def test_lists_of_other_lengths_and_users_without_memory_keep_their_place() -> None:
    ranked = users(3, hint=3.0, width=60)
    ranked.log_mixture[:50, 6:] = -np.inf
    ranked.targets[:50] = np.minimum(ranked.targets[:50], 5)
    everyone = np.ones(USERS, dtype=np.bool_)
    fitted = fit_part(ranked, everyone, "twice", (0,), MANIFEST, exclude_seen=False)
    added = ranked.added(fitted, everyone)
    assert not added[:50, 6:].any()
    late = np.flatnonzero((ranked.targets >= 50) & ranked.is_mixed)
    assert added[late, ranked.targets[late]].mean() > added[late].mean() + 0.1
    plain = ~ranked.is_mixed
    assert np.array_equal(ranked.ranks(added)[plain], ranked.ranks(0.0)[plain])
    assert (ranked.ranks(0.0)[ranked.targets < 0] == K).all()


@pytest.mark.parametrize(("shared", "exclude_seen"), [(False, True), (True, False)])
def test_evaluation_measures_what_was_fitted(shared: bool, exclude_seen: bool) -> None:
    loaded = trie_model(shared=shared)
    events, examples = visits(users=120)
    memory = memory_of(events, loaded.bundle)
    options = TuneMemoryOptions(num_beams=40, exclude_seen=exclude_seen)
    candidates = candidates_of(loaded, memory, examples, options)
    choice = MixtureChoice(0.3, 2.0, None, {})
    index = FeatureIndex.of(memory, MemoryIndex.of(memory, loaded.bundle), loaded.bundle)
    indexed = IndexedExamples.of(loaded.bundle, examples, exclude_seen=exclude_seen)
    ranked = RankedUsers.of(candidates, choice, indexed, index)
    assert np.array_equal(ranked.ranks(0.0), choice.ranks(candidates))
    everyone = np.ones(len(examples), dtype=np.bool_)
    how_fitted = {"exclude_seen": exclude_seen, "scale": 0.5}
    fitted = fit_part(ranked, everyone, "logarithm", (0, 1), memory.manifest, **how_fitted)
    weighted = WeightedMemory(memory, 0.3, 2.0, reranker=fitted)
    settings = EvaluationOptions(ks=(10,), exclude_seen=exclude_seen, baselines=False, num_beams=40)
    evaluation = evaluate_examples(replace(loaded, memory=weighted), examples, events, settings)
    after = gains(ranked.ranks(ranked.added(fitted, everyone))).mean()
    before = gains(ranked.ranks(0.0)).mean()
    assert after != before
    assert evaluation.metrics["ndcg@10"] == pytest.approx(after, abs=1e-9)
    assert list(evaluation.baselines) == ["mixture", "model alone", "memory alone"]
    assert evaluation.baselines["mixture"]["ndcg@10"] == pytest.approx(before, abs=1e-9)
    assert evaluation.settings["memory"]["reranker"] == fitted.digest


def test_a_user_of_several_examples_is_counted_once() -> None:
    loaded = trie_model(shared=False)
    events, examples = visits()
    later = [replace(example, position=example.position + 1) for example in examples]
    split = Split("temporal", tuple(events), (*examples, *later), ())
    memory = build_memory(split, loaded.bundle)
    options = TuneMemoryOptions(num_beams=40)
    binding = choose_binding(loaded, memory, split.valid, split.reference, options)
    assert binding.validation["users"] == len(examples)


def test_only_validation_targets_decide_and_no_count_has_a_held_out_event() -> None:
    loaded = trie_model(shared=False)
    events, examples = visits(users=300)
    items = [f"i{number}" for number in range(40)]
    counts = Counter(item for sequence in events for item in sequence.items)
    fewest = sorted(items, key=lambda item: counts[item])[:3]  # one of the features tells these
    valid = [replace(example, item=fewest[row % 3]) for row, example in enumerate(examples)]
    bindings = []
    for shift in (0, 7):
        test = [
            replace(example, item=items[(row + shift) % 40]) for row, example in enumerate(examples)
        ]
        split = Split("leave-one-out", tuple(events), tuple(valid), tuple(test))
        memory = build_memory(split, loaded.bundle)
        options = TuneMemoryOptions(num_beams=40)
        bindings.append(choose_binding(loaded, memory, split.valid, split.reference, options))
    one, other = bindings
    assert one.reranker is not None
    assert one.split != other.split
    assert one.reranker == other.reranker

    candidates = candidates_of(loaded, memory, examples, options)
    choice = MixtureChoice(0.3, 2.0, None, {})
    index = FeatureIndex.of(memory, MemoryIndex.of(memory, loaded.bundle), loaded.bundle)
    features = []
    for part in (valid, examples):
        indexed = IndexedExamples.of(loaded.bundle, part, exclude_seen=False)
        features.append(RankedUsers.of(candidates, choice, indexed, index).features)
    assert np.array_equal(*features)
