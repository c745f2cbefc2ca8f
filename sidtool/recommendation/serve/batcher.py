"""The thread of the model: takes waiting requests in batches, each one tree beam, and delivers
their answers.

Everything that uses the network, the tokenizer or the bundle of requests runs in this thread, one
batch after the other. A batch is prepared and answered by one `Served`, so an exchange between two
batches is seen by whole requests only."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import islice
from math import ceil
from typing import Any, Self

from sidtool.base.errors import RefusedError, SidtoolError
from sidtool.model import LoadedModel
from sidtool.recommendation.recommend_options import RecommendOptions
from sidtool.recommendation.recommender import Prepared, Recommender
from sidtool.recommendation.requests import Answer, BadRequest, Request
from sidtool.recommendation.search.search_options import seen_reason
from sidtool.recommendation.serve.bodies import Choices
from sidtool.recommendation.serve.log import frames
from sidtool.recommendation.serve.metrics import Metrics
from sidtool.recommendation.serve.serve_options import ServeLimits, Version

CPU_BATCH_TOKENS = 1 << 12
"""On a CPU the values of a wider batch leave its caches: 80 requests of 200 tokens cost a sixth
more each than 24 (`benchmarks/serve.py queue`), and what comes meanwhile waits for the batch."""
GPU_BATCH_TOKENS = 1 << 14
MAX_RETRY_SECONDS = 60
_SMOOTHING = 0.2
"""Weight of the latest batch in the mean time per request."""

log = logging.getLogger(__name__)


MAX_RECOMMENDERS = 32
"""Combinations of options, and lists of candidates, that are kept."""


@dataclass(frozen=True, eq=False)
class Served:
    """A loaded model in use. All arrays of its bundle are in memory, so that files which are
    replaced later do not matter."""

    loaded: LoadedModel
    version: Version
    defaults: RecommendOptions
    base: Recommender
    """What answers requests without options of their own."""

    @classmethod
    def of(cls, loaded: LoadedModel, version: Version, defaults: RecommendOptions) -> Self:
        """Read the bundle, and look up the lists of all requests. Raises as `Recommender.of`."""
        bundle = loaded.bundle
        _ = bundle.codebook, bundle.lexical  # /v1/encode reads them
        bundle.items.rows(["an id"])  # reads the index
        if len(bundle):
            bundle.items.title(0)
        return cls(loaded, version, defaults, Recommender.of(loaded, defaults, None))

    @property
    def seen(self) -> str:
        """Whether seen items are recommended by default, and why."""
        return seen_reason(self.defaults.exclude_seen, self.loaded.contract.targets_repeat)

    @cached_property
    def recommender(self) -> Callable[[Choices], Recommender]:
        """What answers requests with some options; the model's thread is the only caller.

        Raises UsageError for options that the model does not support, DataError for candidates
        that the bundle lacks."""
        # nothing here refers to `self`: a model that is replaced is freed at once
        loaded, defaults, base = self.loaded, self.defaults, self.base
        session = None if defaults.list else base.session  # lists have their own prompt

        @lru_cache(MAX_RECOMMENDERS)
        def make(choices: Choices) -> Recommender:
            options = choices.options(defaults)
            if options.list:
                return Recommender.of(loaded, options, None)
            if choices.candidates is None:
                return base.with_options(options)
            return Recommender.of(loaded, options, choices.candidates, session)

        return make

    def tree_tokens(self, choices: Choices) -> int:
        """Tokens of what grows behind the prompt of a request with these options."""
        trie = self.base.session.trie
        if choices.candidates is not None:
            return len(choices.candidates) * trie.levels
        options = self.recommender(choices).options
        if options.list:
            return options.num_beams * options.k * trie.levels
        beams = min(max(options.num_beams, options.k), trie.n_leaves)
        return beams * (trie.levels - 1)

    def warm_up(self) -> None:
        """Answer one request, so that what is made at first use exists. Raises RefusedError if the
        model has no prompt for it, DataError if its logits are not numbers."""
        contract = self.loaded.contract
        prompt = contract.history_prompt
        history = tuple(islice(self.loaded.bundle.items.ids, 1))
        request = Request(history=history)
        if prompt is None and contract.text_prompt is not None:
            request = Request(text="a text")
        elif prompt is not None and prompt.shows_fields:
            request = Request(history=history, fields=prompt.unknown_fields(len(history)))
        (answer,) = self.base.answer([request])
        if isinstance(answer, BadRequest):
            raise RefusedError(f"the model cannot answer: {answer.error}")

    def to_json(self) -> dict[str, Any]:
        """What is served, for /readyz."""
        bundle = self.loaded.bundle
        memory = self.loaded.memory
        return {
            "model": self.version.model,
            "bundle": bundle.digest,
            "bundle_version": bundle.manifest.version,
            "items": len(bundle.active),
            "compatibility": self.loaded.verdict.kind,
            "memory": None if memory is None else memory.memory.digest,
            "exclude_seen": self.base.options.exclude_seen,
            "seen": self.seen,
        }


@dataclass(eq=False)
class Waiting:
    """A request that waits for its answer."""

    request: Request | BadRequest
    choices: Choices
    future: "Future[Answered]" = field(default_factory=Future)
    """A cancelled one needs no answer."""
    arrived: float = field(default_factory=time.monotonic)

    def resolve(self, answered: "Answered") -> None:
        """Give the call its answer, unless it waits no longer."""
        with suppress(InvalidStateError):
            self.future.set_result(answered)


@dataclass(frozen=True)
class Answered:
    """An answer, and what gave it; None if an error nobody foresaw came in its place."""

    answer: Answer | None
    served: Served


class Busy(Exception):
    """Too many requests wait."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"too many requests wait for the model: try again in {seconds} s")
        self.seconds = seconds


class Batcher:
    """Runs the model in a thread of its own."""

    def __init__(self, served: Served, limits: ServeLimits, metrics: Metrics) -> None:
        self.served = served
        self._limits = limits
        self._metrics = metrics
        self._waiting: list[Waiting] = []
        """Oldest first. Those with the same options can share a batch; the oldest one decides which
        options are next, so none starves."""
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._seconds_per_request = 0.0
        self._thread = ThreadPoolExecutor(1, "model")
        self._is_queued = False
        """Whether a batch is in the queue of the thread. One at most is, or an exchange would wait
        behind one for each request."""
        self.is_alive = True
        """False when the thread was stopped, or since a batch failed until the next one succeeds,
        or a trial."""

    def stop(self) -> None:
        """Answer what waits, then end the thread. No request may be submitted afterwards."""
        self._stopping.set()
        while self._is_queued:
            self._thread.submit(lambda: None).result()
        self._thread.shutdown()
        self.is_alive = False

    def submit(self, requests: Sequence[Waiting]) -> None:
        """Let requests wait for their answers: all of them, or none if there is no room (Busy)."""
        with self._lock:
            if len(self._waiting) + len(requests) > self._limits.max_waiting:
                # when the requests that wait now will have been answered
                seconds = ceil(len(self._waiting) * self._seconds_per_request)
                raise Busy(min(max(seconds, 1), MAX_RETRY_SECONDS))
            self._waiting += requests
            self._metrics.waiting.set(len(self._waiting))
            self._queue_batch()

    def _queue_batch(self) -> None:
        """Let the thread run a batch after what it does now, if requests wait."""
        if self._waiting and not self._is_queued:
            self._is_queued = True
            self._thread.submit(self._run_batch)

    def exchange(self, served: Served) -> None:
        """Answer all further batches with another value, once it has answered a request between two
        batches.

        Raises what `Served.warm_up` raises, and the old one stays; RuntimeError if the thread has
        ended."""

        def warm_up() -> None:
            served.warm_up()
            self.served = served
            self.is_alive = True

        self._thread.submit(warm_up).result()

    def recover(self) -> None:
        """Answer a trial request if the last batch failed: where a load balancer reads /readyz, no
        other one comes."""
        if not self.is_alive:
            with suppress(Exception):  # the log has the error of the batch
                self.exchange(self.served)
                log.warning("the model answers again")

    def _run_batch(self) -> None:
        """Answer a batch of what waits, when the oldest has waited long enough for others."""
        left = self._waiting[0].arrived + self._limits.batch_seconds - time.monotonic()
        self._stopping.wait(max(left, 0))
        served = self.served
        batch: Sequence[tuple[Waiting, Prepared]] = ()
        has_failed = False
        try:
            if batch := self._take_batch(served):
                start = time.monotonic()
                if self._answer(served, batch):
                    served.warm_up()  # raises if nothing can be answered: a GPU may be lost
                seconds = time.monotonic() - start
                self._metrics.batch_requests.observe(len(batch))
                self._metrics.batch_seconds.observe(seconds)
                latest = seconds / len(batch)
                old = self._seconds_per_request or latest
                self._seconds_per_request = old + _SMOOTHING * (latest - old)
        except Exception as error:
            has_failed = True
            log.error("a batch failed with %s", frames(error))
        with self._lock:
            self._is_queued = False
            if batch or has_failed:
                self.is_alive = not has_failed
            if batch or not has_failed:  # else the same requests would fail again, for ever
                self._queue_batch()

    def _take_batch(self, served: Served) -> list[tuple[Waiting, Prepared]]:
        """The requests of the next batch, prepared; those that are wrong are answered."""
        batch: list[tuple[Waiting, Prepared]] = []
        with self._lock:
            oldest = self._waiting[:1]
            similar = [waiting for waiting in self._waiting if waiting.choices == oldest[0].choices]
        taken = set()
        is_on_cpu = served.loaded.model.device.type == "cpu"
        default_budget = CPU_BATCH_TOKENS if is_on_cpu else GPU_BATCH_TOKENS
        budget = self._limits.batch_tokens or default_budget
        longest = 0
        for waiting in similar:
            prepared: Prepared | BadRequest | None = None
            if not waiting.future.cancelled():
                try:
                    prepared = served.recommender(waiting.choices).prepare(waiting.request)
                except Exception as error:
                    prepared = _failure(error, waiting)
                if isinstance(prepared, Prepared):
                    longest = max(longest, len(prepared.query.prompt))
                    tokens = longest + served.tree_tokens(waiting.choices)
                    if batch and (len(batch) + 1) * tokens > budget:
                        break
                    batch.append((waiting, prepared))
                else:
                    waiting.resolve(Answered(prepared, served))
            taken.add(waiting)
        with self._lock:
            self._waiting = [waiting for waiting in self._waiting if waiting not in taken]
            self._metrics.waiting.set(len(self._waiting))
        return batch

    def _answer(self, served: Served, batch: Sequence[tuple[Waiting, Prepared]]) -> bool:
        """Answer a batch, and whether an error nobody foresaw came in place of an answer. An error
        of a batch is looked for request by request, so that it is that of the request which caused
        it."""
        requests = [waiting for waiting, _ in batch]
        try:
            recommender = served.recommender(requests[0].choices)
            prepared_requests = [prepared for _, prepared in batch]
            answers: list[Answer | None] = [*recommender.answer_prepared(prepared_requests)]
        except Exception as error:
            if len(batch) > 1:
                have_failed = [self._answer(served, [pair]) for pair in batch]
                return any(have_failed)
            answers = [_failure(error, requests[0])]
        for waiting, answer in zip(requests, answers, strict=True):
            waiting.resolve(Answered(answer, served))
        return None in answers


def _failure(error: Exception, waiting: Waiting) -> BadRequest | None:
    """The answer to a request that caused an error; None, and a line in the log, if nobody foresaw
    it. The message of such an error may quote the request, so it is not logged."""
    if isinstance(error, SidtoolError):
        return BadRequest(error, waiting.request.line, waiting.request.user)
    log.error("a request failed with %s", frames(error))
    return None
