"""One process that answers calls on a socket until a signal ends it, or several on one listening
socket: their supervisor starts them, replaces those that end, and drains them. They share nothing
but the files that they read."""

import asyncio
import gc
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from sidtool.base.errors import DataError, SidtoolError
from sidtool.recommendation.serve.app import make_app
from sidtool.recommendation.serve.log import log_to_stderr, log_warning
from sidtool.recommendation.serve.metrics import FOLDER_VARIABLE
from sidtool.recommendation.serve.serve_options import Listening, ServeOptions
from sidtool.recommendation.serve.service import Service

log = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 65
"""How long an idle connection stays open: longer than load balancers keep theirs."""
SPARE_CONNECTIONS = 1000
"""Open connections beyond those of requests that wait."""
MAX_HEAD = 1 << 14
"""Bytes of the head of a request after which one that has not ended is refused with 400."""
SPARE_FILES = 2304
"""Open files beyond the connections: uvicorn accepts up to 2,048 connections at once."""
DRAIN_SECONDS = 10.0
"""What a worker may take to end beyond the time limit of its calls."""


def bound_socket(listening: Listening) -> socket.socket:
    """A socket at the address, which does not listen yet. Raises DataError if it cannot be
    used."""
    family = socket.AF_INET6 if ":" in listening.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((listening.host, listening.port))
    except OSError as error:
        listener.close()
        raise _unusable(listening.host, listening.port, error) from error
    return listener


def _unusable(host: str, port: int, error: OSError) -> DataError:
    message = f"{host} port {port} cannot be used: {error.strerror or error}"
    return DataError(message, hint="--port 0 takes any free port")


def threads_per_worker(n_workers: int) -> int | None:
    """How many threads of torch each worker of a machine uses; None: what OMP_NUM_THREADS says."""
    if "OMP_NUM_THREADS" in os.environ:
        return None
    return max(1, (os.cpu_count() or 1) // n_workers)


def become_worker(folder: str, n_threads: int | None) -> None:
    """Make this process one of several: files are in `folder`, since whoever started it removes
    what a killed worker leaves, and threads are its share of those of the machine."""
    import torch

    warnings.showwarning = log_warning
    tempfile.tempdir = folder
    if n_threads is not None:
        torch.set_num_threads(n_threads)


def run_process(
    options: ServeOptions,
    listener: socket.socket,
    service: Service | None = None,
    *,
    on_start: Callable[[], object] | None = None,
) -> None:
    """Answer calls in this process until SIGTERM or SIGINT. Exits with 3 if the model cannot be
    loaded. Raises DataError if another process listens at the address by now."""
    is_main = threading.current_thread() is threading.main_thread()

    def start() -> None:
        if is_main:
            # what is loaded by now stays; each search for garbage would look at all of it
            gc.collect()
            gc.freeze()
        if on_start is not None:
            on_start()

    config = uvicorn.Config(
        make_app(options, service, on_start=start),
        http=Connection,
        ws="none",
        h11_max_incomplete_event_size=MAX_HEAD,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        limit_concurrency=_max_connections(options.limits.max_waiting + SPARE_CONNECTIONS),
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(options.limits.seconds) + 1,
    )
    try:
        listener.listen(config.backlog)  # so that a client may connect when `on_start` is called
    except OSError as error:
        host, port, *_ = listener.getsockname()
        raise _unusable(host, port, error) from error
    if not is_main:
        _Server(config).run(sockets=[listener])
        return
    # uvicorn raises the signal that ended it again, when it has drained
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        _Server(config).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)
        gc.unfreeze()


class _Server(uvicorn.Server):
    """uvicorn's server; while it drains, Ctrl-C ends the process, whatever runs."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Called for a signal."""
        super().handle_exit(sig, frame)
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _max_connections(wanted: int) -> int:
    """How many connections may be open: as many as wanted, unless the hard limit of open files is
    too low. Raises the soft limit, which is 1,024 on many machines."""
    if sys.platform == "win32":
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    n_files = wanted + SPARE_FILES  # a connection is an open file
    if hard != resource.RLIM_INFINITY:
        n_files = min(n_files, hard)
    if soft != resource.RLIM_INFINITY and soft < n_files:
        with suppress(ValueError):  # macOS has another limit besides
            resource.setrlimit(resource.RLIMIT_NOFILE, (n_files, hard))
        n_files = min(n_files, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    # of fewer files than twice the spare ones, half are for connections
    return min(wanted, max(n_files - SPARE_FILES, n_files // 2))


class Connection(H11Protocol):
    """uvicorn's connection with the parser h11, which limits the bytes of a head, and these rules.

    The head of a request must have arrived `timeout_keep_alive` seconds after the connection was
    opened or its last answer was written. Where `limit_concurrency` connections are open, a new one
    ends those that have waited longest for a request. A client that has sent its request may end
    its half of the connection."""

    def connection_made(self, transport: Any) -> None:
        """Called by the loop."""
        super().connection_made(transport)
        self._timer: asyncio.TimerHandle | None = None
        self._client_ended = False
        self._wait()
        limit = self.limit_concurrency
        if limit and len(self.connections) >= limit:
            idle = [
                connection
                for connection in self.connections
                if connection is not self
                and connection._is_waiting
                and not connection.transport.get_write_buffer_size()
            ]
            idle.sort(key=lambda connection: connection._since)
            # the oldest tenth of them, so that not each new one has to look for the oldest
            for connection in idle[: 1 + limit // 10]:
                self.connections.discard(connection)
                connection.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        super().connection_lost(exc)
        if self._timer is not None:
            self._timer.cancel()

    def eof_received(self) -> bool:
        """Called by the loop at the end of the client's half -> whether ours stays open."""
        self._client_ended = True
        return not self._is_waiting

    def on_response_complete(self) -> None:
        """Called when an answer was written."""
        self._wait()
        super().on_response_complete()  # begins the next request if it has arrived
        if self._client_ended and self._is_waiting:
            self.transport.close()

    @property
    def _is_waiting(self) -> bool:
        """Whether there is no whole request to answer."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def _wait(self) -> None:
        """Start the time of the next head."""
        if self._timer is not None:
            self._timer.cancel()
        self._since = self.loop.time()
        latest = self.cycle

        def end() -> None:
            if self.cycle is latest:  # no request has begun after it
                self.transport.abort()

        self._timer = self.loop.call_later(self.timeout_keep_alive, end)


RESTART_SECONDS = 1.0
"""Least time between two starts of a worker."""
SIGNAL_SECONDS = 0.5
"""How often the supervisor of workers looks whether it should end."""


def serve_with_workers(
    options: ServeOptions,
    n_workers: int,
    listener: socket.socket,
    folder: str,
    verbose: bool,
    on_start: Callable[[], None] | None,
) -> None:
    """Serve in several processes until SIGTERM; `folder` is for their files. Calls `on_start` when
    a worker answers, and replaces workers that end. Raises SidtoolError if one ends before any has
    answered."""
    metrics = Path(folder) / "metrics"
    metrics.mkdir()
    os.environ[FOLDER_VARIABLE] = str(metrics)
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    arguments = (options, listener, ready, folder, verbose, threads_per_worker(n_workers))
    workers: dict[SpawnProcess, float] = {}
    """When each process was started."""
    should_end = False

    def request_end(*_: Any) -> None:
        nonlocal should_end  # no Event, whose lock a second signal would wait for
        should_end = True

    def start_worker() -> None:
        process = context.Process(target=_work, args=arguments)
        process.start()
        workers[process] = time.monotonic()

    before = signal.signal(signal.SIGTERM, request_end)
    try:
        for _ in range(n_workers):
            start_worker()
        while not should_end:
            if on_start is not None and ready.is_set():
                on_start()
                on_start = None
            wait([process.sentinel for process in workers], timeout=SIGNAL_SECONDS)
            for process, started in list(workers.items()):
                if should_end or process.is_alive():
                    continue
                if not ready.is_set():
                    raise SidtoolError(
                        f"a worker ended with code {process.exitcode} before it answered",
                        hint="the lines above say why",
                    )
                time.sleep(max(started + RESTART_SECONDS - time.monotonic(), 0))
                del workers[process]
                start_worker()
    finally:
        listener.close()  # else calls would wait in its queue, for nobody
        # each ends when it has answered its calls
        for process in workers:
            process.terminate()
        deadline = time.monotonic() + options.limits.seconds + DRAIN_SECONDS
        for process in workers:
            process.join(max(deadline - time.monotonic(), 0))
            if process.is_alive():
                process.kill()
                process.join()
        signal.signal(signal.SIGTERM, before)
        del os.environ[FOLDER_VARIABLE]


def _work(
    options: ServeOptions,
    listener: socket.socket,
    ready: Any,
    folder: str,
    verbose: bool,
    n_threads: int | None,
) -> None:
    """The life of a worker process."""
    become_worker(folder, n_threads)
    # Ctrl-C reaches the whole group; the supervisor ends its workers
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()  # its supervisor, which may be killed
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_parent, daemon=True).start()
    with log_to_stderr(verbose=verbose):
        try:
            run_process(options, listener, on_start=ready.set)
        except DataError as error:
            log.error("%s", error)
            sys.exit(1)
