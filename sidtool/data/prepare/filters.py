"""Which events of a raw data set stay: ratings, a window of time, known items, the k-core."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import UsageError
from sidtool.base.options import check_options, option
from sidtool.base.records import JsonRecord
from sidtool.data.prepare.raw import RawEvents
from sidtool.data.times import NUMBER, parse_time, units_per_second


@dataclass(frozen=True)
class FilterOptions(JsonRecord):
    """Which events stay. Raises UsageError for a number below 0."""

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


@dataclass(frozen=True)
class Step(JsonRecord):
    """A filter, and what is left after it."""

    name: str
    events: int
    users: int
    items: int


def filter_events(
    events: RawEvents,
    options: FilterOptions,
    *,
    catalog: Collection[str] | None = None,
    units_per_second: int = 1,
) -> tuple[RawEvents, tuple[Step, ...]]:
    """The events that stay, and the counts after each filter that applies.

    Filters apply in this order: rating, window, items of the `catalog`, repeated events (user, item
    and time), k-core. Dates are compared in `units_per_second` of the times. Raises UsageError for
    a rating threshold without ratings."""
    steps = [_step("read", events)]

    def keep(name: str, rows: NDArray[np.bool_]) -> None:
        nonlocal events
        events = events.select(rows)
        steps.append(_step(name, events))

    if options.min_rating is not None:
        if events.ratings is None:
            raise UsageError("--min-rating needs ratings, and the events have none")
        keep("rating", events.ratings >= options.min_rating)
    if options.since is not None or options.until is not None:
        keep("window", _in_window(events.times, options, units_per_second))
    if catalog is not None:
        in_catalog = np.array([item in catalog for item in events.items], dtype=np.bool_)
        keep("catalog", in_catalog[events.item_codes])
    keep("repeated", _first_of_each(events))
    if max(options.k_core, options.min_history) > 1:
        user_min = max(options.k_core, options.min_history)
        keep("core", core(events.user_codes, events.item_codes, user_min, options.k_core))
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


def _in_window(
    times: NDArray[np.float64], options: FilterOptions, unit: float
) -> NDArray[np.bool_]:
    """`unit`: of the data set's times, so many to a second; a table may have another one."""
    inside = np.ones(len(times), dtype=np.bool_)
    if unit == 1 and len(times):
        unit = units_per_second(float(np.median(times))) or 1
    if options.since is not None:
        inside &= times >= _moment(options.since, unit)
    if options.until is not None:
        inside &= times < _moment(options.until, unit)
    return inside


def _moment(text: str, unit: float) -> float:
    """A number as it is, or a date in the unit of the times. Raises UsageError."""
    try:
        return parse_time(text) * (1 if NUMBER.fullmatch(text) else unit)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"a moment is a number or an ISO date: {error}") from error


def _first_of_each(events: RawEvents) -> NDArray[np.bool_]:
    """(n,) the first of the events with one user, item and time."""
    order = np.lexsort((events.times, events.item_codes, events.user_codes))  # stable
    repeated = np.ones(max(len(events) - 1, 0), dtype=np.bool_)
    for values in (events.user_codes, events.item_codes, events.times):
        repeated &= values[order][1:] == values[order][:-1]
    mask = np.ones(len(events), dtype=np.bool_)
    mask[order[1:][repeated]] = False
    return mask


def _step(name: str, events: RawEvents) -> Step:
    users = len(np.unique(events.user_codes))
    return Step(name, len(events), users, len(np.unique(events.item_codes)))
