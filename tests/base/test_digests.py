import os
from pathlib import Path

import pytest

from sidtool.base import digests
from sidtool.base.errors import DataError


def test_a_file_is_read_again_only_if_it_may_have_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"a" * 9)
    first = digests.file_digest(path)
    read = []

    def file_digest(path: Path) -> str:
        read.append(path)
        return original(path)

    original = digests.file_digest
    monkeypatch.setattr(digests, "file_digest", file_digest)
    assert [digests.cached_digest(path) for _ in range(2)] == [first, first]
    assert len(read) == 2  # it was written a moment ago, and may be again
    monkeypatch.setattr(digests, "CLOCK_NS", 0)
    assert [digests.cached_digest(path) for _ in range(3)] == [first] * 3
    assert len(read) == 3
    times = (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    path.write_bytes(b"b" * 9)
    os.utime(path, ns=times)  # the same size, time and inode
    assert digests.cached_digest(path) != first
    with pytest.raises(DataError, match="Is a directory"):
        digests.file_digest(tmp_path)
    with pytest.raises(DataError, match=r"cannot read .*gone"):  # a model is replaced meanwhile
        digests.cached_digest(tmp_path / "gone")
