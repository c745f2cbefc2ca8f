"""Embedding: an interrupted run gives the same bits, and an encoder other than the recipe's is
refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidtool.base.errors import DataError
from sidtool.tokenizer.encoder import model as room
from sidtool.tokenizer.encoder.model import PROBES
from sidtool.tokenizer.encoder.settings import Encoder
from tests.encoders import embed, tiny_encoder

TEXTS = [f"item {n} {'long ' * (n % 7)}" for n in range(23)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BLOCK", 4)


def patch_encode(
    monkeypatch: pytest.MonkeyPatch,
    before: Callable[[list[str]], None] = lambda texts: None,
    after: Callable[[list[str], np.ndarray], None] = lambda texts, vectors: None,
) -> None:
    """Call functions before and after each call of the library; `after` may change the vectors."""
    from sentence_transformers import SentenceTransformer

    plain = SentenceTransformer.encode

    def patched(model: SentenceTransformer, texts: list[str], **options: Any) -> np.ndarray:
        before(texts)
        vectors = plain(model, texts, **options)
        after(texts, vectors)
        return vectors

    monkeypatch.setattr(SentenceTransformer, "encode", patched)


def test_vectors_are_those_of_sentence_transformers(folder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    reports: list[tuple[int, int]] = []
    vectors, facts = embed(
        TEXTS, Encoder(str(folder)), cache=tmp_path, progress=lambda *at: reports.append(at)
    )
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert facts["dim"] == vectors.shape[1] == 16
    assert reports == [(len(TEXTS), len(TEXTS))]


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("finished", [1, 3, 5])
def test_an_interrupted_run_gives_the_same_bits(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: int
) -> None:
    whole, _ = embed(TEXTS, Encoder(str(folder)), cache=tmp_path / "whole")

    def stop(done: int, total: int) -> None:
        if done >= finished * 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(TEXTS, Encoder(str(folder)), cache=tmp_path / "cut", progress=stop)
    kept = sorted((tmp_path / "cut").rglob("*.npy"))
    assert len(kept) == finished
    kept[0].write_bytes(kept[0].read_bytes()[:-5])  # as a crash of the machine may leave a block
    encoded: list[int] = []

    def counted(texts: list[str]) -> None:
        encoded.append(len(texts))

    patch_encode(monkeypatch, before=counted)
    resumed, _ = embed(TEXTS, Encoder(str(folder)), cache=tmp_path / "cut")
    np.testing.assert_array_equal(resumed, whole)
    assert sum(encoded) == len(TEXTS) - 4 * (finished - 1) + len(
        PROBES
    )  # the rest, the broken block, the probes


@pytest.mark.usefixtures("small_blocks")
def test_blocks_of_other_texts_or_settings_are_not_reused(folder: Path, tmp_path: Path) -> None:
    encoder = Encoder(str(folder))
    one, _ = embed(TEXTS, encoder, cache=tmp_path)
    for texts, other in (
        ([*TEXTS[:-1], "item 99"], encoder),
        (TEXTS, replace(encoder, prompt="find: ")),
        (TEXTS, replace(encoder, pooling="cls")),
        (TEXTS, replace(encoder, max_length=4)),
    ):
        with_cache, _ = embed(texts, other, cache=tmp_path)
        np.testing.assert_array_equal(with_cache, embed(texts, other, cache=tmp_path / "fresh")[0])
        assert not np.array_equal(with_cache, one)
    assert len(list(tmp_path.glob("*/*.npy"))) == 5 * 6


def test_vectors_that_are_not_finite_are_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def broken(texts: list[str], vectors: np.ndarray) -> None:
        vectors[[text in (TEXTS[5], TEXTS[9]) for text in texts]] = np.nan

    patch_encode(monkeypatch, after=broken)
    with pytest.raises(
        DataError, match=r"2 of 23 vectors are not finite, the first is text 5 \('item 5"
    ):
        embed(TEXTS, Encoder(str(folder)), cache=tmp_path)


@pytest.mark.slow
def test_several_devices_give_the_vectors_of_one(
    folder: Path, tmp_path: Path, small_blocks: None
) -> None:
    expected, record = embed(TEXTS, Encoder(str(folder)), cache=tmp_path / "one")
    devices = ["cpu", "cpu"]
    reports: list[tuple[int, int]] = []
    vectors, same = embed(
        TEXTS,
        Encoder(str(folder)),
        cache=tmp_path / "two",
        devices=devices,
        progress=lambda *at: reports.append(at),
    )
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert same == record
    # a call goes on with the blocks that are there, on one device too
    blocks = sorted((tmp_path / "two").rglob("*.npy"))
    assert len(blocks) == 6
    assert reports[0] == (8, len(TEXTS))
    blocks[2].unlink()
    again, _ = embed(TEXTS, Encoder(str(folder)), cache=tmp_path / "two")
    np.testing.assert_allclose(again, vectors, atol=1e-6)
