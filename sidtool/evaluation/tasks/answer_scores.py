"""What a model thinks of given answers: their losses, and their probabilities among others."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sidtool.base.errors import UsageError
from sidtool.model.network import check_positions, decoder_start_id, is_encoder_decoder
from sidtool.recommendation.search import (
    Decoder,
    TokenTree,
    batches,
    check_scores,
    evaluation_mode,
    padded,
)

LOGITS_PER_BATCH = 1 << 25


def perplexity(losses: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
    """exp of the mean loss over all tokens, by (n,) sums of losses and numbers of tokens."""
    return float(np.exp(losses.sum() / max(1, int(counts.sum()))))


@torch.no_grad()
def answer_losses(
    model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(n,) summed losses of the answers after their prompts, and (n,) numbers of tokens summed.

    The first token of a text without a prompt follows nothing, so it is left out. Raises UsageError
    for such a text if the model's encoder has to read a prompt, DataError for a loss of NaN."""
    has_encoder = is_encoder_decoder(model)
    if has_encoder and not all(prompts):
        raise UsageError("the task has no prompts: an encoder-decoder model has nothing to encode")
    # what the decoder reads in front of an answer
    before = [[decoder_start_id(model)]] * len(prompts) if has_encoder else prompts
    sequences = [[*start, *answer] for start, answer in zip(before, answers, strict=True)]
    starts = [max(1, len(start)) for start in before]
    lengths = [len(sequence) for sequence in sequences]
    losses = np.zeros(len(sequences))
    longest = max(map(len, prompts) if has_encoder else lengths, default=0)
    with evaluation_mode(model) as bare:
        check_positions(bare, longest, 0)
        vocab_size = bare.get_output_embeddings().weight.shape[0]
        for batch in batches(lengths, 0, LOGITS_PER_BATCH // vocab_size):
            ids, mask = padded([sequences[index] for index in batch], bare.device)
            inputs = {"input_ids": ids, "attention_mask": mask}
            if has_encoder:
                read, read_mask = padded([prompts[index] for index in batch], bare.device)
                inputs = {"input_ids": read, "attention_mask": read_mask, "decoder_input_ids": ids}
            output = bare(**inputs, use_cache=False)
            logits = output.logits[:, :-1].float().transpose(1, 2)  # (batch, vocabulary, longest-1)
            # (batch, longest - 1): the loss of each token but the first
            token_losses = torch.nn.functional.cross_entropy(logits, ids[:, 1:], reduction="none")
            for row, index in enumerate(batch):
                span = token_losses[row, starts[index] - 1 : lengths[index] - 1]
                losses[index] = float(span.double().sum())
    check_scores(losses)
    counts = [length - start for length, start in zip(lengths, starts, strict=True)]
    return losses, np.array(counts)


ENDS = 64
"""Ends that grow together on one prompt: the mask of a step is quadratic in their tokens."""


@dataclass(frozen=True)
class SharedPrompt:
    """k prompts that share their start."""

    start: Sequence[int]
    """token ids; a tree grows on at least one"""
    ends: Sequence[Sequence[int]]
    """k continuations of the start, of one length of at least 1, the same for all prompts"""

    @classmethod
    def single(cls, prompt: Sequence[int]) -> "SharedPrompt":
        """One prompt, with its last token as the only end."""
        return cls(prompt[:-1], [prompt[-1:]])


@torch.no_grad()
def answer_probabilities(
    model: Any, prompts: Sequence[SharedPrompt], answers: Sequence[Sequence[int]]
) -> list[NDArray[np.float64]]:
    """For each of n prompts (k, a): the probability of each of a answers, given as token ids,
    behind each end, among these answers.

    A prompt is read once; its ends and the answers behind them are a tree over its cache.
    Encoder-decoders, models that no mask can steer, and prompts of which one has no start are read
    anew with every answer.
    Raises DataError if a prompt with its answer is longer than the model's positions."""
    with evaluation_mode(model) as bare:
        # an encoder reads a prompt as a whole, and no tree can grow on nothing
        is_tree = not is_encoder_decoder(bare) and all(
            prompt.start for prompt in prompts if prompt.ends
        )
        decoder = Decoder.find(bare) if is_tree else None
        if decoder is None:
            return _by_whole_sequences(bare, prompts, answers)
        return _by_trees(decoder, prompts, answers)


def _by_trees(
    decoder: Decoder, prompts: Sequence[SharedPrompt], answers: Sequence[Sequence[int]]
) -> list[NDArray[np.float64]]:
    """As `answer_probabilities`, with a tree on the start of each prompt."""
    results: list[NDArray[np.float64]] = [np.zeros((0, len(answers)))] * len(prompts)
    n_tokens = max((len(prompt.ends[0]) for prompt in prompts if prompt.ends), default=0)
    n_ends = min(ENDS, max((len(prompt.ends) for prompt in prompts), default=0))
    # the last token of each end branches into the answers, whose last tokens nothing follows
    n_appended = max(map(len, answers)) - 1
    capacity = n_ends * (n_tokens + len(answers) * n_appended)
    starts = [prompt.start if prompt.ends else [] for prompt in prompts]
    check_positions(decoder.model, max(map(len, starts), default=0) + n_tokens, n_appended)
    for batch, tree in decoder.trees(starts, capacity):
        batch_prompts = [prompts[index] for index in batch]
        longest = max(len(prompt.ends) for prompt in batch_prompts)
        # (batch, k, tokens): the last end again where there are fewer
        padded = [
            [*prompt.ends, *[prompt.ends[-1]] * (longest - len(prompt.ends))]
            for prompt in batch_prompts
        ]
        ends = torch.tensor(padded, device=decoder.model.device)
        tree.prefill()
        scores = []
        for part in ends.split(ENDS, dim=1):
            scores.append(_score_ends(decoder, tree, part, answers))
            tree.rewind()
        probabilities = _softmax(torch.cat(scores, dim=1))  # (batch, k, answers)
        for row, index in enumerate(batch):
            results[index] = probabilities[row, : len(batch_prompts[row].ends)]
    return results


def _score_ends(
    decoder: Decoder, tree: TokenTree, ends: torch.Tensor, answers: Sequence[Sequence[int]]
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
        log_probs = decoder.head.log_probs(hidden, tokens[:, place], "vocabulary")
        # behind the first token, each answer at its own branch
        log_probs = log_probs.diagonal(dim1=2, dim2=3) if place else log_probs.squeeze(2)
        counted = torch.tensor([place < len(answer) for answer in answers], device=ends.device)
        total += log_probs.masked_fill(~counted, 0.0)
    return total


def _by_whole_sequences(
    model: Any, prompts: Sequence[SharedPrompt], answers: Sequence[Sequence[int]]
) -> list[NDArray[np.float64]]:
    """As `answer_probabilities`, with every prompt read whole for every answer."""
    whole_prompts = [[*prompt.start, *end] for prompt in prompts for end in prompt.ends]
    pairs = list(product(whole_prompts, answers))
    losses, _ = answer_losses(
        model, [prompt for prompt, _ in pairs], [answer for _, answer in pairs]
    )
    scores = torch.from_numpy(-losses.reshape(len(whole_prompts), len(answers)))
    probabilities = _softmax(scores)  # (ends of all prompts, answers)
    stops = np.cumsum([len(prompt.ends) for prompt in prompts])
    return np.split(probabilities, stops[:-1])


def _softmax(scores: torch.Tensor) -> NDArray[np.float64]:
    probabilities: NDArray[np.float64] = scores.double().softmax(-1).cpu().numpy()
    return probabilities
