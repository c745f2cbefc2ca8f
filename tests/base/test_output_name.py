import errno
import os
from pathlib import Path

import pytest

from sidtool.base.errors import DataError, UsageError
from sidtool.base.output import locked, new_dir, new_file, partial_path, refuse_existing
from sidtool.base.output_name import (
    BUNDLE,
    FOLDER,
    JSON_LINES,
    PARQUET_FILE,
    PARQUET_FOLDER,
    RESULTS,
    OutputKind,
    check_suffix,
)


@pytest.mark.parametrize(
    "suffix", [".partial", ".partial.d", ".partial.lock", ".partial.removed", ".replaced"]
)
def test_a_name_of_unfinished_work_is_no_output(tmp_path: Path, suffix: str) -> None:
    """Another command would remove it."""
    with pytest.raises(UsageError, match="marks unfinished work"), new_dir(tmp_path / f"a{suffix}"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("name", ["bundle.zarr/new", "bundle.zarr/items/new", "shop/versions/1.0"])
def test_no_output_is_inside_of_what_is_published(tmp_path: Path, name: str, force: bool) -> None:
    for folder in ("bundle.zarr/items", "shop/versions"):
        (tmp_path / folder).mkdir(parents=True)
    root = tmp_path / "bundle.zarr" / "zarr.json"
    root.write_text('{"attributes": {"sidtool": {}}}')
    (tmp_path / "bundle.zarr" / ".DS_Store").touch()
    (tmp_path / "shop" / "refs.json").touch()
    with pytest.raises(UsageError, match="is inside of the"):
        refuse_existing(tmp_path / name, force)
    with pytest.raises(UsageError, match="never replaced"):
        refuse_existing(tmp_path / "shop", True)
    refuse_existing(tmp_path / "bundle.zarr", True)
    root.write_text('{"attributes": {"sidtool": {"ki')  # damaged
    refuse_existing(tmp_path / "bundle.zarr", True)
    for attributes in ("{}", '{"source": "sidtool"}', '{"sidtool": 1}'):  # of another program
        root.write_text(f'{{"attributes": {attributes}}}')
        with pytest.raises(UsageError, match="is no output of sidtool"):
            refuse_existing(tmp_path / "bundle.zarr", True)


@pytest.mark.parametrize("marker", ["split.json", "sid.json"])
@pytest.mark.parametrize("inside", ["refs.json", "split.json", "sid.json", "zarr.json"])
def test_an_artifact_within_another_is_not_removed_with_it(
    tmp_path: Path, marker: str, inside: str
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / marker).touch()
    refuse_existing(tmp_path, True, FOLDER)
    (tmp_path / "mine" / inside).write_text('{"attributes": {"sidtool": {"kind": "memory"}}}')
    with pytest.raises(UsageError, match=r"has a .* in it: mine") as refusal:
        refuse_existing(tmp_path, True, FOLDER)
    assert refusal.value.shell_hint.startswith("move mine to another place")


@pytest.mark.parametrize("marker", ["split.json", "sid.json"])
def test_a_model_is_replaced_with_its_bundle(tmp_path: Path, marker: str) -> None:
    (tmp_path / marker).touch()
    (tmp_path / "sid.zarr").mkdir()
    (tmp_path / "sid.zarr" / "zarr.json").write_text('{"attributes": {"sidtool": {}}}')
    if marker == "sid.json":
        return refuse_existing(tmp_path, True, FOLDER)
    with pytest.raises(UsageError, match=r"has a bundle in it: sid\.zarr"):
        refuse_existing(tmp_path, True, FOLDER)


def test_an_unreadable_zarr_group_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    (tmp_path / "zarr.json").touch()
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match="cannot be written: permission denied"):
        refuse_existing(tmp_path, True)


def test_a_device_or_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/null")):
        with pytest.raises(UsageError, match="neither a file nor a folder"):
            refuse_existing(path, True)
    assert pipe.is_fifo()


def test_a_mount_point_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, link = tmp_path / "disk", tmp_path / "link"
    disk.mkdir()
    link.symlink_to(disk)
    monkeypatch.setattr(Path, "is_mount", lambda path: path.resolve() == disk)
    for force in (True, False):
        with pytest.raises(UsageError, match="is a mount point") as refusal:
            refuse_existing(disk, force, FOLDER)
        assert refusal.value.shell_hint == f"-o {disk}/NAME"
    refuse_existing(link, True, FOLDER)  # only the link is replaced
    refuse_existing(disk / "new", False, FOLDER)


def test_other_work_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout = tmp_path / "checkout"
    (checkout / ".git").mkdir(parents=True)
    (checkout / "docs").mkdir()
    with pytest.raises(UsageError, match="git checkout"):
        refuse_existing(checkout, True, FOLDER)
    monkeypatch.chdir(checkout / "docs")
    for path in (Path("../docs"), checkout / "docs", tmp_path):
        with pytest.raises(UsageError, match="the working folder"):
            refuse_existing(path, True, FOLDER)
    with pytest.raises(UsageError, match=r"is a folder, and JSON Lines or Parquet is a file"):
        refuse_existing(checkout, True, RESULTS)
    refuse_existing(Path("new"), True, RESULTS)


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (("precious.txt", "sub"), FOLDER),
        (("split.csv",), FOLDER),
        (("config.json", "model.safetensors", "README.md"), FOLDER),
        (("zarr.json", "vectors"), FOLDER),
        (("items", "codebook"), FOLDER),
        (("items.csv", "events.csv"), FOLDER),
        (("items.csv", "events.csv"), PARQUET_FOLDER),
        (("items.parquet", "events.parquet", "notes.txt"), PARQUET_FOLDER),
        (("events.parquet",), PARQUET_FOLDER),
    ],
)
def test_a_folder_that_sidtool_did_not_write_is_not_replaced(
    tmp_path: Path, names: tuple[str, ...], kind: OutputKind
) -> None:
    out = tmp_path / "precious"
    out.mkdir()
    refuse_existing(out, True, kind)
    for name in names:
        (out / name).touch()
    message = f"precious exists already, and is no output of sidtool: it has {min(names)}"
    for force in (True, False):
        with pytest.raises(UsageError, match=message) as refusal:
            refuse_existing(out, force, kind)
        assert "--force replaces no other folder" in refusal.value.shell_hint
    for writer in (new_dir, new_file):
        with pytest.raises(UsageError, match=message), writer(out, force=True):
            pass
    assert {path.name for path in out.iterdir()} == {*names}


def test_a_folder_that_gets_other_files_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "model"
    out.mkdir()
    with pytest.raises(UsageError, match="no output"), new_dir(out, force=True):
        (out / "precious").touch()
    assert [path.name for path in out.iterdir()] == ["precious"]


def test_a_link_is_replaced_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run-1" / ".git").mkdir(parents=True)
    for name, target in (("latest", "run-1"), ("loop", "loop")):
        (tmp_path / name).symlink_to(target)
    monkeypatch.chdir(tmp_path / "run-1")
    for name in ("latest", "loop"):
        path = tmp_path / name
        with pytest.raises(UsageError, match="exists already"):
            refuse_existing(path, False)
        with new_dir(path, force=True):
            pass
        assert path.is_dir()
        assert not path.is_symlink()
    assert (tmp_path / "run-1" / ".git").is_dir()


def test_outputs_are_replaced_from_a_working_folder_that_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("removed", "out"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "removed")
    (tmp_path / "removed").rmdir()
    refuse_existing(tmp_path / "out", True, FOLDER)
    refuse_existing(tmp_path / "new", False, RESULTS)


@pytest.mark.parametrize("resume", [True, False])
def test_a_link_in_place_of_unfinished_work_is_not_followed(tmp_path: Path, resume: bool) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").touch()
    out = tmp_path / "out"
    partial_path(out).symlink_to(victim)
    with new_dir(out, resume=resume) as work:
        (work / "new").touch()
    assert [path.name for path in victim.iterdir()] == ["precious"]
    assert not out.is_symlink()
    assert [path.name for path in out.iterdir()] == ["new"]
    partial_path(tmp_path / "file").symlink_to(victim / "precious")
    with new_file(tmp_path / "file") as target:
        target.write_text("new")
    assert (victim / "precious").read_text() == ""
    partial_path(tmp_path / "work").symlink_to(victim)
    with locked(tmp_path / "work") as work:
        assert not work.exists()


@pytest.mark.parametrize(
    ("kind", "wrong", "right"),
    [
        (FOLDER, ("out.csv", "model.zarr", "split.jsonl"), ("out", "qwen3-0.6b")),
        (BUNDLE, ("shop.parquet", "SHOP.CSV"), ("v1.2", "shop.zarr", "shop.zarr.zip")),
        (JSON_LINES, ("train.csv", "train.jsonl.gz"), ("train.ndjson",)),
        (PARQUET_FILE, ("map.json",), ("map.pq",)),
        (RESULTS, ("out.csv",), ("out.PARQUET", "out.jsonl")),
    ],
)
def test_a_name_is_of_the_right_file_type_or_of_none(
    kind: OutputKind, wrong: tuple[str, ...], right: tuple[str, ...]
) -> None:
    for name in wrong:
        with pytest.raises(UsageError, match=f"ends with .*, but {kind.content} is") as caught:
            check_suffix(Path("folder") / name, kind)
        better = Path(str(caught.value.shell_hint).removeprefix("-o "))
        assert better.parent == Path("folder")
        check_suffix(better, kind)
        assert better.suffixes.count(better.suffix) <= 1
    for name in right:
        check_suffix(Path(name), kind)
