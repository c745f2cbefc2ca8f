"""Limits on the time and memory of a call in this process, and what the call used."""

import json
import resource
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from tests.waiting import DEADLOCK

SECONDS = 2.0
"""Processor time in which a hostile input is refused, on a machine where `REFERENCE` takes ..."""
REFERENCE_SECONDS = 0.015
"""... so long. A slower or busier machine is given more time, in proportion (see `allowance`)."""
REFERENCE = b"[" + b"{}," * 200_000 + b"{}]"
"""A JSON document: parsing it takes processor time, allocates, and runs the garbage collector."""
MEMORY = 64 << 20
"""Bytes that refusing an input may take, ..."""
MEMORY_PER_BYTE = 20
"""... and more for each byte of the input."""
ADDRESS_SPACE = 4 << 30
"""Bytes that a call may map before an allocation fails, so that it cannot take the machine down."""
IMPORTING = 10
"""A call that imports modules may take this many times as much."""

_CLEAR_PEAK = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


class OutOfTime(BaseException):
    """Raised inside a call that takes too long; no handler for Exception catches it."""


@dataclass(frozen=True)
class Usage:
    seconds: float
    """processor time"""
    memory: int
    """bytes by which resident memory grew at its peak"""
    imported: bool
    """whether the call imported modules, which costs time and memory once"""


@contextmanager
def limited(seconds: float = SECONDS) -> Iterator[list[Usage]]:
    """Run a block under the limits. The list has its usage when the block has ended.

    Raises OutOfTime in the block after `IMPORTING` times `seconds` of processor time, and where it
    waits for ever.
    """
    used: list[Usage] = []
    modules = len(sys.modules)
    before = _reset_peak()
    begun = time.process_time()
    with _timers(seconds), _address_space():
        try:
            yield used
        finally:
            spent = time.process_time() - begun
            imported = len(sys.modules) > modules
            used.append(Usage(spent, _status(b"VmHWM:") - before, imported))


def allowance(seconds: float) -> float:
    """The processor time of this process, now, that stands for `seconds` of the reference."""
    begun = time.process_time()
    json.loads(REFERENCE)
    return seconds * max(1.0, (time.process_time() - begun) / REFERENCE_SECONDS)


def check_seconds(usage: Usage, seconds: float = SECONDS) -> None:
    """Fail if a call used more than `seconds` of the reference; measured only where it is in
    doubt."""
    if usage.seconds > seconds:
        # a machine may be busy for a moment only: the slowest of some moments counts
        allowed = max(allowance(seconds) for _ in range(5))
        assert usage.seconds <= allowed, f"{usage.seconds:.1f} s, allowed {allowed:.1f} s"


@contextmanager
def _timers(seconds: float) -> Iterator[None]:
    timers = {
        signal.ITIMER_PROF: (signal.SIGPROF, seconds * IMPORTING),
        signal.ITIMER_REAL: (signal.SIGALRM, DEADLOCK),
    }
    stopped: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        if not stopped:  # both timers may end at once, and what the first raised is caught by then
            stopped.append(number)
            raise OutOfTime

    handlers = {number: signal.signal(number, stop) for number, _ in timers.values()}
    for timer, (_, limit) in timers.items():
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for timer in timers:
            signal.setitimer(timer, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _address_space() -> Iterator[None]:
    mapped = _status(b"VmSize:")
    if not mapped:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = mapped + ADDRESS_SPACE
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _reset_peak() -> int:
    """Make the present memory the peak; returns it in bytes, or 0 where this cannot be measured."""
    if _CLEAR_PEAK.exists():
        _CLEAR_PEAK.write_bytes(b"5")
    return _status(b"VmRSS:")


def _status(key: bytes) -> int:
    """A size in bytes of this process; 0 on a system other than Linux."""
    if not _STATUS.exists():
        return 0
    status = _STATUS.read_bytes()
    return int(status.partition(key)[2].split(maxsplit=1)[0]) << 10
