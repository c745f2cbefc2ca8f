"""Requests for recommendations and their answers, and both as JSON Lines."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sidtool.errors import DataError


@dataclass(frozen=True)
class Request:
    """What to recommend from: a history of item ids, oldest first, or a text.

    A text is queried without the history, which then only counts as seen items. `deny` items are
    never recommended; if `allow` is given, no others are."""

    user: str | None = None
    history: tuple[str, ...] = ()
    allow: tuple[str, ...] | None = None
    deny: tuple[str, ...] = ()
    text: str | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Request":
        """The request of a JSON object with `history` or `text`, and optionally `user`, `allow` and
        `deny`.

        Other keys are ignored. Raises DataError if a value has the wrong type."""
        history = _ids(value, "history")
        text = value.get("text")
        user = value.get("user")
        if text is not None and not isinstance(text, str):
            raise DataError(f"'text' of a request is a string, not {json.dumps(text)[:80]}")
        if history is None and text is None:
            raise DataError(
                f"a request has the key 'history' or 'text', this one has {sorted(value)}"
            )
        return cls(
            user=None if user is None else str(user),
            history=history or (),
            allow=_ids(value, "allow"),
            deny=_ids(value, "deny") or (),
            text=text,
        )


@dataclass(frozen=True)
class Recommendation:
    """The answer to one request, best item first; items that share a SID are adjacent, in the
    bundle's order."""

    user: str | None
    items: tuple[str, ...]
    scores: tuple[float, ...]
    """Log-probabilities of the SIDs."""
    sids: tuple[str, ...]
    titles: tuple[str, ...]
    unknown: int = 0
    """Number of ids of the history that the bundle lacks."""

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


def read_requests(lines: Iterable[str]) -> Iterator[Request]:
    """Requests of JSON Lines; blank lines are skipped. Raises DataError that names the line of a
    malformed one."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"line {number} of the requests is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise DataError(
                f"line {number} of the requests is not a JSON object: {line.strip()[:80]}"
            )
        try:
            # a byte that is no character, or half of a surrogate pair, cannot be encoded again
            json.dumps(value, ensure_ascii=False).encode()
            request = Request.from_json(value)
        except UnicodeEncodeError as error:
            raise DataError(f"line {number} of the requests is not UTF-8") from error
        except DataError as error:
            raise DataError(f"line {number} of the requests: {error}") from error
        yield request


def read_request_file(path: Path) -> Iterator[Request]:
    """Requests of a file of JSON Lines, read as they are needed. Raises DataError at once if there
    is no such file."""
    if not path.is_file():
        raise DataError(f"there is no request file {path}")

    def requests() -> Iterator[Request]:
        # undecodable bytes pass through, so that read_requests can name their line
        with path.open(encoding="utf-8", errors="surrogateescape") as lines:
            yield from read_requests(lines)

    return requests()


def _ids(value: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    ids = value.get(key)
    if ids is None:
        return None
    if not isinstance(ids, list) or not all(isinstance(item, str) for item in ids):
        raise DataError(f"{key!r} of a request is a list of item ids, not {json.dumps(ids)[:80]}")
    return tuple(ids)
