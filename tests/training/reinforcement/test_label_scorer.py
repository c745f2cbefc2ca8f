"""The reward of a model that predicts labels, computed by hand from the model's own logits."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.data.fields.fields import Fields
from sidtool.model.prompt.prompts import LabelPrompt
from sidtool.model.prompt.segments import Segment, catalog, prompt_encoder, sids, template
from sidtool.training.reinforcement.rewards.kinds import parse_rewards
from sidtool.training.reinforcement.rewards.label import LabelScores, positive_labels
from sidtool.training.reinforcement.rewards.reward import Groups, RewardContext, reward_sum
from tests.bundles import small_bundle
from tests.loaded import loaded_model

BUNDLE = small_bundle()
PLAIN = LabelPrompt(
    "predict-buy", "{history}?", 3, 200, feedback="buy", labels=("no", "yes"), close="<eos>"
)
RATED = LabelPrompt(
    "predict-rating",
    "Aged {user.age}: {history} Rated?",
    4,
    300,
    item="{sid}{event.rating};",
    feedback="rating",
    labels=("1", "2", "3", "10"),
    close="<eos>",
)
HISTORIES = [np.array([3, 8, 21, 30, 2]), np.array([7])]


def scorer_of(condition: str, architecture: str = "llama") -> LabelScores:
    loaded = loaded_model(BUNDLE, architecture)
    contract = dataclasses.replace(loaded.contract, label_prompts=(PLAIN, RATED))
    return LabelScores(loaded, *positive_labels(contract, condition, "the model"))


def by_hand(scorer: LabelScores, segments: list[Segment], labels: Any, positive: Any) -> float:
    """The share of the positive labels in the probabilities of all labels."""
    model = scorer.loaded
    encoder = prompt_encoder(model.tokenizer, model.tokens)
    probabilities = []
    for label in labels:
        prompt = encoder.ids(segments)
        answer = encoder.ids([catalog(label), template("<eos>")])
        inputs = {"input_ids": torch.tensor([[*prompt, *answer]])}
        start = len(prompt) - 1
        if model.contract.kind == "encoder-decoder":
            inputs = {"input_ids": torch.tensor([prompt])}
            inputs["decoder_input_ids"] = torch.tensor([[0, *answer]])
            start = 0
        with torch.no_grad():
            logs = model.model(**inputs).logits[0].log_softmax(-1)
        places = range(start, start + len(answer))
        spelled = zip(places, answer, strict=True)
        probabilities.append(np.exp(sum(float(logs[p, t]) for p, t in spelled)))
    return float(sum(probabilities[place] for place in positive) / sum(probabilities))


def sid(row: int) -> Segment:
    return sids(BUNDLE.space, BUNDLE.items.codes[[row]])


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "t5"])
def test_the_reward_is_the_probability_of_the_positive_labels(architecture: str) -> None:
    scorer = scorer_of("buy=yes", architecture)
    items = np.array([[5, 9, 5, -1], [11, -1, 30, 2]])
    scores = scorer(HISTORIES, None, items)
    assert scorer(HISTORIES, None, np.full((2, 1), -1)).tolist() == [[0], [0]]
    for row, history in enumerate(HISTORIES):
        for place, item in enumerate(items[row].tolist()):
            expected = 0.0
            if item >= 0:
                # the last three items, the candidate included
                shown = [*history.tolist(), item][-3:]
                segments = [*map(sid, shown), template("?")]
                expected = by_hand(scorer, segments, ("no", "yes"), (1,))
            assert scores[row, place] == pytest.approx(expected, abs=1e-5)


def test_the_history_has_its_feedback_and_the_item_has_none() -> None:
    scorer = scorer_of("rating>=3")
    ratings = [(3, 1, 10, None, 2), (1,)]
    fields = [Fields({"age": 30 + row}, {"rating": values}) for row, values in enumerate(ratings)]
    scores = scorer(HISTORIES, fields, np.array([[5, 14], [9, 9]]))
    texts = [("10", "unknown", "2"), ("1",)]
    for row, history in enumerate(HISTORIES):
        segments = [template("Aged "), catalog(str(30 + row)), template(": ")]
        shown = history.tolist()[-3:]
        for item, text in zip([*shown, (5, 9)[row]], [*texts[row], "unknown"], strict=True):
            segments += [sid(item), catalog(text), template(";")]
        # a file of examples stores neighboring texts of the template as one
        segments[-1] = template("; Rated?")
        expected = by_hand(scorer, segments, RATED.labels, (2, 3))
        assert scores[row, 0] == pytest.approx(expected, abs=1e-5)
    assert scores[1, 0] == scores[1, 1]


def test_rewards_of_items_and_of_lists_read_the_scores() -> None:
    scorer = scorer_of("buy=yes")
    context = RewardContext(BUNDLE, {"label": scorer})
    items = np.array([[5, 9, -1], [11, 30, 2]])
    scores = scorer(HISTORIES, None, items)
    groups = Groups(HISTORIES, items, np.array([5, 11]))
    np.testing.assert_allclose(reward_sum(parse_rewards("label=2"), groups, context), 2 * scores)
    lists = np.array([[[5, 9, -1], [-1, -1, -1]], [[11, 30, 2], [30, 11, -1]]])
    list_groups = Groups(HISTORIES, lists, [np.array([5]), np.array([11])])
    rewards = reward_sum(parse_rewards("label", lists=True), list_groups, context)
    expected = [[scores[0, :2].mean(), 0.0], [scores[1].mean(), scores[1, :2].mean()]]
    np.testing.assert_allclose(rewards, expected, rtol=1e-5)


def test_labels_are_chosen_by_a_condition() -> None:
    contract = dataclasses.replace(loaded_model(BUNDLE).contract, label_prompts=(PLAIN, RATED))

    def positive(condition: str, **changes: Any) -> tuple[bool, ...]:
        changed = dataclasses.replace(contract, **changes)
        return positive_labels(changed, condition, "reward model m")[1]

    assert positive("rating>2") == (False, False, True, True)
    assert positive("buy!=no") == (False, True)
    with pytest.raises(CompatibilityError, match="m was not trained to predict labels"):
        positive("buy=yes", label_prompts=())
    with pytest.raises(UsageError, match="about 'watch', reward model m predicts buy, rating"):
        positive("watch>3")
    with pytest.raises(UsageError, match="fulfilled by every label of no, yes"):
        positive("buy!=maybe")
    with pytest.raises(UsageError, match="fulfilled by no label of 1, 2, 3, 10"):
        positive("rating>10")
    with pytest.raises(UsageError, match="positive_label 'liked' is no comparison"):
        positive("liked")
    with pytest.raises(UsageError, match="positive_label 'buy>3': texts are equal"):
        positive("buy>3")
    with pytest.raises(UsageError, match="m has user tokens"):
        positive("buy=yes", user_tokens=4)
