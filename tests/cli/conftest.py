"""Every artifact of the command line, made once for all tests, and a tiny text encoder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.road import TRAINING, Road, catalog, done, link, walk, write_lines
from tests.encoders import tiny_encoder
from tests.hostile.writing_commands import own_codebook


@pytest.fixture(scope="session")
def road(tmp_path_factory: pytest.TempPathFactory) -> Road:
    return walk(tmp_path_factory.mktemp("road"))


@pytest.fixture
def in_road(road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with the road's files."""
    link(tmp_path, {path.name: path for path in road.folder.iterdir()})
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def requests(road: Road) -> list[dict[str, Any]]:
    """The test users' histories, which differ in length, so that a batch is not in the order of the
    file."""
    examples = [json.loads(line) for line in road.test.read_text(encoding="utf-8").splitlines()]
    return [{"user": example["user"], "history": example["history"]} for example in examples]


@pytest.fixture
def requests_file(requests: list[dict[str, Any]], tmp_path: Path) -> Path:
    return write_lines(tmp_path / "users.jsonl", requests)


@pytest.fixture(scope="session")
def base_inputs(road: Road, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The road's files, and what only the cases of a base install read."""
    folder = tmp_path_factory.mktemp("inputs")
    link(folder, {"encoder": encoder, **{path.name: path for path in road.folder.iterdir()}})
    catalog(folder / "more.jsonl", n=64)
    np.save(folder / "more.npy", np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32))
    (folder / "more.ids.txt").write_text("".join(f"b{n:03d}\n" for n in range(64)))
    own_codebook(road.bundle, folder / "codebooks.npz")
    build = ("build-codebook", road.items, "--levels", "4x4x8", "--encoder", encoder)
    done(*build, "-o", folder / "texts.zarr")
    rows = [json.loads(line) for line in road.items.read_text().splitlines()]
    pq.write_table(pa.Table.from_pylist(rows), folder / "items.parquet")
    requests = pa.table({"history": [["b001", "b002"]]})
    pq.write_table(requests, folder / "requests.parquet")
    lora = ("--stage", "lora", *TRAINING)
    done("train", road.model, road.examples, "-o", folder / "adapted", *lora)
    return folder
