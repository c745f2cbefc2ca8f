"""The temporary folders of services: those of killed ones do not accumulate."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sidtool.recommendation.serve.start import service_folder

KILLED = """
import os, signal
from sidtool.recommendation.serve.start import service_folder

with service_folder() as folder:
    (folder / "copy").mkdir()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_folder_of_a_killed_service_is_removed_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with service_folder() as running:
        subprocess.run([sys.executable, "-c", KILLED], env={"TMPDIR": str(tmp_path)}, check=False)
        folders = {path for path in tmp_path.iterdir() if path.is_dir()}
        assert len(folders) == 2
        assert running in folders
        with service_folder() as other:
            assert {path for path in tmp_path.iterdir() if path.is_dir()} == {running, other}
            assert other.stat().st_mode & 0o777 == 0o700
    assert not list(tmp_path.iterdir())
