"""Written answers and losses of encoder-decoder models against transformers' own."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sidtool.base.errors import UsageError
from sidtool.evaluation.tasks import answer_losses
from sidtool.evaluation.tasks.questions import Question
from sidtool.evaluation.tasks.text_answers import _write, text_answer_metrics
from sidtool.model.prompt import catalog, prompt_encoder, template
from sidtool.model.vocabulary import SidTokens
from sidtool.tokenizer.sid import SidSpace
from tests.models import PAD, tiny_encoder_decoder, tiny_model, tiny_tokenizer

torch.set_num_threads(1)

PROMPTS = [[9, 8, 7, 30, 31], [20, 21], [40, 41, 42]]
ANSWERS = [[50, 51, 52], [60], [70, 71, 72, 73, 74]]
VOCAB_SIZE = 520


@torch.no_grad()
def greedy(model: Any, prompt: list[int], length: int) -> list[int]:
    """The most likely tokens, one forward pass each and no cache."""
    written: list[int] = []
    for _ in range(length):
        if model.config.is_encoder_decoder:
            start = model.config.decoder_start_token_id
            inputs = {"input_ids": prompt, "decoder_input_ids": [start, *written]}
        else:
            inputs = {"input_ids": [*prompt, *written]}
        tensors = {name: torch.tensor([ids]) for name, ids in inputs.items()}
        written.append(int(model(**tensors).logits[0, -1].argmax()))
    return written


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
        expected = greedy(model, prompt, 6)
        stops = np.flatnonzero(np.isin(expected, [PAD, tokenizer.eos_token_id]))
        expected = expected[: stops[0]] if len(stops) else expected
        assert text == tokenizer.decode(expected, skip_special_tokens=True)


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
