"""A bundle that cannot be written leaves nothing, not even what Zarr's threads still write."""

import errno
import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidtool.base.errors import DataError
from sidtool.base.output import new_dir
from sidtool.tokenizer.bundle import zarr_group
from tests.waiting import wait_until


def test_threads_that_still_write_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zarr.storage import _local

    put = _local._put
    lock = threading.Lock()
    writes = ended = 0

    def fail_first(path: Path, *arguments: Any, **options: Any) -> int:
        nonlocal writes, ended
        if path.name == "zarr.json":
            return put(path, *arguments, **options)
        with lock:
            writes += 1
            is_first = writes == 1
        if is_first:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        time.sleep(0.2)  # longer than the error takes
        try:
            return put(path, *arguments, **options)
        finally:
            with lock:
                ended += 1

    monkeypatch.setattr(_local, "_put", fail_first)
    monkeypatch.setattr(zarr_group, "CHUNK_BYTES", 64)
    arrays = {"codes": np.arange(64)}
    with pytest.raises(DataError, match="no space left"), new_dir(tmp_path / "out") as folder:
        zarr_group.write_group(folder, arrays, None)  # type: ignore[arg-type]
    wait_until(lambda: ended == writes - 1)
    assert writes > 1
    assert list(tmp_path.iterdir()) == []
