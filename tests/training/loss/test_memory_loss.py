"""The loss of the mixture of model and memory against the explicit formula."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from sidtool.model.prompt.tokens import SidTokens
from sidtool.tokenizer.bundle.trie import Trie
from sidtool.tokenizer.sid import SidSpace
from sidtool.training.loss.batches import Targets
from sidtool.training.loss.loss import Loss

SIZES = (3, 4, 2)
START = 10
TOKENS = SidTokens(SidSpace(SIZES), START)
SIDS = np.array([[0, 0, 0], [0, 0, 1], [0, 3, 1], [1, 2, 0], [2, 1, 0], [2, 1, 1]], dtype=np.uint16)
TRIE = Trie.from_codes(SIDS, SIZES)
VOCABULARY = START + sum(SIZES)


class Batch:
    """Targets of a batch: whole SIDs, one SID without its first code, and one that no item has."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.sids = [*SIDS[rng.permutation(len(SIDS))].tolist(), [1, 0, 0]]
        codes = np.array(self.sids, dtype=np.uint16)
        ids = TOKENS.ids(codes, begin_end_tokens=False).ravel()
        places = np.arange(len(ids)) + 5  # places in a batch, which may begin anywhere
        keep = np.arange(len(ids)) != 0
        padded = np.concatenate([[0, 0], ids])
        preceding = np.stack([padded[:-2], padded[1:-1]], axis=1)
        # of the SIDs: unknown for the first and the last, certainly not, and some probabilities
        self.log_probs = [math.nan, -math.inf, *np.log([0.5, 1e-4, 0.9, 1.0]), math.nan]
        self.weights = rng.choice([0.5, 1.0, 2.0], size=len(self.sids))
        per_target = [ids, places, preceding]
        for values in (self.weights, self.log_probs):
            per_target.append(np.repeat(np.array(values, dtype=np.float32), len(SIZES)))
        self.mixed = Targets(*(torch.from_numpy(values[keep]) for values in per_target))
        self.plain = replace(self.mixed, memory_log_probs=None)
        logits = rng.normal(size=(len(self.mixed.ids), VOCABULARY))
        self.logits = torch.from_numpy(logits).float().requires_grad_()

    def total(
        self, loss: Loss, targets: Targets, teachers: tuple[torch.Tensor, ...] = ()
    ) -> torch.Tensor:
        parts = loss.parts(targets.ids)

        def blocks(logits: torch.Tensor) -> list[torch.Tensor]:
            return [logits[indexes, slice(*columns)] for indexes, columns in parts]

        teacher_blocks = [blocks(teacher) for teacher in teachers]
        return loss.total(blocks(self.logits), parts, targets, teacher_blocks)

    def log_probability(self, number: int) -> torch.Tensor:
        """The model's log-probability of a whole SID, over the trie, code by code."""
        sid = self.sids[number]
        total = torch.zeros(())
        for level, code in enumerate(sid):
            prefix = SIDS[(SIDS[:, :level] == sid[:level]).all(axis=1)]
            codes = sorted(set(prefix[:, level].tolist()))
            row = number * len(SIZES) + level - 1  # the first code of all is no target
            columns = [START + int(TOKENS.space.offsets[level]) + code for code in codes]
            total = total + self.logits[row, columns].log_softmax(0)[codes.index(code)]
        return total


@pytest.mark.parametrize("weight", [0.1, 0.5, 0.99])
@pytest.mark.parametrize("seed", [0, 1])
def test_loss_and_gradient_are_those_of_the_mixture(weight: float, seed: int) -> None:
    loss = Loss("trie", TOKENS, TRIE, memory_weight=weight)
    batch = Batch(seed)
    plain = batch.total(loss, batch.plain)
    total = batch.total(loss, batch.mixed)
    expected = plain
    for number in range(1, len(batch.sids) - 1):
        log_model = batch.log_probability(number)
        p_memory = math.exp(batch.log_probs[number])
        mixed = -torch.log((1 - weight) * log_model.exp() + weight * p_memory)
        expected = expected + batch.weights[number] * (mixed + log_model)
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-5)
    (gradient,) = torch.autograd.grad(total, batch.logits)
    (explicit,) = torch.autograd.grad(expected, batch.logits)
    torch.testing.assert_close(gradient, explicit, rtol=1e-4, atol=1e-6)


def test_the_gradient_is_the_models_times_its_share() -> None:
    weight = 0.4
    batch = Batch(2)
    (plain,) = torch.autograd.grad(
        batch.total(Loss("trie", TOKENS, TRIE), batch.plain), batch.logits
    )
    loss = Loss("trie", TOKENS, TRIE, memory_weight=weight)
    (mixed,) = torch.autograd.grad(batch.total(loss, batch.mixed), batch.logits)
    for number in range(len(batch.sids)):
        first = max(0, number * len(SIZES) - 1)
        rows = slice(first, (number + 1) * len(SIZES) - 1)
        share = 1.0
        if not math.isnan(batch.log_probs[number]):
            p_model = math.exp(batch.log_probability(number).item())
            p_memory = math.exp(batch.log_probs[number])
            share = (1 - weight) * p_model / ((1 - weight) * p_model + weight * p_memory)
        torch.testing.assert_close(mixed[rows], share * plain[rows], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("taught", [False, True])
def test_weight_0_is_the_plain_loss_to_the_bit(smoothing: float, taught: bool) -> None:
    batch = Batch(3)
    teachers = (torch.randn(batch.logits.shape),) if taught else ()
    loss = Loss("trie", TOKENS, TRIE, smoothing, 0.7)
    plain = batch.total(loss, batch.plain, teachers)
    mixed = batch.total(loss, batch.mixed, teachers)
    assert torch.equal(plain, mixed)
    gradients = [torch.autograd.grad(total, batch.logits)[0] for total in (plain, mixed)]
    assert torch.equal(*gradients)


def test_smoothing_and_teachers_keep_their_terms() -> None:
    """Only the part of the loss that is the targets' own changes, by its weight."""
    batch = Batch(4)
    teachers = (torch.randn(batch.logits.shape),)
    hard = Loss("trie", TOKENS, TRIE, memory_weight=0.3)
    gain = batch.total(hard, batch.plain) - batch.total(hard, batch.mixed)
    assert gain > 0
    for smoothing, distill, share in ((0.2, 0.0, 0.8), (0.0, 0.7, 0.3), (0.2, 0.7, 0.24)):
        loss = replace(hard, smoothing=smoothing, distill_weight=distill)
        taught_by = teachers if distill else ()
        plain = batch.total(loss, batch.plain, taught_by)
        mixed = batch.total(loss, batch.mixed, taught_by)
        torch.testing.assert_close(plain - mixed, share * gain, rtol=1e-4, atol=1e-4)
