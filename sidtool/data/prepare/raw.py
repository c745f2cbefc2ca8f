"""Events of raw data sets as arrays, 24 bytes per event and each id once, and which of them stay:
by ratings, a window of time, known items, the k-core."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, UsageError
from sidtool.base.options import check_options, option
from sidtool.base.ranges import run_starts
from sidtool.base.records import JsonRecord
from sidtool.data.coded import Column
from sidtool.data.event_sort import ORDER, REST
from sidtool.data.interactions import EventCoder, event_batches
from sidtool.data.tables.delimited import delimited_batches
from sidtool.data.tables.opening import read_errors
from sidtool.data.tables.tables import column_names
from sidtool.data.times import MAX_WHOLE, NUMBER, check_one_unit, common_unit, parse_moment

BATCH = 1 << 16
"""Rows of Python values that a reader passes on at once."""
Cells = Mapping[str, Column]
"""Some rows of a file, as they stand there: the columns `user`, `item`, `order` (absent if the rows
are in order) and, if the file has ratings, `rating`."""


@dataclass(frozen=True)
class RawEvents:
    """n events in file order."""

    users: Sequence[str]
    """Ids of users by code, in order of first appearance."""
    items: Sequence[str]
    """Ids of items by code, in order of first appearance."""
    columns: Mapping[str, NDArray[Any]]
    """As in Cells, (n,) each: `user` and `item` as codes, `order` in the unit of the file, and
    `rating`, NaN where there is none, if the file has ratings."""
    has_dates: bool
    """Whether the order was in dates."""

    def __len__(self) -> int:
        return len(self.columns["user"])

    def select(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> "RawEvents":
        """Some of the events; the lists of ids stay as they are."""
        return replace(self, columns={name: of[rows] for name, of in self.columns.items()})


def table_batches(path: Path, columns: Mapping[str, str]) -> Iterator[Cells]:
    """The events of a table of any type; `columns` are the names that the file has for those of
    Cells. Raises DataError for a missing column or a malformed row."""
    available = column_names(path)
    missing = [name for name in columns.values() if name not in available]
    if missing:
        raise DataError(f"{path} has no column {missing[0]!r}: {', '.join(available)}")
    yield from event_batches(path, columns)


def headless_batches(path: Path, kind: str, available: Sequence[str]) -> Iterator[Cells]:
    """The events of a delimited file of this kind that does not name its columns."""
    with read_errors(path):
        yield from delimited_batches(path, available, (), kind=kind, available=available)


def row_batches(rows: Iterator[tuple[str, str, str, str]]) -> Iterator[Cells]:
    """Rows of user, item, order and rating."""
    import pyarrow as pa

    while block := list(islice(rows, BATCH)):
        columns = [pa.chunked_array([cells]) for cells in zip(*block, strict=True)]
        yield dict(zip(("user", "item", "order", "rating"), columns, strict=True))


def collect(files: Iterable[tuple[Path, Iterable[Cells]]]) -> RawEvents:
    """All events of files. Raises DataError, with file and row, for an empty id and for a time or
    rating that cannot be read, for times of several units, and if there are no events."""
    coder = EventCoder()
    parts: dict[str, list[NDArray[Any]]] = {"user": [], "item": [], "order": []}
    for path, batches in files:
        for run in coder.runs(path, batches):
            for name in ("user", "item"):
                parts[name].append(run[name].to_numpy())
            parts["order"].append(_moments(run))
            if "rating" in run.schema.names:
                ratings = _ratings(path, coder.texts("rating").tolist(), run)
                parts.setdefault("rating", []).append(ratings)
        check_one_unit(path, coder.units)
    if not parts["user"]:
        raise DataError("there are no events")
    columns = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    ids = (coder.texts("user").tolist(), coder.texts("item").tolist())
    return RawEvents(*ids, columns, coder.has_dates)


def _moments(run: Any) -> NDArray[np.int64] | NDArray[np.float64]:
    """(rows,) the order of a run, whole numbers as such: a float64 rounds nanoseconds."""
    numbers, rest = (run[name].to_numpy() for name in (ORDER, REST))
    are_whole = (numbers % 1 == 0) & (rest % 1 == 0) & (np.abs(numbers) < MAX_WHOLE)
    return numbers.astype(np.int64) + rest.astype(np.int64) if are_whole.all() else numbers


def _ratings(path: Path, texts: Sequence[str], run: Any) -> NDArray[np.float64]:
    """(rows,) the ratings of a run, whose codes mean these texts; NaN for an empty one."""
    codes = run["rating"].to_numpy()
    numbers = np.full(len(texts), np.nan)
    for code in np.unique(codes).tolist():
        text = texts[code]
        try:
            numbers[code] = float(text or "nan")
        except ValueError as error:
            row = run["row"][int(np.argmax(codes == code))].as_py() + 1
            raise DataError(f"{path}, row {row}: the rating {text[:40]!r} is no number") from error
    return numbers[codes]


@dataclass(frozen=True)
class FilterOptions(JsonRecord):
    """Which events stay. Raises UsageError for a number below 0, and for a moment that is neither a
    number nor a date."""

    min_rating: float | None = option(None)
    """Lowest rating that counts as an event. Of kuairand: 1, a click."""
    since: str | None = option(None)
    """Keep events at or after this number or ISO date."""
    until: str | None = option(None)
    """Keep events before this number or ISO date."""
    k_core: int = option(0, minimum=0)
    """Minimum events per user and per item, of those that stay; 0 keeps all."""
    min_history: int = option(0, minimum=0)
    """Minimum events per user, if larger than --k-core."""

    def __post_init__(self) -> None:
        check_options(self)
        for name in ("since", "until"):
            if (moment := getattr(self, name)) is not None:
                object.__setattr__(self, name, str(moment))  # a number, or a date of pandas
                parse_moment(str(moment))  # refused before the events are read


@dataclass(frozen=True)
class Step(JsonRecord):
    """A filter, and what is left after it."""

    name: str
    events: int
    users: int
    items: int


def filter_events(
    events: RawEvents, options: FilterOptions, *, catalog: Collection[str] | None = None
) -> tuple[RawEvents, tuple[Step, ...]]:
    """The events that stay, and the counts after each filter that applies.

    Filters apply in this order: rating, window, items of the `catalog`, repeated events (user, item
    and time), k-core. Raises UsageError for a rating threshold without ratings."""
    steps = [_step("read", events)]

    def keep(name: str, rows: NDArray[np.bool_]) -> None:
        nonlocal events
        events = events.select(rows)
        steps.append(_step(name, events))

    if options.min_rating is not None:
        if "rating" not in events.columns:
            raise UsageError("--min-rating needs ratings, and the events have none")
        keep("rating", events.columns["rating"] >= options.min_rating)
    if options.since is not None or options.until is not None:
        keep("window", _in_window(events, options))
    if catalog is not None:
        in_catalog = np.array([item in catalog for item in events.items], dtype=np.bool_)
        keep("catalog", in_catalog[events.columns["item"]])
    keep("repeated", _first_of_each(events))
    user_min = max(options.k_core, options.min_history)
    if user_min > 1:
        keep("core", core(events.columns["user"], events.columns["item"], user_min, options.k_core))
    return events, tuple(steps)


def core(
    users: NDArray[np.int32], items: NDArray[np.int32], user_min: int, item_min: int
) -> NDArray[np.bool_]:
    """(n,) which events are in the largest set in which every user has `user_min` events and every
    item `item_min`: users and items with fewer are removed until none is left to remove."""
    rows = np.arange(len(users))
    while True:
        enough_users = np.bincount(users[rows], minlength=1) >= user_min
        enough_items = np.bincount(items[rows], minlength=1) >= item_min
        stays = enough_users[users[rows]] & enough_items[items[rows]]
        if stays.all():
            break
        rows = rows[stays]
    mask = np.zeros(len(users), dtype=np.bool_)
    mask[rows] = True
    return mask


def _in_window(events: RawEvents, options: FilterOptions) -> NDArray[np.bool_]:
    """(n,) which times are in the window, whose dates are in the unit of the times. Raises
    UsageError for a date if the order is no time, and for a number in another unit."""
    times = events.columns["order"]
    inside = np.ones(len(times), dtype=np.bool_)
    unit = common_unit(times, are_dates=events.has_dates)
    for moment in filter(None, (options.since, options.until)):
        fits = unit is not None
        if NUMBER.fullmatch(moment):
            fits = common_unit(np.array([float(moment)]), are_dates=False) == unit
        if len(times) and not fits:
            raise UsageError(
                f"the moment {moment} is not in the unit of the times, like {times.max():.16g}",
                hint="write a date, or such a number; --time-format '%Y%m%d' reads dates as digits",
            )
    unit = unit or 1
    if options.since is not None:
        inside &= times >= parse_moment(options.since, unit)
    if options.until is not None:
        inside &= times < parse_moment(options.until, unit)
    return inside


def _first_of_each(events: RawEvents) -> NDArray[np.bool_]:
    """(n,) the first of the events with one user, item and time."""
    keys = [events.columns[name] for name in ("order", "item", "user")]
    order = np.lexsort(keys)  # stable
    mask = np.empty(len(events), dtype=np.bool_)
    mask[order] = run_starts(*(values[order] for values in keys))
    return mask


def _step(name: str, events: RawEvents) -> Step:
    users, items = (len(np.unique(events.columns[of])) for of in ("user", "item"))
    return Step(name, len(events), users, items)
