from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.data import Fields, FieldTypes, Items
from sidtool.data.split import Split
from sidtool.data.split.files import write_split
from sidtool.examples import SftOptions, make_sft
from sidtool.model import load_model_folder
from sidtool.model.contract import ModelReference, read_contract
from sidtool.model.prompt import Templates
from sidtool.tokenizer.bundle import Bundle
from sidtool.training import train
from sidtool.training.reinforcement import RlOptions, plan_rl
from sidtool.training.reinforcement.rewards import label
from tests.models import tiny_tokenizer
from tests.training.runs import Make, short_rl
from tests.training_fixtures import split_with_fields

LABEL: dict[str, Any] = {"reward": "label=1", "positive_label": "rating>=4"}
SHORT: dict[str, Any] = {"per_device_train_batch_size": 32, "learning_rate": 1e-3, "max_steps": 2}
SHORT |= {"eval_users": 8, "eval_num_beams": 4}


def rating(item: str) -> int:
    """Of an item, whoever rates it."""
    return 5 if int(item[1:]) % 2 == 0 else 1


@pytest.fixture(scope="module")
def rated(split: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The split of the shop, with a rating of every event."""

    def fields_of(user: str, items: tuple[str, ...]) -> Fields:
        return Fields({}, {"rating": tuple(map(rating, items))})

    types = FieldTypes({"rating": "int"})
    made = split_with_fields(split, types, fields_of, lambda user, item: {"rating": rating(item)})
    folder = tmp_path_factory.mktemp("rated") / "split"
    write_split(made, folder)
    return folder


@pytest.fixture(scope="module")
def trained(
    bundle: Bundle,
    catalog: Items,
    rated: Path,
    models: Make,
    tmp_path_factory: pytest.TempPathFactory,
) -> Make:
    """Models trained to predict ratings, by the steps and the templates of their task."""

    def make(steps: int, *items: str) -> Path:
        folder = tmp_path_factory.mktemp("labels")
        templates = {"predict-rating": Templates(("{history}",), "", items)}
        task = {"predict-rating": 1.0}
        options = SftOptions(task, max_length=200, history_length=6, templates=templates)
        made = folder / "train.jsonl"
        make_sft(bundle, catalog, rated, made, options, tokenizer=tiny_tokenizer())
        settings = {"max_steps": steps, "per_device_train_batch_size": 32, "learning_rate": 1e-2}
        train(models("llama"), made, folder / "model", **settings)
        return folder / "model"

    return make


@pytest.fixture(scope="module")
def reward_model(trained: Make) -> Path:
    """A model that predicts ratings, from prompts with ratings."""
    return trained(4, "{sid}{event.rating};")


@pytest.mark.slow
def test_lists_are_rewarded_by_the_model_of_labels(
    tmp_path: Path,
    bundle: Bundle,
    catalog: Items,
    list_model: Path,
    rated: Path,
    reward_model: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[Any, Any, Any, Any]] = []
    score = label.LabelScores.__call__

    def record(self: Any, histories: Any, fields: Any, items: Any) -> Any:
        scores = score(self, histories, fields, items)
        seen.append((histories, fields, items, scores))
        return scores

    monkeypatch.setattr(label.LabelScores, "__call__", record)
    # the validation users beside the examples have ratings
    made = tmp_path / "made" / "train.jsonl"
    made.parent.mkdir()
    options = SftOptions({"list": 1.0}, max_length=256, history_length=6)
    make_sft(bundle, catalog, rated, made, options, tokenizer=tiny_tokenizer())
    logs: list[dict[str, float]] = []
    settings = {"algorithm": "ipa", "num_generations": 2, "candidate_lists": 4, **SHORT, **LABEL}
    settings |= {"reward_inputs": {"label": reward_model}, "split": rated}
    short_rl(list_model, made, tmp_path / "out", log=logs.append, **settings)
    contract = read_contract(tmp_path / "out")
    assert contract.params.reward_inputs == {"label": ModelReference.of(reward_model).to_json()}
    assert contract.params.options["positive_label"] == "rating>=4"
    ids = load_model_folder(tmp_path / "out").bundle.items.ids
    for histories, fields, items, scores in seen:
        assert ((scores > 0) == (items >= 0)).all()
        for history, history_fields in zip(histories, fields, strict=True):
            # every event of the history has its own rating, and none is of a candidate
            ratings = history_fields.event["rating"][-len(history) :]
            assert list(ratings) == [rating(ids[row]) for row in history]
    # the last lists that were rewarded are those of validation
    *_, items, scores = seen[-1]
    expected = (scores.sum(axis=1) / (items >= 0).sum(axis=1)).mean()
    measured = next(entry for entry in reversed(logs) if "eval_list_reward" in entry)
    assert measured["eval_list_reward"] == pytest.approx(expected)
    assert np.unique(scores).size > 4


def test_what_does_not_fit_is_refused(
    tmp_path: Path,
    list_model: Path,
    made_lists: Path,
    rated: Path,
    reward_model: Path,
    trained: Make,
    split: Split,
) -> None:
    def plan(**extra: Any) -> Any:
        options = {**LABEL, **extra.pop("options", {})}
        inputs: dict[str, Any] = {"reward_inputs": {"label": reward_model}, "split": rated, **extra}
        rl_options = RlOptions(algorithm="ipa", **options)
        return plan_rl(list_model, made_lists, tmp_path / "out", rl_options, {}, **inputs)

    assert plan().reward_inputs["label"].prompt.labels == ("1", "5")
    for extra, message in (
        ({"reward_inputs": {}}, "reward label requires --reward-input label=PATH"),
        ({"options": {"positive_label": None}}, "requires --set positive_label=CONDITION"),
        ({"options": {"reward": "ndcg"}}, "--reward-input label requires the reward label"),
        (
            {"options": {"reward": "ndcg"}, "reward_inputs": {}},
            "--set positive_label=CONDITION requires the reward label",
        ),
        (
            {"options": {"reward": "ndcg", "positive_label": None}, "reward_inputs": {}},
            "--split has no use",
        ),
        ({"split": None}, "shows fields, which the training examples do not repeat"),
        ({"split": rated / "valid.parquet"}, "is no split folder"),
    ):
        with pytest.raises(UsageError, match=message):
            plan(**extra)
    with pytest.raises(CompatibilityError, match="was not trained to predict labels"):
        plan(reward_inputs={"label": list_model})
    write_split(split, tmp_path / "without")
    with pytest.raises(UsageError, match=r"\{event.rating\} is no field of the split"):
        plan(split=tmp_path / "without")
    fewer = replace(split, train=split.train[1:], valid=split.valid[1:], test=split.test[1:])
    write_split(fewer, tmp_path / "fewer")
    with pytest.raises(CompatibilityError, match="the training examples were made from"):
        plan(split=tmp_path / "fewer")
    # a prompt without fields takes no split
    simple = trained(1)
    with pytest.raises(UsageError, match="--split has no use"):
        plan(reward_inputs={"label": simple})
    assert plan(reward_inputs={"label": simple}, split=None).fields is None
