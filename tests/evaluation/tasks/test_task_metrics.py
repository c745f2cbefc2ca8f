"""Metrics of tasks: SID answers against exact scores of every SID, text answers against loops,
chance by counting."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from sidtool.base.errors import DataError, UsageError
from sidtool.data import Fields, FieldTypes
from sidtool.data.split import Example
from sidtool.evaluation.tasks.questions import Question, TaskEvaluationOptions, make_questions
from sidtool.evaluation.tasks.task_evaluation import evaluate_questions, evaluate_task
from sidtool.evaluation.tasks.text_answers import exact_match, token_f1
from sidtool.memory.mixture import WeightedMemory
from sidtool.model import LoadedModel
from sidtool.model.contract import StageRecord
from sidtool.model.prompt import (
    HistoryPrompt,
    Segment,
    begin,
    catalog,
    prompt_encoder,
    sids,
    template,
)
from sidtool.recommendation import QuerySession
from sidtool.recommendation.search import BeamOptions, Normalize
from sidtool.recommendation.search.score import score_sids
from tests.bundles import small_bundle
from tests.loaded import loaded_model
from tests.memory.cases import small_memory
from tests.model.contract.cases import TRAINED
from tests.models import CHAT_TEMPLATE, EOS, greedy

N = 30
SEARCH = BeamOptions(num_beams=N)


def made(*, crowded: bool = False) -> LoadedModel:
    bundle = small_bundle(N, (2, 2, 2), duplicates=True) if crowded else small_bundle(N)
    return loaded_model(bundle, "qwen3")


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return made()


def to_sid(
    loaded: LoadedModel, text: str, row: int, group: tuple[object, ...] | None = None
) -> Question:
    space = loaded.bundle.space
    sid = sids(space, loaded.bundle.items.codes[row : row + 1], behind_begin=True)
    prompt = (template("Title: "), catalog(text), template("\nSID:"), begin(space))
    return Question(prompt, (sid, template("<eos>")), group)


def to_text(loaded: LoadedModel, row: int, text: str) -> Question:
    space = loaded.bundle.space
    sid = sids(space, loaded.bundle.items.codes[row : row + 1])
    prompt = (template("SID: "), sid, template("\nTitle: "))
    return Question(prompt, (catalog(text), template("<eos>")))


def exact_scores(
    loaded: LoadedModel, questions: list[Question], normalize: Normalize = "level"
) -> Any:
    encoder = prompt_encoder(loaded.tokenizer, loaded.tokens)
    prompts = [encoder.ids(question.prompt) for question in questions]
    options: Any = {"normalize": normalize, "trie": loaded.bundle.trie()}
    return score_sids(loaded.model, prompts, loaded.bundle.items.codes, loaded.tokens, **options)


@pytest.mark.parametrize("normalize", ["level", "trie", "vocabulary"])
def test_sid_metrics_are_those_of_exact_scores(loaded: LoadedModel, normalize: Normalize) -> None:
    questions = [to_sid(loaded, f"film {row}", row) for row in range(N)]
    # the model was trained over the level
    search = BeamOptions(num_beams=N, normalize=None if normalize == "level" else normalize)
    result = evaluate_questions(loaded, "title-to-sid", questions, search=search)
    assert result.settings["normalize"] == normalize
    codes, scores = loaded.bundle.items.codes, exact_scores(loaded, questions, normalize)
    best = codes[scores.argmax(axis=1)]
    for level in (1, 2):
        wanted = (best[:, :level] == codes[:, :level]).all(axis=1).mean()
        assert result.metrics[f"prefix@{level}"] == pytest.approx(wanted)
    ranks = (scores > np.diag(scores)[:, None]).sum(axis=1)
    assert result.metrics["exact"] == result.metrics["hr@1"] == pytest.approx((ranks == 0).mean())
    assert result.metrics["hr@20"] == pytest.approx((ranks < 20).mean())
    gains = np.where(ranks < 20, 1 / np.log2(ranks + 2), 0)
    assert (result.metrics["ndcg@20"], result.n) == (pytest.approx(gains.mean()), N)
    for name, (low, high) in result.confidence_interval.items():
        assert low <= result.metrics[name] <= high
    narrow = evaluate_questions(loaded, "title-to-sid", questions, search=BeamOptions(num_beams=1))
    names = {name for name in narrow.metrics if "@" in name and "prefix" not in name}
    assert names == {"hr@1", "ndcg@1", "mrr@1"}


def test_chance_is_a_sid_drawn_at_random(loaded: LoadedModel) -> None:
    questions = [to_sid(loaded, f"film {row}", row) for row in range(0, N, 3)]
    result = evaluate_questions(loaded, "title-to-sid", questions, search=BeamOptions(num_beams=2))
    codes, target_codes = loaded.bundle.items.codes, loaded.bundle.items.codes[::3]
    for level in (1, 2, 3):
        share = (codes[None, :, :level] == target_codes[:, None, :level]).all(axis=2).mean()
        assert result.chance["exact" if level == 3 else f"prefix@{level}"] == pytest.approx(share)


def test_an_answer_correct_for_one_question_is_correct_for_its_group(loaded: LoadedModel) -> None:
    first = int(exact_scores(loaded, [to_sid(loaded, "same", 0)])[0].argmax())
    wrong = (first + 7) % N
    alone = evaluate_questions(loaded, "t", [to_sid(loaded, "same", wrong)], search=SEARCH)
    assert alone.metrics["exact"] == 0
    also_correct = [to_sid(loaded, "whatever", first, ("same",))]
    questions = [to_sid(loaded, "same", wrong, ("same",))]
    helped = evaluate_questions(loaded, "t", questions, also_correct=also_correct, search=SEARCH)
    assert (helped.metrics["exact"], helped.metrics["prefix@1"]) == (1, 1)
    assert helped.metrics["hr@1"] == 0  # retrieval looks for the item itself
    assert helped.chance["exact"] == pytest.approx(2 / N)


def test_questions_have_the_format_of_the_training_of_their_task() -> None:
    loaded = made()
    loaded.tokenizer.chat_template = CHAT_TEMPLATE
    formats = {"title-to-sid": "chat", "sequence": "plain"}
    stages = tuple(
        StageRecord("full", replace(TRAINED, task_weights={task: 1.0}, example_format=format))
        for task, format in formats.items()
    )
    loaded = replace(loaded, contract=replace(loaded.contract, stages=stages))
    expected = {"title-to-sid": "<|im_start|>", "sid-to-title": "Semantic ID of an item"}
    for task, begins in expected.items():
        options = TaskEvaluationOptions(task=task)
        questions, _ = make_questions(loaded, (), options, FieldTypes())
        assert questions[0].prompt[0].text.startswith(begins)


def test_a_whole_history_is_shown_as_it_is_when_serving() -> None:
    prompt = HistoryPrompt("sequence", "{history}", 2, 200, item="{gap} {sid}{event.rating}")
    loaded = loaded_model(small_bundle(N), "qwen3", history_prompt=prompt)
    history, times = ("i1", "i2", "no such item", "i3", "i4"), (0, 5, 3600, 90_000, 90_001)
    fields = Fields(event={"rating": (1, 2, 3, 4, 5)}, times=times, time=10**9)
    example = Example("u", history, "i5", 5, fields, {"rating": 3})
    types = FieldTypes({"rating": "int"}, times=True)
    options = TaskEvaluationOptions(task="sequence")
    ([question], _) = make_questions(loaded, [example], options, types)
    ids = prompt_encoder(loaded.tokenizer, loaded.tokens).ids([*question.prompt, *question.answer])
    rows = loaded.bundle.items.rows(history)
    served = QuerySession.of(loaded).from_history(rows, fields)
    assert ids[: len(served)] == served
    # the gap before the first item shown is that since an item before it
    assert loaded.tokenizer.decode(served).startswith("days")


def test_a_shared_sid_is_correct_and_its_items_share_the_rank() -> None:
    loaded = made(crowded=True)
    keys = loaded.bundle.items.keys
    best = int(exact_scores(loaded, [to_sid(loaded, "x", 0)])[0].argmax())
    size = int((keys == keys[best]).sum())
    assert size > 1
    result = evaluate_questions(loaded, "t", [to_sid(loaded, "x", best)], search=SEARCH)
    assert (result.metrics["exact"], result.metrics["hr@1"]) == (1, pytest.approx(1 / size))


def test_a_whole_history_is_evaluated_by_its_last_item(loaded: LoadedModel) -> None:
    space, codes = loaded.bundle.space, loaded.bundle.items.codes
    whole = Question((), (sids(space, codes[[3, 8, 5]]), template("")))
    cut = (sids(space, codes[[3, 8]]), begin(space))
    last_item = Question(cut, (sids(space, codes[5:6], behind_begin=True),))
    results = [evaluate_questions(loaded, "t", [question]) for question in (whole, last_item)]
    assert results[0].metrics == results[1].metrics


@torch.no_grad()
def test_texts_are_written_greedily_and_perplexity_is_the_answers(loaded: LoadedModel) -> None:
    encoder = prompt_encoder(loaded.tokenizer, loaded.tokens)
    texts = ["red toy", "a much longer title of a film", "x"]
    questions = [to_text(loaded, row, text) for row, text in enumerate(texts)]
    room = max(len(encoder.ids(question.answer)) for question in questions) + 8
    result = evaluate_questions(loaded, "sid-to-title", questions)
    assert "normalize" not in result.settings
    with pytest.raises(UsageError, match="no answer of task sid-to-title is a SID"):
        evaluate_questions(loaded, "sid-to-title", questions, search=BeamOptions(normalize="trie"))
    prompts = [encoder.ids(question.prompt) for question in questions]
    answers = [greedy(loaded.model, prompt, room, {EOS}) for prompt in prompts]
    written = [loaded.tokenizer.decode(ids, skip_special_tokens=True) for ids in answers]
    assert result.metrics["token_f1"] == pytest.approx(np.mean([*map(token_f1, written, texts)]))
    total, count = 0.0, 0
    for question in questions:
        before, answer = encoder.ids(question.prompt), encoder.ids(question.answer)
        logs = loaded.model(input_ids=torch.tensor([before + answer])).logits[0].log_softmax(-1)
        total -= sum(float(logs[len(before) + at - 1, token]) for at, token in enumerate(answer))
        count += len(answer)
    assert result.metrics["perplexity"] == pytest.approx(np.exp(total / count), rel=1e-4)
    assert result.chance == {}


@torch.no_grad()
def test_running_text_has_a_perplexity_alone(loaded: LoadedModel) -> None:
    encoder = prompt_encoder(loaded.tokenizer, loaded.tokens)
    sid = sids(loaded.bundle.space, loaded.bundle.items.codes[:1])
    text = (catalog("red toy"), template("\n"), sid)
    result = evaluate_questions(loaded, "item-text", [Question((), text)])
    ids = encoder.ids(text)
    logs = loaded.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    losses = [-float(logs[at - 1, ids[at]]) for at in range(1, len(ids))]
    assert result.metrics == {"perplexity": pytest.approx(np.exp(np.mean(losses)), rel=1e-4)}
    assert result.confidence_interval == {}


def test_a_memory_has_no_part_in_an_answer(loaded: LoadedModel) -> None:
    with_memory = replace(loaded, memory=WeightedMemory(small_memory(loaded.bundle)))
    options: dict[str, Any] = {"task": "title-to-sid", "limit": 2, "num_beams": 3}
    alone = evaluate_task(loaded, None, **options, normalize="level")
    assert evaluate_task(with_memory, None, **options, normalize="level") == alone


def test_invalid_sets_of_questions_are_refused(loaded: LoadedModel) -> None:
    with pytest.raises(DataError, match="no questions"):
        evaluate_questions(loaded, "t", [])
    with pytest.raises(DataError, match="several kinds"):
        evaluate_questions(loaded, "t", [to_sid(loaded, "x", 1), to_text(loaded, 1, "x")])


@pytest.mark.parametrize(
    ("result", "right", "exact", "f1"),
    [
        ("The Toy Story!", "toy story", 1.0, 1.0),
        ("Toy Story 2", "toy story", 0.0, 4 / 5),  # two of three, two of two
        # one of two, one of two: a word counts as often as it stands
        ("toy toy", "toy story", 0.0, 2 / 4),
        ("story", "An Alien", 0.0, 0.0),
        ("the", "", 1.0, 1.0),  # no words at all
        ("alien", "the", 0.0, 0.0),
    ],
)
def test_text_metrics_equal_values_computed_by_hand(
    result: str, right: str, exact: float, f1: float
) -> None:
    assert exact_match(result, right) == exact
    assert token_f1(result, right) == pytest.approx(f1)


def test_a_question_without_a_whole_sid_of_the_bundle_is_refused(loaded: LoadedModel) -> None:
    question = to_sid(loaded, "film", 0)
    tokens = question.answer[0].sid_tokens
    for sid_tokens, message in (
        ((), "a question has no SID of the model's bundle"),
        (tokens[:1], "a question ends in an incomplete SID"),
        ((tokens[1], tokens[0], *tokens[2:]), "or one that the model's bundle cannot have"),
    ):
        answer = (Segment("sid", sid_tokens=sid_tokens), template("<eos>"))
        with pytest.raises(DataError, match=message):
            evaluate_questions(loaded, "title-to-sid", [replace(question, answer=answer)])
