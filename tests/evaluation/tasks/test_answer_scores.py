"""Probabilities of answers on a tree against the losses of whole sequences, by architecture."""

from typing import Any

import numpy as np
import pytest
import torch

from sidtool.base.errors import DataError
from sidtool.evaluation.tasks import SharedPrompt, answer_losses, answer_probabilities
from sidtool.evaluation.tasks import answer_scores as module
from tests.models import tiny_encoder_decoder, tiny_model

RNG = np.random.default_rng(0)
VOCABULARY = 60
ANSWERS = [[7, 3], [7, 9, 3], [8, 3], [11, 12, 13, 3], [5]]


def tokens(*shape: int) -> Any:
    return RNG.integers(4, VOCABULARY, shape).tolist()


PROMPTS = [
    SharedPrompt(tokens(20), tokens(5, 4)),
    SharedPrompt(tokens(3), tokens(2, 4)),
    SharedPrompt([], []),
    SharedPrompt(tokens(11), tokens(1, 1)),
]


def one_by_one(model: Any, prompt: SharedPrompt) -> Any:
    """Each whole sequence by itself."""
    scores = []
    for end in prompt.ends:
        whole = [*prompt.start, *end]
        losses = [answer_losses(model, [whole], [answer])[0][0] for answer in ANSWERS]
        scores.append(np.exp(-np.array(losses)))
    return np.array([each / each.sum() for each in scores]).reshape(-1, len(ANSWERS))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3", "t5"])
def test_a_tree_gives_the_probabilities_of_whole_sequences(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    make = tiny_encoder_decoder if architecture == "t5" else tiny_model
    model = make(architecture, vocab_size=VOCABULARY)
    monkeypatch.setattr(module, "ENDS", 2)
    found = answer_probabilities(model, PROMPTS, ANSWERS)
    for prompt, probabilities in zip(PROMPTS, found, strict=True):
        np.testing.assert_allclose(probabilities, one_by_one(model, prompt), atol=1e-5)


def test_a_prompt_that_is_too_long_is_refused() -> None:
    model = tiny_model("llama", vocab_size=VOCABULARY, max_position_embeddings=24)
    with pytest.raises(DataError, match="has 27 tokens, the model has 24 positions"):
        answer_probabilities(model, PROMPTS, ANSWERS)
