"""Several worker processes on one listening socket: the supervisor starts them, replaces those
that end, and drains them. They share nothing but the files that they read."""

import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from sidtool.base.errors import SidtoolError
from sidtool.recommendation.serve.log import log_to_stderr
from sidtool.recommendation.serve.metrics import FOLDER_VARIABLE
from sidtool.recommendation.serve.process import (
    DRAIN_SECONDS,
    become_worker,
    run_process,
    threads_per_worker,
)
from sidtool.recommendation.serve.serve_options import ServeOptions

RESTART_SECONDS = 1.0
"""Least time between two starts of a worker."""
SIGNAL_SECONDS = 0.5
"""How often the supervisor looks whether it should end."""


class _Supervisor:
    """Keeps a number of workers running."""

    def __init__(
        self,
        options: ServeOptions,
        n_workers: int,
        listener: socket.socket,
        folder: str,
        verbose: bool,
    ) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._ready = self._context.Event()
        n_threads = threads_per_worker(n_workers)
        self._arguments = (options, listener, self._ready, folder, verbose, n_threads)
        self._options = options
        self._should_end = False
        self._workers: dict[SpawnProcess, float] = {}
        """When each process was started."""
        for _ in range(n_workers):
            self._start()

    def _start(self) -> None:
        process = self._context.Process(target=_work, args=self._arguments)
        process.start()
        self._workers[process] = time.monotonic()

    def request_end(self, *_: Any) -> None:
        """Let `run` end; a handler of signals."""
        self._should_end = True

    def run(self, on_start: Callable[[], None] | None) -> None:
        """Call `on_start` when a worker answers, and replace workers that end, until the end is
        requested. Raises SidtoolError if a worker ends before any has answered."""
        while not self._should_end:
            if on_start is not None and self._ready.is_set():
                on_start()
                on_start = None
            wait([process.sentinel for process in self._workers], timeout=SIGNAL_SECONDS)
            for process, started in list(self._workers.items()):
                if self._should_end or process.is_alive():
                    continue
                if not self._ready.is_set():
                    raise SidtoolError(
                        f"a worker ended with code {process.exitcode} before it answered",
                        hint="the lines above say why",
                    )
                time.sleep(max(started + RESTART_SECONDS - time.monotonic(), 0))
                del self._workers[process]
                self._start()

    def drain(self) -> None:
        """End all workers, each when it has answered its calls."""
        for process in self._workers:
            process.terminate()
        deadline = time.monotonic() + self._options.limits.seconds + DRAIN_SECONDS
        for process in self._workers:
            process.join(max(deadline - time.monotonic(), 0))
            if process.is_alive():
                process.kill()
                process.join()


def serve_with_workers(
    options: ServeOptions,
    n_workers: int,
    listener: socket.socket,
    folder: str,
    verbose: bool,
    on_start: Callable[[], None] | None,
) -> None:
    """Serve in several processes until SIGTERM; `folder` is for their files. Raises
    SidtoolError if they cannot start."""
    metrics = Path(folder) / "metrics"
    metrics.mkdir()
    os.environ[FOLDER_VARIABLE] = str(metrics)
    supervisor = _Supervisor(options, n_workers, listener, folder, verbose)
    before = signal.signal(signal.SIGTERM, supervisor.request_end)
    try:
        supervisor.run(on_start)
    finally:
        supervisor.drain()
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
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with log_to_stderr(verbose=verbose):
        run_process(options, listener, on_start=ready.set)


def _end_with_parent() -> None:
    """End this worker if its supervisor was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
