import errno
import io
import os
import sys
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.errors import DataError, MissingPackageError, UsageError
from sidtool.base.storage import Storage, conditional, write_zip
from sidtool.base.storage.conditional import take_snapshot, write_if_unchanged
from sidtool.base.storage.zips import zip_directory


@pytest.fixture(params=["file", "memory"])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, str]:
    """A file system and the path of an object that does not exist in it."""
    folder = str(tmp_path) if request.param == "file" else f"/{uuid4()}"
    return fsspec.filesystem(request.param), f"{folder}/refs.json"


def test_an_object_is_written_only_as_it_was_read(target: tuple[Any, str]) -> None:
    filesystem, path = target
    assert take_snapshot(filesystem, path) is None
    assert write_if_unchanged(filesystem, path, None, b"one")
    assert not write_if_unchanged(filesystem, path, None, b"two")
    before = take_snapshot(filesystem, path)
    assert before.data == b"one"
    assert write_if_unchanged(filesystem, path, before, b"two")
    assert not write_if_unchanged(filesystem, path, before, b"three")
    assert filesystem.cat_file(path) == b"two"
    before = take_snapshot(filesystem, path)
    filesystem.rm(path)
    assert not write_if_unchanged(filesystem, path, before, b"three")
    assert not filesystem.exists(path)


def test_a_store_that_refuses_to_create_has_the_object(monkeypatch: pytest.MonkeyPatch) -> None:
    filesystem = fsspec.filesystem("memory")
    path = f"/{uuid4()}"
    filesystem.pipe_file(path, b"one")
    monkeypatch.setattr(conditional, "take_snapshot", lambda *_: None)  # as before another write
    assert not write_if_unchanged(filesystem, path, None, b"two")
    assert filesystem.cat_file(path) == b"one"


def test_an_error_of_s3_besides_a_failed_condition_passes() -> None:
    def pipe_file(*_: Any, **__: Any) -> None:
        raise PermissionError("Access Denied")

    with pytest.raises(PermissionError, match="Access Denied"):
        write_if_unchanged(SimpleNamespace(protocol="s3", pipe_file=pipe_file), "x", None, b"")


def test_windows_has_no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(MissingPackageError, match="on Windows, run it in WSL"):
        conditional.file_locks()


def test_a_store_in_memory_is_not_written_while_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Storage(f"memory://{uuid4()}")
    store.put({"one": b"1"})
    writer = threading.Thread(target=lambda: store.put({"two": b"2"}))
    find = type(store._filesystem).find

    def find_during_a_write(*arguments: Any, **options: Any) -> Any:
        writer.start()
        writer.join(0.1)
        assert writer.is_alive()
        return find(*arguments, **options)

    monkeypatch.setattr(type(store._filesystem), "find", find_during_a_write)
    assert list(store.listing()) == ["one"]
    writer.join()
    assert store.read("two") == b"2"
    assert store.info("three") is None


@pytest.mark.parametrize("reason", ["is a disk", "is in a folder of somebody else"])
def test_a_folder_beside_which_nothing_can_be_written_gets_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    shop = tmp_path / "shop"
    shop.mkdir()
    move = Path.replace

    def refuse(path: Path, target: Path) -> Path:
        if path.parent == tmp_path:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return move(path, target)

    monkeypatch.setattr(Path, "replace", refuse)
    if reason == "is a disk":
        monkeypatch.setattr(Path, "is_mount", lambda path: path == shop)
    else:
        monkeypatch.setattr(os, "access", lambda path, _: path != tmp_path)
    Storage(shop).put({"versions/1.0/README.md": b"card"})
    assert [path.name for path in shop.rglob("*") if path.is_file()] == ["README.md"]


names = st.text("ab/é", min_size=1, max_size=6).filter(lambda name: "//" not in name)


@given(st.dictionaries(names, st.binary(max_size=50), min_size=1), st.data())
def test_the_directory_locates_every_object(objects: dict[str, bytes], data: st.DataObject) -> None:
    last = data.draw(st.sampled_from(sorted(objects)))
    packed = []
    for _ in range(2):
        stream = io.BytesIO()
        write_zip(stream, sorted(objects.items()), last=last)
        packed.append(stream.getvalue())
    assert packed[0] == packed[1]
    spans = zip_directory(io.BytesIO(packed[0]))
    assert {name: packed[0][start:stop] for name, (start, stop) in spans.items()} == objects
    assert list(spans)[-1] == last


def test_a_compressed_zip_is_refused() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", b"0" * 1000)
    with pytest.raises(ValueError, match="layout"):
        zip_directory(stream)


def test_a_zip_of_a_server_without_ranges_is_not_called_damaged(tmp_path: Path) -> None:
    with (tmp_path / "shop.zarr.zip").open("wb") as stream:
        write_zip(stream, [("zarr.json", b"{}"), ("c/0", b"1" * 100)], last="zarr.json")
    serving = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), serving) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        storage = Storage(f"http://127.0.0.1:{server.server_port}/shop.zarr.zip")
        with pytest.raises(DataError, match=r"cannot be read in parts: .* range") as caught:
            storage.names()
        server.shutdown()
    assert caught.value.hint == "download it and use the copy"


def test_an_empty_location_is_refused() -> None:
    with pytest.raises(UsageError, match="the location of an artifact is empty"):
        Storage("")
    assert Storage(".").local_path == Path.cwd()
