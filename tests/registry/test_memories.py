from pathlib import Path
from unittest.mock import Mock

import pytest

from sidtool.base.errors import DataError
from sidtool.base.storage.storage import Storage
from sidtool.memory import verify_memory
from sidtool.memory.manifest import KnnSettings
from sidtool.memory.memory import Memory
from sidtool.memory.mixture.index import MemoryOptions
from sidtool.model.load import choose_memory
from sidtool.registry import open_memory, publish, pull, push, tag
from sidtool.registry.publish import Pushed
from sidtool.registry.references import locate, located, open_bundle
from tests.bundles import small_bundle
from tests.cli.road import done, refused, tree
from tests.memory.cases import small_memory
from tests.waiting import Start, run_concurrently


@pytest.fixture
def nightly(tmp_path: Path) -> str:
    """URL/NAME of an empty registry."""
    return str(tmp_path / "registry" / "nightly")


@pytest.fixture
def memories(tmp_path: Path) -> list[str]:
    """Three memories of one bundle."""
    paths = [str(tmp_path / f"{number}.zarr") for number in range(3)]
    for number, path in enumerate(paths):
        small_memory(settings=KnnSettings(neighbors=5 + number)).save(path)
    return paths


def test_each_new_memory_is_the_next_version(nightly: str, memories: list[str]) -> None:
    versions = [push(memory, nightly).version for memory in memories]
    assert versions == ["1.0", "1.1", "1.2"]
    again = push(memories[2], nightly, tag="prod")
    assert (again.version, again.new, again.sent) == ("1.2", False, 0)
    # an earlier memory that is pushed again is the newest version
    assert push(memories[0], nightly).version == "1.3"
    assert tag(f"{nightly}@1.1", "prod").version == "1.1"
    for reference, number in (("", 0), ("@latest", 0), ("@1.2", 2), ("@prod", 1)):
        assert open_memory(nightly + reference).digest == Memory.open(memories[number]).digest


def test_a_pulled_memory_is_identical(nightly: str, memories: list[str], tmp_path: Path) -> None:
    push(memories[1], nightly)
    record = pull(Path(nightly), tmp_path / "out.zarr")
    assert record.kind == "memory"
    assert tree(tmp_path / "out.zarr") == tree(Path(memories[1]))
    pull(nightly, tmp_path / "out.zarr.zip")
    assert verify_memory(tmp_path / "out.zarr.zip") == []
    assert push(nightly, f"{nightly}-mirror").digest == record.digest


def test_a_reference_replaces_a_path(nightly: str, memories: list[str], tmp_path: Path) -> None:
    push(memories[0], nightly, tag="prod")
    bundle = small_bundle()
    weighted = choose_memory(tmp_path, None, bundle, located(MemoryOptions(f"{nightly}@prod")))
    assert weighted.memory.digest == Memory.open(memories[0]).digest
    with pytest.raises(DataError, match="is a memory, not a bundle"):
        open_bundle(nightly)


def test_a_push_that_was_killed_keeps_its_number(
    nightly: str, memories: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    push(memories[0], nightly)
    with monkeypatch.context() as patch:
        patch.setattr(publish.records, "publish_record", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            push(memories[1], nightly)
    assert open_memory(nightly).digest == Memory.open(memories[0]).digest
    again = push(memories[1], nightly)
    assert (again.version, again.sent) == ("1.1", 0)  # only the record
    assert verify_memory(locate(nightly)[0]) == []


def test_of_memories_pushed_at_once_each_gets_a_number(
    nightly: str, memories: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start = Start(3)
    put_if_unchanged = Storage.put_if_unchanged

    def at_once(self: Storage, name: str, *arguments: object) -> bool:
        if name == "versions/1.0.json":
            start.wait()
        return put_if_unchanged(self, name, *arguments)

    monkeypatch.setattr(Storage, "put_if_unchanged", at_once)
    works = (lambda path=path: push(path, nightly) for path in memories)
    results = run_concurrently(*works, start=start)
    pushed = [entry for entry in results if isinstance(entry, Pushed)]
    assert sorted(entry.version for entry in pushed) == ["1.0", "1.1", "1.2"]
    assert all(entry.new and verify_memory(entry.url) == [] for entry in pushed)
    assert (
        open_memory(nightly).manifest.digest == max(pushed, key=lambda entry: entry.version).digest
    )


def test_the_commands_take_memories(memories: list[str], tmp_path: Path) -> None:
    shop = tmp_path / "nightly"
    digest = Memory.open(memories[0]).digest
    ran = done("push", memories[0], shop, "--license", "MIT")
    assert ran.out.startswith(f"{shop}@1.0: pushed ")
    assert done("push", memories[0], shop, "--json").json["new"] is False
    assert digest in done("verify", f"{shop}@1.0").out
    assert "built from" in done("log", shop).out
    assert done("log", shop, "--json").json["published"] == ["1.0", "latest"]
    pulled = done("pull", shop, "-o", tmp_path / "out.zarr", "--json").json
    assert (pulled["memory"], pulled["digest"]) == (str(tmp_path / "out.zarr"), digest)
    (card,) = shop.glob("versions/*/README.md")
    assert "sidtool recommend MODEL --memory nightly@1.0" in card.read_text()
    assert "is a memory, not a bundle" in refused(1, "inspect", shop)
