"""The loss of an encoder-decoder is transformers' own over the vocabulary, and a direct computation
over part of it; a teacher of another kind is read in its own layout."""

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch

from sidtool.examples.example_file import TokenizedExample
from sidtool.model.vocabulary.tokens import SidTokens
from sidtool.recommendation.search.columns import part_of
from sidtool.recommendation.search.partial_head import full_blocks
from sidtool.tokenizer.bundle.trie import Trie
from sidtool.tokenizer.sid import SidSpace
from sidtool.training.loss.batches import IGNORED, Targets, encoder_decoder_batch
from sidtool.training.loss.loss import Loss
from sidtool.training.settings import SoftmaxOver
from tests.models import ENCODER_DECODERS, tiny_encoder_decoder

SPACE = SidSpace((4, 3, 5), begin=None, end=None)
TOKENS = SidTokens(SPACE, 30)
VOCAB = 30 + 12
CODES = np.array([(0, 1, 2), (0, 1, 4), (0, 2, 0), (3, 0, 1), (3, 2, 2)], dtype=np.uint16)
START = 0


def some_examples(*, text: bool) -> list[TokenizedExample]:
    """Prompts of different lengths and an item each; with text behind it if `text`."""
    rng = np.random.default_rng(3)
    examples = []
    for number, length in enumerate((3, 7, 1, 12)):
        prompt = rng.integers(2, 30, length)
        answer = [*TOKENS.ids(CODES[number % len(CODES)]).tolist(), *([7] * number * text)]
        ids = np.concatenate([prompt, answer]).astype(np.int32)
        weights = np.full(len(ids), 1 + number, dtype=np.float32)
        examples.append(TokenizedExample(ids, np.arange(len(ids)) >= length, weights))
    return examples


def total(model: Any, loss: Loss, examples: list[TokenizedExample], teachers: Any = None) -> Any:
    """The loss as the trainer computes it, summed, and the batch."""
    batch = encoder_decoder_batch(examples, pad=0, start=START)
    inputs = dict(batch)
    targets = Targets.pop(inputs, SPACE.levels)
    parts = loss.parts(targets.ids)
    requests = [(targets.positions[indexes], columns) for indexes, columns in parts]
    blocks = full_blocks(model(**inputs, use_cache=False).logits, requests)
    teacher_blocks = teachers.blocks(inputs, requests) if teachers else ()
    return loss.total(blocks, parts, targets, teacher_blocks), batch


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("architecture", ENCODER_DECODERS)
def test_over_the_vocabulary_it_is_the_loss_of_transformers(architecture: str, tied: bool) -> None:
    model = tiny_encoder_decoder(
        architecture, vocab_size=VOCAB, tied=tied, decoder_start_token_id=START
    )
    examples = [
        example._replace(weights=example.weights * 0 + 1) for example in some_examples(text=True)
    ]
    value, batch = total(model, Loss("vocabulary", TOKENS), examples)
    labels = batch["labels"][:, 1:].contiguous()
    expected = model(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels
    ).loss
    n_targets = (labels != IGNORED).sum()
    torch.testing.assert_close(value / n_targets, expected)


@pytest.mark.parametrize("over", ["sid", "level", "trie"])
def test_over_part_of_the_vocabulary_it_is_a_direct_computation(over: SoftmaxOver) -> None:
    model = tiny_encoder_decoder("t5", vocab_size=VOCAB)
    examples = some_examples(text=False)
    trie = Trie.from_codes(CODES, SPACE.sizes) if over == "trie" else None
    value, _ = total(model, Loss(over, TOKENS, trie), examples)
    expected = 0.0
    for example in examples:
        prompt, answer = example.ids[:-3], example.ids[-3:]
        decoded = torch.tensor([[START, *answer[:-1].tolist()]])
        encoded = torch.tensor([prompt.tolist()])
        logits = model(input_ids=encoded, decoder_input_ids=decoded).logits[0].double()
        codes = answer - TOKENS.level_starts
        for level in range(3):
            first = int(TOKENS.level_starts[level])
            competitors = np.arange(first, first + SPACE.sizes[level])
            if over == "sid":
                competitors = np.arange(TOKENS.start, TOKENS.start + SPACE.n_codes)
            if over == "trie":
                same = (CODES[:, :level] == codes[:level]).all(axis=1)
                competitors = first + np.unique(CODES[same, level])
            logs = logits[level, competitors].log_softmax(-1)
            target = int(np.flatnonzero(competitors == answer[level])[0])
            expected -= float(example.weights[-1]) * float(logs[target].detach())
    assert float(value.detach()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("over", ["vocabulary", "sid", "level", "trie"])
@pytest.mark.parametrize("n_targets", [0, 1])
def test_a_part_without_targets_keeps_the_weights_in_the_graph(
    over: SoftmaxOver, n_targets: int
) -> None:
    trie = Trie.from_codes(CODES, SPACE.sizes) if over == "trie" else None
    loss = Loss(over, TOKENS, trie, smoothing=0.1, distill_weight=0.5)
    inputs = encoder_decoder_batch(some_examples(text=False), pad=0, start=START)
    every = Targets.pop(dict(inputs), SPACE.levels)
    values = {field.name: getattr(every, field.name)[:n_targets] for field in fields(Targets)}
    targets = Targets(**values)  # none, or one of the first level
    parts = loss.parts(targets.ids)
    logits = [torch.randn(len(indexes), VOCAB, requires_grad=True) for indexes, _ in parts]
    blocks = [
        block if columns is None else block[:, part_of(columns)]
        for block, (_, columns) in zip(logits, parts, strict=True)
    ]
    value = loss.total(blocks, parts, targets, [[block.detach() for block in blocks]])
    value.backward()
    assert (float(value.detach()) > 0) == (n_targets > 0)
    assert all(block.grad is not None for block in logits)


def test_codes_that_no_item_continues_are_no_targets() -> None:
    loss = Loss("trie", TOKENS, Trie.from_codes(CODES, SPACE.sizes))
    known, lost = TOKENS.ids(np.array([(0, 2, 0), (0, 2, 1)], dtype=np.uint16)).tolist()
    examples = []
    for prompt, answer in (([4, 5, 6], known), ([7], lost)):
        ids = np.array([*prompt, *answer], dtype=np.int32)
        targets = np.arange(len(ids)) >= len(prompt)
        examples.append(TokenizedExample(ids, targets, np.ones(len(ids), dtype=np.float32)))
    batch = encoder_decoder_batch(examples, pad=0, start=START)
    kept = loss.countable(batch)
    assert kept["labels"].tolist() == [[IGNORED, *known], [IGNORED, *lost[:2], IGNORED]]
    assert kept["weights"].tolist() == [[0, 1, 1, 1], [0, 1, 1, 0]]
    assert torch.equal(kept["decoder_input_ids"], batch["decoder_input_ids"])
