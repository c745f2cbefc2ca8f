import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sidtool.base.errors import CompatibilityError, DataError, IntegrityError, UsageError
from sidtool.base.records import version_key
from sidtool.base.storage.storage import Storage
from sidtool.registry import pull, push, tag
from sidtool.registry.records import MAX_VERSIONS, list_versions, read_pointer, read_record
from sidtool.registry.references import open_bundle
from sidtool.tokenizer.bundle.card import bundle_card
from tests.bundles import small_bundle
from tests.hostile.documents import KINDS, sparse

DIGEST = "ab" * 32
RECORD: dict[str, Any] = {"version": "1.0", "digest": DIGEST, "root": DIGEST}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A registry with version 1.0."""
    small_bundle().save(tmp_path / "first.zarr")
    push(str(tmp_path / "first.zarr"), str(tmp_path / "shop"), tag="prod")
    return tmp_path / "shop"


def changed(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_bytes()) | values), encoding="utf-8")


RECORDS = (
    [],
    RECORD | {"version": "2.0"},
    RECORD | {"version": "１.０"},
    RECORD | {"digest": DIGEST.upper()},
    RECORD | {"root": "../../../../etc"},
    RECORD | {"format": 0},
)
POINTERS = (
    b'{"latest": null, "latest": "1.0"}',
    {"latest": "latest"},
    {"latest": "1.0\n"},
    {"tags": {"prod": "../1.0"}},
    *({"tags": {tag: "1.0"}} for tag in ("latest", "1.0", "\x1b[31m", "")),
)


def test_a_malformed_document_is_refused(tmp_path: Path) -> None:
    registry = Storage(tmp_path / "shop")
    for name, documents in (("versions/1.0.json", RECORDS), ("refs.json", POINTERS)):
        for document in documents:
            data = document if isinstance(document, bytes) else json.dumps(document).encode()
            registry.put({name: data})
            with pytest.raises(IntegrityError, match=f"{name} is damaged: "):
                read_record(registry, "1.0") if "1.0" in name else read_pointer(registry)


def test_a_newer_layout_is_named_before_anything_else(tmp_path: Path) -> None:
    registry = Storage(tmp_path / "shop")
    registry.put({"refs.json": b'{"format": 2, "latest": {}, "tags": 7}'})
    with pytest.raises(CompatibilityError, match="has format 2"):
        read_pointer(registry)


@pytest.mark.parametrize("kind", ["pipe", "endless", "folder", "sparse", "long"])
@pytest.mark.parametrize("name", ["refs.json", "versions/1.0.json"])
def test_a_document_is_a_small_regular_file(shop: Path, name: str, kind: str) -> None:
    (shop / name).unlink()
    (KINDS | {"long": lambda path: path.write_bytes(b" " * (2 << 20))})[kind](shop / name)
    with pytest.raises(IntegrityError, match=r"is not a regular file|the limit is 1048576"):
        open_bundle(str(shop))
    if name == "refs.json":
        assert open_bundle(f"{shop}@1.0").manifest.version == "1.0"


@pytest.mark.parametrize(
    "text",
    ["１.０", "١.٠", "1.0\n", " 1.0", "01.0", "1.00", "1", "1.0.0", "+1.0", "1_0.0"],
    ids=ascii,
)
def test_a_version_has_one_spelling(text: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a version"):
        version_key(text)
    assert read_record(Storage(tmp_path / "shop"), text) is None


def test_a_registry_has_a_limited_number_of_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{n}.0.json" for n in range(MAX_VERSIONS + 1)]
    monkeypatch.setattr(Storage, "child_names", lambda self: names)
    with pytest.raises(DataError, match="10001 versions, the limit is 10000"):
        list_versions(Storage("memory://many/shop"))


def test_a_document_that_others_change_without_end_is_named(
    shop: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidtool.registry.records.ATTEMPTS", 2)
    monkeypatch.setattr(Storage, "put_if_unchanged", lambda *_: False)
    with pytest.raises(DataError, match=r"refs\.json was changed by other writers 2 times"):
        tag(f"{shop}@1.0", "blue")


def test_an_error_lists_few_names(shop: Path) -> None:
    changed(shop / "refs.json", tags={f"tag{n}": "1.0" for n in range(1000)})
    with pytest.raises(DataError, match=r"has no 'x+': it has 1\.0, .* and 981 more$") as caught:
        open_bundle(f"{shop}@{'x' * 200}")
    assert len(str(caught.value)) < 500
    with pytest.raises(UsageError, match=r"^'x{80}' is not a path: File name too long"):
        open_bundle("x" * 300)


@pytest.mark.parametrize(("key", "value"), [("digest", DIGEST), ("version", "1.1")])
def test_a_foreign_record_is_refused(shop: Path, tmp_path: Path, key: str, value: str) -> None:
    changed(shop / "versions/1.0.json", **{key: value})
    version = value if key == "version" else "1.0"
    for path in list((shop / "versions").iterdir()):
        path.rename(path.with_name(path.name.replace("1.0", version, 1)))
    reference = f"{shop}@{version}"
    for use in (
        lambda: open_bundle(reference),
        lambda: pull(reference, tmp_path / "out.zarr"),
        lambda: push(reference, str(tmp_path / "mirror")),
    ):
        with pytest.raises(IntegrityError, match=f"has {key} .*, its record says {value[:12]}"):
            use()
    assert not (tmp_path / "out.zarr").exists()
    assert not (tmp_path / "mirror").exists()


def test_a_pull_needs_room_on_the_disk(shop: Path, tmp_path: Path) -> None:
    sparse(next(shop.rglob("items/sid/c/0/0")))
    with pytest.raises(DataError, match=r"the bundle has \d+ bytes, but .* has room for \d+"):
        pull(str(shop), tmp_path / "out.zarr")


@pytest.mark.parametrize("name", [".lock", "refs.json.partial"])
def test_a_planted_link_is_not_written_through(shop: Path, tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (shop / name).unlink(missing_ok=True)
    (shop / name).symlink_to(victim)
    if name == ".lock":
        with pytest.raises(DataError, match="symbolic links"):
            tag(f"{shop}@1.0", "blue")
    else:
        tag(f"{shop}@1.0", "blue")
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("license", ["a\nb", "\x1b[31m", "x" * 2000, "\ud800"])
def test_a_license_is_one_line(shop: Path, tmp_path: Path, license: str) -> None:
    with pytest.raises(UsageError, match="is not a license"):
        push(str(shop), str(tmp_path / "mirror"), license=license)
    assert not (tmp_path / "mirror").exists()


def test_names_on_a_card_are_text_and_not_code() -> None:
    evil = "x`; rm -rf ~ #\n| <img src=x> [click](http://evil) \x1b[31m"
    manifest = replace(small_bundle(name=evil).manifest, created="`x`")
    manifest = replace(manifest, space=replace(manifest.space, template="`<b>{level}{code}"))
    text = bundle_card(manifest, 's3://bucket/");evil("', "MIT")
    assert "\x1b" not in text
    title = "# x\\`; rm -rf ~ # \\| \\<img src=x\\> \\[click\\](http://evil) "
    assert text.partition("---\n\n")[2].startswith(title)
    assert "\n* created: \\`x\\`\n" in text
    assert r"spelled like \`\<b\>a0" in text
    (command,) = [line for line in text.splitlines() if line.startswith("sidtool pull ")]
    name = "x`; rm -rf ~ # | <img src=x> [click](http://evil) \N{REPLACEMENT CHARACTER}[31m.zarr"
    assert shlex.split(command)[2:] == ['s3://bucket/");evil("', "-o", name]
    code = text.partition("```python\n")[2].partition("```")[0]
    (call,) = [line for line in code.splitlines() if line.startswith("bundle = ")]
    opened: list[str] = []
    exec(call, {"open_bundle": opened.append})
    assert opened == ['s3://bucket/");evil("']


@pytest.mark.parametrize(
    ("registry", "package"),
    [
        ("shop", "sidtool"),
        ("gs://bucket/shop", "'sidtool[gcs]'"),
        ("hf://a/b/shop", "'sidtool[hub]'"),
    ],
)
def test_a_card_installs_and_pulls_from_its_registry(registry: str, package: str) -> None:
    text = bundle_card(small_bundle(name="shop").manifest, f"{registry}@1.0", None)
    assert f"\npip install {package}\n" in text
    assert f"\nsidtool pull {registry}@1.0 -o shop.zarr\n" in text  # without quotes
