"""Metrics of questions whose answer is one of a few labels: accuracy, log loss and AUC of the
probabilities that a model gives to them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sidtool.base.errors import DataError
from sidtool.base.progress import Progress
from sidtool.evaluation.tasks.questions import Question
from sidtool.evaluation.tasks.text_answers import answer_losses, text_answer_metrics
from sidtool.model import LoadedModel, check_positions, is_encoder_decoder
from sidtool.model.prompt import MOST_LABELS, are_numbers, catalog, prompt_encoder, sorted_labels
from sidtool.recommendation.search import (
    Decoder,
    DecodingHead,
    TokenTree,
    decoding_method,
    evaluation_mode,
)

ENDS = 64
"""Ends that grow together on one prompt: the mask of a step is quadratic in their tokens."""


@dataclass(frozen=True)
class SharedPrompt:
    """k prompts that share their start."""

    start: Sequence[int]
    """token ids, at least one"""
    ends: Sequence[Sequence[int]]
    """k continuations of the start, all of one length of at least 1"""

    @classmethod
    def single(cls, prompt: Sequence[int]) -> "SharedPrompt":
        """One prompt of two tokens or more."""
        return cls(prompt[:-1], [prompt[-1:]])


@torch.no_grad()
def answer_probabilities(
    model: Any, prompts: Sequence[SharedPrompt], answers: Sequence[Sequence[int]]
) -> list[NDArray[np.float64]]:
    """For each of n prompts (k, a): the probability of each of a answers, given as token ids,
    behind each end, among these answers.

    A prompt is read once; its ends and the answers behind them are a tree over its cache.
    Encoder-decoders, and models that no mask can steer, read every prompt with every answer anew.
    Raises DataError if a prompt with its answer is longer than the model's positions."""
    with evaluation_mode(model) as bare:
        # an encoder reads a prompt as a whole, and no tree can grow on nothing
        is_tree = not is_encoder_decoder(bare) and all(
            prompt.start for prompt in prompts if prompt.ends
        )
        if not is_tree or decoding_method(bare) is None:
            return _by_whole_sequences(bare, prompts, answers)
        decoder = Decoder.of(bare, "it cannot score answers")
        results: list[NDArray[np.float64]] = [np.zeros((0, len(answers)))] * len(prompts)
        by_tokens: dict[int, list[int]] = {}  # of an end
        for number, prompt in enumerate(prompts):
            if prompt.ends:
                by_tokens.setdefault(len(prompt.ends[0]), []).append(number)
        for numbers in by_tokens.values():
            alike = [prompts[number] for number in numbers]
            for index, probabilities in _by_trees(decoder, alike, answers):
                results[numbers[index]] = probabilities
    return results


def _by_trees(
    decoder: Decoder, prompts: Sequence[SharedPrompt], answers: Sequence[Sequence[int]]
) -> Iterator[tuple[int, NDArray[np.float64]]]:
    """The same for prompts whose ends have one number of tokens, each by its index, in the order in
    which they are read."""
    n_tokens = len(prompts[0].ends[0])
    n_ends = min(ENDS, max(len(prompt.ends) for prompt in prompts))
    # the last token of each end branches into the answers, whose last tokens nothing follows
    n_appended = max(map(len, answers)) - 1
    capacity = n_ends * (n_tokens + len(answers) * n_appended)
    starts = [prompt.start for prompt in prompts]
    check_positions(decoder.model, max(map(len, starts)) + n_tokens, n_appended)
    for batch, tree in decoder.trees(starts, capacity):
        chosen = [prompts[index] for index in batch]
        longest = max(len(prompt.ends) for prompt in chosen)
        # (batch, k, tokens): the last end again where there are fewer
        padded = [
            [*prompt.ends, *[prompt.ends[-1]] * (longest - len(prompt.ends))] for prompt in chosen
        ]
        ends = torch.tensor(padded, device=decoder.model.device)
        tree.prefill()
        scores = []
        for part in ends.split(ENDS, dim=1):
            scores.append(_score_ends(tree, decoder.head, part, answers))
            tree.rewind()
        probabilities = _softmax(torch.cat(scores, dim=1))  # (batch, k, answers)
        for row, index in enumerate(batch):
            yield index, probabilities[row, : len(chosen[row].ends)]


def _score_ends(
    tree: TokenTree, head: DecodingHead, ends: torch.Tensor, answers: Sequence[Sequence[int]]
) -> torch.Tensor:
    """(batch, k, a) log-probabilities of answers behind (batch, k, tokens) ends. The last tokens of
    the ends branch into the answers, which grow token by token; an answer that is shorter than
    another goes on without being counted."""
    batch, n_ends, _ = ends.shape
    n_answers = len(answers)
    longest = max(map(len, answers))
    padded = [[*answer, *[answer[-1]] * (longest - len(answer))] for answer in answers]
    tokens = torch.tensor(padded, device=ends.device)  # (answers, longest)
    parents = torch.zeros(batch, n_ends, dtype=torch.long, device=ends.device)
    # (batch, ends, 1, dim), from the second token on (batch, ends, answers, dim)
    hidden = tree.step(ends, parents).unsqueeze(2)
    total = torch.zeros(batch, n_ends, n_answers, device=ends.device)
    for place in range(longest):
        if place:
            ids = tokens[:, place - 1].repeat(batch, n_ends)  # (batch, ends * answers)
            # the end of each branch, later the branch itself
            parents = torch.arange(n_ends * n_answers, device=ends.device)
            if place == 1:
                parents = parents // n_answers
            flat = tree.step(ids, parents.expand(batch, -1))
            hidden = flat.view(batch, n_ends, n_answers, -1)
        log_probs = head.log_probs(hidden, tokens[:, place], "vocabulary")
        # behind the first token, each answer at its own branch
        log_probs = log_probs.diagonal(dim1=2, dim2=3) if place else log_probs.squeeze(2)
        counted = torch.tensor([place < len(answer) for answer in answers], device=ends.device)
        total += log_probs.masked_fill(~counted, 0.0)
    return total


def _by_whole_sequences(
    model: Any, prompts: Sequence[SharedPrompt], answers: Sequence[Sequence[int]]
) -> list[NDArray[np.float64]]:
    """The same, with every prompt read whole for every answer."""
    whole = [[*prompt.start, *end] for prompt in prompts for end in prompt.ends]
    repeated = [sequence for sequence in whole for _ in answers]
    losses, _ = answer_losses(model, repeated, [*answers] * len(whole))
    scores = -losses.reshape(len(whole), len(answers))  # (ends of all prompts, answers)
    probabilities = _softmax(torch.from_numpy(scores))
    stops = np.cumsum([len(prompt.ends) for prompt in prompts])
    return np.split(probabilities, stops[:-1])


def _softmax(scores: torch.Tensor) -> NDArray[np.float64]:
    probabilities: NDArray[np.float64] = scores.double().softmax(-1).cpu().numpy()
    return probabilities


SMALLEST = 1e-15
"""The smallest probability of which a log loss is taken."""


def label_metrics(
    loaded: LoadedModel, questions: Sequence[Question], progress: Progress | None
) -> tuple[tuple[str, ...], NDArray[np.float64], dict[str, float], dict[str, float]]:
    """Metric names, (n, metrics) values of accuracy and log loss, the AUC if there is one, and
    what is reached without looking at a question: by the shares of the labels.

    Of more than MOST_LABELS different answers the metrics are those of texts. Raises DataError if
    all answers are the same, since every model would be perfect."""
    labels = sorted_labels(question.text for question in questions)
    if len(labels) == 1:
        raise DataError(
            f"all {len(questions)} questions have the answer {labels[0]!r}: no model can be wrong",
            hint="a split with --target holds out targets only: evaluate on one without it",
        )
    if len(labels) > MOST_LABELS:
        return (*text_answer_metrics(loaded, questions, progress), {})
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
