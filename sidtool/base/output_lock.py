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

MAX_HOLDER_BYTES = 500
_NOT_SUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
_OPEN_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock of the output `path`, in an existing folder, during the block. Raises
    UsageError that names the holder if another writer has it. Warns if the file system has no locks
    (SidtoolWarning)."""
    lock = path.with_name(path.name + ".partial.lock")
    descriptor = _locked_file(lock, path)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _describe_this_process(), 0)
        yield
    finally:
        # removed while it is locked: who opened it before finds another file at its path
        with suppress(OSError):
            lock.unlink()
        os.close(descriptor)


def _locked_file(lock: Path, path: Path) -> int:
    """The descriptor of the lock file, locked."""
    while True:
        descriptor = os.open(lock, _OPEN_FLAGS, 0o666)
        try:
            _lock(descriptor)
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
        if _is_at(descriptor, lock):
            return descriptor
        os.close(descriptor)  # its holder removed it after it was opened here


def _is_at(descriptor: int, lock: Path) -> bool:
    """Whether the open file is the one at the path."""
    try:
        return os.path.samestat(os.fstat(descriptor), lock.lstat())
    except FileNotFoundError:
        return False


def _describe_this_process() -> bytes:
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]) if sys.argv else "python"
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    text = f"process {os.getpid()} on {socket.gethostname()} since {since}: {command}"
    return text.encode("utf-8", "replace")[:MAX_HOLDER_BYTES]


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        """Lock an open file at once. Raises BlockingIOError if another descriptor has it."""
        # a locked byte cannot be read: it lies behind the holder's description
        os.lseek(descriptor, MAX_HOLDER_BYTES, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError from error
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        """Lock an open file at once. Raises BlockingIOError if another descriptor has it."""
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
