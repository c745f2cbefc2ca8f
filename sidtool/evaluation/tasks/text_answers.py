"""Metrics of questions whose answer is a text: exact match and token F1 of what the model writes
greedily, and the perplexity of the correct answer."""

import copy
import re
import string
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from sidtool.base.progress import Progress
from sidtool.evaluation.tasks.answer_scores import answer_losses, perplexity
from sidtool.evaluation.tasks.questions import Question
from sidtool.model import LoadedModel
from sidtool.model.network import decoder_start_id, is_encoder_decoder, max_positions
from sidtool.model.prompt import prompt_encoder
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
) -> tuple[tuple[str, ...], NDArray[np.float64], dict[str, float]]:
    """Metric names and (n, metrics) values of the written answers (none for running text), and the
    perplexity.

    The perplexity is exp of the mean loss over all tokens of the correct answers, their closing
    token included."""
    encoder = prompt_encoder(loaded.tokenizer, loaded.tokens)
    prompts = [encoder.ids(question.prompt) for question in questions]
    answers = [encoder.ids(question.answer) for question in questions]
    losses, counts = answer_losses(loaded.model, prompts, answers)
    metrics = {"perplexity": perplexity(losses, counts)}
    if not questions[0].prompt:
        return (), np.zeros((len(questions), 0)), metrics
    closing_tokens = {
        token for question in questions for token in encoder.ids(question.closing)[:1]
    }
    max_tokens = max(len(answer) for answer in answers) + EXTRA_TOKENS
    if limit := max_positions(loaded.model):
        read = 0 if is_encoder_decoder(loaded.model) else max(map(len, prompts))
        max_tokens = min(max_tokens, limit - read)
    written = _write(loaded, prompts, max_tokens, closing_tokens, progress)
    values = [
        [exact_match(text, question.text), token_f1(text, question.text)]
        for text, question in zip(written, questions, strict=True)
    ]
    return ("exact_match", "token_f1"), np.array(values), metrics


@torch.no_grad()
def _write(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    max_tokens: int,
    closing_tokens: Collection[int],
    progress: Progress | None,
) -> list[str]:
    """What the model writes after each prompt, greedily, up to a closing token."""
    from transformers import GenerationConfig

    stops = {*closing_tokens, loaded.tokenizer.eos_token_id} - {None}
    config = GenerationConfig(
        max_new_tokens=max_tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=sorted(stops) or None,
        pad_token_id=0,
    )
    texts = [""] * len(prompts)
    done = 0
    lengths = [len(prompt) for prompt in prompts]
    with evaluation_mode(loaded.model) as bare:
        # `generate` adds the settings of a checkpoint to those of a call: penalties, forced tokens,
        # a minimum length
        writer = copy.copy(bare)
        writer.generation_config = GenerationConfig()
        if is_encoder_decoder(bare):
            writer.generation_config.decoder_start_token_id = decoder_start_id(bare)
        for batch in batches(lengths, max_tokens, TOKENS_PER_BATCH):
            ids, mask = padded([prompts[index] for index in batch], bare.device)
            start = 1  # of the answer in what `generate` returns
            if not is_encoder_decoder(bare):
                # a causal model writes behind the last column: the padding moves to the left
                order = mask.sort(dim=1, stable=True).indices
                ids = ids.gather(1, order)
                mask = mask.gather(1, order)
                start = ids.shape[1]
            output = writer.generate(ids, attention_mask=mask, generation_config=config)
            for index, written in zip(batch, output[:, start:].tolist(), strict=True):
                ends = (position for position, token in enumerate(written) if token in stops)
                answer = written[: next(ends, len(written))]
                texts[index] = loaded.tokenizer.decode(answer, skip_special_tokens=True)
            done += len(batch)
            if progress is not None:
                progress(done, len(prompts))
    return texts
