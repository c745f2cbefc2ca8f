import os
import pickle
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidtool.base.errors import DataError
from sidtool.base.jobs import Job
from sidtool.integrations.cluster.engines import ENGINES, WorkerOptions, run_job
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.make.build import build_codebook
from sidtool.tokenizer.quantize.codebook import Codebook
from tests.cli.road import done, refused
from tests.tokenizer.quantize.material import mixture

N, DIM = 5000, 8
MEMORY = 1024 * DIM * 32
"""For 1024 vectors at once: five spans, and blocks of colliding items."""
WORKERS = ("--engine", "ray", "--workers", 2)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A catalog, and a folder of vectors in another order, some of which are of no item; half of
    the items collide."""
    folder = tmp_path_factory.mktemp("shop")
    lines = [f"i{row:05d},item {row}\n" for row in range(N)]
    (folder / "items.csv").write_text("item_id,title\n" + "".join(lines))
    vectors = mixture(0, N + 100, DIM)
    vectors[: N // 2] = np.round(vectors[: N // 2])
    order = np.random.default_rng(1).permutation(N + 100)
    (folder / "vectors").mkdir()
    for number, rows in enumerate(np.array_split(order, 40)):
        ids = [f"i{row:05d}" for row in rows]
        table = pa.table({"item_id": ids, "vector": list(vectors[rows])})
        pq.write_table(table, folder / f"vectors/{number:03d}.parquet", row_group_size=60)
    build_codebook(folder / "items.csv", folder / "one.zarr", **inputs(folder))
    return folder


def inputs(shop: Path) -> dict[str, Any]:
    """What the codebooks are built from."""
    return {"embeddings": shop / "vectors", "memory_limit": MEMORY, "sizes": (32, 32, 32)}


def same(one: Path, other: Path) -> bool:
    """Whether two bundles are equal to the last bit, in what was measured too."""
    bundles = [Bundle.open(one), Bundle.open(other)]
    reports = [{**bundle.manifest.report, "seconds": 0} for bundle in bundles]
    names = bundles[0].arrays.keys() | bundles[1].arrays.keys()
    assert not Bundle.broken(other)
    return (
        bundles[0].digest == bundles[1].digest
        and reports[0] == reports[1]
        and all(np.array_equal(bundles[0].arrays[name], bundles[1].arrays[name]) for name in names)
    )


def elsewhere(
    job: Job[Any, Any], shards: Sequence[Any], *, most: int = 1 << 30
) -> Iterator[tuple[int, Any]]:
    """Run a job as two workers do: each opens what travels to it, and the last shard is done first.
    Raises DataError after some shards of the encoding."""
    is_encoding = "_open_encoding" in repr(job)
    travelling = pickle.dumps(job)
    works = [pickle.loads(travelling)() for _ in range(2)]
    for done_before, index in enumerate(reversed(range(len(shards)))):
        if is_encoding and done_before == most:
            raise DataError("the command was killed")
        yield index, works[index % 2](pickle.loads(pickle.dumps(shards[index])))


def test_the_bundle_is_that_of_one_process(shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "many.zarr"
    build_codebook(shop / "items.csv", out, **inputs(shop), run=elsewhere)
    assert same(shop / "one.zarr", out)
    report = Bundle.open(out).manifest.report
    assert report["collisions"]["before"]["items"] > 2048  # more than one block of them


def test_one_process_continues_what_workers_encoded(shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "shop.zarr"
    with pytest.raises(DataError, match="was killed"):
        build_codebook(shop / "items.csv", out, **inputs(shop), run=partial(elsewhere, most=3))
    with patch.object(Codebook, "encode", autospec=True, side_effect=Codebook.encode) as encode:
        build_codebook(shop / "items.csv", out, **inputs(shop))
    assert encode.call_count == 2
    assert same(shop / "one.zarr", out)


def test_a_bad_vector_is_named_by_its_row(shop: Path, tmp_path: Path) -> None:
    table = pq.read_table(shop / "vectors")
    vectors = np.array(table["vector"].to_pylist(), dtype=np.float32)
    row = table["item_id"].to_pylist().index("i00007")
    vectors[row] = np.nan
    path = tmp_path / "bad.parquet"
    pq.write_table(pa.table({"item_id": table["item_id"], "vector": list(vectors)}), path)
    build_inputs = inputs(shop) | {"embeddings": path}
    with pytest.raises(DataError, match=r"not finite, like .*\(?row 7\)?"):
        build_codebook(shop / "items.csv", tmp_path / "bad.zarr", **build_inputs, run=elsewhere)


def test_refusals(shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    words = ("build-codebook", shop / "items.csv", "-o", tmp_path / "b.zarr", *WORKERS)
    vectors = ("--embeddings", shop / "vectors")
    for vector_flags in ((*vectors, *vectors), ("--encoder", "lexical"), ()):
        assert "reads vectors from one --embeddings" in refused(2, *words, *vector_flags)
    (tmp_path / "b.zarr").mkdir()
    monkeypatch.setitem(ENGINES, "ray", replace(ENGINES["ray"], connect=None))
    assert "exists already" in refused(2, *words, *vectors)  # before Ray starts
    events = ("--interactions", tmp_path)
    assert "--interactions is for one process" in refused(2, *words, *vectors, *events)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_of_two")
def test_the_command_with_workers(shop: Path, tmp_path: Path) -> None:
    out = tmp_path / "shop.zarr"
    vectors = ("--embeddings", shop / "vectors", "--memory-limit", MEMORY, "--levels", "32x32x32")
    done("build-codebook", shop / "items.csv", *vectors, "-o", out, *WORKERS)
    assert same(shop / "one.zarr", out)


def _killed_once(job: Job[Any, Any], marker: Path) -> Callable[[Any], Any]:
    """Kills the first worker that gets a second shard, once."""
    work = job()
    calls = []

    def die(shard: Any) -> Any:
        calls.append(1)
        if len(calls) == 2 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return work(shard)

    return die


@pytest.mark.slow
@pytest.mark.usefixtures("ray_of_two")
@pytest.mark.parametrize("step", ["_open_gathering", "_open_encoding", "_open_choosing"])
def test_a_killed_worker_changes_nothing(shop: Path, tmp_path: Path, step: str) -> None:
    marker = tmp_path / "killed"

    def killing(job: Job[Any, Any], shards: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        if step in repr(job):
            job = partial(_killed_once, job, marker)
        return run_job(job, shards, WorkerOptions("ray", 2))

    build_codebook(shop / "items.csv", tmp_path / "b.zarr", **inputs(shop), run=killing)
    assert marker.exists()
    assert same(shop / "one.zarr", tmp_path / "b.zarr")
