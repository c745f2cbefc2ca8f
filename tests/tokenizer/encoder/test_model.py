import hashlib
import json
import os
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Router
from transformers.utils import logging

from sidtool.base.errors import CompatibilityError, DataError, RefusedError, UsageError
from sidtool.data import Vectors
from sidtool.tokenizer.encoder import model as room
from sidtool.tokenizer.encoder.model import PROBES, _set_pooling, load_encoder
from sidtool.tokenizer.encoder.settings import Encoder, EncoderRecipe
from tests.encoders import embed, tiny_encoder

TEXTS = [f"item {n} {'long ' * (n % 7)}" for n in range(23)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("encoder"))


@pytest.mark.parametrize("kind", ["pipe", "device", "outside"])
def test_weights_no_module_reads_are_regular_files(kind: str, folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "encoder")
    (copy / "extra").mkdir()
    path = copy / "extra" / "weights.bin"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else folder / "model.safetensors")
    problem = "outside of the model's folder" if kind == "outside" else "is not a regular file"
    with pytest.raises((DataError, RefusedError), match=problem):
        embed(TEXTS[:1], Encoder(str(copy)), cache=tmp_path)


@pytest.mark.parametrize("module", ["Normalize", "Pooling"])
def test_an_encoder_without_weights_is_one_line(module: str, folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "encoder")
    kind = f"sentence_transformers.models.{module}"
    modules = [{"idx": 0, "name": "0", "path": f"1_{module}", "type": kind}]
    (copy / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(DataError, match="encoder has no weights"):
        embed(TEXTS[:1], Encoder(str(copy)), cache=tmp_path)


def test_an_encoder_without_its_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    """transformers makes an empty one, which has the unknown token for every word."""
    copy = shutil.copytree(folder, tmp_path / "encoder")
    for path in copy.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(DataError, match="encoder has no tokenizer"):
        load_encoder(Encoder(str(copy)))


def test_the_tokenizers_of_a_router_are_in_folders_below_its_own(
    folder: Path, tmp_path: Path
) -> None:
    modules = list(SentenceTransformer(str(folder)))
    router = Router.for_query_document(query_modules=modules, document_modules=modules)
    SentenceTransformer(modules=[router]).save(str(tmp_path / "router"))
    record = load_encoder(Encoder(str(tmp_path / "router"), trust_remote_code=True)).record
    assert record["dim"] == load_encoder(Encoder(str(folder))).record["dim"]


def test_an_encoder_leaves_progress_bars_as_they_were(folder: Path) -> None:
    for switch in (logging.disable_progress_bar, logging.enable_progress_bar):
        switch()
        had_bars = logging.is_progress_bar_enabled()
        load_encoder(Encoder(str(folder)))
        assert logging.is_progress_bar_enabled() == had_bars


def test_settings_are_applied(folder: Path, tmp_path: Path) -> None:
    encoder = Encoder(str(folder))
    plain, _ = embed(["find: lamp"], encoder, cache=tmp_path)
    prompted, _ = embed(["lamp"], replace(encoder, prompt="find: "), cache=tmp_path)
    np.testing.assert_allclose(prompted, plain, atol=1e-6)
    unit, _ = embed(["find: lamp"], replace(encoder, normalize=True), cache=tmp_path)
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain), atol=1e-6)
    half, facts = embed(["find: lamp"], replace(encoder, dtype="bfloat16"), cache=tmp_path)
    assert facts["dtype"] == "bfloat16"
    assert half.dtype == np.float32


def test_an_invalid_encoder_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        embed(["a"], Encoder(str(tmp_path / "nothing")), cache=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="does not load as an encoder"):
        embed(["a"], Encoder(str(tmp_path / "empty")), cache=tmp_path)
    with pytest.raises(UsageError, match="there is no pooling 'best'") as caught:
        embed(["a"], Encoder(str(folder), pooling="best"), cache=tmp_path)
    assert "lasttoken" in str(caught.value.shell_hint)
    with pytest.raises(UsageError, match="has no token pooling, so it cannot be 'mean'"):
        _set_pooling([], Encoder(str(folder), pooling="mean"))
    for setting in ({"dtype": "int3"}, {"max_length": 0}):
        with pytest.raises(UsageError, match=r"not 'int3'|at least 1, not 0"):
            Encoder(str(folder), **setting)


def test_weights_of_another_precision_are_refused(folder: Path, tmp_path: Path) -> None:
    SentenceTransformer(str(folder)).double().save(str(tmp_path / "double"))
    with pytest.raises(DataError, match="are float64"):
        embed(["a"], Encoder(str(tmp_path / "double")), cache=tmp_path)


def test_pickled_weights_load_only_when_trusted(folder: Path, tmp_path: Path) -> None:
    pickled = shutil.copytree(folder, tmp_path / "pickled")
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(RefusedError, match="only pickled weights") as caught:
        embed(["a"], Encoder(str(pickled)), cache=tmp_path)
    assert "--trust-remote-code" in str(caught.value.shell_hint)
    _, facts = embed(["a"], Encoder(str(pickled), trust_remote_code=True), cache=tmp_path)
    assert list(facts["weights"]) == ["pytorch_model.bin"]


def test_probes_accept_the_same_encoder_only(folder: Path, tmp_path: Path) -> None:
    encoder = Encoder(str(folder))
    _, recipe = embed(TEXTS[:1], encoder, cache=tmp_path)
    recipe = json.loads(json.dumps(recipe))
    assert load_encoder(encoder).check(EncoderRecipe.from_json(recipe)) > 0.999999
    for changed in ({"pooling": "cls"}, {"prompt": "to find in the shop: "}):
        with pytest.raises(CompatibilityError, match="cosine"):
            load_encoder(replace(encoder, **changed)).check(EncoderRecipe.from_json(recipe))
    probes = [probe | {"vector": probe["vector"][:8]} for probe in recipe["probes"]]
    narrower = recipe | {"dim": 8, "probes": probes}
    with pytest.raises(CompatibilityError, match="16 dimensions, the recipe has 8"):
        load_encoder(encoder).check(EncoderRecipe.from_json(narrower))
    with pytest.raises(CompatibilityError, match=r"probes are malformed: vectors \(0,\)"):
        load_encoder(encoder).check(EncoderRecipe.from_json(recipe | {"probes": []}))


def test_the_recipe_records_the_defaults_of_the_model(folder: Path, tmp_path: Path) -> None:
    _, facts = embed(TEXTS[:1], Encoder(str(folder)), cache=tmp_path)
    recorded = {"pooling": "mean", "dtype": "float32", "max_length": 64, "prompt": None}
    assert recorded.items() <= facts.items()
    weights = (folder / "model.safetensors").read_bytes()
    assert facts["weights"] == {"model.safetensors": hashlib.sha256(weights).hexdigest()}
    assert len(facts["probes"]) == 3
    assert json.loads(json.dumps(facts)) == facts
    again = Encoder(**{field.name: facts[field.name] for field in fields(Encoder)})
    vectors, facts_again = embed(TEXTS, again, cache=tmp_path)
    assert facts_again == facts
    anew, _ = embed(TEXTS, Encoder(str(folder)), cache=tmp_path / "b")
    np.testing.assert_array_equal(vectors, anew)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BLOCK", 4)


def test_vectors_are_those_of_sentence_transformers(folder: Path, tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    encoder = Encoder(str(folder))
    vectors, facts = embed(TEXTS, encoder, cache=tmp_path, progress=lambda *at: reports.append(at))
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
    files = sorted((tmp_path / "cut").rglob("*.npy"))
    assert len(files) == finished
    files[0].write_bytes(files[0].read_bytes()[:-5])  # as a crash of the machine may leave a block
    encoded: list[int] = []
    plain = room.encode_texts

    def counted(model: Any, encoder: Encoder, texts: list[str], pool: Any = None) -> Vectors:
        encoded.append(len(texts))
        return plain(model, encoder, texts, pool)

    monkeypatch.setattr(room, "encode_texts", counted)
    resumed, _ = embed(TEXTS, Encoder(str(folder)), cache=tmp_path / "cut")
    np.testing.assert_array_equal(resumed, whole)
    # the rest, the broken block, the probes
    assert sum(encoded) == len(TEXTS) - 4 * (finished - 1) + len(PROBES)


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
    plain = room.encode_texts

    def broken(model: Any, encoder: Encoder, texts: list[str], pool: Any = None) -> Vectors:
        vectors = plain(model, encoder, texts, pool)
        vectors[[text in (TEXTS[5], TEXTS[9]) for text in texts]] = np.nan
        return vectors

    monkeypatch.setattr(room, "encode_texts", broken)
    with pytest.raises(DataError, match=r"2 of 23 vectors are not finite, like text 5 \('item 5"):
        embed(TEXTS, Encoder(str(folder)), cache=tmp_path)


@pytest.mark.slow
def test_several_devices_agree_with_one(folder: Path, tmp_path: Path, small_blocks: None) -> None:
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
