"""Looks for a newer model, bundle or memory, and exchanges it after the checks of a start."""

import logging
import threading
from concurrent.futures import CancelledError

from sidtool.base.errors import RefusedError, SidtoolError
from sidtool.base.visible import visible
from sidtool.recommendation.serve.batcher import Batcher
from sidtool.recommendation.serve.metrics import Metrics
from sidtool.recommendation.serve.served import Served
from sidtool.recommendation.serve.sources import Sources, Version

MAX_PAUSE = 32
"""The most looks at a refused version before it is loaded again: it may have been repaired, which
its root document does not show."""

log = logging.getLogger(__name__)


class Watcher:
    """Polls the locations of a service in a thread of its own."""

    def __init__(self, sources: Sources, batcher: Batcher, metrics: Metrics) -> None:
        self._sources = sources
        self._batcher = batcher
        self._metrics = metrics
        self._refused: Version | None = None
        self._pause = 1
        self._looks_left = 0
        self.last_error = ""
        """Why what is there now was not taken; empty if it was."""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; one that is loading something is not waited for."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.wait(self._sources.options.poll_seconds):
            try:
                self.look()
            except CancelledError:
                return
            except Exception as error:
                # a store or a library may raise anything; what is served stays
                self._keep("failed", f"{type(error).__name__}: {error}")

    def look(self) -> bool:
        """Exchange what is served if there is another version, and whether it was exchanged.

        What cannot be read is tried again at each look, what does not fit after 1, 2, 4... more."""
        served = self._batcher.served
        version: Version | None = None
        try:
            version = self._sources.version()
            if version == served.version:
                self.last_error = ""
                self._refused = None
                return False
            if version != self._refused:
                self._pause = 1
            elif self._looks_left:
                self._looks_left -= 1
                return False
            loaded = self._sources.reload(served.loaded, served.version, version)
            new = Served.of(loaded, version, self._sources.options.recommend)
            self._sources.check_unchanged(version)
            self._batcher.exchange(new)
            self._sources.remove_copies(version)
        except SidtoolError as error:
            is_refused = isinstance(error, RefusedError)
            if is_refused:
                self._refused = version
                self._looks_left = self._pause
                self._pause = min(2 * self._pause, MAX_PAUSE)
            self._keep("refused" if is_refused else "failed", str(error))
            return False
        self.last_error = ""
        self._refused = None
        self._metrics.exchanges.labels("exchanged").inc()
        self._metrics.items.set(len(new.loaded.bundle))
        bundle = new.loaded.bundle
        log.warning("now serving %d items, bundle %s", len(bundle), bundle.digest[:12])
        return True

    def _keep(self, result: str, message: str) -> None:
        """Record why the old value stays; the same reason is logged once."""
        self._metrics.exchanges.labels(result).inc()
        if message != self.last_error:
            self.last_error = message
            log.warning("%s, the old one stays: %s", result, visible(message))
