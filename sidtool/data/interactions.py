"""User-item interactions (events): who interacted with which item, in which order.

Ids are coded, so an event takes 24 bytes: 4 for each id, 8 for its order and 8 for its row. With a
memory budget these arrays lie in files (`spilled_events`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import UsageError
from sidtool.base.options import option, options_of
from sidtool.data.coded import Coded
from sidtool.data.columns import (
    HISTORY_COLUMNS,
    ID_COLUMNS,
    ORDER_COLUMNS,
    USER_COLUMNS,
    EventColumns,
    choose_column,
    need_column,
)
from sidtool.data.event_arrays import events_in_memory
from sidtool.data.spilled_events import Spill, spilled_events
from sidtool.data.tables.tables import column_names

Order = Literal["column", "row"]
"""What orders events: a column, or the rows of the file."""


@dataclass(frozen=True)
class Interactions:
    """n events, sorted by user (in order of first appearance), then by order, then by file row."""

    users: Coded[str]
    """n ids; their codes ascend."""
    items: Coded[str]
    """n ids."""
    order: NDArray[np.float64]
    """(n,): the numbers of the order column, or seconds since 1970 if it holds dates."""
    columns: EventColumns
    digest: str
    """SHA-256 over users, items and order."""
    rows: NDArray[np.int64]
    """(n,): the row of the file, from 0."""
    cells: Mapping[str, Coded[str]]
    """Further columns that were read: n texts each, without blanks around them; "" for no value."""

    def __len__(self) -> int:
        return len(self.users)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """(users,): the index of each user's first event."""
        codes = self.users.codes
        is_first = np.ones(len(codes), dtype=np.bool_)
        np.not_equal(codes[1:], codes[:-1], out=is_first[1:])
        return np.flatnonzero(is_first)

    @cached_property
    def stops(self) -> NDArray[np.int64]:
        """(users,): one more than the index of each user's last event."""
        return np.append(self.starts[1:], len(self))


@dataclass(frozen=True)
class EventNames:
    """Columns of events as a user names them. Raises UsageError for a column of an order that is
    that of the rows."""

    user: str | None = option(None, flag="--user-column")
    """Event column of user ids; guessed by default."""
    item: str | None = option(None, flag="--item-column")
    """Event column of item ids; guessed by default."""
    order: str | None = option(None, flag="--order-column")
    """Event column of time or order; guessed by default."""
    order_by: Order = option("column", flag="--order")
    """What orders events: a column of time or order, or the rows of the file."""

    def __post_init__(self) -> None:
        if self.order_by == "row" and self.order is not None:
            raise UsageError("--order row and --order-column contradict each other")

    @property
    def flags(self) -> list[str]:
        """The flags of what is not the default."""
        return [
            declared.flag or ""
            for field, declared in options_of(EventNames)
            if getattr(self, field.name) != field.default
        ]


def read_interactions(
    path: Path,
    names: EventNames | None = None,
    *,
    recorded: EventColumns | None = None,
    further: Sequence[str] = (),
    spill: Spill | None = None,
) -> Interactions:
    """Read events from a file of any type (`containers`), with the cells of `further` columns.

    Columns that are not named are those that a split has `recorded`, if the file has them, or
    guessed from USER_COLUMNS, ID_COLUMNS and ORDER_COLUMNS. Order is a number in all rows, or an
    ISO date in all; ties keep the file's order. With `spill` the same arrays are made within a
    memory budget, and lie in files.

    Raises UsageError for a missing column or a file of windows, DataError for malformed or empty
    cells."""
    available = column_names(path)
    columns = choose_event_columns(path, available, names or EventNames(), recorded)
    for name in further:
        choose_column(path, available, name, (), "events")
    if spill is None:
        events = events_in_memory(path, columns, further)
    else:
        events = spilled_events(path, columns, further, spill)
    users = Coded[str](events.users, events.user_codes)
    items = Coded[str](events.items, events.item_codes)
    cells = {name: Coded[str](*column) for name, column in events.cells.items()}
    return Interactions(users, items, events.order, columns, events.digest, events.rows, cells)


def choose_event_columns(
    path: Path, available: Sequence[str], named: EventNames, recorded: EventColumns | None = None
) -> EventColumns:
    """The columns of events among those of a file; errors as in `read_interactions`."""
    command = f"`sidtool split {path} -o SPLIT` names it with"
    if named.user is named.item is None and choose_column(
        path, available, None, HISTORY_COLUMNS, "history"
    ):
        raise UsageError(
            f"{path} holds windows (histories and targets), not events",
            hint=f"sidtool split {path} --protocol given --valid FILE --test FILE -o FOLDER",
        )
    user = need_column(
        path,
        available,
        named.user,
        USER_COLUMNS,
        "user id",
        f"{command} --user-column",
        recorded=recorded.user if recorded else None,
    )
    item = need_column(
        path,
        available,
        named.item,
        ID_COLUMNS,
        "item id",
        f"{command} --item-column",
        recorded=recorded.item if recorded else None,
    )
    rows_ordered = recorded is not None and recorded.order is None and named.order is None
    if named.order_by == "row" or rows_ordered:
        return EventColumns(user, item, None)
    order = need_column(
        path,
        available,
        named.order,
        ORDER_COLUMNS,
        "time or order of an event",
        f"{command} --order-column, or with --order row if the rows are in order",
        recorded=recorded.order if recorded else None,
    )
    return EventColumns(user, item, order)
