import json
import shlex
from dataclasses import replace

import pytest

from sidtool.data import Fields
from sidtool.evaluation import Averages, EvaluationOptions, Sample, StoredEvaluation, verdict
from sidtool.evaluation.bootstrap import Difference
from sidtool.evaluation.evaluation import evaluate_examples
from sidtool.evaluation.results import NO_EXAMPLES, Slice
from sidtool.evaluation.verdicts import deciding_metric
from sidtool.memory.mixture import WeightedMemory
from sidtool.model.prompt import HistoryPrompt
from tests.evaluation.shop import memory_of, trie_model, visits

METRIC = "ndcg@10"


def gain(mean: float, low: float, high: float) -> dict[str, Difference]:
    return {METRIC: Difference(mean, low, high, 0.01)}


def evaluated(
    value: float = 0.07,
    *,
    differences: dict[str, dict[str, Difference]] | None = None,
    alone: dict[str, Difference] | None = None,
    new: int = 0,
    missing: int = 0,
    seen: int = 0,
    users: int = 1000,
    tied: float = 0.0,
) -> StoredEvaluation:
    """An evaluation of 1,000 examples beside item-kNN of .06, and others of the same value."""
    differences = differences or {}
    baselines = {system: {METRIC: 0.06} for system in differences}
    if alone:
        baselines["model alone"] = {METRIC: 0.06}
    means = Averages(1000, {METRIC: value, "hr@10": 0.1}, {METRIC: (0.05, 0.09)}, baselines, {})
    return StoredEvaluation(
        **vars(replace(means, differences=differences)),
        sid_level={},
        macro=NO_EXAMPLES,
        slices={"cold": Slice(**vars(replace(NO_EXAMPLES, n=new)), events=(0, 0))},
        coverage={},
        effective_items={},
        counts={"users": users, "targets_not_recommendable": missing, "targets_seen": seen},
        settings={"tied_targets": tied},
        differences_from_item_knn={"model alone": alone} if alone else {},
    )


def test_a_model_alone_is_placed_beside_item_knn() -> None:
    behind = verdict(evaluated(0.053, differences={"item-knn": gain(-0.007, -0.012, -0.003)}))
    assert str(behind) == (
        "No: item-kNN is better. The model is 12% behind item-kNN "
        "(ndcg@10 .0530 against .0600, 95% interval -20% to -5%)"
        "; item-kNN is not tuned"
    )
    assert behind.standing == "behind"
    assert behind.advice == "add a memory: build-memory, then tune-memory"
    by_level = evaluated(0.053, differences={"item-knn": gain(-0.007, -0.012, -0.003)})
    by_level.settings["normalize"] = "level"  # tune-memory refuses such a model
    advice = "add a memory: train on tasks that answer with SIDs, build-memory, then tune-memory"
    assert verdict(by_level).advice == advice
    level = verdict(evaluated(0.061, differences={"item-knn": gain(0.001, -0.003, 0.006)}))
    assert level.standing == "level"
    assert level.sentences == (
        "No: it is not measurably better than item-kNN",
        "the model is level with item-kNN (ndcg@10 .0610 against .0600, 95% interval -5% to +10%)",
        "item-kNN is not tuned",
    )
    hopeless = verdict(evaluated(0.001, differences={"item-knn": gain(-0.059, -0.07, -0.05)}))
    assert "95% interval -100% to -83%" in str(hopeless)
    for low, high in ((0.0, 0.006), (-0.006, 0.0)):
        touching = evaluated(0.06, differences={"item-knn": gain(0.0, low, high)})
        assert verdict(touching).standing == "level"
    ahead = verdict(evaluated(0.07, differences={"item-knn": gain(0.01, 0.006, 0.012)}))
    assert ahead.standing == "ahead"
    assert "17% ahead of item-kNN" in str(ahead)


def test_a_model_with_a_memory_is_placed_with_and_without_it() -> None:
    differences = {
        "item-knn": gain(0.0114, 0.0072, 0.0156),
        "memory alone": gain(0.003, 0.001, 0.005),
    }
    alone = gain(-0.0066, -0.01, -0.003)
    answer = verdict(evaluated(0.0714, differences=differences, alone=alone, new=40))
    assert answer.sentences == (
        "Yes: use it",
        "with its memory the model is 19% ahead of item-kNN (ndcg@10 .0714 against .0600, "
        "95% interval +12% to +26%), without it 11% behind (95% interval -17% to -5%)",
        "model with memory 5% ahead of the memory alone (95% interval +2% to +8%)",
        "item-kNN is not tuned",
        "4% of targets are new items",
    )
    assert answer.standing == "ahead"
    behind = {**differences, "item-knn": gain(-0.01, -0.02, -0.006)}
    answer = verdict(evaluated(0.05, differences=behind, alone=alone))
    assert answer.advice.startswith("train longer (fit --minutes); where validation has stopped")
    differences["mixture"] = gain(0.0024, 0.001, 0.003)
    alone = gain(-0.007, -0.01, -0.003)
    reranked = verdict(evaluated(0.0714, differences=differences, alone=alone))
    assert reranked.sentences[3] == "re-ranked 4% ahead of the mixture (95% interval +2% to +5%)"


def test_a_model_that_adds_nothing_to_its_memory_is_advised_against() -> None:
    differences = {"item-knn": gain(0.01, 0.007, 0.015), "memory alone": gain(0.001, -0.002, 0.003)}
    evaluation = evaluated(differences=differences, alone=gain(-0.02, -0.03, -0.01))
    evaluation.differences_from_item_knn["memory alone"] = gain(0.009, 0.005, 0.014)
    answer = verdict(evaluation)
    assert answer.sentences[0] == (
        "Yes: use its memory alone, to which the model adds nothing measurable"
    )
    assert "model with memory level with the memory alone" in str(answer)
    assert "serve the memory alone" in answer.advice
    # the memory alone is not measurably better than item-kNN: the model with it is
    evaluation.differences_from_item_knn["memory alone"] = gain(0.004, -0.001, 0.009)
    assert verdict(evaluation).sentences[0] == "Yes: use it"


def test_a_model_that_popular_items_beat_is_not_for_use() -> None:
    differences = {"item-knn": gain(0.01, 0.007, 0.015), "popularity": gain(-0.01, -0.03, 0.01)}
    evaluation = evaluated(differences=differences)
    answer = verdict(evaluation)
    assert answer.standing == "ahead"
    assert answer.sentences[0] == "No: it is not measurably better than popular items"
    assert answer.sentences[2].startswith("the model is level with popular items (95% interval")
    assert answer.next_step(evaluation, "model") == answer.advice
    assert answer.advice.startswith("train longer (fit --minutes), or show popular items")
    differences["popularity"] = gain(0.01, 0.005, 0.02)
    assert str(verdict(evaluated(differences=differences))).startswith("Yes: use it. The model is")


def test_what_limits_the_figures_is_said() -> None:
    differences = {"item-knn": gain(0.01, 0.007, 0.015), "other model": gain(-0.01, -0.02, -0.002)}
    evaluation = evaluated(
        differences=differences, new=100, missing=15, seen=20, users=60, tied=0.34
    )
    answer = verdict(evaluation)
    assert answer.sentences[2:] == (
        "model 17% behind the other model (95% interval -33% to -3%)",
        "item-kNN is not tuned",
        "34% of targets have the time of the event before them: the rows of the file order the "
        "two, and figures may be too high",
        "10% of targets are new items",
        "1.5% of targets cannot be recommended",
        "2% of targets are seen items, which are never recommended",
        "with 60 users only large differences show",
    )
    assert answer.advice == "give the memory content for new items: build-memory --items CATALOG"
    evaluation.settings.update({"tied_targets": 0.2, "memory": {"content": True}})
    answer = verdict(evaluation)
    assert "have the time" not in str(answer)
    assert answer.advice == "train a second seed before you rely on small differences"


def test_a_command_ends_with_recommendations_or_the_advice() -> None:
    ahead = evaluated(differences={"item-knn": gain(0.01, 0.006, 0.012)})
    answer = verdict(ahead)
    command = "sidtool recommend 'my model' --history {} -k 10"
    assert answer.next_step(ahead, "my model") == command.format("ITEM,ITEM")
    served = ("--memory", "to night.zarr", "--no-rerank")
    expected = "sidtool recommend m --memory 'to night.zarr' --no-rerank --history ITEM,ITEM -k 10"
    assert answer.next_step(ahead, "m", options=served) == expected
    # a comma would be the end of an id
    sample = Sample("u1", 0, ("a", "b", "c", "x,y", "d"), "e", {})
    sampled = replace(ahead, samples=(sample,))
    assert answer.next_step(sampled, "my model") == command.format("b,c,d")
    prompt = HistoryPrompt("sequence", "{user.age}{history}", 20, 99, item="{sid}{event.rating}")
    *_, flag, fields = shlex.split(answer.next_step(sampled, "my model", prompt))
    assert flag == "--fields"
    assert Fields.from_json(json.loads(fields), 3) == prompt.unknown_fields(3)
    behind = evaluated(0.05, differences={"item-knn": gain(-0.01, -0.02, -0.006)})
    assert verdict(behind).next_step(behind, "my model") == verdict(behind).advice


def test_without_item_knn_the_metric_is_said_alone() -> None:
    answer = verdict(evaluated())
    assert answer.standing == "unknown"
    assert str(answer) == (
        "Unknown: item-kNN was not measured beside it. "
        "The model has ndcg@10 .0700 (95% interval .0500 to .0900)"
    )
    assert answer.advice == "evaluate with baselines=True, which has item-kNN beside the model"
    without_events = verdict(replace(evaluated(), slices={}))
    assert without_events.advice.startswith("evaluate on a split with training events")


def test_a_baseline_without_hits_has_no_percentages() -> None:
    evaluation = evaluated(0.02, differences={"item-knn": gain(0.02, 0.01, 0.03)})
    evaluation.baselines["item-knn"][METRIC] = 0.0
    assert str(verdict(evaluation)) == (
        "Yes: use it. The model is .0200 ahead of item-kNN "
        "(ndcg@10 .0200 against .0000, 95% interval +0.0100 to +0.0300)"
        "; item-kNN is not tuned"
    )


@pytest.mark.parametrize(("names", "expected"), [(("1", "5", "20"), "5"), (("50",), "50")])
def test_the_metric_is_ndcg_nearest_to_ten(names: tuple[str, ...], expected: str) -> None:
    metrics = {f"{kind}@{name}": 0.1 for name in names for kind in ("hr", "ndcg")}
    assert deciding_metric(replace(evaluated(), metrics=metrics)) == f"ndcg@{expected}"


def test_an_evaluation_has_the_intervals_that_the_verdict_needs() -> None:
    events, examples = visits()
    loaded = trie_model(shared=False)
    mixture = replace(loaded, memory=WeightedMemory(memory_of(events, loaded.bundle), 0.4, 2.0))
    evaluation = evaluate_examples(mixture, examples, events, EvaluationOptions(), against=loaded)
    from_item_knn = evaluation.differences_from_item_knn
    assert set(from_item_knn) == {"other model", "model alone", "memory alone", "popularity"}
    for system, differences in from_item_knn.items():
        mean = evaluation.baselines[system][METRIC] - evaluation.baselines["item-knn"][METRIC]
        assert differences[METRIC].mean == pytest.approx(mean)
    # the other model is the model alone
    assert from_item_knn["other model"] == from_item_knn["model alone"]
    second = verdict(evaluation).sentences[1]
    assert second.startswith("with its memory the model is ")
    assert ", without it " in second
    assert verdict(StoredEvaluation.from_json(evaluation.to_json())) == verdict(evaluation)


def test_a_memory_that_was_tuned_to_weight_0_is_not_advised_again() -> None:
    events, examples = visits()
    loaded = trie_model(shared=False)
    memory = WeightedMemory(memory_of(events, loaded.bundle), 0.0, 2.0)
    options = EvaluationOptions()
    evaluation = evaluate_examples(replace(loaded, memory=memory), examples, events, options)
    assert verdict(evaluation).standing != "ahead"
    assert "memory alone" not in evaluation.baselines
    assert "add a memory" not in verdict(evaluation).advice
    assert "add a memory" in verdict(evaluate_examples(loaded, examples, events, options)).advice
