"""Answers that are texts, against transformers and scikit-learn: losses and probabilities by
architecture, written answers and labels."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from sidtool.base.errors import DataError, UsageError
from sidtool.evaluation.tasks import SharedPrompt, answer_losses, answer_probabilities
from sidtool.evaluation.tasks import answer_scores as module
from sidtool.evaluation.tasks.questions import Question
from sidtool.evaluation.tasks.task_evaluation import evaluate_questions
from sidtool.evaluation.tasks.text_answers import (
    _write,
    concordance,
    label_metrics,
    label_probabilities,
    text_answer_metrics,
)
from sidtool.model.prompt import catalog, prompt_encoder, sorted_labels, template
from sidtool.model.vocabulary import SidTokens
from sidtool.tokenizer.sid import SidSpace
from tests.bundles import small_bundle
from tests.loaded import loaded_model
from tests.models import PAD, greedy, tiny_encoder_decoder, tiny_model, tiny_tokenizer

RNG = np.random.default_rng(0)
VOCABULARY = 60
BRANCHES = [[7, 3], [7, 9, 3], [8, 3], [11, 12, 13, 3], [5]]


def tokens(*shape: int) -> Any:
    return RNG.integers(4, VOCABULARY, shape).tolist()


SHARED_PROMPTS = [
    SharedPrompt(tokens(20), tokens(5, 4)),
    SharedPrompt(tokens(3), tokens(2, 4)),
    SharedPrompt([], []),
    SharedPrompt(tokens(11), tokens(1, 4)),
]


def one_by_one(model: Any, prompt: SharedPrompt) -> Any:
    """Each whole sequence by itself."""
    scores = []
    for end in prompt.ends:
        whole = [*prompt.start, *end]
        losses = [answer_losses(model, [whole], [answer])[0][0] for answer in BRANCHES]
        scores.append(np.exp(-np.array(losses)))
    return np.array([score / score.sum() for score in scores]).reshape(-1, len(BRANCHES))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3", "t5"])
def test_a_tree_gives_the_probabilities_of_whole_sequences(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = tiny_encoder_decoder if architecture == "t5" else tiny_model
    model = make(architecture, vocab_size=VOCABULARY)
    monkeypatch.setattr(module, "ENDS", 2)
    tree_probabilities = answer_probabilities(model, SHARED_PROMPTS, BRANCHES)
    for prompt, probabilities in zip(SHARED_PROMPTS, tree_probabilities, strict=True):
        np.testing.assert_allclose(probabilities, one_by_one(model, prompt), atol=1e-5)


def test_a_prompt_that_is_too_long_is_refused() -> None:
    model = tiny_model("llama", vocab_size=VOCABULARY, max_position_embeddings=24)
    with pytest.raises(DataError, match="has 27 tokens, the model has 24 positions"):
        answer_probabilities(model, SHARED_PROMPTS, BRANCHES)


PROMPTS = [[9, 8, 7, 30, 31], [20, 21], [40, 41, 42]]
ANSWERS = [[50, 51, 52], [60], [70, 71, 72, 73, 74]]
VOCAB_SIZE = 520


@pytest.mark.parametrize("architecture", ["t5", "bart"])
def test_losses_equal_those_of_transformers(architecture: str) -> None:
    model = tiny_encoder_decoder(architecture, vocab_size=VOCAB_SIZE)
    losses, counts = answer_losses(model, PROMPTS, ANSWERS)
    assert counts.tolist() == [3, 1, 5]
    for prompt, answer, loss in zip(PROMPTS, ANSWERS, losses.tolist(), strict=True):
        mean = model(input_ids=torch.tensor([prompt]), labels=torch.tensor([answer])).loss
        assert loss == pytest.approx(mean.item() * len(answer), rel=1e-4)


def test_an_encoder_needs_a_prompt() -> None:
    model = tiny_encoder_decoder("t5", vocab_size=VOCAB_SIZE)
    with pytest.raises(UsageError, match="has nothing to encode"):
        answer_losses(model, [[9], []], [[5], [6]])


@pytest.mark.parametrize("architecture", ["t5", "bart", "llama"])
def test_written_answers_are_the_most_likely_tokens(architecture: str) -> None:
    """Whatever the settings of the checkpoint: BART's force the last token."""
    make_model = tiny_model if architecture == "llama" else tiny_encoder_decoder
    model = make_model(architecture, vocab_size=VOCAB_SIZE)
    model.generation_config.repetition_penalty = 5.0
    tokenizer = tiny_tokenizer()
    loaded: Any = SimpleNamespace(model=model, tokenizer=tokenizer)
    texts = _write(loaded, PROMPTS, 6, {PAD}, None)
    for prompt, text in zip(PROMPTS, texts, strict=True):
        expected = greedy(model, prompt, 6, {PAD, tokenizer.eos_token_id})
        assert text == tokenizer.decode(expected, skip_special_tokens=True)


def test_a_prompt_that_fills_the_positions_cuts_no_other_answer() -> None:
    model = tiny_model("gpt2", vocab_size=VOCAB_SIZE, max_position_embeddings=24)
    loaded: Any = SimpleNamespace(model=model, tokenizer=tiny_tokenizer())
    long = [5 + number % 20 for number in range(22)]
    alone = [*_write(loaded, PROMPTS, 6, (), None), *_write(loaded, [long], 2, (), None)]
    assert _write(loaded, [*PROMPTS, long], 6, (), None) == alone


def test_a_model_that_has_diverged_has_no_perplexity() -> None:
    model = tiny_model("llama", vocab_size=VOCAB_SIZE)
    model.model.norm.weight.data.fill_(float("nan"))
    with pytest.raises(DataError, match="not numbers"):
        answer_losses(model, PROMPTS, ANSWERS)


def test_an_answer_without_an_end_has_no_closing_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the answers would stop at the first token of a correct one."""
    tokenizer = tiny_tokenizer()
    model = tiny_model("llama", vocab_size=VOCAB_SIZE)
    tokens = SidTokens(SidSpace((3, 3)), len(tokenizer))
    loaded: Any = SimpleNamespace(model=model, tokenizer=tokenizer, tokens=tokens)
    closing_tokens: list[set[int]] = []

    def write(loaded: Any, prompts: Any, length: int, closing: set[int], progress: Any) -> Any:
        closing_tokens.append(set(closing))
        return ["red"]

    monkeypatch.setattr("sidtool.evaluation.tasks.text_answers._write", write)
    prompt, answer = (template("a film"),), (catalog("red"),)
    text_answer_metrics(loaded, [Question(prompt, answer)], None)
    text_answer_metrics(loaded, [Question(prompt, (*answer, template("!")))], None)
    encoder = prompt_encoder(tokenizer, tokens)
    assert closing_tokens == [set(), set(encoder.ids([template("!")])[:1])]


MODEL = loaded_model(small_bundle(12))


def question(number: int, label: str) -> Question:
    prompt = (template(f"Number {number}:"), catalog("a film"), template("?\n"))
    return Question(prompt, (catalog(label), template("<eos>")))


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=30))
def test_two_labels_have_the_auc_of_scikit_learn(rows: list[tuple[int, bool]]) -> None:
    from sklearn.metrics import roc_auc_score  # here, as it imports much of SciPy

    scores, labels = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    assume(len(set(labels)) == 2)
    expected = roc_auc_score(labels, scores)
    assert concordance(scores, labels.astype(np.int64)) == pytest.approx(expected)


rows_of_labels = st.integers(1, 3).flatmap(
    lambda last: st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, last)), min_size=2, max_size=20
    )
)


@given(rows_of_labels)
def test_labels_are_compared_in_pairs(rows: list[tuple[int, int]]) -> None:
    """Of two labels, the share is the AUC."""
    pairs = [(a, b) for a in rows for b in rows if a[1] < b[1]]
    assume(pairs)
    wins = [1.0 if a[0] < b[0] else 0.5 if a[0] == b[0] else 0.0 for a, b in pairs]
    scores, labels = (np.array(column) for column in zip(*rows, strict=True))
    assert concordance(scores.astype(float), labels) == pytest.approx(np.mean(wins))


def test_probabilities_are_those_of_the_whole_answers() -> None:
    questions = [question(1, "yes"), question(2, "not at all")]
    labels = sorted_labels(labeled_question.text for labeled_question in questions)
    assert labels == ("not at all", "yes")
    encoder = prompt_encoder(MODEL.tokenizer, MODEL.tokens)
    answers = [encoder.ids([catalog(label), template("<eos>")]) for label in labels]
    probabilities = label_probabilities(MODEL, questions, labels)
    for labeled_question, distribution in zip(questions, probabilities, strict=True):
        losses, _ = answer_losses(MODEL.model, [encoder.ids(labeled_question.prompt)] * 2, answers)
        assert distribution == pytest.approx(np.exp(-losses) / np.exp(-losses).sum(), abs=1e-5)


def test_metrics_follow_from_the_probabilities() -> None:
    questions = [question(n, label) for n, label in enumerate(["10", "9", "10", "2.5"])]
    labels = sorted_labels(labeled_question.text for labeled_question in questions)
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
    measured = evaluate_questions(MODEL, "predict-rating", many)
    assert set(measured.metrics) == {"exact_match", "token_f1", "perplexity"}
    assert measured.chance == {}
