"""A bundle that claims more than it stores is refused before anything is allocated, and what is no
regular file is not opened."""

import os
import socket
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from sidtool.base.errors import IntegrityError, SidtoolError
from sidtool.tokenizer.bundle import Bundle
from tests.bundles import small_bundle
from tests.hostile.limits import check_seconds, limited
from tests.pairs import all_pairs
from tests.tokenizer.bundle.drafts import ROOT, Draft, metadata_of, root_document

MIB = 1 << 20


@pytest.fixture(autouse=True, scope="module")
def imported_modules(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is imported once is no part of what a reader takes."""
    assert Bundle.broken(draft().write(tmp_path_factory.mktemp("draft") / "shop.zarr")) == []


def refused(path: Path) -> str:
    """What a reader says; it may take two seconds and 64 MiB + 20 bytes per byte."""
    n_bytes = sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
    with limited() as verifying:
        broken = Bundle.broken(path)
    with limited() as opening, pytest.raises(SidtoolError) as caught:
        use(Bundle.open(path))
    assert broken
    for usage in (*verifying, *opening):
        check_seconds(usage)
        assert usage.memory < 64 * MIB + 20 * n_bytes
    return str(caught.value)


def use(bundle: Bundle) -> None:
    _ = bundle.items, bundle.codebook, bundle.trie(), bundle.sid("i1")


def draft(items: int = 6) -> Draft:
    return Draft.of(small_bundle(items=items))


@pytest.mark.parametrize(
    ("more", "message"), [(4000, "has 4013 bytes, not 1 to 64"), (51, "codebook/level")]
)
def test_many_codes_cost_nothing_before_spelling(tmp_path: Path, more: int, message: str) -> None:
    made = draft()
    made.manifest["space"] |= {"sizes": [65536] * 4, "template": "{level}{code}" + "x" * more}
    made.identify()
    assert message in refused(made.write(tmp_path / "shop.zarr"))


def claimed(made: Draft, items: int, **changes: Any) -> Draft:
    """A draft whose manifest and arrays claim another number of items than the chunks hold."""
    made.manifest["items"] = items
    for name, array in made.arrays.items():
        if name.startswith(("items/", "index/id_")) and not name.endswith("_first"):
            meta = metadata_of(array)
            rows = items + name.endswith("_offset")
            meta["shape"][0] = rows if not name.endswith("_bytes") else meta["shape"][0]
            made.metadata[name] = meta | changes.get(name, {})
    return made


@pytest.mark.parametrize(
    ("items", "rows", "container"),
    all_pairs([10**7, 10**9, (1 << 32) - 1], [1, 7, 4096, 1 << 40], ["shop.zarr", "shop.zarr.zip"]),
)
def test_sizes_are_bounded_by_what_is_stored(
    tmp_path: Path, items: int, rows: int, container: str
) -> None:
    made = claimed(draft(), items)
    for meta in made.metadata.values():
        meta["chunk_grid"]["configuration"]["chunk_shape"][0] = rows
    refused(made.write(tmp_path / container))


def test_chunks_that_are_not_stored_do_not_make_large_arrays(tmp_path: Path) -> None:
    made = claimed(draft(), 10**9)
    for name in [*made.metadata]:
        made.objects[f"{name}/c/0"] = made.objects[f"{name}/c/0/0"] = None
    path = made.write(tmp_path / "shop.zarr")
    assert "an object is missing" in refused(path)


def regular(*sizes: Any) -> dict[str, Any]:
    return {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(sizes)}}}


DOCUMENTS: dict[str, Any] = {
    "a negative chunk": regular(-1),
    "an empty chunk": regular(0),
    "a chunk of another depth": regular(6, 1),
    "a chunk that is true": regular(True),
    "another grid": {"chunk_grid": {"name": "rectilinear", "configuration": {"chunk_shape": [6]}}},
    "no grid": {"chunk_grid": None},
    "a size that is no whole number": {"shape": [6.0]},
    "a huge size": {"shape": [1 << 60]},
    "no dimension": {"shape": []} | regular(),
    "a text for a shape": {"shape": "6"},
    "too many dimensions": {"shape": [1] * 40},
    "an unknown type": {"data_type": "object"},
    "a list for a type": {"data_type": ["bool"]},
    "no codecs": {"codecs": []},
    "a compressor": {"codecs": [{"name": "bytes"}, {"name": "gzip"}]},
    "another byte order": {"codecs": [{"name": "bytes", "configuration": {"endian": "big"}}]},
    "another key encoding": {"chunk_key_encoding": {"name": "suffix"}},
    "a transformer": {"storage_transformers": [{"name": "x"}]},
    "an unknown key": {"offsets": [0]},
    "another format": {"zarr_format": 2},
}


@pytest.mark.parametrize("change", DOCUMENTS)
def test_the_metadata_of_an_array_is_checked_before_it_is_used(tmp_path: Path, change: str) -> None:
    made = draft()
    made.metadata["items/retired"] = metadata_of(made.arrays["items/retired"]) | DOCUMENTS[change]
    said = refused(made.write(tmp_path / "shop.zarr"))
    assert said.startswith("items/retired")


@pytest.mark.parametrize(
    "document",
    [b"", b"[]", b"{}", b"null", b"{" * 1000, b'{"shape": [6], "shape": [6]}', b" " * MIB],
)
def test_metadata_that_is_no_document_is_refused(tmp_path: Path, document: bytes) -> None:
    made = draft()
    made.metadata["items/sid"] = document
    assert refused(made.write(tmp_path / "shop.zarr")).startswith("items/sid")


def test_a_value_that_is_neither_true_nor_false_is_refused(tmp_path: Path) -> None:
    made = draft()
    made.chunks["items/retired"] = b"\0\1\2\0\0\0"
    path = made.write(tmp_path / "shop.zarr")
    assert "neither true nor false" in refused(path)


def as_socket(path: Path) -> None:
    server = socket.socket(socket.AF_UNIX)
    before = Path.cwd()
    os.chdir(path.parent)  # the path of a socket is short
    try:
        server.bind(path.name)
    finally:
        os.chdir(before)
        server.close()


def as_sparse_file(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(1 << 40)


FILES: dict[str, Callable[[Path], object]] = {
    "fifo": os.mkfifo,
    "folder": Path.mkdir,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "sparse file": as_sparse_file,
    "loop": lambda path: path.symlink_to(path),
    "socket": as_socket,
}


@pytest.mark.parametrize("name", ["items/sid/c/0/0", "items/sid/zarr.json", ROOT, "items/more"])
@pytest.mark.parametrize("kind", FILES)
def test_only_regular_files_are_read(tmp_path: Path, name: str, kind: str) -> None:
    path = draft().write(tmp_path / "shop.zarr")
    (path / name).unlink(missing_ok=True)
    FILES[kind](path / name)
    with limited() as used:
        if kind == "folder" and name == "items/more":
            assert Bundle.broken(path) == []  # an empty folder is no object
        else:
            with suppress(SidtoolError):  # a loop of links, or no root document
                assert Bundle.broken(path)
        if name != "items/more":
            with pytest.raises(SidtoolError):
                _ = Bundle.open(path).items
    assert used[0].memory < 64 * MIB


@pytest.mark.parametrize("kind", FILES)
def test_a_zip_is_a_regular_file(tmp_path: Path, kind: str) -> None:
    FILES[kind](tmp_path / "shop.zarr.zip")
    for read in (Bundle.broken, Bundle.open):
        try:
            assert read(tmp_path / "shop.zarr.zip")
        except SidtoolError:
            continue
        assert read == Bundle.broken


def test_links_to_regular_files_are_followed(tmp_path: Path) -> None:
    path = draft().write(tmp_path / "shop.zarr")  # as in the cache of the Hugging Face hub
    for file in [entry for entry in path.rglob("*") if entry.is_file()]:
        blob = tmp_path / uuid4().hex
        file.rename(blob)
        file.symlink_to(blob)
    assert Bundle.broken(path) == []
    assert len(Bundle.open(path).items) == 6
    for name, target in (("items/sid/c/0/0", "nowhere"), ("items/zarr.json", "zarr.json")):
        (path / name).unlink()
        (path / name).symlink_to(target)
    missing = [("items/sid/c/0/0", "missing"), ("items/zarr.json", "missing")]
    assert Bundle.broken(path) == missing


def test_a_root_document_has_a_limit(tmp_path: Path) -> None:
    path = draft().write(tmp_path / "shop.zarr")
    manifest = draft().manifest | {"report": {"x": "1" * 9 * MIB}}
    (path / ROOT).write_bytes(root_document(manifest))
    assert (path / ROOT).stat().st_size > 8 * MIB
    assert "it has more than" in refused(path)


def test_the_folders_of_a_name_take_little_memory(tmp_path: Path) -> None:
    made = draft()
    name = "/".join("a" * 50_000)
    made.manifest["objects"] = made.digests() | dict.fromkeys((name, f"{name}/b"), "0" * 64)
    assert "is an object and a folder" in refused(made.write(tmp_path / "shop.zarr"))


def test_the_hash_of_a_long_id_takes_little_memory(tmp_path: Path) -> None:
    made = draft()
    made.set_strings("id", [b"x" * (8 * MIB), *(f"i{row}".encode() for row in range(1, 6))])
    path = made.write(tmp_path / "shop.zarr")
    with limited() as used:
        assert ("index/id_hash", "does not agree with the items") in Bundle.broken(path)
    assert used[0].memory < 64 * MIB + 20 * 8 * MIB


@pytest.mark.slow
def test_the_spelling_of_a_root_document_takes_little_memory(tmp_path: Path) -> None:
    path = draft().write(tmp_path / "shop.zarr")
    (path / ROOT).write_bytes(b'{"attributes": {"sidtool": [' + b"{}," * 2_000_000 + b"{}]}}")
    assert "differs from its own SHA-256" in refused(path)


def test_a_zip_with_a_large_directory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shop.zarr.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"")
    data = bytearray(path.read_bytes())
    entry = data[data.index(b"PK\1\2") : data.index(b"PK\5\6")]
    n_entries = 9 * MIB // len(entry)
    end = bytearray(data[data.index(b"PK\5\6") :])
    start = data.index(b"PK\1\2")
    struct.pack_into("<HHLL", end, 8, 0xFFFF, 0xFFFF, n_entries * len(entry), start)
    path.write_bytes(data[:start] + entry * n_entries + end)
    assert "its directory has" in refused(path)


def test_two_objects_of_one_name_in_a_zip_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "shop.zarr.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"x")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("a", b"y")
    with pytest.raises(IntegrityError, match="two objects of one name"):
        Bundle.open(path)
