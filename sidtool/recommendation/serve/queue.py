"""The requests that wait for the model, in the order of their arrival, by their options."""

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from sidtool.recommendation.requests import Request
from sidtool.recommendation.serve.choices import Choices


@dataclass(eq=False)
class Waiting:
    """A request that waits for its answer."""

    request: Request
    choices: Choices
    future: Any
    """The future of the call that waits; a cancelled one needs no answer."""
    arrived: float = field(default_factory=time.monotonic)


class Queue:
    """Waiting requests. Those with the same options can share a batch; the oldest request decides
    which options are next, so none starves."""

    def __init__(self) -> None:
        self._by_choices: dict[Choices, deque[Waiting]] = {}
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, waiting: Waiting) -> None:
        """Put a request behind all others."""
        self._by_choices.setdefault(waiting.choices, deque()).append(waiting)
        self._length += 1

    def put_back(self, waiting: Waiting) -> None:
        """Put a request that was taken before all others with its options."""
        self._by_choices.setdefault(waiting.choices, deque()).appendleft(waiting)
        self._length += 1

    def oldest(self) -> Waiting | None:
        """The request that waits longest."""
        heads = (line[0] for line in self._by_choices.values())
        return min(heads, key=lambda waiting: waiting.arrived, default=None)

    def take(self, choices: Choices) -> Waiting | None:
        """Take the oldest request with these options."""
        line = self._by_choices.get(choices)
        if not line:
            return None
        waiting = line.popleft()
        self._length -= 1
        if not line:
            del self._by_choices[choices]
        return waiting
