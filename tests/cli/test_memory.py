"""The commands of memories."""

from pathlib import Path

import pytest

from sidtool.memory.memory import Memory
from tests.cli.road import Ran, Road, done, refused, run, tree, write_lines


def build(road: Road, out: Path, *more: object) -> Ran:
    return done("build-memory", road.split, road.bundle, "-o", out, *more)


@pytest.fixture(scope="module")
def memory(road: Road, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("memory") / "memory.zarr"
    build(road, out)
    return out


def test_build_memory(road: Road, tmp_path: Path) -> None:
    out = tmp_path / "memory.zarr"
    ran = build(road, out, "--neighbors", 5, "--recency", 0.5)
    memory = Memory.open(out)
    assert memory.digest in ran.out
    assert ran.last == f"next: sidtool tune-memory MODEL {road.split} {out} -o OUT"
    settings = memory.manifest.settings
    assert (settings.neighbors, settings.recency, settings.distance) == (5, 0.5, 0.85)
    again = build(road, tmp_path / "again.zarr.zip", "--neighbors", 5, "--recency", 0.5, "--json")
    assert again.json["digest"] == memory.digest
    assert done("verify", out).out.startswith(f"{out}: 60 items")
    assert "--force" in refused(2, "build-memory", road.split, road.bundle, "-o", out)


def test_an_update_equals_a_new_memory(road: Road, memory: Path, tmp_path: Path) -> None:
    rows = road.events.read_text().splitlines()
    more = tmp_path / "events.csv"
    write_lines(more, [*rows, "u3,b007,900", "u3,b011,901", "new,b001,5", "new,b002,6"])
    done("split", more, "-o", tmp_path / "split")
    command = ("build-memory", tmp_path / "split", road.bundle)
    done(*command, "-o", tmp_path / "anew.zarr")
    earlier = ("--earlier", memory, "--earlier-split", road.split)
    done(*command, "-o", tmp_path / "updated.zarr", *earlier)
    anew, updated = Memory.open(tmp_path / "anew.zarr"), Memory.open(tmp_path / "updated.zarr")
    assert updated.digest == anew.digest != Memory.open(memory).digest
    error = refused(3, *command, "-o", tmp_path / "x", "--earlier", memory, "--earlier-split", more)
    assert "the split that the memory was built from" in error
    refused(2, *command, "-o", tmp_path / "x", "--earlier", memory)
    assert not (tmp_path / "x").exists()


def test_wrong_inputs_are_refused_and_nothing_is_written(road: Road, tmp_path: Path) -> None:
    before = tree(tmp_path)
    out = ("-o", tmp_path / "m.zarr")
    assert "recency" in refused(2, "build-memory", road.split, road.bundle, *out, "--recency", 2)
    assert "neighbors" in refused(
        2, "build-memory", road.split, road.bundle, *out, "--neighbors", 0
    )
    refused(1, "build-memory", road.split, tmp_path / "none.zarr", *out)
    refused(1, "build-memory", tmp_path / "none", road.bundle, *out)
    strangers = write_lines(
        tmp_path.parent / "strangers.csv",
        ["user_id,item_id,timestamp", *(f"u,{item},{item}" for item in range(5))],
    )
    assert "co-occur" in refused(1, "build-memory", strangers, road.bundle, *out)
    assert tree(tmp_path) == before


def test_a_damaged_memory_is_reported(memory: Path, tmp_path: Path) -> None:
    for name, data in tree(memory).items():
        path = tmp_path / "m.zarr" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[::-1] if name == "items/events/c/0" else data)
    ran = run("verify", tmp_path / "m.zarr", "--json")
    assert (ran.code, ran.json["broken"][0]["object"]) == (3, "items/events/c/0")
