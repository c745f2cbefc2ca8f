"""Requests for recommendations and their answers, and both as JSON Lines.

A line that is no request becomes a `BadRequest` in its place, so that it costs no other line its
answer."""

import json
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from numbers import Integral
from pathlib import Path
from typing import IO, Any

from sidtool.base.documents import parse_json
from sidtool.base.errors import DataError, SidtoolError
from sidtool.data import NO_FIELDS, Fields
from sidtool.data.tables import PARQUET, library_errors, parquet_rows

LINE_LIMIT = 1 << 25
"""Bytes of a line that is too long to be read: a history of a million items fits."""
SHOWN = 5
"""Titles in the representation of a recommendation."""
KEYS = ("user", "history", "text", "allow", "deny", "fields")
TARGET_KEYS = ("item", "position", "feedback", "rest")
"""The keys of a split's examples that say what was held out: a request may have them, too."""


@dataclass(frozen=True)
class Request:
    """What to recommend from: a history of item ids, oldest first, or a text.

    A text is queried without the history, which then only counts as seen items. `deny` items are
    never recommended; if `allow` is given, no others are. Lists of ids may be lists or tuples.

    Raises DataError if a value has the wrong type."""

    user: str | None = None
    history: Sequence[str] = ()
    allow: Sequence[str] | None = None
    deny: Sequence[str] = ()
    text: str | None = None
    fields: Fields = field(default=NO_FIELDS, hash=False)
    """What the model's prompt shows of the user, the events of the history and the context."""
    line: int | None = field(default=None, compare=False, repr=False)
    """Number of the line that it was read from, from 1."""

    def __post_init__(self) -> None:
        values: Mapping[str, Any] = vars(self)
        text = values["text"]
        user = values["user"]
        if text is not None and not isinstance(text, str):
            raise DataError(f"'text' of a request is a string, not {_brief(text)}")
        if user is not None and not _is_id(user):
            raise DataError(f"'user' of a request is a string or an integer, not {_brief(user)}")
        if not isinstance(values["fields"], Fields):
            raise DataError(f"'fields' of a request is a Fields, not {_brief(values['fields'])}")
        object.__setattr__(self, "user", None if user is None else str(user))
        object.__setattr__(self, "history", item_ids(values, "history") or ())
        object.__setattr__(self, "allow", item_ids(values, "allow"))
        object.__setattr__(self, "deny", item_ids(values, "deny") or ())

    @classmethod
    def from_json(cls, value: Mapping[str, Any], line: int | None = None) -> "Request":
        """The request of a JSON object with `history` or `text`, and optionally `user`, `allow`,
        `deny` and `fields`.

        Those of a split's examples are requests: what was held out is ignored. Raises DataError for
        another key, or if a value has the wrong type."""
        refuse_others("a request", value, KEYS, TARGET_KEYS)
        history = item_ids(value, "history")
        if history is None and value.get("text") is None:
            keys = sorted(key for key, part in value.items() if part is not None)
            raise DataError(
                f"a request has the key 'history' or 'text', this one has {_brief(keys)}"
            )
        fields = value.get("fields")
        return cls(
            user=value.get("user"),
            history=history or (),
            fields=NO_FIELDS if fields is None else Fields.from_json(fields, len(history or ())),
            allow=item_ids(value, "allow"),
            deny=item_ids(value, "deny") or (),
            text=value.get("text"),
            line=line,
        )


@dataclass(frozen=True)
class BadRequest:
    """A request that cannot be answered, in its place among the answers."""

    error: SidtoolError
    line: int | None
    """Number of the line that it was read from, from 1."""
    user: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The user and the line, if there are any, and the error."""
        value = {"user": self.user, "line": self.line, "error": str(self.error)}
        return {key: part for key, part in value.items() if part is not None}


def request_or_bad(value: Any, number: int, where: str) -> Request | BadRequest:
    """The request of a JSON value, or why it is none."""
    try:
        if not isinstance(value, dict):
            raise DataError("not a JSON object")
        return Request.from_json(value, number)
    except DataError as error:
        return BadRequest(DataError(f"{where}: {error}"), number)


RequestLike = Request | Sequence[str] | Mapping[str, Any]
"""A request, a history of item ids, or the JSON object of a request."""


def as_request(value: RequestLike | BadRequest) -> Request | BadRequest:
    """The request that a value stands for, or why it stands for none."""
    if isinstance(value, Request | BadRequest):
        return value
    try:
        return Request.from_json(value if isinstance(value, Mapping) else {"history": value})
    except DataError as error:
        return BadRequest(error, None)


@dataclass(frozen=True)
class Explanation:
    """What a memory, and a re-ranker, contribute to one recommended item."""

    memory_share: float
    """The part of the item's probability that comes from the memory; the rest is the model's."""
    because_of: Mapping[str, float]
    """Items of the history, by their part of the memory's score, largest first: at most three."""
    raised_by: Mapping[str, float] = field(default_factory=dict)
    """Features of the re-ranker, by how much they raise the item's score, largest first: at most
    three."""


@dataclass(frozen=True)
class Recommendation:
    """The answer to one request, best item first; items that share a SID are adjacent, in the
    bundle's order. The items of a list are in the order in which the model wrote them."""

    user: str | None
    items: tuple[str, ...]
    scores: tuple[float, ...]
    """Log-probabilities of the SIDs; with a memory, of the items by the mixture; in a list, of each
    SID after those before it."""
    sids: tuple[str, ...]
    titles: tuple[str, ...]
    unknown: int = 0
    """Number of ids of the history that the bundle lacks."""
    unknown_allowed: int = 0
    """Number of ids of the request's allow list that the bundle lacks."""
    unknown_denied: int = 0
    """Number of ids of the request's deny list that the bundle lacks."""
    missing: int = 0
    """Number of items fewer than k: filters or catalog leave no more, or the prompt is empty."""
    explanations: tuple[Explanation, ...] | None = None
    """One per item, if they were requested."""
    list_score: float | None = None
    """Log-probability of the list, the sum of `scores`; None for items that are no list."""

    def __repr__(self) -> str:
        """The user and the first titles, or ids where there are none."""
        names = [title or item for title, item in zip(self.titles, self.items, strict=True)]
        first_names = " | ".join(names[:SHOWN]) + (" | ..." if len(names) > SHOWN else "")
        user = "" if self.user is None else f" for {self.user}"
        unknown = f" ({self.unknown} unknown in the history)" if self.unknown else ""
        return f"<{len(names)} items{user}{unknown}: {first_names}>"

    def to_json(self) -> dict[str, Any]:
        """The fields by name."""
        value = dict(vars(self))  # asdict copies every text
        for name in ("explanations", "list_score"):
            if value[name] is None:
                del value[name]
        if self.explanations is not None:
            value["explanations"] = tuple(map(asdict, self.explanations))
            for explanation in value["explanations"]:
                if not explanation["raised_by"]:
                    del explanation["raised_by"]
        return value


def parse_request(line: bytes, number: int) -> Request:
    """The request of a line. Raises DataError, with the number of the line, if it is none."""
    where = f"line {number} of the requests"
    if len(line) >= LINE_LIMIT:
        raise DataError(f"{where} has {LINE_LIMIT} bytes or more")
    try:
        text = line.decode("utf-8")
        value = parse_json(text)
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8") from error
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise DataError(f"{where} is not a JSON object: {text.strip()[:80]}")
    try:
        return Request.from_json(value, number)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error


def read_request_file(path: Path) -> Iterator[Request | BadRequest]:
    """Requests of a file of JSON Lines, or of a Parquet file with the keys as columns, read as they
    are needed. Raises DataError at once if there is no such file."""
    is_parquet = path.name.lower().endswith(PARQUET)
    if not (path.exists() if is_parquet else path.is_file()):
        hint = "--file - reads a pipe" if path.exists() else None
        hint = "--engine ray answers a folder of Parquet" if path.is_dir() else hint
        raise DataError(f"there is no request file {path}", hint=hint)
    if is_parquet:
        return read_parquet_requests(path)

    def requests() -> Iterator[Request | BadRequest]:
        with path.open("rb") as stream:
            yield from read_request_stream(stream)

    return requests()


def read_parquet_requests(
    path: Path, *, name: str | None = None, first_row: int = 0
) -> Iterator[Request | BadRequest]:
    """The requests of a Parquet file or folder, a row each. If they are some rows of a larger
    table, that has the `name`, and their first row has a number from 0."""
    with library_errors(path, "requests"):
        for number, row in enumerate(parquet_rows(path), start=first_row + 1):
            yield request_or_bad(row, number, f"row {number} of {name or path}")


def read_request_stream(stream: IO[bytes]) -> Iterator[Request | BadRequest]:
    """Requests of a binary stream of JSON Lines, which may begin with a byte order mark. Only a
    line feed ends a line, and each is cut off at LINE_LIMIT. Blank lines are skipped, and a
    BadRequest is in the place of a malformed one."""
    number = 0
    while line := stream.readline(LINE_LIMIT):
        chunk = line
        while len(chunk) == LINE_LIMIT and not chunk.endswith(b"\n"):
            chunk = stream.readline(LINE_LIMIT)
        number += 1
        line = line.removeprefix(BOM_UTF8) if number == 1 else line
        if not line.strip():
            continue
        try:
            yield parse_request(line, number)
        except DataError as error:
            yield BadRequest(error, number)


def item_ids(value: Mapping[str, Any], key: str) -> tuple[str, ...] | None:
    """The ids in a list of a request, or None. Raises DataError for anything else."""
    ids = value.get(key)
    if ids is None:
        return None
    if not isinstance(ids, list | tuple) or not all(map(_is_id, ids)):
        raise DataError(
            f"{key!r} of a request is a list of item ids, strings or integers, not {_brief(ids)}"
        )
    return tuple(map(str, ids))


def _is_id(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, Integral) and not isinstance(value, bool))


def refuse_others(
    what: str, value: Mapping[str, Any], known: Sequence[str], ignored: Sequence[str] = ()
) -> None:
    """Raise DataError for a key that is neither known nor ignored: a filter of another name would
    do nothing."""
    for key in value:
        if key not in known and key not in ignored:
            keys = ", ".join(known)
            raise DataError(f"{what} has the key {str(key)[:80]!r}, known are {keys}")


def _brief(value: Any) -> str:
    return json.dumps(value, default=repr, skipkeys=True)[:80]


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
            self.requests += 1
            if isinstance(answer, BadRequest):
                self.bad += 1
                self.first_bad = self.first_bad or answer
            else:
                self.short += answer.missing > 0
            yield answer

    def add_line(self, line: Mapping[str, Any]) -> None:
        """Count an answer by what `to_json` returned of it."""
        self.requests += 1
        self.short += line.get("missing", 0) > 0
        if "error" in line:
            self.bad += 1
            bad = BadRequest(DataError(line["error"]), line.get("line"), line.get("user"))
            self.first_bad = self.first_bad or bad

    def raise_bad(self) -> None:
        """Raise the error of the first bad request, if there is one, and count the others."""
        if self.first_bad is None:
            return
        error = self.first_bad.error
        if self.bad == 1:
            raise error
        raise DataError(
            f"{self.bad} of {self.requests} requests cannot be answered; the first: {error}",
            hint=error.shell_hint,
        )
