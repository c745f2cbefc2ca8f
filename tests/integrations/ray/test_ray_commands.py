"""Commands by two workers of a Ray cluster give what one process gives."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.road import Road, done, refused, walk

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_of_two")]
RAY = ("--engine", "ray", "--workers", 2)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Road:
    return walk(tmp_path_factory.mktemp("road"))


def test_recommend(shop: Road, tmp_path: Path) -> None:
    lines = shop.test.read_text().splitlines()
    rows = [{key: json.loads(line)[key] for key in ("user", "history")} for line in lines]
    (tmp_path / "requests").mkdir()
    for number, part in enumerate((rows[:15], rows[15:])):
        pq.write_table(pa.Table.from_pylist(part), tmp_path / f"requests/{number}.parquet")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "all.parquet")
    search = ("--num-beams", 10, "-k", 5)
    one = ("recommend", shop.tuned, "--file", tmp_path / "all.parquet", *search)
    done(*one, "-o", tmp_path / "one.parquet")
    out = tmp_path / "out"
    done("recommend", shop.tuned, "--file", tmp_path / "requests", *search, "-o", out, *RAY)
    folder = ("--file", tmp_path / "requests", *RAY)
    for words in (folder, ("--history", "b001", *RAY, "-o", out)):
        assert "needs --file FOLDER" in refused(2, "recommend", shop.tuned, *words)
    lists = refused(2, "recommend", shop.tuned, *folder, "-o", out, "--list", 3)
    assert "--list is for one process" in lists
    parts = [pq.read_table(part) for part in sorted(out.glob("part-*"))]
    assert pa.concat_tables(parts).equals(pq.read_table(tmp_path / "one.parquet"))


def test_make_sft(shop: Road, tmp_path: Path) -> None:
    inputs = ("make-sft", shop.bundle, shop.items, shop.split, "--model", shop.model)
    for name, engine in (("one", ()), ("ray", RAY)):
        (tmp_path / name).mkdir()
        done(*inputs, "-o", tmp_path / name / "train.jsonl", *engine)
    one, ray = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}
        for name in ("one", "ray")
    )
    assert ray == one


def test_evaluate(shop: Road) -> None:
    words = ("evaluate", shop.tuned, shop.split, "--num-beams", 50, "--json")
    assert done(*words, *RAY).json == done(*words).json


def test_a_connected_process_keeps_its_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    from sidtool.integrations.ray.workers import ray_cluster

    # the process is connected already, whatever the address is
    monkeypatch.setitem(os.environ, "RAY_ADDRESS", "nowhere:1")
    with ray_cluster() as ray:
        assert ray.cluster_resources()["CPU"] == 2
