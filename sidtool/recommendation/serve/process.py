"""One process that answers calls on a socket, until a signal ends it."""

import os
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from sidtool.base.errors import DataError
from sidtool.recommendation.serve.app import make_app
from sidtool.recommendation.serve.connection import Connection
from sidtool.recommendation.serve.log import log_warning
from sidtool.recommendation.serve.serve_options import Listening, ServeOptions
from sidtool.recommendation.serve.service import Service

KEEP_ALIVE_SECONDS = 65
"""How long an idle connection stays open: longer than load balancers keep theirs."""
SPARE_CONNECTIONS = 1000
"""Open connections beyond those of requests that wait."""
MAX_HEAD = 1 << 14
"""Bytes of the head of a request; a longer one is refused with 400."""
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
        raise DataError(
            f"{listening.host} port {listening.port} cannot be used: {error.strerror or error}",
            hint="--port 0 takes any free port",
        ) from error
    return listener


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
    loaded."""
    config = uvicorn.Config(
        make_app(options, service, on_start=on_start),
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
    listener.listen(config.backlog)  # so that a client may connect when `on_start` is called
    if threading.current_thread() is not threading.main_thread():
        uvicorn.Server(config).run(sockets=[listener])
        return
    # uvicorn raises the signal that ended it again, when it has drained
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    finally:
        signal.signal(signal.SIGTERM, before)


def _max_connections(wanted: int) -> int:
    """How many connections may be open: as many as wanted, unless the hard limit of open files is
    too low. Raises the soft limit, which is 1,024 on many machines."""
    if sys.platform == "win32":
        return wanted
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    n_files = wanted + SPARE_FILES
    if hard != resource.RLIM_INFINITY:
        n_files = min(n_files, hard)
    if soft != resource.RLIM_INFINITY and soft < n_files:
        with suppress(ValueError):  # macOS has another limit besides
            resource.setrlimit(resource.RLIMIT_NOFILE, (n_files, hard))
    return min(wanted, max(n_files - SPARE_FILES, n_files // 2))
