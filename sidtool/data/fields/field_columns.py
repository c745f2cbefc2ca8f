"""Columns of events and of a table of users as typed fields."""

import re
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, SidtoolWarning, UsageError
from sidtool.base.options import Option, check_options, option
from sidtool.data.coded import Coded, object_array
from sidtool.data.columns import Header
from sidtool.data.fields.fields import (
    TARGET,
    TARGET_VALUES,
    Condition,
    EventStore,
    FieldType,
    FieldTypes,
    Value,
)
from sidtool.data.interactions import Interactions
from sidtool.data.tables.tables import column_names, read_columns, rows_by_id
from sidtool.data.times import NUMBER

CellKind = FieldType | Literal["long"]
"""The type of one cell; "long" is a whole number of more than 18 digits."""
INTEGER = re.compile(r"[+-]?[0-9]{1,18}", re.ASCII)
LONG = re.compile(r"[+-]?[0-9]{19,}", re.ASCII)
SLOT_NAME = re.compile(r"(?!.*:token$)[^{}]+", re.DOTALL)
"""The name of a field in a slot, `{user.NAME}` or `{user.NAME:token}`."""
FITTING_KINDS: Mapping[FieldType, tuple[CellKind, ...]] = {
    "str": ("int", "long", "float", "str"),
    "float": ("int", "long", "float"),
    "int": ("int",),
}
"""The kinds of cells that a field of each type may have."""


@dataclass(frozen=True)
class FieldName:
    """A column as a user names it, with its type or None: the type of its values is then found.
    Raises UsageError for another type, and for a name that no slot of a template can have."""

    name: str
    type: FieldType | None = None

    def __post_init__(self) -> None:
        Option().check("the type of a field", self.type, FieldType | None)
        if not SLOT_NAME.fullmatch(self.name):
            raise UsageError(
                f"a field cannot have the name {self.name!r}: templates could not show it",
                hint="give the column another name, or name the others (--user-field)",
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """The name of `rating`, or of `rating:float`."""
        name, _, kind = text.rpartition(":")
        if name and kind in get_args(FieldType):
            return cls(name, kind)  # type: ignore[arg-type]
        return cls(text)


def field_names(texts: list[str]) -> tuple[FieldName, ...]:
    """The names of several texts."""
    return tuple(map(FieldName.parse, texts))


@dataclass(frozen=True)
class FieldOptions:
    """Which fields a split records. Raises UsageError for a name in two roles, or for options
    about a table of users without the table."""

    feedback: tuple[FieldName, ...] = option((), reads=field_names, metavar="COLUMN[:TYPE]")
    """Column known only after an event, like rating or behavior:str; repeatable. TYPE is int, float
    or str; default: what its values are."""
    context: tuple[FieldName, ...] = option((), reads=field_names, metavar="COLUMN[:TYPE]")
    """Column known before an event, like device; repeatable."""
    user_fields: tuple[FieldName, ...] = option(
        (), reads=field_names, flag="--user-field", metavar="COLUMN[:TYPE]"
    )
    """Column of --users; repeatable. Default: all columns."""
    users: Path | None = option(None, metavar="FILE")
    """Table of users, one row each: age, country, ..."""
    times: bool = option(False)
    """Record the time of every event, for {gap} and {ago} in templates, and for --extends."""
    target: tuple[str, ...] = option((), metavar="CONDITION")
    """What counts as a target, like 'rating>=4' or behavior=buy; repeatable, all must hold. Other
    events stay in histories."""

    conditions: tuple[Condition, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        check_options(self)
        object.__setattr__(self, "conditions", tuple(map(Condition.parse, self.target)))
        names = [column.name for column in self.event_fields]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(f"column {name!r} is named twice as feedback or context")
        if TARGET in names:
            raise UsageError(
                f"a field of events cannot have the name {TARGET!r}, which --target marks",
                hint="give the column another name",
            )
        if self.user_fields and self.users is None:
            raise UsageError("--user-field requires --users")

    @property
    def all_feedback(self) -> tuple[FieldName, ...]:
        """The feedback columns, those of conditions included."""
        named = {column.name for column in (*self.feedback, *self.context)}
        compared = dict.fromkeys(condition.field for condition in self.conditions)
        implied = (FieldName(name) for name in compared if name not in named)
        return (*self.feedback, *implied)

    @property
    def event_fields(self) -> tuple[FieldName, ...]:
        """All columns of events."""
        return (*self.all_feedback, *self.context)

    def check_users(self) -> None:
        """Raise UsageError unless the table of users has the fields, DataError if there is none."""
        if self.users is not None:
            header = Header(self.users, column_names(self.users))
            for name in self.user_fields or map(FieldName, header.names):
                header.check(name.name, "user field")

    @property
    def any(self) -> bool:
        """Whether there is any field."""
        return bool(self.event_fields or self.users is not None or self.times)


def read_fields(
    path: Path, events: Interactions, options: FieldOptions, *, is_subset: bool = False
) -> EventStore:
    """The events of a file, which were read with the cells of `options.event_fields`, with their
    fields and those of their users.

    Raises UsageError for a missing column, one of ids or an unfit condition, DataError for mixed
    types, a value that is not of its type, an order that is no time, or a user with two rows; also
    for events without a target or without any value of a field, unless they are those
    of some users (`is_subset`) and the field's type is named."""
    for name in options.event_fields:
        if name.name in (events.columns.user, events.columns.item):
            # as context, the item would be its own prompt
            raise UsageError(f"column {name.name!r} has the ids of the events, it is no field")
    types: dict[str, FieldType] = {}
    columns: dict[str, Coded[Value | None]] = {}
    for name in options.event_fields:
        flag = "--context" if name in options.context else "--feedback"
        cells = events.cells[name.name]
        types[name.name], columns[name.name] = typed_values(
            path, name, cells, events.rows, flag, is_subset=is_subset
        )
    is_target = np.ones(len(events), dtype=np.bool_)
    for condition in options.conditions:
        is_target &= condition.holds(columns[condition.field], types[condition.field])
    if options.conditions:
        if not (is_target.any() or is_subset):
            raise DataError(f"no event of {path} fulfills --target {' '.join(options.target)}")
        marks = object_array(TARGET_VALUES[flag] for flag in (False, True))
        columns[TARGET] = Coded(marks, is_target.astype(np.int8))
    user_types, users = _read_users(options, events)
    table_types = FieldTypes(
        {name.name: types[name.name] for name in options.all_feedback},
        {name.name: types[name.name] for name in options.context},
        user_types,
        options.times,
        options.target,
    )
    times = event_seconds(path, events, "--times") if options.times else None
    ids = (events.users.names, events.items.names)
    return EventStore(*ids, events.items.codes, table_types, columns, times, users)


def typed_values(
    path: Path,
    name: FieldName,
    cells: Coded[str],
    rows: NDArray[np.int64],
    flag: str,
    *,
    is_subset: bool = False,
) -> tuple[FieldType, Coded[Value | None]]:
    """The type of a column and its values; `rows` are the numbers of the cells' rows, from 0, and
    `flag` names the column in errors. An empty cell is None. Raises DataError as `read_fields`."""
    # in the order of the rows, so that an error names the first one
    kinds: dict[str, CellKind] = {cell: _kind(cell) for cell in cells.names.tolist() if cell}
    kind = name.type
    if not kinds and not (is_subset and kind):
        hint = f"name its type, like {flag} {name.name}:float" if is_subset else None
        raise DataError(f"{path}: {name.name} has no value", hint=hint)
    if kind is None:
        text = next((cell for cell, actual in kinds.items() if actual == "str"), None)
        number = next((cell for cell, actual in kinds.items() if actual != "str"), None)
        if text is not None and number is not None:
            raise DataError(
                f"{path}: {name.name} is the number {number!r} in row {_row(cells, rows, number)} "
                f"and the text {text!r:.60} in row {_row(cells, rows, text)}",
                hint=f"correct it, or read all as texts: {flag} {name.name}:str",
            )
        kind = _widest(kinds.values())
    for cell, actual in kinds.items():
        if actual not in FITTING_KINDS[kind]:
            raise DataError(
                f"{path}, row {_row(cells, rows, cell)}: {name.name} is {cell!r:.60}, no {kind}"
            )
    convert: Callable[[str], Value] = {"str": str, "float": float, "int": int}[kind]
    values = (convert(cell) if cell else None for cell in cells.names.tolist())
    return kind, Coded(object_array(values), cells.codes)


def _widest(kinds: Collection[CellKind]) -> FieldType:
    """The type that all these kinds of cells fit."""
    if "str" in kinds:
        return "str"
    if "float" in kinds:
        return "float"
    # whole numbers that are too long for an int are ids: as floats, different ones would be equal
    return "str" if "long" in kinds else "int"


def _kind(cell: str) -> CellKind:
    if INTEGER.fullmatch(cell):
        return "int"
    if not (NUMBER.fullmatch(cell) and np.isfinite(float(cell))):
        return "str"
    return "long" if LONG.fullmatch(cell) else "float"


def _row(cells: Coded[str], rows: NDArray[np.int64], cell: str) -> int:
    """The number, from 1, of the first row of the file with a cell."""
    code = cells.names.tolist().index(cell)
    return 1 + int(rows[cells.codes == code].min())


def _read_users(
    options: FieldOptions, events: Interactions
) -> tuple[Mapping[str, FieldType], Mapping[str, Coded[Value | None]]]:
    """The types of the users' fields, and their values for each user of the events."""
    path = options.users
    if path is None:
        return {}, {}
    header = Header(path, column_names(path))
    hint = f"call it {events.columns.user}, as in the events"
    id_column = header.need("user id", hint, recorded=events.columns.user)
    others = [name for name in header.names if name != id_column]
    names = options.user_fields or tuple(map(FieldName, others))
    for name in names:
        if name.name == id_column:
            raise UsageError(f"column {id_column!r} of {path} has the ids of users, it is no field")
    table = read_columns(path, [id_column, *(name.name for name in names)], ids=[id_column])
    row_by_user = rows_by_id(path, (cell or "" for cell in table[id_column].to_pylist()), "user")
    types: dict[str, FieldType] = {}
    columns: dict[str, Coded[Value | None]] = {}
    for name in names:
        cells = Coded[str].of((cell or "").strip() for cell in table[name.name].to_pylist())
        types[name.name], columns[name.name] = typed_values(
            path, name, cells, np.arange(len(cells)), "--user-field"
        )
    n_users = len(events.users.names)
    rows = np.array([row_by_user.get(user, -1) for user in events.users.names.tolist()])
    n_unknown = int((rows < 0).sum())
    if n_unknown == n_users:
        raise DataError(f"{path} has none of the {n_users} users of the events")
    if n_unknown:
        warnings.warn(
            f"{n_unknown} of {n_users} users of the events have no row in {path}: their fields are "
            "unknown",
            SidtoolWarning,
            stacklevel=2,
        )
    for field_name, values in columns.items():
        names_or_none = object_array([*values.names, None])
        codes = np.where(rows < 0, len(values.names), values.codes[rows])
        columns[field_name] = Coded(names_or_none, codes)
    return types, columns


def event_seconds(
    path: Path, events: Interactions, flag: str
) -> NDArray[np.int64] | NDArray[np.float64]:
    """The times of events in seconds since 1970. Raises DataError, which names the option that
    needs them, if their order is no time."""
    per_second = events.unit
    if events.columns.order is None or per_second is None:
        largest = f"{np.abs(events.order).max():g}"
        order = "the order of the rows" if events.columns.order is None else largest
        raise DataError(
            f"{path}: {flag} needs times or dates, some after March 1973: the order is {order}",
            hint="--order-column names the column of the times; --time-format '%Y%m%d%H%M%S' reads "
            "dates as digits",
        )
    seconds = events.order / per_second
    whole = seconds.astype(np.int64)
    return whole if (whole == seconds).all() else seconds
