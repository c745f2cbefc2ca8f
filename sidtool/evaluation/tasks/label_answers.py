"""Metrics of questions whose answer is one of a few labels: accuracy, log loss and AUC of the
probabilities that a model gives to them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError
from sidtool.evaluation.tasks.answer_scores import SharedPrompt, answer_probabilities
from sidtool.evaluation.tasks.questions import Question
from sidtool.model import LoadedModel
from sidtool.model.prompt import are_numbers, catalog, prompt_encoder, sorted_labels

SMALLEST = 1e-15
"""The smallest probability of which a log loss is taken."""


def label_metrics(
    loaded: LoadedModel, questions: Sequence[Question]
) -> tuple[tuple[str, ...], NDArray[np.float64], dict[str, float], dict[str, float]]:
    """Metric names, (n, metrics) values of accuracy and log loss, the AUC if there is one, and
    what is reached without looking at a question: by the shares of the labels.

    Raises DataError if all answers are the same, since every model would be perfect."""
    labels = sorted_labels(question.text for question in questions)
    if len(labels) == 1:
        raise DataError(
            f"all {len(questions)} questions have the answer {labels[0]!r}: no model can be wrong",
            hint="a split with --target holds out targets only: evaluate on one without it",
        )
    probabilities = label_probabilities(loaded, questions, labels)
    answers = np.array([labels.index(question.text) for question in questions])
    correct = probabilities.argmax(axis=1) == answers
    # a probability may be 0 in floating point
    of_answers = np.maximum(probabilities[np.arange(len(answers)), answers], SMALLEST)
    shares = np.bincount(answers, minlength=len(labels)) / len(answers)
    chance = {"accuracy": float(shares.max()), "log_loss": float(-(shares * np.log(shares)).sum())}
    ranked = {}
    are_ordered = are_numbers(labels)
    if len(labels) == 2 or are_ordered:
        numbers = [float(label) if are_ordered else place for place, label in enumerate(labels)]
        ranked["auc"] = concordance(probabilities @ np.array(numbers), answers)
        chance["auc"] = 0.5
    values = np.stack([correct.astype(np.float64), -np.log(of_answers)], axis=1)
    return ("accuracy", "log_loss"), values, ranked, chance


def label_probabilities(
    loaded: LoadedModel, questions: Sequence[Question], labels: Sequence[str]
) -> NDArray[np.float64]:
    """(n, labels): the model's probability of each label, its closing text included, among all of
    them."""
    encoder = prompt_encoder(loaded.tokenizer, loaded.tokens)
    closings = {question.closing for question in questions}
    probabilities = np.empty((len(questions), len(labels)))
    for closing in closings:  # one, unless examples of several formats were joined
        answers = [encoder.ids([catalog(label), *closing]) for label in labels]
        numbers = [n for n, each in enumerate(questions) if each.closing == closing]
        prompts = [SharedPrompt.single(encoder.ids(questions[n].prompt)) for n in numbers]
        of_labels = answer_probabilities(loaded.model, prompts, answers)
        probabilities[numbers] = np.concatenate(of_labels)
    return probabilities


def concordance(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> float:
    """The share of pairs with different labels whose higher label has the higher score, ties by
    half: the AUC for two labels, for more the concordance index (F. Harrell et al., 1982)."""
    concordant = 0.0
    pairs = 0
    present = np.unique(labels)
    for place, low in enumerate(present):
        lower = np.sort(scores[labels == low])
        for high in present[place + 1 :]:
            higher = scores[labels == high]
            below = np.searchsorted(lower, higher, side="left")
            through = np.searchsorted(lower, higher, side="right")
            concordant += float((below + through).sum()) / 2
            pairs += len(lower) * len(higher)
    return concordant / pairs
