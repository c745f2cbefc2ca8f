import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sidtool.base.errors import DataError, ThresholdError, UsageError
from sidtool.data.split import Example, UserSequence
from sidtool.evaluation import Evaluation, EvaluationOptions, IndexedExamples, check_thresholds
from sidtool.evaluation.baselines import UNTUNED
from sidtool.evaluation.bootstrap import Difference
from sidtool.evaluation.evaluation import evaluate_examples
from sidtool.evaluation.metrics import KS, metric_names
from sidtool.evaluation.results import system_differences
from sidtool.memory import KnnSettings
from sidtool.memory.mixture import WeightedMemory
from sidtool.recommendation import QuerySession
from sidtool.recommendation.search import Normalize
from sidtool.recommendation.search.score import score_sids
from sidtool.tokenizer.bundle import Bundle
from tests.evaluation.shop import evaluate_shop, memory_of, random_leaves, shop, trie_model, visits
from tests.loaded import loaded_model

K = 50


def oracle_leaves(bundle: Bundle, examples: list[Example]) -> np.ndarray:
    """A perfect model: the target's SID first, then the others."""
    leaves = IndexedExamples.of(bundle, examples, exclude_seen=False).target_leaves
    n = bundle.trie().n_leaves
    return np.array(
        [[max(leaf, 0), *(other for other in range(n) if other != max(leaf, 0))] for leaf in leaves]
    )


def random_evaluation(seed: int = 0) -> Evaluation:
    bundle = shop(shared=True)
    events, examples = visits()
    leaves = random_leaves(bundle, len(examples), K, seed)
    return evaluate_shop(bundle, examples, leaves, events)


def test_a_correct_sid_with_several_items_is_a_fraction_of_a_hit() -> None:
    bundle = shop(shared=True)
    events, examples = visits()
    indexed = IndexedExamples.of(bundle, examples, exclude_seen=False)
    result = evaluate_shop(bundle, examples, oracle_leaves(bundle, examples), events)
    counts = np.unique(bundle.trie().leaves(np.arange(40)), return_counts=True)
    size = dict(zip(*counts, strict=True))
    expected = np.mean([1 / size[leaf] for leaf in indexed.target_leaves])
    assert (result.sid_level["hr@1"], result.metrics["hr@1"]) == (1.0, pytest.approx(expected))
    assert expected < 0.9


def test_every_group_has_the_metrics_of_every_system() -> None:
    result = random_evaluation()
    value = json.loads(json.dumps(result.to_json(), allow_nan=False))
    names, systems = set(metric_names(KS)), {"popularity", "item-knn"}
    assert value["n"] == value["counts"]["users"] == 30
    assert set(value["sid_level"]) == names
    for name, (low, high) in value["confidence_interval"].items():
        assert low <= value["metrics"][name] <= high
    for part in (value, value["macro"], *(part for part in value["slices"].values() if part["n"])):
        assert set(part["metrics"]) == set(part["confidence_interval"]) == names
        assert set(part["baselines"]) == set(part["differences"]) == systems
        for system, metrics in part["baselines"].items():
            assert set(metrics) == set(part["differences"][system]) == names
            mean = part["differences"][system]["ndcg@10"]["mean"]
            assert mean == pytest.approx(part["metrics"]["ndcg@10"] - metrics["ndcg@10"])
    assert set(value["coverage"]) == set(value["effective_items"]) == {"model", *systems}
    assert result.coverage["model"] > 0.9
    assert result.coverage["popularity"] == 10 / 40  # the same ten for every user
    assert not {"users", "groups", "values"} & set(value)
    assert KnnSettings(**value["settings"]["item-knn"]) == UNTUNED


def test_slices_split_by_training_events_and_the_macro_mean_is_over_items() -> None:
    bundle = shop(shared=False)
    events = [UserSequence("a", ("i1",) * 6 + ("i2",) * 5, tuple(range(11)))]
    items = ["i1", "i2", "i3", "i1"]
    examples = [Example(f"u{n}", ("i4",), item, 1) for n, item in enumerate(items)]
    leaves = oracle_leaves(bundle, examples)
    leaves[2] = -1  # the cold one is missed
    result = evaluate_shop(bundle, examples, leaves, events)
    assert (result.n, result.metrics["hr@1"]) == (4, 3 / 4)
    assert (result.macro.n, result.macro.metrics["hr@1"]) == (3, pytest.approx(2 / 3))
    slices = result.slices
    counts = {name: part.n for name, part in slices.items()}
    assert counts == {"cold": 1, "rare": 1, "occasional": 2, "frequent": 0, "popular": 0, "warm": 3}
    assert slices["popular"].metrics == slices["popular"].confidence_interval == {}
    assert slices["warm"].confidence_interval["hr@1"] == (1.0, 1.0)
    hits = {name: part.metrics["hr@1"] for name, part in slices.items() if part.n}
    assert hits == {"cold": 0, "rare": 1, "occasional": 1, "warm": 1}
    assert slices["warm"].baselines["popularity"]["hr@1"] == pytest.approx(2 / 3)


def test_targets_that_the_bundle_lacks_are_misses_and_counted() -> None:
    bundle = shop(shared=False, retired=["i1"])
    events, _ = visits()
    examples = [
        Example("a", ("i2",), "i3", 1),
        Example("b", ("ghost",), "i1", 1),
        Example("c", ("i2",), "ghost", 1),
    ]
    result = evaluate_shop(bundle, examples, oracle_leaves(bundle, examples), events)
    assert (result.n, result.metrics["hr@1"]) == (3, pytest.approx(1 / 3))
    assert result.baselines["popularity"]["hr@50"] == pytest.approx(1 / 3)
    assert (result.counts["targets_not_recommendable"], result.counts["empty_histories"]) == (2, 1)


def test_without_events_there_are_no_baselines() -> None:
    bundle = shop(shared=False)
    events, examples = visits()
    leaves = random_leaves(bundle, len(examples), K)
    assert evaluate_shop(bundle, examples, leaves, None).to_json()["baselines"] == {}
    result = evaluate_shop(bundle, examples, leaves, events, baselines=False)
    assert result.baselines == {}
    assert result.slices["warm"].n > 0


def test_metrics_below_a_threshold_are_refused() -> None:
    result = random_evaluation()
    check_thresholds(result.metrics, {"hr@50": result.metrics["hr@50"], "ndcg@10": 0.0})
    with pytest.raises(ThresholdError, match=r"ndcg@10 is 0\.\d{4}, below the threshold 0\.99"):
        check_thresholds(result.metrics, {"hr@50": 0.0, "ndcg@10": 0.99})
    with pytest.raises(ThresholdError):
        check_thresholds(result.metrics, {"hr@10": float("nan")})
    with pytest.raises(UsageError, match="'ndgc@10' is not a metric of this evaluation"):
        check_thresholds(result.metrics, {"hr@1": 2.0, "ndgc@10": 0.1})


def test_two_evaluations_of_the_same_examples_are_compared() -> None:
    one, other = random_evaluation(seed=0), random_evaluation(seed=1)
    by_group = system_differences(one.values, other.values, one.users, one.groups, seed=0)
    difference = by_group["all"]["ndcg@10"]
    assert difference.mean == pytest.approx(one.metrics["ndcg@10"] - other.metrics["ndcg@10"])
    assert difference.low <= difference.mean <= difference.high
    same = system_differences(one.values, one.values, one.users, one.groups, seed=0)
    assert same["all"]["ndcg@10"] == Difference(0.0, 0.0, 0.0, 1.0)
    assert by_group.keys() == one.groups.keys() > {"all", "macro", "rare", "warm"}
    difference = one.slices["rare"].metrics["ndcg@10"] - other.slices["rare"].metrics["ndcg@10"]
    assert by_group["rare"]["ndcg@10"].mean == pytest.approx(difference)


@pytest.mark.parametrize("exclude_seen", [False, True])
def test_a_model_that_ranks_all_items_hits_every_possible_target(exclude_seen: bool) -> None:
    bundle = shop(shared=False)
    events, examples = visits(users=15)
    options = EvaluationOptions(ks=(1, 10, 40), num_beams=40, exclude_seen=exclude_seen)
    result = evaluate_examples(loaded_model(bundle), examples, events, options)
    assert result.settings["num_beams"] == 40
    # all 40 items are ranked, so what may be found is found
    possible = sum(not (exclude_seen and example.item in example.history) for example in examples)
    means = [result.metrics, result.sid_level, *result.baselines.values()]
    assert [metrics["hr@40"] for metrics in means] == pytest.approx([possible / 15] * 4)
    assert result.counts["targets_seen"] == 15 - possible
    survival = [result.metrics[f"survival@{level}"] for level in (1, 2, 3)]
    assert survival == pytest.approx([possible / 15] * 3)
    assert 0 < result.metrics["ndcg@40"] < 1


def test_survival_ends_at_the_hits_of_a_narrow_beam() -> None:
    bundle = shop(shared=False)
    events, examples = visits()
    options = EvaluationOptions(ks=(1, 10), num_beams=10)
    result = evaluate_examples(loaded_model(bundle), examples, events, options)
    survival = [result.metrics[f"survival@{level}"] for level in (1, 2, 3)]
    assert survival[0] == 1  # four prefixes, ten beams
    assert 1 > survival[1] > survival[2] == result.metrics["hr@10"] > 0
    for part in (result, result.macro, result.slices["rare"]):
        low, high = part.confidence_interval["survival@2"]
        assert low < part.metrics["survival@2"] < high
        assert part.metrics["survival@3"] == pytest.approx(part.metrics["hr@10"])
        assert "survival@1" not in part.baselines["popularity"]
        assert "survival@1" not in part.differences["popularity"]


def test_no_examples_are_refused() -> None:
    with pytest.raises(DataError, match="no examples"):
        evaluate_examples(loaded_model(shop(shared=False)), [], None)


@pytest.mark.parametrize("normalize", ["trie", "vocabulary", None])
def test_scores_are_normalized_as_requested(normalize: Normalize | None) -> None:
    """The metrics are those of the exact scores of all SIDs, and the other model is decoded as it
    was trained: over the level."""
    bundle = shop(shared=False)
    events, examples = visits()
    loaded = loaded_model(bundle)
    options = EvaluationOptions(num_beams=K, normalize=normalize)
    result = evaluate_examples(loaded, examples, events, options, against=loaded)
    session = QuerySession.of(loaded)
    indexed = IndexedExamples.of(bundle, examples, exclude_seen=False)
    prompts = [session.from_history(history) for history in indexed.histories]
    in_sid_order = bundle.items.codes[bundle.active]
    expected = {}
    for over in ("level", normalize or "level"):
        search_options: dict[str, Any] = {"normalize": over, "trie": bundle.trie()}
        scores = score_sids(loaded.model, prompts, in_sid_order, loaded.tokens, **search_options)
        leaves = np.argsort(-scores, axis=1, kind="stable")
        expected[over] = evaluate_shop(bundle, examples, leaves, events).metrics
    metrics = {name: value for name, value in result.metrics.items() if "survival" not in name}
    assert metrics == pytest.approx(expected[normalize or "level"])
    gain = result.differences["other model"]["ndcg@10"].mean
    assert gain == pytest.approx(metrics["ndcg@10"] - expected["level"]["ndcg@10"])
    assert (gain == 0) == (normalize is None)
    assert result.settings["normalize"] == (normalize or "level")
    assert result.settings["against"]["normalize"] == "level"


def test_the_progress_counts_every_pass() -> None:
    events, examples = visits()
    loaded = trie_model(shared=False)
    with_memory = replace(loaded, memory=WeightedMemory(memory_of(events, loaded.bundle)))
    reports: list[tuple[int, int]] = []
    options = EvaluationOptions(ks=(5,), num_beams=10)
    evaluate_examples(
        with_memory,
        examples,
        events,
        options,
        against=loaded,
        progress=lambda *step: reports.append(step),
    )
    steps = [done for done, _ in reports]
    assert steps == sorted(set(steps))
    assert {total for _, total in reports} == {3 * len(examples)} == {steps[-1]}


def test_a_memory_needs_scores_over_the_trie() -> None:
    events, examples = visits()
    loaded = loaded_model(shop(shared=False))
    loaded = replace(loaded, memory=WeightedMemory(memory_of(events, loaded.bundle)))
    options = EvaluationOptions(ks=(5,), num_beams=10, normalize="trie")
    over_trie = replace(loaded, contract=replace(loaded.contract, normalize="trie"))
    result = evaluate_examples(loaded, examples, events, options)
    expected = evaluate_examples(over_trie, examples, events, replace(options, normalize=None))
    assert result.to_json() == expected.to_json()
    with pytest.raises(UsageError, match="normalized over the trie, not the vocabulary"):
        evaluate_examples(over_trie, examples, events, replace(options, normalize="vocabulary"))


def test_a_model_with_a_memory_is_compared_with_both_of_its_parts() -> None:
    bundle = shop(shared=True, retired=("i3",))
    events, examples = visits()
    alone = loaded_model(bundle)
    alone = replace(alone, contract=replace(alone.contract, normalize="trie"))
    memory = memory_of(events, bundle)
    loaded = replace(alone, memory=WeightedMemory(memory, 0.4, 2.0))
    options = EvaluationOptions(ks=(5, 10), exclude_seen=True, num_beams=20)
    result = evaluate_examples(loaded, examples, events, options)
    expected = evaluate_examples(alone, examples, events, options)
    assert set(result.baselines) == {"popularity", "item-knn", "model alone", "memory alone"}
    assert result.baselines["model alone"] == expected.metrics
    assert result.metrics["survival@1"] >= result.metrics["survival@3"] > 0
    difference = result.metrics["survival@3"] - expected.metrics["survival@3"]
    assert result.differences["model alone"]["survival@3"].mean == pytest.approx(difference)
    assert "survival@1" not in result.baselines["memory alone"]
    assert result.baselines["item-knn"] == expected.baselines["item-knn"]
    assert set(result.differences) == set(result.baselines)
    assert set(result.slices["rare"].baselines) == set(result.baselines)
    assert result.settings["memory"]["weight"] == 0.4
    assert result.settings["memory"]["digest"] == memory.digest
    remembering = replace(alone, memory=WeightedMemory(memory, 1.0, 2.0))
    everything = evaluate_examples(remembering, examples, events, options)
    # beyond the items of the memory the mixture goes on with those of the model
    assert everything.metrics["hr@5"] >= result.baselines["memory alone"]["hr@5"]
    nothing = replace(alone, memory=WeightedMemory(memory, 0.0, 2.0))
    without = evaluate_examples(nothing, examples, events, options)
    assert without.settings.pop("memory")["weight"] == 0
    assert without.to_json() == expected.to_json()


def test_an_evaluation_is_a_table_and_a_line() -> None:
    result = random_evaluation()
    table = result.to_pandas()
    assert list(table) == ["system", "group", "n", "metric", "value", "low", "high"]
    rare = table[(table.group == "rare") & (table.metric == "ndcg@10")].set_index("system")
    assert rare.loc["model", "n"] == result.slices["rare"].n
    assert rare.loc["model", "low"] == result.slices["rare"].confidence_interval["ndcg@10"][0]
    assert rare.loc["item-knn", "value"] == result.slices["rare"].baselines["item-knn"]["ndcg@10"]
    assert set(table.group) >= {"all", "macro", "warm"}
    by = replace(result, by={"user.age": {"18": result.slices["rare"]}}).to_pandas()
    assert set(by.group) == {*table.group, "user.age=18"}
    means = {name: f"{metrics['ndcg@10']:.4f}" for name, metrics in result.baselines.items()}
    assert repr(result) == (
        f"<Evaluation of 30 examples, ndcg@10: model {result.metrics['ndcg@10']:.4f}, "
        f"popularity {means['popularity']}, item-knn {means['item-knn']}>"
    )
