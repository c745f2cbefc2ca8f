"""Locks of outputs: one writer at a time, and none that a dead process holds.

The lock of an output NAME is on the sibling file `NAME.partial.lock`, which says who holds it. It
is a lock of flock(2), which the kernel releases when its process ends, however it ends."""

import errno
import os
import shlex
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from sidtool.base.errors import SidtoolWarning, UsageError
from sidtool.base.storage.conditional import file_locks

MAX_HOLDER_BYTES = 500
_NOT_SUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextmanager
def hold_lock(path: Path, *, waits: bool = False) -> Iterator[None]:
    """Hold the lock of the output `path`, in an existing folder, during the block. If another
    writer has it, wait for that with `waits`; else raise UsageError that names it. Warns if the
    file system has no locks (SidtoolWarning)."""
    lock = path.with_name(path.name + ".partial.lock")
    descriptor = _locked_file(lock, path, waits)
    try:
        os.ftruncate(descriptor, 0)
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]) if sys.argv else "python"
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        holder = f"process {os.getpid()} on {socket.gethostname()} since {since}: {command}"
        os.pwrite(descriptor, holder.encode("utf-8", "replace")[:MAX_HOLDER_BYTES], 0)
        yield
    finally:
        # removed while it is locked: who opened it before finds another file at its path
        with suppress(OSError):
            lock.unlink()
        os.close(descriptor)


def _locked_file(lock: Path, path: Path, waits: bool) -> int:
    """The descriptor of the lock file, locked."""
    fcntl = file_locks()
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError:
            holder = os.pread(descriptor, MAX_HOLDER_BYTES, 0).decode("utf-8", "replace")
            os.close(descriptor)
            raise UsageError(
                f"{path} is being written by {' '.join(holder.split()) or 'another process'}",
                hint="wait until it ends, or write to another path",
            ) from None
        except OSError as error:
            if error.errno not in _NOT_SUPPORTED:
                os.close(descriptor)
                raise
            warnings.warn(
                f"{path} is not locked, because its file system has no locks: do not write to it "
                "twice at the same time",
                SidtoolWarning,
                stacklevel=4,
            )
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), lock.lstat()):
                return descriptor
        os.close(descriptor)  # its holder removed it after it was opened here
