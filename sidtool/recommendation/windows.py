"""Windows of requests and queries, which are read as they are needed. The requests of a stream that
someone may be writing to are answered when the input pauses, and not only when a window is full."""

import os
import stat
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from queue import Empty, Queue
from typing import IO, Any, TypeVar

from sidtool.base.progress import Progress
from sidtool.recommendation.requests import BadRequest, Request, read_request_stream

WINDOW = 512
"""Queries that are read ahead, so that prompts of similar length run together in bounded memory."""
PAUSE = 0.02
"""Seconds without a further line after which the requests that were read are answered. A writer of
many lines is faster, so that windows are full where requests are many."""

T = TypeVar("T")


@dataclass(frozen=True)
class LiveRequests:
    """Requests of a pipe, socket or terminal, which may pause. They can be read once."""

    stream: IO[bytes]

    def __iter__(self) -> Iterator[Request | BadRequest]:
        """The requests, each as soon as it is read."""
        return read_request_stream(self.stream)

    def windows(self, size: int) -> Iterator[list[Request | BadRequest]]:
        """Lists of up to `size` requests, in order; one ends where the input pauses. A thread reads
        them, at most as many ahead."""
        read: Queue[Request | BadRequest | Exception | None] = Queue(size)

        def read_all() -> None:
            try:
                for request in self:
                    read.put(request)
                read.put(None)
            except Exception as error:
                read.put(error)

        threading.Thread(target=read_all, daemon=True).start()
        window: list[Request | BadRequest] = []
        while True:
            try:
                request = read.get(timeout=PAUSE if window else None)
            except Empty:
                yield window
                window = []
                continue
            if isinstance(request, Exception):
                raise request
            if request is not None:
                window.append(request)
            if len(window) == size or (request is None and window):
                yield window
                window = []
            if request is None:
                return


def in_windows(
    values: Iterable[T] | LiveRequests, size: int, total: int, progress: Progress | None
) -> Iterator[list[T]]:
    """Lists of up to `size` values, read as they are needed; progress is reported after each."""
    windows: Any
    if isinstance(values, LiveRequests):
        windows = values.windows(size)
    else:
        stream = iter(values)
        windows = iter(lambda: list(islice(stream, size)), [])
    done = 0
    for window in windows:
        yield window
        done += len(window)
        if progress is not None:
            progress(done, total)


def arriving_requests(stream: IO[bytes]) -> LiveRequests | Iterator[Request | BadRequest]:
    """The requests of a binary stream of JSON Lines: live ones if it may pause, as a pipe does, and
    a regular file or a stream in memory does not."""
    try:
        mode = os.fstat(stream.fileno()).st_mode
    except (OSError, ValueError):
        return read_request_stream(stream)
    if stat.S_ISREG(mode):
        return read_request_stream(stream)
    # a file of its own: the thread that reads may outlive what else uses the stream
    return LiveRequests(os.fdopen(os.dup(stream.fileno()), "rb"))
