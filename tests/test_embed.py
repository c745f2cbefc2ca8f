"""Embedding: the same bits after an interruption, encoders that are not the recipe's are told, foreign vectors."""

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidtool import embed as room
from sidtool.embed import Encoder, check_probes, embed, read_vectors
from sidtool.errors import CompatibilityError, DataError, UsageError
from tests.encoders import tiny_encoder

TEXTS = [f"item {n} {'long ' * (n % 7)}" for n in range(23)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BLOCK", 4)


def test_vectors_are_those_of_sentence_transformers(folder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    told: list[tuple[int, int]] = []
    vectors, facts = embed(TEXTS, Encoder(str(folder)), cache=tmp_path, progress=lambda *at: told.append(at))
    expected = SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    assert facts["dim"] == vectors.shape[1] == 16
    assert told == [(len(TEXTS), len(TEXTS))]


def test_the_facts_say_what_the_model_decided(folder: Path, tmp_path: Path) -> None:
    import hashlib

    _, facts = embed(TEXTS[:1], Encoder(str(folder)), cache=tmp_path)
    assert (facts["pooling"], facts["dtype"], facts["max_length"], facts["prompt"]) == ("mean", "float32", 64, None)
    weights = (folder / "model.safetensors").read_bytes()
    assert facts["weights"] == {"model.safetensors": hashlib.sha256(weights).hexdigest()}
    assert len(facts["probes"]) == 3
    assert json.loads(json.dumps(facts)) == facts
    again = Encoder(**{field.name: facts[field.name] for field in fields(Encoder)})
    vectors, facts_again = embed(TEXTS, again, cache=tmp_path)
    assert facts_again == facts
    np.testing.assert_array_equal(vectors, embed(TEXTS, Encoder(str(folder)), cache=tmp_path / "b")[0])


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
    plain = room._encode
    monkeypatch.setattr(room, "_encode", lambda m, e, texts: encoded.append(len(texts)) or plain(m, e, texts))
    resumed, _ = embed(TEXTS, Encoder(str(folder)), cache=tmp_path / "cut")
    np.testing.assert_array_equal(resumed, whole)
    assert sum(encoded) == len(TEXTS) - 4 * (finished - 1) + len(room.PROBES)  # the rest, the broken block, the probes


@pytest.mark.usefixtures("small_blocks")
def test_blocks_of_other_texts_or_settings_are_not_taken(folder: Path, tmp_path: Path) -> None:
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


def test_settings_do_what_they_say(folder: Path, tmp_path: Path) -> None:
    encoder = Encoder(str(folder))
    plain, _ = embed(["find: lamp"], encoder, cache=tmp_path)
    np.testing.assert_allclose(embed(["lamp"], replace(encoder, prompt="find: "), cache=tmp_path)[0], plain, atol=1e-6)
    unit, _ = embed(["find: lamp"], replace(encoder, normalize=True), cache=tmp_path)
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain), atol=1e-6)
    half, facts = embed(["find: lamp"], replace(encoder, dtype="bfloat16"), cache=tmp_path)
    assert facts["dtype"] == "bfloat16"
    assert half.dtype == np.float32


def test_an_encoder_agrees_with_itself_and_with_nothing_else(folder: Path, tmp_path: Path) -> None:
    encoder = Encoder(str(folder))
    _, recipe = embed(TEXTS[:1], encoder, cache=tmp_path)
    recipe = json.loads(json.dumps(recipe))
    assert check_probes(encoder, recipe) > 0.999999
    for other in (replace(encoder, pooling="cls"), replace(encoder, prompt="to find in the shop: ")):
        with pytest.raises(CompatibilityError, match="cosine"):
            check_probes(other, recipe)
    narrower = recipe | {"dim": 8, "probes": [p | {"vector": p["vector"][:8]} for p in recipe["probes"]]}
    with pytest.raises(CompatibilityError, match="16 dimensions, the recipe has 8"):
        check_probes(encoder, narrower)


def test_vectors_that_are_not_finite_are_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = room._encode

    def broken(model: object, encoder: Encoder, texts: list[str]) -> np.ndarray:
        vectors = plain(model, encoder, texts)
        vectors[[text in (TEXTS[5], TEXTS[9]) for text in texts]] = np.nan
        return vectors

    monkeypatch.setattr(room, "_encode", broken)
    with pytest.raises(DataError, match=r"2 of 23 vectors are not finite, the first is text 5 \('item 5"):
        embed(TEXTS, Encoder(str(folder)), cache=tmp_path)


def test_an_encoder_that_cannot_be_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no folder"):
        embed(["a"], Encoder(str(tmp_path / "nothing")), cache=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be loaded"):
        embed(["a"], Encoder(str(tmp_path / "empty")), cache=tmp_path)
    with pytest.raises(UsageError, match="'best' is unknown") as caught:
        embed(["a"], Encoder(str(folder), pooling="best"), cache=tmp_path)
    assert "lasttoken" in str(caught.value.hint)
    with pytest.raises(UsageError, match="int3"):
        embed(["a"], Encoder(str(folder), dtype="int3"), cache=tmp_path)


def test_pickled_weights_load_only_when_trusted(folder: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    pickled = tmp_path / "pickled"
    shutil.copytree(folder, pickled)
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(DataError, match="cannot be loaded") as caught:
        embed(["a"], Encoder(str(pickled)), cache=tmp_path)
    assert "--trust-remote-code" in str(caught.value.hint)
    _, facts = embed(["a"], Encoder(str(pickled), trust_remote_code=True), cache=tmp_path)
    assert list(facts["weights"]) == ["pytorch_model.bin"]


# Vectors of another engine

STORED = np.arange(12, dtype=np.float64).reshape(4, 3)
IDS = ["d", "ä", "b", "c"]


def store(path: Path, vectors: np.ndarray, ids: list[str]) -> Path:
    """Vectors and their ids in the container that the name tells."""
    if path.name.endswith(".npy"):
        np.save(path, vectors)
        beside = path.with_suffix(".ids.json" if "json" in path.name else ".ids.txt")
        beside.write_text(
            json.dumps(ids) if beside.suffix == ".json" else "".join(f"{item}\n" for item in ids), "utf-8"
        )
    elif path.name.endswith(".parquet"):
        kind = pa.list_(pa.float32(), vectors.shape[1]) if "fixed" in path.name else pa.list_(pa.float64())
        pq.write_table(pa.table({"asin": ids, "embedding": pa.array(vectors.tolist(), kind)}), path)
    else:
        group = zarr.open_group(zarr.storage.ZipStore(path, mode="w") if path.suffix == ".zip" else path, mode="w")
        group["vectors"] = vectors
        group.create_array("ids", data=np.array(ids, dtype=np.dtypes.StringDType()))
        group.store.close()
    return path


CONTAINERS = ("x.npy", "json.npy", "x.parquet", "fixed.parquet", "x.zarr", "x.zarr.zip")


@pytest.mark.parametrize("name", CONTAINERS)
def test_vectors_come_in_the_order_asked_for(tmp_path: Path, name: str) -> None:
    path = store(tmp_path / name, STORED, IDS)
    vectors = read_vectors(path, ["b", "c", "ä"])
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, STORED[[2, 3, 1]])
    np.testing.assert_array_equal(read_vectors(path), STORED)


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.permutations(range(6)), st.permutations(range(6)), st.sampled_from(["x.npy", "x.parquet"]))
def test_any_order_gives_each_item_its_own(tmp_path: Path, stored: list[int], asked: list[int], name: str) -> None:
    path = store(tmp_path / name, np.array([[n, -n] for n in stored], dtype=np.float32), [str(n) for n in stored])
    assert read_vectors(path, [str(n) for n in asked])[:, 0].tolist() == asked


def test_bare_matrices_need_as_many_rows_as_items(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", STORED)
    zarr.save_array(str(tmp_path / "x.zarr"), STORED)
    for name in ("x.npy", "x.zarr"):
        np.testing.assert_array_equal(read_vectors(tmp_path / name, IDS), STORED)
        with pytest.raises(DataError, match="4 vectors for 3 items"):
            read_vectors(tmp_path / name, IDS[:3])


@pytest.mark.parametrize("name", CONTAINERS)
def test_what_is_missing_double_or_not_finite_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no vector for 2 of 3 items, the first is 'x'"):
        read_vectors(store(tmp_path / name, STORED, IDS), ["b", "x", "y"])
    with pytest.raises(DataError, match="two vectors for item 'b'"):
        read_vectors(store(tmp_path / f"2{name}", STORED, ["a", "b", "b", "c"]), ["b"])
    broken = STORED.copy()
    broken[1, 2] = np.inf
    path = store(tmp_path / f"3{name}", broken, IDS)
    with pytest.raises(DataError, match=r"1 of 3 vectors are not finite, the first is item 'ä' \(row 2\)"):
        read_vectors(path, ["c", "d", "ä"])
    assert len(read_vectors(path, ["c", "d"])) == 2


def test_what_holds_no_vectors_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", STORED[0])
    np.save(tmp_path / "object.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "count.npy", STORED)
    (tmp_path / "count.ids.txt").write_text("a\nb\n")
    (tmp_path / "text.npy").write_text("nothing")
    pq.write_table(pa.table({"asin": ["a"], "x": [1]}), tmp_path / "x.parquet")
    pq.write_table(pa.table({"asin": ["a", "b"], "vector": [[1.0], [1.0, 2.0]]}), tmp_path / "ragged.parquet")
    zarr.open_group(tmp_path / "x.zarr", mode="w")
    for name, told in (
        ("one.npy", "not rows of numbers"),
        ("object.npy", "cannot be read"),
        ("count.npy", "4 vectors and 2 ids"),
        ("text.npy", "cannot be read"),
        ("x.parquet", "no column of vectors"),
        ("ragged.parquet", "different lengths"),
        ("x.zarr", "cannot be read"),
        ("gone.npy", "does not exist"),
        ("x.docx", "cannot tell|does not exist"),
    ):
        with pytest.raises(DataError, match=told):
            read_vectors(tmp_path / name, ["a"])
