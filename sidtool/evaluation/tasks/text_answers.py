"""Metrics of questions whose answer is a text: exact match and token F1 of what the model writes
greedily, and the perplexity of the correct answer; or if it is one of a few labels, accuracy, log
loss and AUC of the probabilities that the model gives to them."""

import copy
import re
import string
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from sidtool.base.errors import DataError
from sidtool.base.progress import Progress
from sidtool.evaluation.metrics import LABEL_METRICS, TEXT_METRICS, AnswerMetrics
from sidtool.evaluation.tasks.answer_scores import (
    SharedPrompt,
    answer_losses,
    answer_probabilities,
    perplexity,
)
from sidtool.evaluation.tasks.questions import Question
from sidtool.model import LoadedModel
from sidtool.model.network import decoder_start_id, is_encoder_decoder, max_positions
from sidtool.model.prompt import are_numbers, catalog, prompt_encoder, sorted_labels
from sidtool.recommendation.search import batches, evaluation_mode, padded

TOKENS_PER_BATCH = 1 << 12
"""Tokens, prompts and answers together, that are written in one batch."""
EXTRA_TOKENS = 8
"""Tokens by which a written answer may exceed the longest correct one."""
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> list[str]:
    """The words of an answer without case, punctuation and articles (P. Rajpurkar et al., SQuAD,
    2016)."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def exact_match(answer: str, correct: str) -> float:
    """1 if both are the same words in the same order, else 0."""
    return float(normalized(answer) == normalized(correct))


def token_f1(answer: str, correct: str) -> float:
    """The harmonic mean of precision and recall of the words, with multiplicity; 1 if neither has
    any."""
    answer_words = normalized(answer)
    correct_words = normalized(correct)
    if not answer_words or not correct_words:
        return float(answer_words == correct_words)
    common = sum((Counter(answer_words) & Counter(correct_words)).values())
    return 2 * common / (len(answer_words) + len(correct_words))


def text_answer_metrics(
    loaded: LoadedModel, questions: Sequence[Question], progress: Progress | None
) -> AnswerMetrics:
    """Exact match and token F1 of the written answers (neither for running text), and the
    perplexity.

    The perplexity is exp of the mean loss over all tokens of the correct answers, their closing
    token included."""
    encoder = prompt_encoder(loaded.tokenizer, loaded.tokens)
    prompts = [encoder.ids(question.prompt) for question in questions]
    answers = [encoder.ids(question.answer) for question in questions]
    losses, counts = answer_losses(loaded.model, prompts, answers)
    overall = {"perplexity": perplexity(losses, counts)}
    if not questions[0].prompt:
        return AnswerMetrics((), np.zeros((len(questions), 0)), overall)
    closing_tokens = {
        token for question in questions for token in encoder.ids(question.closing)[:1]
    }
    max_tokens = max(len(answer) for answer in answers) + EXTRA_TOKENS
    written = _write(loaded, prompts, max_tokens, closing_tokens, progress)
    values = [
        [exact_match(text, question.text), token_f1(text, question.text)]
        for text, question in zip(written, questions, strict=True)
    ]
    return AnswerMetrics(TEXT_METRICS, np.array(values), overall)


@torch.no_grad()
def _write(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    closing_tokens: Collection[int],
    progress: Progress | None,
) -> list[str]:
    """What the model writes after each prompt, greedily, up to a closing token, to so many tokens
    or to the end of the model's positions."""
    from transformers import GenerationConfig

    stops = {*closing_tokens, loaded.tokenizer.eos_token_id} - {None}
    texts = [""] * len(prompts)
    done = 0
    has_encoder = is_encoder_decoder(loaded.model)
    limit = max_positions(loaded.model)
    # prompts that leave little room are not in a batch with others, whose answers they would cut
    by_room: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        n_read = 0 if has_encoder else len(prompt)
        room = min(max_tokens, limit - n_read) if limit else max_tokens
        by_room.setdefault(room, []).append(number)
    with evaluation_mode(loaded.model) as bare:
        # `generate` adds the settings of a checkpoint to those of a call: penalties, forced tokens,
        # a minimum length
        writer = copy.copy(bare)
        writer.generation_config = GenerationConfig()
        if has_encoder:
            writer.generation_config.decoder_start_token_id = decoder_start_id(bare)
        for room, numbers in by_room.items():
            config = GenerationConfig(
                max_new_tokens=room,
                do_sample=False,
                num_beams=1,
                eos_token_id=sorted(stops) or None,
                pad_token_id=0,
            )
            lengths = [len(prompts[number]) for number in numbers]
            for places in batches(lengths, room, TOKENS_PER_BATCH):
                batch = [numbers[place] for place in places]
                ids, mask = padded([prompts[number] for number in batch], bare.device)
                start = 1  # of the answer in what `generate` returns
                if not has_encoder:
                    # a causal model writes behind the last column: the padding moves to the left
                    order = mask.sort(dim=1, stable=True).indices
                    ids = ids.gather(1, order)
                    mask = mask.gather(1, order)
                    start = ids.shape[1]
                output = writer.generate(ids, attention_mask=mask, generation_config=config)
                for number, written in zip(batch, output[:, start:].tolist(), strict=True):
                    ends = (position for position, token in enumerate(written) if token in stops)
                    answer = written[: next(ends, len(written))]
                    texts[number] = loaded.tokenizer.decode(answer, skip_special_tokens=True)
                done += len(batch)
                if progress is not None:
                    progress(done, len(prompts))
    return texts


SMALLEST = 1e-15
"""The smallest probability of which a log loss is taken."""


def label_metrics(loaded: LoadedModel, questions: Sequence[Question]) -> AnswerMetrics:
    """Accuracy and log loss, and the AUC if there is one; by chance, what follows from the shares
    of the labels.

    Raises DataError if all answers are the same, since every model would be perfect."""
    labels = sorted_labels(question.text for question in questions)
    if len(labels) == 1:
        raise DataError(
            f"all {len(questions)} questions have the answer {labels[0]!r}: no model can be wrong",
            hint="a split with --target holds out targets only: evaluate on one without it",
        )
    probabilities = label_probabilities(loaded, questions, labels)
    answers = np.array([labels.index(question.text) for question in questions])
    is_correct = probabilities.argmax(axis=1) == answers
    # a probability may be 0 in floating point
    target_probabilities = np.maximum(probabilities[np.arange(len(answers)), answers], SMALLEST)
    shares = np.bincount(answers, minlength=len(labels)) / len(answers)
    chance = {"accuracy": float(shares.max()), "log_loss": float(-(shares * np.log(shares)).sum())}
    overall = {}
    are_ordered = are_numbers(labels)
    if len(labels) == 2 or are_ordered:
        numbers = [float(label) if are_ordered else place for place, label in enumerate(labels)]
        overall["auc"] = concordance(probabilities @ np.array(numbers), answers)
        chance["auc"] = 0.5
    values = np.stack([is_correct.astype(np.float64), -np.log(target_probabilities)], axis=1)
    return AnswerMetrics(LABEL_METRICS, values, overall, chance)


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
        rows = [row for row, question in enumerate(questions) if question.closing == closing]
        prompts = [SharedPrompt.single(encoder.ids(questions[row].prompt)) for row in rows]
        prompt_probabilities = answer_probabilities(loaded.model, prompts, answers)
        probabilities[rows] = np.concatenate(prompt_probabilities)
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
