import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sidtool.base.storage import Storage
from sidtool.registry import POINTER, locate, open_bundle, push, read_pointer
from sidtool.registry.records import check_tag, list_records, read_record
from sidtool.registry.references import split_reference
from sidtool.tokenizer.bundle import ROOT
from sidtool.tokenizer.bundle.zarr_group import spell_root
from tests.cli.road import tree
from tests.hostile.documents import KINDS, damaged_json, texts
from tests.hostile.harness import call, cases, classify, run
from tests.registry.test_publish import version

DIGEST = "0123456789abcdef" * 4
RECORD = {"digest": DIGEST, "format": 1, "kind": "memory", "license": "MIT", "root": DIGEST}
RECORD |= {"version": "1.0"}
REFS = {"format": 1, "latest": "1.0", "tags": {"prod": "1.0"}}
VERSION = re.compile(r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)")
DIGITS = re.compile(r"[0-9a-f]{64}")
numbers = count()


def registry_with(name: str, data: bytes) -> Storage:
    """A registry in memory with one document; earlier ones are removed."""
    registry = Storage("memory://hostile/documents")
    if registry.exists():
        registry._filesystem.rm(registry._root, recursive=True)
    registry.put({name: data})
    return registry


@cases(400)
@given(damaged_json(RECORD))
def test_a_record_is_read_as_written_or_refused(data: bytes) -> None:
    registry = registry_with("versions/1.0.json", data)
    record = call(read_record, registry, "1.0", input_bytes=len(data))
    if record is None:
        return
    written = json.loads(data)
    written = {key: written[key] for key in RECORD if key in written}
    assert record.to_json() == {"license": "unknown", "format": 1, "kind": "bundle"} | written
    assert record.version == "1.0"
    assert DIGITS.fullmatch(record.digest)
    assert DIGITS.fullmatch(record.root)
    assert record.group == f"versions/1.0-{record.root[:12]}/{record.kind}.zarr"


@cases(400)
@given(damaged_json(REFS))
def test_a_pointer_is_read_as_written_or_refused(data: bytes) -> None:
    registry = registry_with(POINTER, data)
    pointer = call(read_pointer, registry, input_bytes=len(data))
    if pointer is None:
        return
    written = json.loads(data)
    written = {key: written[key] for key in REFS if key in written}
    assert pointer.to_json() == {"latest": None, "tags": {}, "format": 1} | written
    assert pointer.latest is None or VERSION.fullmatch(pointer.latest)
    assert all(VERSION.fullmatch(version) for version in pointer.tags.values())
    assert all(call(check_tag, name) is None for name in pointer.tags)


@cases(100)
@given(st.lists(texts.filter(lambda text: "/" not in text and text not in ("", ".", ".."))))
def test_other_names_beside_the_records_are_ignored(names: list[str]) -> None:
    registry = registry_with("versions/1.0.json", json.dumps(RECORD).encode())
    for name in names:
        if name != "1.0":
            registry.put({f"versions/{name}.json": json.dumps(RECORD).encode()})
    records = call(list_records, registry)
    others = [name for name in names if VERSION.fullmatch(name) and len(name) < 20]
    if set(others) <= {"1.0"}:
        assert [record.version for record in records or ()] == ["1.0"]
    else:
        assert records is None, "a record of another version is in the place of this one"


@cases(200)
@given(
    st.sampled_from(("", "memory://", "memory://a/", "file:///nowhere/", "nowhere://", "://", "/")),
    texts,
    st.one_of(st.just(""), texts.map(lambda text: f"@{text}")),
)
@example("", "\x00", "@1.0")
def test_any_reference_is_resolved_or_refused(start: str, name: str, version: str) -> None:
    reference = start + name + version
    parts = call(split_reference, reference)
    if parts is not None:
        base, named = parts
        assert base + (f"@{named}" if named else "") == reference.rstrip("/")
    if len(name) < 200:
        call(locate, reference)
        call(open_bundle, reference)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with the versions 1.0 and 1.1 of a bundle."""
    folder = tmp_path_factory.mktemp("published")
    for seed, number in enumerate(("1.0", "1.1")):
        path = version(folder / f"{number}.zarr", number, seed=seed)
        push(str(path), str(folder / "shop"), tag="prod")
    return folder / "shop"


def folder_of(shop: Path) -> Path:
    """The bundle of the version that is pulled."""
    (folder,) = (shop / "versions").glob("1.1-*/bundle.zarr")
    return folder


def sign(shop: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest of the version, and make root document and record agree with it."""
    bundle = folder_of(shop)
    manifest = json.loads((bundle / ROOT).read_bytes())["attributes"]["sidtool"]
    change(manifest)
    root = spell_root(manifest)
    (bundle / ROOT).write_bytes(root)
    record = shop / "versions/1.1.json"
    value = json.loads(record.read_bytes()) | {"root": hashlib.sha256(root).hexdigest()}
    record.write_text(json.dumps(value))
    bundle.parent.rename(shop / "versions" / f"1.1-{value['root'][:12]}")


def change_manifest(shop: Path, key: str, value: object) -> None:
    sign(shop, lambda manifest: manifest.update({key: value}))


def add_object(shop: Path, name: str) -> None:
    """Name one more object in the manifest, and store it if the name allows."""
    digest = hashlib.sha256(b"x").hexdigest()
    sign(shop, lambda manifest: manifest["objects"].update({name: digest}))
    path = Path(os.path.normpath(folder_of(shop) / name.replace("\x00", "0")))
    if shop in path.parents:
        with suppress(OSError, RecursionError):  # no disk can store the name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")


def change_document(shop: Path, name: str, data: bytes) -> None:
    (shop / name).write_bytes(data)


def replace_file(shop: Path, name: str, kind: str) -> None:
    """Put something else in the place of a document or an object."""
    path = shop / name if name in DOCUMENTS else folder_of(shop) / name
    path.unlink()
    KINDS[kind](path)


DOCUMENTS = {"refs.json": REFS, "versions/1.1.json": RECORD | {"kind": "bundle", "version": "1.1"}}
OBJECTS = (ROOT, "items/sid/zarr.json", "items/sid/c/0/0", "codebook/level_1/c/0/0")
NAMES = (
    *("../evil", "../../../evil", "items/../../evil", "/tmp/evil", "items/./sid", "items//sid"),
    *("items/sid/c/0/0/evil", "items/sid", "C:\\evil", "a\x00b", "", ".", "n" * 300),
    "/".join("n" * 2000),
)
KEYS = ("version", "name", "items", "identity", "objects", "parent")

files = st.sampled_from((*DOCUMENTS, *OBJECTS))
kinds = st.sampled_from(sorted(KINDS))
values = st.one_of(st.none(), st.integers(), st.just({}), st.sampled_from(("1.0", "9.9", "x")))
damages = st.one_of(
    st.builds(partial, st.just(replace_file), name=files, kind=kinds),
    st.builds(partial, st.just(add_object), name=st.sampled_from(NAMES)),
    *(
        st.builds(partial, st.just(change_document), name=st.just(name), data=damaged_json(value))
        for name, value in DOCUMENTS.items()
    ),
    st.builds(partial, st.just(change_manifest), key=st.sampled_from(KEYS), value=values),
)
"""Changes of a registry whose version 1.1 is pulled."""


@cases(60, most=20_000)
@given(damages)
def test_nothing_is_written_outside_of_the_output(
    published: Path, tmp_path_factory: pytest.TempPathFactory, damage: Callable[[Path], None]
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"pull-{next(numbers)}"
    shop = folder / "a/b/c/shop"
    shutil.copytree(published, shop)
    damage(shop)
    before = set(folder.rglob("*"))
    try:
        outcome = classify(run("pull", f"{shop}@1.1", "-o", folder / "out.zarr"))
        after = set(folder.rglob("*")) - before
        if outcome.refused:
            partial_copy = folder / "out.zarr.partial"
            left = {partial_copy} if partial_copy.exists() else set()
            assert all(path in left or left & set(path.parents) for path in after), after
        else:
            assert tree(folder / "out.zarr") == tree(folder_of(shop))
            record = json.loads((shop / "versions/1.1.json").read_bytes())
            assert open_bundle(folder / "out.zarr").identity.digest == record["digest"]
        for command in ("log", "inspect"):
            classify(run(command, f"{shop}@1.1"))
    finally:
        shutil.rmtree(folder)
