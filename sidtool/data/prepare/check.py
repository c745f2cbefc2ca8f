"""One report of everything that is wrong with a catalog and its events.

The commands that read data stop at the first problem. This report counts all of them, with
examples, and says which of them would stop a build."""

import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import RefusedError, SidtoolWarning
from sidtool.base.options import options_from
from sidtool.base.ranges import run_starts
from sidtool.base.records import JsonRecord
from sidtool.data.columns import CatalogColumns, EventColumns, EventNames
from sidtool.data.items import CatalogNames
from sidtool.data.prepare.tables import (
    CatalogTable,
    Cells,
    EventTable,
    are_empty,
    guess_flags,
    read_tables,
)
from sidtool.data.times import Moments, parse_moments
from sidtool.data.unknown_ids import UnknownIds, guess_spelling

STOPS = {
    *("no_items", "empty_item_id", "duplicate_item_id", "no_titles", "empty_user"),
    *("empty_event_item", "empty_time", "unreadable_time", "mixed_time", "mixed_time_unit"),
    "nothing_to_evaluate",
}
"""Problems that `split` or `build-codebook` refuse. `make-sft` refuses unknown items, too, if they
are too many (`UnknownIds`)."""
UNMENDED = {"no_titles", "nothing_to_evaluate"}
"""Those that `clean` cannot mend, beside `no_items`."""
MEANINGS = {
    "no_items": "no row below the header",
    "empty_item_id": "items without an id",
    "duplicate_item_id": "rows that repeat the id of an earlier row",
    "item_id_spelling": "ids that differ from another only by white space or Unicode form",
    "no_titles": "no column that looks like the title",
    "empty_title": "items without a title",
    "empty_user": "events without a user",
    "empty_event_item": "events without an item",
    "unknown_item": "events of items that the catalog lacks",
    "empty_time": "events without a time",
    "unreadable_time": "times that are neither numbers nor ISO dates",
    "mixed_time": "times of the rarer kind, where numbers and dates are mixed",
    "mixed_time_unit": "times in a finer unit than others, like milliseconds among seconds",
    "unordered": "events that are earlier than a row above of the same user; they are sorted",
    "tied_time": "events of a user at the time of a row above; the order of the rows counts",
    "duplicate_event": "events that repeat user, item and time of an earlier row",
    "single_event_user": "users with one event, which has no history before it",
    "nothing_to_evaluate": "no user has three events, the fewest that leave-one-out evaluates",
    "item_without_events": "items without events",
}
MAX_TIED_SHARE = 0.1
"""Of the events, above which the order of the rows is part of what is measured."""
MAX_EXAMPLES = 5
MIN_EVENTS = 3
"""Events of a user that leave-one-out evaluates."""


@dataclass(frozen=True)
class Problem(JsonRecord):
    """One kind of problem, how many rows have it, and examples with their rows (from 1)."""

    kind: str
    """One of MEANINGS"""
    table: Literal["items", "events"]
    count: int
    examples: tuple[str, ...]
    stops: bool
    """Whether it would stop a build."""

    @property
    def meaning(self) -> str:
        """What it says in words."""
        return MEANINGS[self.kind]

    def __str__(self) -> str:
        """What it says in words, with the number of rows if it is one of rows."""
        return self.meaning if self.meaning.startswith("no ") else f"{self.meaning}: {self.count}"


@dataclass(frozen=True)
class CheckReport(JsonRecord):
    """Everything that was checked, and every problem."""

    items: int
    """Rows of the catalog."""
    item_columns: CatalogColumns
    events: int | None
    """Rows of the events; None if no events were given."""
    event_columns: EventColumns | None
    users: int | None
    """Different users."""
    problems: tuple[Problem, ...]
    unknown: UnknownIds | None = None
    """Events of items that the catalog lacks; None if there are none."""

    @property
    def stops(self) -> tuple[Problem, ...]:
        """The problems that would stop a build."""
        return tuple(problem for problem in self.problems if problem.stops)

    def refuse_stops(self, hint: str, *, allow_unknown: bool) -> None:
        """Raise RefusedError if a problem would stop a build; a SidtoolWarning says that events are
        of unknown items, or that many have equal times."""
        others = [
            f"{problem} ({problem.examples[0]})"
            for problem in self.stops
            if problem.kind != "unknown_item"
        ]
        if self.unknown is not None:
            self.unknown.check(allow_unknown=allow_unknown or bool(others))
        if others:
            raise RefusedError(f"a build would stop: {'; '.join(others)}", hint=hint)
        tied = sum(problem.count for problem in self.problems if problem.kind == "tied_time")
        if tied > MAX_TIED_SHARE * (self.events or 0):
            warnings.warn(
                f"{tied / (self.events or 1):.0%} of events are at the time of another one of the "
                "user, and the rows order these: if the file is sorted by item, the next item is "
                "easy to guess",
                SidtoolWarning,
                stacklevel=2,
            )

    def mending_hint(
        self, items: Path, events: Path | None, table: EventTable | None, cleaning: str
    ) -> str:
        """How the problems that stop a build can be mended; `cleaning` says how the files are
        cleaned, where that is one of the ways."""
        kinds = {problem.kind for problem in self.stops}
        hints = []
        if "no_titles" in kinds:
            guessed = guess_flags(items, events) or ""
            named = "--title-column names the column that describes the items"
            hints.append(
                f"by their cells, columns are {guessed}" if "--title-column" in guessed else named
            )
        if "unreadable_time" in kinds and table is not None:
            hints.append(table.time_format_hint or "")
        if "nothing_to_evaluate" in kinds and table is not None:
            user = table.columns.user
            hints.append(f"--user-column names the column of users, if that is not {user!r}")
        mended = set() if "no_items" in kinds else kinds - UNMENDED
        if mended - {"unreadable_time"} or (mended and not any(hints)):
            hints.append(cleaning)
        return "; ".join(filter(None, hints))


def check(
    items: str | Path,
    events: str | Path | None = None,
    *,
    id_column: str | None = None,
    title_column: str | None = None,
    event_names: EventNames | None = None,
    allow_unknown: bool = False,
    **given: Any,
) -> CheckReport:
    """Check a catalog, and events on its items, in any format that the other commands read.

    Columns are chosen as `read_items` and `read_interactions` choose them; those of events may also
    be given as keywords, like `user_column="customer"`. With `allow_unknown`, no share of events of
    unknown items stops a build. `clean` writes cleaned copies. Raises UsageError for a missing
    column, DataError for a file that cannot be read at all.

    Examples:
        >>> report = sidtool.check("items.jsonl", "events.csv")
        >>> report.items, report.users, report.problems
        (60, 40, ())
    """
    columns = CatalogNames(id_column=id_column, title_column=title_column)
    path = None if events is None else Path(events)
    names = options_from(EventNames, event_names, given)
    catalog, table = read_tables(Path(items), path, columns, names)
    return report(catalog, table, allow_unknown=allow_unknown)


def report(
    catalog: CatalogTable, events: EventTable | None, *, allow_unknown: bool = False
) -> CheckReport:
    """The report of tables in memory."""
    problems = list(_item_problems(catalog))
    unknown = None
    if events is not None:
        for problem in _event_problems(events, catalog):
            if problem.kind == "unknown_item" and problem.count:
                guess = guess_spelling(
                    catalog.ids.names, catalog.unknown_ids(events.items), "the catalog", "events"
                )
                problem_text = "events are of items that the catalog lacks"
                unknown = UnknownIds(problem.count, len(events.items), problem_text, guess)
                problem = replace(problem, stops=unknown.is_refused and not allow_unknown)
            problems.append(problem)
    return CheckReport(
        items=len(catalog.ids),
        item_columns=catalog.columns,
        events=None if events is None else len(events.users),
        event_columns=None if events is None else events.columns,
        users=None if events is None else int(np.count_nonzero(events.events_of_user)),
        problems=tuple(problem for problem in problems if problem.count),
        unknown=unknown,
    )


def _item_problems(catalog: CatalogTable) -> Iterator[Problem]:
    ids = catalog.ids
    is_empty = are_empty(ids)
    if not ids:
        yield Problem("no_items", "items", 1, (", ".join(catalog.cells),), True)
    yield _of_rows("empty_item_id", "items", np.flatnonzero(is_empty), ids)
    repeated = repeated_rows(ids.codes)
    yield _of_rows("duplicate_item_id", "items", repeated[~is_empty[repeated]], ids)
    groups = spellings(ids.names)
    respelled = tuple(" and ".join(map(repr, group)) for group in groups[:MAX_EXAMPLES])
    n_respelled = sum(len(group) - 1 for group in groups)
    yield Problem("item_id_spelling", "items", n_respelled, respelled, False)
    if catalog.columns.title is None:
        yield Problem("no_titles", "items", 1, (", ".join(catalog.cells),), True)
    else:
        yield _of_rows("empty_title", "items", np.flatnonzero(~catalog.has_title), ids)


def _event_problems(events: EventTable, catalog: CatalogTable) -> Iterator[Problem]:
    users, items, times = events.users, events.items, events.times
    moments = None if times is None else parse_moments(times.names).at(times.codes)
    cells = {"unknown_item": items, "unreadable_time": times, "mixed_time": times}
    for kind, is_unusable in unusable_events(users, items, moments, catalog).items():
        yield _of_rows(kind, "events", np.flatnonzero(is_unusable), cells.get(kind))
    if times is not None and moments is not None:
        yield _of_rows("mixed_time_unit", "events", np.flatnonzero(moments.ratios > 1), times)
        yield _of_rows("unordered", "events", unordered_rows(users.codes, moments.seconds), times)
        tied = tied_rows(users.codes, items.codes, moments.seconds)
        yield _of_rows("tied_time", "events", tied, times)
        repeated = repeated_rows(users.codes, items.codes, times.codes)
        yield _of_rows("duplicate_event", "events", repeated, items)
    counts = events.events_of_user
    yield _of_rows("single_event_user", "events", np.flatnonzero(counts[users.codes] == 1), users)
    most = counts.max(initial=0)
    if most < MIN_EVENTS:
        yield Problem("nothing_to_evaluate", "events", 1, (f"at most {most} events",), True)


def unusable_events(
    users: Cells, items: Cells, moments: Moments | None, catalog: CatalogTable
) -> dict[str, NDArray[np.bool_]]:
    """Why events are left out -> (n,) those that are; `moments` are None if the rows are in
    order."""
    no_item = are_empty(items)
    flags = {
        "empty_user": are_empty(users),
        "empty_event_item": no_item,
        "unknown_item": catalog.lacks(items)[items.codes] & ~no_item,
    }
    if moments is not None:
        flags["empty_time"] = moments.is_empty
        flags["unreadable_time"] = np.isnan(moments.seconds) & ~moments.is_empty
        flags["mixed_time"] = moments.is_other_kind
    return flags


def _of_rows(
    kind: str,
    table: Literal["items", "events"],
    rows: NDArray[np.int64],
    cells: Sequence[str] | None = None,
) -> Problem:
    """A problem of rows, with examples of their cells."""
    examples = [
        f"row {row + 1}" + (f": {cells[row]!r}" if cells is not None and cells[row] else "")
        for row in rows[:MAX_EXAMPLES].tolist()
    ]
    return Problem(kind, table, len(rows), tuple(examples), kind in STOPS and len(rows) > 0)


def first_rows(*columns: NDArray[Any]) -> NDArray[np.int64]:
    """(n,): the first row that has the values of each row; none is NaN."""
    order = np.lexsort(columns)  # stable: the first row of equal ones comes first
    starts = run_starts(*(column[order] for column in columns))
    first = np.empty_like(order)
    first[order] = order[starts][np.cumsum(starts) - 1]
    return first


def repeated_rows(*columns: NDArray[Any]) -> NDArray[np.int64]:
    """The rows whose values are those of an earlier row."""
    return np.flatnonzero(first_rows(*columns) != np.arange(len(columns[0])))


def unordered_rows(users: NDArray[Any], seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """The rows that are earlier than a row of the same user above them; unknown times (NaN) are
    not compared."""
    rows = np.flatnonzero(~np.isnan(seconds))
    rows = rows[np.argsort(users[rows], kind="stable")]
    moments, ranks = np.unique(seconds[rows], return_inverse=True)
    places = users[rows].astype(np.int64) * len(moments) + ranks  # by user, then by time
    return np.sort(rows[places < np.maximum.accumulate(places)])


def tied_rows(
    users: NDArray[Any], items: NDArray[Any], seconds: NDArray[np.float64]
) -> NDArray[np.int64]:
    """The rows at the time of an earlier row of the user, with another item than the first one at
    this time; unknown times (NaN) are not compared."""
    rows = np.flatnonzero(~np.isnan(seconds))
    first = rows[first_rows(users[rows], seconds[rows])]
    return rows[items[first] != items[rows]]


def normal_form(text: str) -> str:
    """The text in Unicode's composed form (NFC), without white space around it. White space inside
    of it stays: "A  1" and "A 1" may be two items."""
    return unicodedata.normalize("NFC", text).strip()


def spellings(ids: Iterable[str]) -> list[tuple[str, ...]]:
    """The groups of different ids that people would call equal: they have one normal form, or
    differ by white space. Each is in order of first appearance."""
    groups: dict[str, dict[str, None]] = {}
    for item in ids:
        if item:
            groups.setdefault(" ".join(normal_form(item).split()), {})[item] = None
    return [tuple(group) for group in groups.values() if len(group) > 1]
