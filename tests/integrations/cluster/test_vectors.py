import json
import shutil
from pathlib import Path
from unittest.mock import Mock

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sidtool
from sidtool.base.digests import file_digest
from sidtool.base.errors import RefusedError
from sidtool.integrations.cluster import RunOptions, embed_folder, encode_folder
from sidtool.registry import open_bundle
from sidtool.tokenizer import encode
from sidtool.tokenizer.encoder import Encoder
from tests.cli.road import catalog, done, refused, run
from tests.encoders import embed, tiny_encoder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog in two files, an encoder, and a bundle built with it."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "bert").mkdir()
    encoder = tiny_encoder(folder / "bert", folder / "encoder")
    rows = [json.loads(line) for line in catalog(folder / "items.jsonl").read_text().splitlines()]
    (folder / "items").mkdir()
    for number, part in enumerate((rows[:25], rows[25:])):
        pq.write_table(pa.Table.from_pylist(part), folder / f"items/{number}.parquet")
    build = ("build-codebook", folder / "items.jsonl", "--levels", "4x4x8", "--encoder", encoder)
    template = ("--text-template", "{title}: {description}")
    done(*build, *template, "-o", folder / "shop.zarr")
    return folder


def table_of(folder: Path) -> pa.Table:
    return pa.concat_tables([pq.read_table(part) for part in sorted(folder.glob("part-*"))])


def test_embed(inputs: Path, tmp_path: Path) -> None:
    encoder, run = Encoder(str(inputs / "encoder")), RunOptions()
    items = sidtool.read_items(inputs / "items.jsonl")
    embed_folder(inputs / "items", tmp_path / "none", encoder.model, run=RunOptions(dry_run=True))
    assert not (tmp_path / "none").exists()
    for name, rows in (("whole", 100), ("shards", 16)):
        embed_folder(inputs / "items", tmp_path / name, encoder.model, run=run, shard_rows=rows)
    whole = table_of(tmp_path / "whole")
    assert whole["item_id"].to_pylist() == list(items.ids)
    expected, _ = embed(items.texts, encoder, cache=tmp_path / "cache")
    vectors = np.array(whole["vector"].to_pylist(), dtype=np.float32)
    np.testing.assert_array_equal(vectors, expected)
    in_shards = np.array(table_of(tmp_path / "shards")["vector"].to_pylist(), dtype=np.float32)
    np.testing.assert_allclose(in_shards, expected, atol=1e-5)
    build = ("build-codebook", inputs / "items.jsonl", "--levels", "4x4x8")
    done(*build, "--embeddings", tmp_path / "shards", "-o", tmp_path / "built.zarr")


def test_encode(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "sids"
    ran = done("encode", inputs / "shop.zarr", "--items", inputs / "items", "-o", out)
    assert ran.out == f"60 items in 1 files at {out}\n"
    table = table_of(out)
    items = sidtool.read_items(inputs / "items.jsonl", text_template="{title}: {description}")
    bundle = open_bundle(str(inputs / "shop.zarr"))
    expected = encode(bundle, items.texts)
    assert table["item_id"].to_pylist() == list(items.ids)
    assert table["sid"].to_pylist() == [encoding.sid for encoding in expected]
    assert [tuple(row) for row in table["codes"].to_pylist()] == [
        encoding.codes for encoding in expected
    ]
    lineage = json.loads((out / "_lineage.json").read_text())
    assert (lineage["command"], lineage["bundle"]) == ("encode", bundle.identity.digest)
    words = ("encode", inputs / "shop.zarr", "--items", inputs / "items", "-o", tmp_path / "titles")
    plan = done(*words, "--dry-run", "--json").json
    assert plan == {"dry_run": True, "items": 60, "out": str(tmp_path / "titles")}
    ran = done(*words, "--text-template", "{title}", "--json")
    assert (ran.json["items"], [*ran.json["files"]]) == (60, ["part-0000000.parquet"])
    assert table_of(tmp_path / "titles")["sid"].to_pylist() != table["sid"].to_pylist()


def test_a_tag_that_moves_during_a_run_changes_no_part(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, items = tmp_path / "shop", inputs / "items.jsonl"
    sidtool.push(inputs / "shop.zarr", shop, tag="prod")
    build = ("build-codebook", items, "--levels", "4x4x8", "--encoder", inputs / "encoder")
    done(*build, "-o", tmp_path / "retrained.zarr")
    sidtool.align(tmp_path / "retrained.zarr", inputs / "shop.zarr").save(tmp_path / "2.zarr")
    moves = Mock(side_effect=lambda *_: sidtool.push(tmp_path / "2.zarr", shop, tag="prod"))
    monkeypatch.setattr("sidtool.integrations.cluster.vectors.refuse_input", moves)
    columns = sidtool.ItemColumns(text_template="{title}: {description}")
    encode_folder(f"{shop}@prod", inputs / "items", tmp_path / "sids", columns)
    assert moves.called
    texts = sidtool.read_items(items, text_template=columns.text_template).texts
    expected = [encoding.sid for encoding in encode(inputs / "shop.zarr", texts)]
    assert table_of(tmp_path / "sids")["sid"].to_pylist() == expected


@pytest.mark.parametrize("changed", ["encoder/model.safetensors", "items/1.parquet"])
@pytest.mark.parametrize("command", ["embed", "encode"])
def test_a_run_is_resumed_with_the_same_inputs_alone(
    inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, changed: str
) -> None:
    folder = tmp_path / "inputs"
    shutil.copytree(inputs, folder)
    items, encoder = folder / "items", folder / "encoder"
    words = {
        "embed": ("embed", items, "--encoder", encoder),
        "encode": ("encode", folder / "shop.zarr", "--items", items, "--encoder", encoder),
    }[command]
    words = (*words, "-o", tmp_path / "out")
    with monkeypatch.context() as patch:
        killed = Mock(side_effect=KeyboardInterrupt)
        patch.setattr("sidtool.integrations.cluster.run.run_job", killed)
        assert run(*words).code == 130
    if changed.endswith(".parquet"):
        table = pq.read_table(folder / changed)
        pq.write_table(table.take(list(reversed(range(len(table))))), folder / changed)
    else:
        _change_weights(folder / changed, by=1e-4)
    refusal = refused(2, *words, "--resume")
    assert "has an unfinished run with different" in refusal
    assert changed.rpartition("/")[2] in refusal
    done(*words)
    lineage = json.loads((tmp_path / "out" / "_lineage.json").read_text())
    weights = file_digest(encoder / "model.safetensors")
    assert lineage["encoder"]["weights"] == {"model.safetensors": weights}


def _change_weights(path: Path, by: float) -> None:
    """Add noise to a file of weights."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(path)
    changed = {name: value + by * torch.randn_like(value) for name, value in weights.items()}
    save_file(changed, path, {"format": "pt"})


def test_outputs_at_urls(inputs: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(inputs / "shop.zarr"), "/shelf/shop.zarr", recursive=True)
    items, vectors = inputs / "items", "memory://shelf/vectors"
    ran = done("embed", items, "--encoder", inputs / "encoder", "-o", vectors)
    assert ran.out == f"60 items in 1 files at {vectors}\n"
    build = f"sidtool build-codebook {items} --embeddings {vectors} -o BUNDLE.zarr"
    assert ran.last == f"next: {build}"
    shop, before = "memory://shelf/shop.zarr", memory.find("/shelf")
    encode_items = ("encode", shop, "--items", items, "--force", "-o")
    for out in (shop, "memory://shelf"):
        assert "is the input" in refused(2, *encode_items, out)
    assert "exists already" in refused(2, *encode_items[:-2], "-o", vectors)
    done("push", inputs / "shop.zarr", "memory://shelf/registry")
    published = "memory://shelf/registry@1.0"
    words = ("encode", published, "--items", items, "--force", "-o", "memory://shelf/registry")
    assert "is the input" in refused(2, *words)
    assert set(before) < set(memory.find("/shelf"))
    memory.rm("/shelf", recursive=True)


def test_an_error_names_the_file_of_the_row(inputs: Path, tmp_path: Path) -> None:
    items = tmp_path / "items.parquet"
    pq.write_table(pa.table({"item_id": ["a", ""], "title": ["A", "B"]}), items)
    words = ("encode", inputs / "shop.zarr", "--items", items, "-o", tmp_path / "out")
    error = refused(1, *words, "--text-template", "{title}")
    assert error == f"error: {items}, row 2: the item id is empty"


def test_another_encoder_than_the_bundle_s_is_refused(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "bert").mkdir()
    other = tiny_encoder(tmp_path / "bert", tmp_path / "other")
    _change_weights(other / "model.safetensors", by=1.0)
    places = (str(inputs / "shop.zarr"), str(inputs / "items"), str(tmp_path / "out"))
    with pytest.raises(RefusedError, match="is not the one of the codebook"):
        encode_folder(*places, model=str(other))
    assert not (tmp_path / "out").exists()
