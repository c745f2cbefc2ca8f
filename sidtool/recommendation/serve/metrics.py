"""What a service measures, for Prometheus. With several worker processes, each writes its numbers
to files of one folder (PROMETHEUS_MULTIPROC_DIR), and any of them answers for all."""

import os
from contextlib import suppress
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
REQUESTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """The metrics of one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        counter = partial(Counter, registry=self._registry)
        gauge = partial(Gauge, registry=self._registry)
        histogram = partial(Histogram, registry=self._registry)
        self.calls = counter("sidtool_calls", "HTTP calls", ["path", "status"])
        self.call_seconds = histogram(
            "sidtool_call_seconds",
            "Seconds from the first byte of a call to its answer",
            ["path"],
            buckets=SECONDS,
        )
        self.batch_requests = histogram(
            "sidtool_batch_requests", "Requests in a batch", buckets=REQUESTS
        )
        self.batch_seconds = histogram(
            "sidtool_batch_seconds", "Seconds that the model ran for a batch", buckets=SECONDS
        )
        waiting = "Requests that wait for the model"
        self.waiting = gauge("sidtool_waiting_requests", waiting, multiprocess_mode="livesum")
        items = "Items of the bundle in use"
        self.items = gauge("sidtool_items", items, multiprocess_mode="livemin")
        exchanged = "Newer models, bundles or memories: exchanged, refused or failed"
        self.exchanges = counter("sidtool_exchanges", exchanged, ["result"])

    def page(self) -> bytes:
        """The numbers of all worker processes, in the text format of Prometheus."""
        folder = os.environ.get(FOLDER_VARIABLE)
        if folder is None:
            return generate_latest(self._registry)
        # a killed worker leaves its gauges, which are removed; its counters remain true
        for path in Path(folder).glob("gauge_live*_*.db"):
            pid = path.stem.rpartition("_")[2]
            with suppress(ValueError, PermissionError):
                try:
                    os.kill(int(pid), 0)
                except ProcessLookupError:
                    with suppress(OSError):
                        mark_process_dead(int(pid), folder)
        registry = CollectorRegistry()
        MultiProcessCollector(registry, path=folder)
        return generate_latest(registry)
