"""Windows of requests and queries, which are read as they are needed. The requests of a stream that
someone may be writing to are answered when the input pauses, and not only when a window is full."""

import os
import select
import stat
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import IO, TypeVar, cast

from sidtool.base.progress import Progress
from sidtool.recommendation.requests import LINE_LIMIT, BadRequest, Request, read_request_stream

WINDOW = 512
"""Queries that are read ahead, so that prompts of similar length run together in bounded memory."""
PAUSE = 0.02
"""Seconds without a further line after which the requests that were read are answered. A writer of
many lines is faster, so that windows are full where requests are many."""
PIECE = 1 << 16
"""Bytes that are read at once."""


T = TypeVar("T")


def in_windows(
    values: Iterable[T], size: int, total: int, progress: Progress | None
) -> Iterator[list[T]]:
    """Lists of up to `size` values, read as they are needed; progress is reported after each."""
    stream = iter(values)
    windows = iter(lambda: list(islice(stream, size)), [])
    yield from reporting(windows, total, progress)


def reporting(
    windows: Iterable[list[T]], total: int, progress: Progress | None
) -> Iterator[list[T]]:
    """Pass windows on, and report progress after each."""
    done = 0
    for window in windows:
        yield window
        done += len(window)
        if progress is not None:
            progress(done, total)


@dataclass(frozen=True)
class LiveRequests:
    """Requests of a pipe, socket or terminal, which may pause. They can be read once."""

    lines: "LineReader"

    def __iter__(self) -> Iterator[Request | BadRequest]:
        """The requests, each as soon as it is read."""
        return read_request_stream(cast(IO[bytes], self.lines))

    def windows(self, size: int) -> Iterator[list[Request | BadRequest]]:
        """Lists of up to `size` requests, in order; one ends where the input pauses."""
        window: list[Request | BadRequest] = []
        for request in self:
            window.append(request)
            if len(window) == size or not self.lines.has_line_within(PAUSE):
                yield window
                window = []
        if window:
            yield window


class LineReader:
    """The lines of a file descriptor, which knows whether a line can be read without waiting.

    A buffered stream does not: a line that lies in its buffer is not seen by `select`."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = bytearray()
        self._start = 0
        """Where the next line begins in the buffer."""
        self._ended = False

    def readline(self, limit: int) -> bytes:
        """The next line, of at most `limit` bytes; empty at the end. Waits for it."""
        searched = self._start
        while True:
            stop = self._buffer.find(b"\n", searched) + 1
            searched = len(self._buffer)
            if stop or self._ended or searched - self._start >= limit:
                stop = min(stop or searched, self._start + limit)
                line = bytes(self._buffer[self._start : stop])
                self._start = stop
                if self._start > PIECE:
                    del self._buffer[: self._start]
                    self._start = 0
                return line
            self._read()

    def has_line_within(self, seconds: float) -> bool:
        """Whether a line that is not blank can be read, or can be within so many seconds of the
        last bytes that arrived."""
        start = self._start
        searched = start
        while True:
            stop = self._buffer.find(b"\n", searched) + 1
            searched = stop or len(self._buffer)
            if stop and not self._buffer[start:stop].strip():
                start = stop
            elif stop or self._ended or searched - start >= LINE_LIMIT:
                return start < len(self._buffer)
            elif select.select([self._descriptor], [], [], seconds)[0]:
                self._read()
            else:
                return False

    def _read(self) -> None:
        """Wait for bytes, and append them."""
        piece = os.read(self._descriptor, PIECE)
        self._ended = not piece
        self._buffer += piece


def arriving_requests(stream: IO[bytes]) -> LiveRequests | Iterator[Request | BadRequest]:
    """The requests of a binary stream of JSON Lines: live ones if it can pause, as a pipe can; a
    regular file cannot, and has no descriptor if it is in memory."""
    try:
        descriptor = stream.fileno()
        mode = os.fstat(descriptor).st_mode
    except (OSError, ValueError):
        return read_request_stream(stream)
    # `select` waits for sockets only on Windows
    if stat.S_ISREG(mode) or sys.platform == "win32":
        return read_request_stream(stream)
    return LiveRequests(LineReader(descriptor))
