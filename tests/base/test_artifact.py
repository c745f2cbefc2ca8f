from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import pytest

from sidtool.base.artifact import MARKERS, describe
from sidtool.base.errors import DataError
from sidtool.data.split import MANIFEST, open_split
from sidtool.examples import side_files
from sidtool.model.contract import CONTRACT
from sidtool.registry import POINTER
from sidtool.tokenizer.bundle import ROOT
from tests.cli.road import refused


def test_the_markers_are_those_of_the_rooms() -> None:
    assert {ROOT, CONTRACT, POINTER, MANIFEST} <= MARKERS.keys()
    assert side_files(Path("a/train.jsonl"))["meta"].name == "train.jsonl.meta.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One folder per marker, a file of training examples, and a folder of none."""
    for name in MARKERS:
        (tmp_path / name.partition(".")[0]).mkdir()
        (tmp_path / name.partition(".")[0] / name).write_text("{}")
    (tmp_path / "zarr" / "zarr.json").write_text('{"attributes": {"sidtool": {"kind": "memory"}}}')
    for name in ("train.jsonl", "train.jsonl.meta.json", "events.csv"):
        (tmp_path / name).write_text("")
    with ZipFile(tmp_path / "shop.zarr.zip", "w") as archive:
        archive.writestr("zarr.json", '{"attributes": {"sidtool": {}}}')
    (tmp_path / "damaged.zip").write_text("")
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "train.meta.json").write_text("")
    return tmp_path


KINDS = {
    "zarr": "a memory",
    "split": "a split",
    "sid": "a model with a SID vocabulary",
    "refs": "a registry",
    "modules": "an encoder of sentence-transformers",
    "config": "a model without a SID vocabulary",
    "shop.zarr.zip": "a bundle",
    "train.jsonl": "a file of training examples",
    "examples": "a folder of training examples",
    "events.csv": "a file",
    "out.partial": "the work folder of an unfinished run",
}


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_the_kind_of_a_path(folder: Path, name: str, kind: str) -> None:
    assert describe(folder / name) == kind


@pytest.mark.parametrize("manifest", ["[]", '{"kind": "x\\ny"}', '{"kind": []}'])
def test_a_group_of_another_program_is_a_zarr_group(folder: Path, manifest: str) -> None:
    (folder / "zarr" / "zarr.json").write_text(f'{{"attributes": {{"sidtool": {manifest}}}}}')
    assert describe(folder / "zarr") == "a Zarr group"


@pytest.mark.parametrize("name", ["empty", "nothing", "damaged.zip", "\0", "s3://bucket/x.zarr"])
def test_no_kind(folder: Path, name: str) -> None:
    assert describe(folder / name) is None
    assert describe(name) is None


@pytest.mark.parametrize("name", ["split", "modules", "config", "train.jsonl", "events.csv"])
@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_a_command_of_bundles_says_what_it_was_given(folder: Path, name: str, command: str) -> None:
    message = refused(1, command, folder / name)
    assert f"{folder / name} is {KINDS[name]}, not a bundle" in message
    if (folder / name).is_dir():
        message = refused(1, command, f"file://{folder / name}")
        assert f"file://{folder / name} is {KINDS[name]}, not a bundle" in message


@pytest.mark.parametrize("name", ["split", "zarr", "config", "train.jsonl", "out.partial"])
def test_recommend_says_what_it_was_given(folder: Path, name: str) -> None:
    message = refused(3, "recommend", folder / name, "--history", "b001")
    assert f"{folder / name} is {KINDS[name]}, not a model with a SID vocabulary" in message
    assert (f"extend-model {folder / name} BUNDLE" in message) == (name == "config")


def test_a_command_that_reads_splits_says_what_it_was_given(folder: Path) -> None:
    with pytest.raises(DataError, match=r"zarr is a memory, not a split: it has no split\.json"):
        open_split(folder / "zarr")


def test_the_bundle_of_a_model_is_named(folder: Path) -> None:
    (folder / "sid" / "sid.zarr").mkdir()
    message = refused(1, "decode", folder / "sid", "<s_a_0>")
    assert f"the model's bundle is {folder / 'sid' / 'sid.zarr'}" in message


def test_a_zip_is_described_by_as_much_as_a_root_may_have(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "large.zip", "w", ZIP_DEFLATED) as file:
        file.writestr("zarr.json", b'{"attributes": {"sidtool": {}}}' + b" " * (9 << 20))
    assert describe(tmp_path / "large.zip") is None
