"""Two workers of a Ray cluster make what one process makes, also by commands and if one of them is
killed."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sidtool.base.errors import DataError
from sidtool.integrations.cluster.engines import ray_cluster
from sidtool.integrations.cluster.run import RunOptions
from tests.cli.road import Road, done, refused, tree, walk
from tests.integrations.cluster.jobs import double, read_numbers, write_numbers

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_of_two")]
RAY = RunOptions(engine="ray", workers=2)
WORKERS = ("--engine", "ray", "--workers", 2)


def test_a_killed_worker_changes_nothing(tmp_path: Path) -> None:
    numbers = write_numbers(tmp_path / "in")
    double(tmp_path / "in", tmp_path / "alone", RunOptions())
    unfinished = str(tmp_path / "out.partial")
    report = double(tmp_path / "in", tmp_path / "out", RAY, killed_in=unfinished)
    assert read_numbers(tmp_path / "out") == [2 * n for n in numbers]
    assert report.counts == {"sum": sum(numbers)}
    assert tree(tmp_path / "out") == tree(tmp_path / "alone")


def test_an_error_of_the_work_is_that_of_the_run(tmp_path: Path) -> None:
    write_numbers(tmp_path / "in")
    with pytest.raises(DataError, match="9 is bad") as raised:
        double(tmp_path / "in", tmp_path / "out", RAY, bad=9)
    assert raised.value.shell_hint == "leave it out"
    assert not (tmp_path / "out").exists()
    double(tmp_path / "in", tmp_path / "out", RunOptions(engine="ray", resume=True))
    assert len(read_numbers(tmp_path / "out")) == 20


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
    done("recommend", shop.tuned, "--file", tmp_path / "requests", *search, "-o", out, *WORKERS)
    folder = ("--file", tmp_path / "requests", *WORKERS)
    for words in (folder, ("--history", "b001", *WORKERS, "-o", out)):
        assert "needs --file FOLDER" in refused(2, "recommend", shop.tuned, *words)
    lists = refused(2, "recommend", shop.tuned, *folder, "-o", out, "--list", 3)
    assert "--list is for one process" in lists
    parts = [pq.read_table(part) for part in sorted(out.glob("part-*"))]
    assert pa.concat_tables(parts).equals(pq.read_table(tmp_path / "one.parquet"))


def test_evaluate(shop: Road) -> None:
    words = ("evaluate", shop.tuned, shop.split, "--num-beams", 50, "--json")
    assert done(*words, *WORKERS).json == done(*words).json


def test_a_connected_process_keeps_its_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    # the process is connected already, whatever the address is
    monkeypatch.setitem(os.environ, "RAY_ADDRESS", "nowhere:1")
    with ray_cluster() as ray:
        assert ray.cluster_resources()["CPU"] == 2
