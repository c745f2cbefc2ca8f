"""The temporary folder of a service."""

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sidtool.base.errors import UsageError
from sidtool.base.output_lock import hold_lock

_PREFIX = "sidtool-serve-"
_LOCK = ".partial.lock"


@contextmanager
def service_folder() -> Iterator[Path]:
    """A new folder, removed at the end. Folders of services that were killed are removed first:
    their locks are free."""
    temporary = Path(tempfile.gettempdir())
    for lock in temporary.glob(f"{_PREFIX}*{_LOCK}"):
        left = lock.with_name(lock.name.removesuffix(_LOCK))
        with suppress(UsageError, OSError), hold_lock(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = temporary / f"{_PREFIX}{uuid.uuid4().hex}"
    with hold_lock(folder):
        folder.mkdir(mode=0o700)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
