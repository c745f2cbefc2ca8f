"""A model's answers in words: what it writes, and how likely it holds the right words.

Knows exact match and token F1 as SQuAD has them, greedy decoding and perplexity; knows nothing of
tasks or items."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from sidtool.model.load import LoadedModel
from sidtool.prompt.encoder import prompt_encoder
from sidtool.recommend.beam import batches, evaluating

if TYPE_CHECKING:
    from sidtool.evaluate.task_metrics import Progress, Question

LOGITS = 1 << 25
"""Logits that are computed together."""
WRITTEN = 1 << 12
"""Tokens, prompts and answers together, that are written in one batch."""
SLACK = 8
"""Tokens that a written answer may be longer than the longest right one."""
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalized(text: str) -> list[str]:
    """The words of an answer without case, punctuation and articles (P. Rajpurkar et al., SQuAD,
    2016)."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def exact_match(found: str, right: str) -> float:
    """1 if both are the same words in the same order, else 0."""
    return float(normalized(found) == normalized(right))


def token_f1(found: str, right: str) -> float:
    """The harmonic mean of precision and recall of the words, each as often as it stands; 1 if
    neither has any."""
    ours, theirs = normalized(found), normalized(right)
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))


def text_values(
    served: LoadedModel, questions: Sequence["Question"], progress: "Progress | None"
) -> tuple[tuple[str, ...], NDArray[np.float64], dict[str, float]]:
    """Names and (n, metrics) values of what the model writes (nothing for running text), and the
    perplexity.

    The perplexity is that of the right answers, their closing token included: exp of the mean loss
    over all tokens."""
    encoder = prompt_encoder(served.tokenizer, served.tokens)
    prompts = [encoder.ids(question.prompt) for question in questions]
    answers = [encoder.ids(question.answer) for question in questions]
    losses, counts = _losses(served.model, prompts, answers)
    perplexity = {"perplexity": float(np.exp(losses.sum() / max(1, counts.sum())))}
    if not questions[0].prompt:
        return (), np.zeros((len(questions), 0)), perplexity
    rights = [
        "".join(piece.text for piece in question.answer if piece.kind == "catalog")
        for question in questions
    ]
    closing = [encoder.ids([question.answer[-1]])[:1] for question in questions]
    found = _written(
        served,
        prompts,
        [len(answer) for answer in answers],
        {end for ids in closing for end in ids},
        progress,
    )
    values = [[exact_match(*pair), token_f1(*pair)] for pair in zip(found, rights, strict=True)]
    return ("exact_match", "token_f1"), np.array(values), perplexity


@torch.no_grad()
def _losses(
    model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(n,) summed losses of the answers after their prompts, and (n,) how many tokens they are of.

    The first token of a text without a prompt has nothing before it, so it is none of them.
    """
    rows = [[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)]
    starts = [max(1, len(prompt)) for prompt in prompts]
    losses = np.zeros(len(rows))
    with evaluating(model) as bare:
        for batch in batches(
            [len(row) for row in rows], 0, LOGITS // bare.get_output_embeddings().weight.shape[0]
        ):
            longest = max(len(rows[i]) for i in batch)
            ids = torch.tensor(
                [rows[i] + [0] * (longest - len(rows[i])) for i in batch], device=bare.device
            )
            lengths = torch.tensor([len(rows[i]) for i in batch], device=bare.device)
            seen = torch.arange(longest, device=bare.device) < lengths[:, None]
            logits = (
                bare(input_ids=ids, attention_mask=seen.long(), use_cache=False)
                .logits[:, :-1]
                .float()
            )
            # (batch, longest - 1): the loss of each token but the first
            each = torch.nn.functional.cross_entropy(
                logits.transpose(1, 2), ids[:, 1:], reduction="none"
            )
            for row, i in enumerate(batch):
                losses[i] = float(each[row, starts[i] - 1 : len(rows[i]) - 1].double().sum())
    return losses, np.array([len(row) - start for row, start in zip(rows, starts, strict=True)])


@torch.no_grad()
def _written(
    served: LoadedModel,
    prompts: Sequence[Sequence[int]],
    lengths: Sequence[int],
    ends: set[int],
    progress: "Progress | None",
) -> list[str]:
    """What the model writes after each prompt, greedily, up to the closing token."""
    from transformers import GenerationConfig

    room = max(lengths) + SLACK
    stops = sorted(ends | ({served.tokenizer.eos_token_id} - {None}))
    config = GenerationConfig(
        max_new_tokens=room,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,  # what a chat model brings along must not decide
        no_repeat_ngram_size=0,
        eos_token_id=stops or None,
        pad_token_id=0,
    )
    found, done = [""] * len(prompts), 0
    with evaluating(served.model) as bare:
        for batch in batches([len(prompt) for prompt in prompts], room, WRITTEN):
            longest = max(len(prompts[i]) for i in batch)
            padded = [[0] * (longest - len(prompts[i])) + list(prompts[i]) for i in batch]
            mask = [[0] * (longest - len(prompts[i])) + [1] * len(prompts[i]) for i in batch]
            output = bare.generate(
                torch.tensor(padded, device=bare.device),
                attention_mask=torch.tensor(mask, device=bare.device),
                generation_config=config,
            )
            for i, ids in zip(batch, output[:, longest:].tolist(), strict=True):
                stop = next((at for at, token in enumerate(ids) if token in stops), len(ids))
                found[i] = served.tokenizer.decode(ids[:stop], skip_special_tokens=True)
            done += len(batch)
            if progress is not None:
                progress(done, len(prompts))
    return found
