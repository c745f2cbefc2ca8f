from pathlib import Path

import pytest

from sidtool.errors import UsageError
from sidtool.output import new_dir, new_file, partial_path, refuse_existing


def half_written(path: Path, text: str = "half") -> None:
    path.write_text(text)
    raise OSError("the disk is full")


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    with pytest.raises(OSError), new_file(out) as path:
        half_written(path)
    assert list(tmp_path.iterdir()) == []
    with new_file(out) as path:
        path.write_text("whole")
        assert not out.exists()
    assert out.read_text() == "whole"
    with pytest.raises(UsageError, match="exists already"), new_file(out):
        pass
    with new_file(out, force=True) as path:
        path.write_text("new")
        assert out.read_text() == "whole"
    assert out.read_text() == "new"


def test_a_folder_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    out = tmp_path / "model"
    with new_dir(out) as folder:
        (folder / "a").write_text("old")
    with pytest.raises(OSError), new_dir(out, force=True) as folder:
        half_written(folder / "a")
    assert (out / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_resumable_work_is_reused(tmp_path: Path) -> None:
    out = tmp_path / "model"
    with pytest.raises(OSError), new_dir(out, resume=True) as folder:
        half_written(folder / "step-1", "done")
    assert not out.exists()
    with new_dir(out, resume=True) as folder:
        assert (folder / "step-1").read_text() == "done"
    assert (out / "step-1").exists()
    assert not partial_path(out).exists()


def test_a_run_killed_between_the_two_moves_is_completed(tmp_path: Path) -> None:
    out, aside = tmp_path / "model", tmp_path / "model.replaced"
    aside.mkdir()
    (aside / "a").write_text("old")
    with pytest.raises(UsageError, match="exists already"):
        refuse_existing(out, force=False)
    assert (out / "a").read_text() == "old"
    assert not aside.exists()


@pytest.mark.parametrize(
    "url", ["s3://bucket/shop.zarr", "memory://shop.zarr", "file:///shop.zarr"]
)
def test_an_output_at_a_url_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="is a URL"):
        refuse_existing(Path(url), force=True)
