"""Label prediction against scikit-learn, and probabilities against the losses of single answers."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from sidtool.base.errors import DataError
from sidtool.evaluation.tasks.questions import Question
from sidtool.evaluation.tasks.task_evaluation import evaluate_questions
from sidtool.evaluation.tasks.text_answers import concordance, label_metrics, label_probabilities
from sidtool.model.prompt import catalog, prompt_encoder, sorted_labels, template
from tests.bundles import small_bundle
from tests.loaded import loaded_model

MODEL = loaded_model(small_bundle(12))


def question(number: int, label: str) -> Question:
    prompt = (template(f"Number {number}:"), catalog("a film"), template("?\n"))
    return Question(prompt, (catalog(label), template("<eos>")))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=30))
def test_two_labels_have_the_auc_of_scikit_learn(rows: list[tuple[int, bool]]) -> None:
    scores, labels = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    if len(set(labels)) == 2:
        expected = roc_auc_score(labels, scores)
        assert concordance(scores, labels.astype(np.int64)) == pytest.approx(expected)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=2, max_size=12))
def test_more_labels_are_compared_in_pairs(rows: list[tuple[int, int]]) -> None:
    pairs = [(a, b) for a in rows for b in rows if a[1] < b[1]]
    if pairs:
        wins = [1.0 if a[0] < b[0] else 0.5 if a[0] == b[0] else 0.0 for a, b in pairs]
        scores, labels = (np.array(column) for column in zip(*rows, strict=True))
        assert concordance(scores.astype(float), labels) == pytest.approx(np.mean(wins))


def test_probabilities_are_those_of_the_whole_answers() -> None:
    questions = [question(1, "yes"), question(2, "not at all")]
    labels = sorted_labels(each.text for each in questions)
    assert labels == ("not at all", "yes")
    encoder = prompt_encoder(MODEL.tokenizer, MODEL.tokens)
    expected = []
    for each in questions:
        prompt = encoder.ids(each.prompt)
        of_labels = []
        for label in labels:
            answer = encoder.ids([catalog(label), template("<eos>")])
            with torch.no_grad():
                logits = MODEL.model(torch.tensor([[*prompt, *answer]])).logits[0]
            logs = logits.log_softmax(-1)
            places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
            of_labels.append(
                sum(float(logs[at, token]) for at, token in zip(places, answer, strict=True))
            )
        weights = np.exp(np.array(of_labels) - max(of_labels))
        expected.append(weights / weights.sum())
    probabilities = label_probabilities(MODEL, questions, labels)
    assert probabilities == pytest.approx(np.array(expected), abs=1e-5)


def test_metrics_follow_from_the_probabilities() -> None:
    questions = [question(n, label) for n, label in enumerate(["10", "9", "10", "2.5"])]
    labels = sorted_labels(each.text for each in questions)
    assert labels == ("2.5", "9", "10")
    names, values, ranked, chance = label_metrics(MODEL, questions)
    probabilities = label_probabilities(MODEL, questions, labels)
    answers = np.array([2, 1, 2, 0])
    assert names == ("accuracy", "log_loss")
    assert values[:, 0].tolist() == (probabilities.argmax(axis=1) == answers).tolist()
    assert values[:, 1] == pytest.approx(-np.log(probabilities[range(4), answers]))
    expected = concordance(probabilities @ np.array([2.5, 9, 10]), answers)
    assert ranked == {"auc": pytest.approx(expected)}
    entropy = -(0.5 * np.log(0.5) + 2 * 0.25 * np.log(0.25))
    assert chance == {"accuracy": 0.5, "log_loss": pytest.approx(entropy), "auc": 0.5}


def test_labels_without_an_order_have_no_auc() -> None:
    three = [question(n, label) for n, label in enumerate(["view", "cart", "buy"])]
    assert label_metrics(MODEL, three)[2] == {}
    assert set(label_metrics(MODEL, three[:2])[2]) == {"auc"}


def test_a_single_label_measures_nothing() -> None:
    same = [question(n, "yes") for n in range(3)]
    with pytest.raises(DataError, match="all 3 questions have the answer 'yes'"):
        label_metrics(MODEL, same)


def test_many_labels_are_texts() -> None:
    many = [question(n, f"label {n}") for n in range(21)]
    measured = evaluate_questions(MODEL, "predict-rating", many, are_labels=True)
    assert set(measured.metrics) == {"exact_match", "token_f1", "perplexity"}
    assert measured.chance == {}
