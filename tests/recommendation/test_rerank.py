import math
from dataclasses import replace

import numpy as np
import pytest

from sidtool.memory import ItemContent, KnnSettings, Memory, SparseRows
from sidtool.memory.mixture import FeatureIndex, MemoryIndex, Prior
from sidtool.memory.similarity import CountedPairs, content_similarity, count_events, similar_items
from sidtool.model import LoadedModel
from sidtool.recommendation import RecommendOptions, Request, recommend
from sidtool.recommendation.rerank import Reranking
from sidtool.recommendation.search.results import RankedItems, mix
from sidtool.tokenizer.sid import ItemRows, SidPositions
from tests.bundles import small_bundle
from tests.memory.cases import small_memory
from tests.memory.rerankers import random_reranker
from tests.recommendation.test_recommend_memory import answer, mixed, shop

pytestmark = pytest.mark.filterwarnings("ignore:.*in the histories")


def reference(
    memory: Memory, history: list[int], items: list[int], logs: np.ndarray
) -> list[list[float]]:
    """The features of items, all by their memory's rows, of one request; `logs` are (3, c) logs of
    their probabilities by model, memory and mixture."""
    settings, events = memory.manifest.settings, memory.events.tolist()
    counts = memory.pairs.to_scipy().toarray() * 2.0**-40
    cosines = np.zeros(counts.shape)
    if memory.content is not None:
        above = memory.content.to_scipy().toarray().astype(float)
        cosines = np.sqrt(above + above.T)
    weight = 0.0 if memory.manifest.content is None else memory.manifest.content.weight
    read = history[-50:]
    compared = history[-20:]
    last = history[-1] if history else None
    event_scores, content_scores = [], []
    for item in items:
        event, content = 0.0, 0.0
        for place, other in enumerate(read):
            age = settings.recency ** (len(read) - 1 - place)
            pairs = counts[other, item] + settings.reverse * counts[item, other]
            divisor = (events[other] * events[item]) ** settings.normalization + settings.shrinkage
            event += age * pairs / divisor if pairs else 0.0
            fewer = min(events[other], events[item])
            content += age * weight * cosines[other, item] ** 2 * (1 + 0.5 / (1 + fewer))
        event_scores.append(event)
        content_scores.append(content)
    floored = np.maximum(logs, -30).tolist()
    by_model = sorted(range(len(items)), key=lambda candidate: -logs[0, candidate])
    by_memory = sorted(range(len(items)), key=lambda candidate: -logs[1, candidate])
    in_memory = [bool(np.isfinite(value)) for value in logs[1]]
    rows = []
    for candidate, item in enumerate(items):
        ages = [settings.recency**age for age in range(len(compared))][::-1]
        near = [cosines[other, item] for other in compared]
        length = math.log1p(len(history))
        popular = 0.0 if last is None else math.log1p(events[last])
        model, memory_log_prob, mixture = (floored[part][candidate] for part in range(3))
        best_event, best_content = max(event_scores), max(content_scores)
        rows.append(
            [
                *(model, memory_log_prob, mixture, float(in_memory[candidate])),
                math.log1p(by_model.index(candidate)),
                math.log1p(min(by_memory.index(candidate), sum(in_memory))),
                math.log(event_scores[candidate] + 1e-4),
                math.log(content_scores[candidate] + 1e-4),
                event_scores[candidate] / best_event if best_event else 0.0,
                content_scores[candidate] / best_content if best_content else 0.0,
                0.0 if last is None else math.log1p(counts[last, item]),
                0.0 if last is None else math.log1p(counts[item, last]),
                math.log1p(events[item]),
                near[-1] if near else 0.0,
                max(near, default=0.0),
                float(np.dot(near, ages)) / sum(ages) if near else 0.0,
                *(length, popular, length * model, length * memory_log_prob),
                *(popular * model, popular * memory_log_prob),
            ]
        )
    return rows


MANIFEST = small_memory().manifest
REQUESTS = 10


def case(seed: int) -> tuple[Reranking, Memory, list[Prior], list[ItemRows], list[RankedItems]]:
    """A random catalog with a memory, a re-ranker, and some requests."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(5, 16))
    bundle = small_bundle(n, seed=seed, duplicates=bool(seed % 2))
    settings = KnnSettings(0.8, 0.3, 0.4, float(seed % 3 == 0), 4, 0.75)
    # the last item is new
    histories = [rng.integers(0, n - 1, size=rng.integers(2, 9)) for _ in range(8)]
    pairs = CountedPairs.count(histories, n, 0.8)
    events = count_events(histories, n)
    content = ItemContent.of(bundle, weight=0.7) if seed % 4 else None
    near = None
    if content is not None:
        near = content_similarity(content.nearest, content.settings.weight, events)
    total = int(events.sum())
    memory = Memory.of(
        replace(
            MANIFEST,
            bundle=bundle.identity,
            settings=settings,
            items=n,
            train_events=total,
            content=None if content is None else content.settings,
        ),
        bundle.items.ids,
        events,
        pairs.later,
        similar_items(pairs, events, settings, near),
        None if content is None else SparseRows.of(content.nearest, np.float32),
    )
    index = MemoryIndex.of(memory, bundle)
    read = [ItemRows(rng.integers(0, n, size=rng.integers(1, 60))) for _ in range(REQUESTS - 2)]
    read += [ItemRows(np.array([-1, 0])), ItemRows(np.zeros(0, dtype=np.int64))]
    priors = [Prior(distribution, 0.4) for distribution in index.distributions(read, 1.5)]
    ranked = []
    for prior in priors:
        # a filter may leave three items; equal probabilities make ties
        count = 3 if seed % 5 == 0 else n
        positions = SidPositions(np.sort(rng.permutation(n)[:count]))
        scores = np.log(rng.integers(1, 4, size=count) / 20)
        ranked.append(mix(positions, scores, prior, count))
    fitted = random_reranker(memory.manifest, seed=seed, new_item_bonus=0.7)
    return Reranking(fitted, FeatureIndex.of(memory, index, bundle)), memory, priors, read, ranked


def test_features_and_order_are_those_of_the_reference() -> None:
    for seed in range(25):  # 250 requests
        reranking, memory, priors, histories, ranked = case(seed)
        fitted = reranking.reranker
        reordered = reranking.reorder(ranked, priors, histories, 100)
        candidate_rows = reranking.index.candidate_rows
        for prior, history, before, after in zip(priors, histories, ranked, reordered, strict=True):
            if not prior.is_mixed:
                assert np.array_equal(after.positions, before.positions)
                continue
            memory_log_probs = prior.distribution.log_probs_at(before.positions)
            logs = np.stack([before.model_scores, memory_log_probs, before.scores])
            history_rows = history[history >= 0].tolist()
            rows = candidate_rows[before.positions]
            features = reference(memory, history_rows, rows.tolist(), logs)
            inputs = fitted.standardized(np.array(features))
            order = [before.positions.tolist().index(item) for item in after.positions.tolist()]
            assert after.features == pytest.approx(inputs[order], abs=2e-4), seed
            bonuses = np.where(memory.events[rows] == 0, 0.7, 0.0)
            scores = (before.scores + fitted.scores(inputs) + bonuses)[order]
            assert (np.diff(scores) <= 1e-4).all(), seed
            # what is reported is the mixture's
            assert np.array_equal(after.scores, before.scores[order])
            assert np.array_equal(after.mixture_order, before.positions)


def test_a_re_ranker_that_adds_nothing_keeps_the_order_of_the_mixture() -> None:
    for seed in range(10):
        reranking, memory, priors, histories, ranked = case(seed)
        nothing = replace(reranking, reranker=random_reranker(memory.manifest, strength=0))
        reordered = nothing.reorder(ranked, priors, histories, 100)
        for before, after in zip(ranked, reordered, strict=True):
            assert np.array_equal(before.positions, after.positions)


def test_items_after_the_first_hundred_follow_in_the_order_of_the_mixture() -> None:
    bundle = small_bundle(115)
    memory = small_memory(bundle)
    index = MemoryIndex.of(memory, bundle)
    history = ItemRows(np.array([3, 5]))
    (distribution,) = index.distributions([history], 1.0)
    prior = Prior(distribution, 0.5)
    scores = np.random.default_rng(0).normal(size=115)
    ranked = mix(SidPositions(np.arange(115)), scores, prior, 115)
    reranking = Reranking(random_reranker(memory.manifest), FeatureIndex.of(memory, index, bundle))
    (after,) = reranking.reorder([ranked], [prior], [history], 115)
    assert np.array_equal(after.positions[100:], ranked.positions[100:])
    assert set(after.positions[:100]) == set(ranked.positions[:100])
    assert not np.array_equal(after.positions[:100], ranked.positions[:100])


def reranked(loaded: LoadedModel) -> LoadedModel:
    """The model with its memory and a random re-ranker."""
    fitted = random_reranker(loaded.memory.memory.manifest, strength=0.5)
    return replace(loaded, memory=replace(loaded.memory, reranker=fitted))


@pytest.mark.parametrize("duplicates", [False, True])
def test_recommendations_are_ranked_again_with_the_scores_of_the_mixture(duplicates: bool) -> None:
    plain = mixed(shop(duplicates=duplicates), 0.4)
    request = Request(history=("i3", "i17", "i5"))
    before = answer(plain, request, k=60)
    after = answer(reranked(plain), request, k=60)
    assert after.items != before.items
    scores = [dict(zip(answer.items, answer.scores, strict=True)) for answer in (before, after)]
    assert scores[0] == scores[1]
    first = answer(reranked(plain), request, k=5)
    assert first.items == after.items[:5]


def test_filters_that_leave_three_items_and_candidates_are_ranked_again() -> None:
    loaded = reranked(mixed(shop(), 0.4))
    request = Request(history=("i3", "i17"))
    few = answer(loaded, replace(request, allow=("i1", "i8", "i9")), k=10)
    assert (sorted(few.items), few.missing) == (["i1", "i8", "i9"], 7)
    candidates = [f"i{number}" for number in range(60)]
    options = RecommendOptions(num_beams=60, k=60)
    (exact,) = recommend(loaded, [request], options, candidates=candidates)
    beam = answer(loaded, request, k=60)
    assert exact.items == beam.items


def test_without_a_history_or_a_known_item_the_model_alone_ranks() -> None:
    plain = mixed(shop(), 0.4)
    for history in ((), ("unknown",)):
        request = Request(history=history)
        assert answer(reranked(plain), request) == answer(plain, request)


def test_an_explanation_names_the_features_that_raised_an_item() -> None:
    loaded = reranked(mixed(shop(), 0.4))
    result = answer(loaded, Request(history=("i3", "i17")), k=5, explain=True)
    for explanation in result.explanations:
        values = list(explanation.raised_by.values())
        assert values == sorted(values, reverse=True)
        assert len(values) <= 3
        assert min(values, default=1.0) > 0
    assert any(part.raised_by for part in result.explanations)
    assert result.to_json()["explanations"][0].keys() >= {"memory_share", "because_of"}
