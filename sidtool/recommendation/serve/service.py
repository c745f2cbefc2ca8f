"""One process of a service: where it finds its model and which version is there now, the thread of
the model, and the calls that wait."""

import asyncio
import hashlib
import logging
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sidtool.base.artifact import MAX_ROOT_BYTES
from sidtool.base.checkpoint import MAX_JSON
from sidtool.base.errors import DataError, RefusedError, SidtoolError
from sidtool.base.hub import is_hub_url
from sidtool.base.storage import Storage
from sidtool.base.visible import visible
from sidtool.data import Vectors
from sidtool.model import LoadedModel, check_model_folder, load_model_folder
from sidtool.recommendation.requests import BadRequest
from sidtool.recommendation.serve.batcher import Answered, Batcher, Busy, Served, Waiting
from sidtool.recommendation.serve.bodies import Call
from sidtool.recommendation.serve.metrics import Metrics
from sidtool.recommendation.serve.serve_options import ServeOptions, Version
from sidtool.registry import ROOTS, Kind, locate_kind, locate_model, located, open_bundle
from sidtool.tokenizer import Encoding, check_not_empty, encode, open_encoder
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.encoder import TextEncoder

MAX_SIDE_CALLS = 32
"""Calls that may wait for the thread which encodes and decodes."""

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True)
class Sources:
    """The locations of a service, and the folder for copies of published models."""

    options: ServeOptions
    copies: Path

    def version(self) -> Version:
        """What is at the locations now; reads the root documents only.

        Raises DataError if one of them cannot be read, UsageError if it is of another kind."""
        options = self.options
        memory = options.memory.location
        return Version(
            "" if is_hub_url(options.model) else _root_digest(options.model, "model"),
            "" if options.bundle is None else _root_digest(options.bundle, "bundle"),
            "" if memory is None else _root_digest(str(memory), "memory"),
        )

    def check_unchanged(self, version: Version) -> None:
        """Raise DataError unless this version is still there after it was read: a writer that came
        between would give it the digests of another. Raises as `version`."""
        if self.version() != version:
            raise DataError(
                "the model, bundle or memory was replaced while it was read", hint="start it again"
            )

    def check(self) -> None:
        """Check that everything is there, and that model and bundle fit together; reads no
        weights. Raises as `version` and `load`."""
        self.version()
        check_model_folder(self._model_folder(), self._bundle())

    def load(self) -> LoadedModel:
        """Load everything. Raises what `load_model_folder` and `open_bundle` raise."""
        options = self.options
        return load_model_folder(
            self._model_folder(),
            bundle=options.bundle,
            device=options.device,
            dtype=options.dtype,
            trust_remote_code=options.trust_remote_code,
            memory=options.memory,
        )

    def reload(self, loaded: LoadedModel, old: Version, new: Version) -> LoadedModel:
        """What is there now, with the network of `loaded` if only bundle or memory changed, after
        the checks of `load`. Raises as `load`."""
        if new.model != old.model:
            return self.load()
        memory = located(self.options.memory)
        return loaded.with_bundle(self._model_folder(), self._bundle(), memory)

    def _bundle(self) -> Bundle | None:
        return None if self.options.bundle is None else open_bundle(self.options.bundle)

    def _model_folder(self) -> str | Path:
        return locate_model(self.options.model, self.copies)

    def remove_copies(self, version: Version) -> None:
        """Remove the copies of models that are not this version: what they have is in memory."""
        if self.copies.is_dir():
            for path in self.copies.iterdir():
                if path.name != version.model:
                    shutil.rmtree(path, ignore_errors=True)


def _root_digest(reference: str, kind: Kind) -> str:
    """SHA-256 (hex) of the root document of what a reference or location names."""
    location, record = locate_kind(reference, kind)
    if record is not None:
        return record.root
    limit, hint = MAX_ROOT_BYTES, None
    if kind == "model":
        limit, hint = MAX_JSON, "sidtool serve MODEL, the folder of extend-model, train or rl"
    root = Storage(location).read(ROOTS[kind], limit=limit)
    if root is None:
        raise DataError(f"there is no {kind} at {location}", hint=hint)
    return hashlib.sha256(root).hexdigest()


class Service:
    """What the calls to one process share. `open` loads, `stop` ends the threads."""

    def __init__(self, options: ServeOptions, sources: Sources, served: Served) -> None:
        self.options = options
        self.metrics = Metrics()
        self.is_draining = False
        self.batcher = Batcher(served, options.limits, self.metrics)
        self.watcher = Watcher(sources, self.batcher, self.metrics)
        """What looks for newer versions, once it is started."""
        self._side = ThreadPoolExecutor(1, "side")
        self._side_calls: list[Future[Any]] = []
        self._encoder: tuple[Any, TextEncoder] | None = None
        self.metrics.items.set(len(served.loaded.bundle.active))

    @classmethod
    def open(cls, options: ServeOptions, copies: Path) -> "Service":
        """Load the model; copies of published models are stored in the folder `copies`. Raises as
        `Sources.load`, `Sources.check_unchanged` and `Served.of`, or SidtoolError if the model
        cannot answer."""
        sources = Sources(options, copies)
        version = sources.version()
        served = Served.of(sources.load(), version, options.recommend)
        sources.check_unchanged(version)
        served.warm_up()
        log.info("%s", served.seen)
        return cls(options, sources, served)

    async def stop(self) -> None:
        """Answer what waits, and end the threads."""
        self.is_draining = True
        self.watcher.stop()
        await asyncio.to_thread(self.batcher.stop)
        self._side.shutdown(wait=False, cancel_futures=True)

    async def answer(self, call: Call, deadline: float) -> list[Answered]:
        """The answers to the requests of a call, in order. Raises Busy if too many wait,
        TimeoutError after the deadline, a time of the loop."""
        served = self.batcher.served
        requests = [Waiting(request, call.choices) for request in call.requests]
        for waiting in requests:
            if isinstance(waiting.request, BadRequest):
                waiting.resolve(Answered(waiting.request, served))
        self.batcher.submit([waiting for waiting in requests if not waiting.future.done()])
        futures = [asyncio.wrap_future(waiting.future) for waiting in requests]
        try:
            async with asyncio.timeout_at(deadline):
                return [await future for future in futures]
        finally:
            for future in futures:
                future.cancel()  # has no effect on those that are done

    async def aside(self, function: Callable[[], T], deadline: float) -> T:
        """The result of a function that runs in a thread beside the model's. Raises Busy and
        TimeoutError as `answer`."""
        waiting = [call for call in self._side_calls if not call.done()]
        if len(waiting) >= MAX_SIDE_CALLS:
            raise Busy(1)
        future = self._side.submit(function)
        self._side_calls = [*waiting, future]
        async with asyncio.timeout_at(deadline):
            return await asyncio.wrap_future(future)

    def encode(self, inputs: list[str] | Vectors) -> list[Encoding]:
        """The SID of each text or vector. The encoder of the bundle is loaded for the first text
        and stays in memory. Raises as `sidtool.encode`."""
        bundle = self.batcher.served.loaded.bundle
        if not isinstance(inputs, list):
            return encode(bundle, vectors=inputs)
        if not inputs:
            raise DataError("'texts' is empty")
        check_not_empty(inputs)
        recipe = (bundle.manifest.recipe or {}).get("encoder")
        if self._encoder is None or self._encoder[0] != recipe:
            self._encoder = None
            options = self.options
            loaded = open_encoder(
                bundle, model=options.encoder, trust_remote_code=options.trust_remote_code
            )
            self._encoder = (recipe, loaded)
        return encode(bundle, inputs, vectors=self._encoder[1].vectors(inputs))


MAX_PAUSE = 32
"""The most looks at a version that was not taken before it is loaded again: it may have been
repaired, which its root document does not show."""


class Watcher:
    """Polls the locations of a service in a thread of its own."""

    def __init__(self, sources: Sources, batcher: Batcher, metrics: Metrics) -> None:
        self._sources = sources
        self._batcher = batcher
        self._metrics = metrics
        self._not_taken: Version | None = None
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
            except Exception as error:
                # a store or a library may raise anything; what is served stays
                if not self._stopping.is_set():
                    self._keep("failed", f"{type(error).__name__}: {error}")

    def look(self) -> bool:
        """Exchange what is served if there is another version, and whether it was exchanged.

        What failed in a batch is tried again at each look, a version that was not taken after 1, 2,
        4... more."""
        self._batcher.recover()
        served = self._batcher.served
        version: Version | None = None
        try:
            version = self._sources.version()
            if version == served.version:
                self.last_error = ""
                self._not_taken = None
                return False
            if version != self._not_taken:
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
            self._not_taken = version
            self._looks_left = self._pause
            self._pause = min(2 * self._pause, MAX_PAUSE)
            self._keep("refused" if isinstance(error, RefusedError) else "failed", str(error))
            return False
        self.last_error = ""
        self._not_taken = None
        self._metrics.exchanges.labels("exchanged").inc()
        bundle = new.loaded.bundle
        self._metrics.items.set(len(bundle.active))
        log.warning("now serving %d items, bundle %s", len(bundle.active), bundle.digest[:12])
        return True

    def _keep(self, result: str, message: str) -> None:
        """Record why the old value stays; the same reason is logged once."""
        self._metrics.exchanges.labels(result).inc()
        if message != self.last_error:
            self.last_error = message
            log.warning("%s, the old one stays: %s", result, visible(message))
