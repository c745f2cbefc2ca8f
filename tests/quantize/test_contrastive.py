"""Pairs are drawn by weight, the loss is InfoNCE, and training on pairs brings their codes
together."""

import numpy as np
import pytest
import torch
from scipy import sparse

from sidtool.quantize import autoencoder, fit
from sidtool.quantize.contrastive import PAIRS, TEMPERATURE, Pairs, info_nce
from tests.quantize.material import vectors_of


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def test_pairs_are_drawn_in_proportion_to_their_weight() -> None:
    counts = np.zeros((4, 4))
    counts[0, 1] = counts[1, 0] = 3
    counts[2, 3] = counts[3, 2] = 1
    pairs, rng = Pairs.of(sparse.csr_matrix(counts)), np.random.default_rng(0)
    left, right = np.concatenate([pairs.draw(rng).reshape(2, PAIRS) for _ in range(40)], axis=1)
    assert {*zip(left.tolist(), right.tolist(), strict=True)} == {(0, 1), (1, 0), (2, 3), (3, 2)}
    assert (left < 2).mean() == pytest.approx(0.75, abs=0.03)


def test_the_loss_equals_a_direct_computation() -> None:
    quantized, items = vectors_of(0, 6, 4), np.array([0, 1, 0, 5, 6, 5])  # 0-5 twice, 1-6
    unit = quantized / np.linalg.norm(quantized, axis=1, keepdims=True)
    scores, total = np.exp(unit[:3] @ unit[3:].T / TEMPERATURE), 0.0
    for at, negatives in ((0, [1]), (1, [0, 2]), (2, [1])):  # the same pair again is no negative
        total -= np.log(scores[at, at] / (scores[at, at] + scores[at, negatives].sum()))
        total -= np.log(scores[at, at] / (scores[at, at] + scores[negatives, at].sum()))
    assert float(info_nce(torch.from_numpy(quantized), items)) == pytest.approx(total / 6, rel=1e-4)


def test_contrastive_training_increases_shared_codes_of_pairs() -> None:
    vectors = vectors_of(3, 64, 8)
    counts = sparse.csr_matrix(
        (np.ones(64), (np.arange(64), (np.arange(64) + 32) % 64)), shape=(64, 64)
    )

    def together(**more: object) -> int:
        codes = fit(vectors, (8, 8), method="rq-vae", epochs=250, width=8, **more).encode(vectors)
        return int((codes[:32, 0] == codes[32:, 0]).sum())

    assert together(pairs=Pairs.of(counts), contrastive=5.0) > together() + 5


def test_progressive_training_decodes_prefixes() -> None:
    levels = [np.array([[1.0]], dtype=np.float32), np.array([[0.25]], dtype=np.float32)]
    quantizer = autoencoder.ResidualQuantizer(levels, progressive=True)
    torch.manual_seed(0)
    result, _ = quantizer(torch.full((50, 1), 1.3))
    assert {round(float(value), 2) for value in result} == {1.0, 1.25}
    quantizer.eval()
    assert {round(float(value), 2) for value in quantizer(torch.full((50, 1), 1.3))[0]} == {1.25}


def test_progressive_training_is_recorded_and_seeded() -> None:
    vectors = vectors_of(5, 80, 6)
    one, again = (
        fit(vectors, (16, 8, 4), method="rq-vae", epochs=4, progressive=True, seed=2)
        for _ in range(2)
    )
    assert one.params.fit["progressive"] is True
    assert one.sizes == (16, 8, 4)  # levels may shrink
    assert all((a == b).all() for a, b in zip(one.levels, again.levels, strict=True))
