"""What became of the requests of a run: how many were answered, and how well."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sidtool.base.errors import DataError, SidtoolError
from sidtool.recommendation.requests import BadRequest, Recommendation

Answer = Recommendation | BadRequest


@dataclass
class Outcome:
    """What became of the requests of a run so far."""

    requests: int = 0
    short: int = 0
    """Requests with fewer than k items."""
    bad: int = 0
    """Requests that could not be answered."""
    first_bad: BadRequest | None = None

    def count(self, answers: Iterable[Answer]) -> Iterator[Answer]:
        """Pass answers on, and count them."""
        for answer in answers:
            self.add([answer])
            yield answer

    def add(self, answers: Iterable[Answer]) -> None:
        """Count answers."""
        for answer in answers:
            self.requests += 1
            if isinstance(answer, BadRequest):
                self.bad += 1
                self.first_bad = self.first_bad or answer
            else:
                self.short += answer.missing > 0

    def add_line(self, line: Mapping[str, Any]) -> None:
        """Count an answer by what `to_json` returned of it."""
        if "error" in line:
            self.add([BadRequest(DataError(line["error"]), line.get("line"), line.get("user"))])
        else:
            self.requests += 1
            self.short += line.get("missing", 0) > 0

    def raise_bad(self) -> None:
        """Raise the error of the first bad request, if there is one, and count the others."""
        if self.first_bad is None:
            return
        error = self.first_bad.error
        if self.bad == 1:
            raise error
        raise DataError(
            f"{self.bad} of {self.requests} requests cannot be answered; the first: {error}",
            hint=error.hint,
        )


def at_line(error: SidtoolError, line: int | None) -> SidtoolError:
    """The same error, with the line of its request if it has one."""
    if line is None:
        return error
    return type(error)(f"line {line} of the requests: {error}", hint=error.hint)
