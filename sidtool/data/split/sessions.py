"""Sessions: consecutive events of a user that belong to one visit.

A user's sessions are given as the indexes at which they start: (0, 3, 7) are the events 0 to 2, 3
to 6, and those from 7 on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, UsageError
from sidtool.data.fields.field_columns import event_seconds
from sidtool.data.interactions import Interactions
from sidtool.data.split.packed import Ragged
from sidtool.data.split.record import SessionRule


@dataclass(frozen=True, eq=False)
class SessionTable:
    """The sessions of n events, in the order of their `Interactions`."""

    rule: SessionRule
    starts: NDArray[np.int64]
    """(sessions,): the index of the first event of each session, ascending"""


def read_sessions(path: Path, events: Interactions, rule: SessionRule) -> SessionTable:
    """The sessions of the events of a file, which were read with the cells of its column.

    Raises UsageError for a column of ids, DataError for an event without a session, and with a gap
    if the order is no time."""
    if rule.gap is not None:
        seconds = np.asarray(event_seconds(path, events, "--session-gap"), dtype=np.float64)
        begins = np.ones(len(events), dtype=np.bool_)
        begins[1:] = np.diff(seconds) >= rule.gap
        begins[events.starts] = True
    elif rule.column in (events.columns.user, events.columns.item):
        raise UsageError(f"column {rule.column!r} has the ids of the events, not sessions")
    else:
        cells = events.cells[rule.column or ""]
        empty = np.flatnonzero((cells.names == "")[cells.codes])
        if len(empty):
            row = int(events.rows[empty].min())
            raise DataError(f"{path}, row {row + 1}: {rule.column} is empty")
        begins = _named_begins(events.users.codes, cells.codes)
    return SessionTable(rule, np.flatnonzero(begins))


def _named_begins(
    users: NDArray[np.integer[Any]], names: NDArray[np.integer[Any]]
) -> NDArray[np.bool_]:
    """(n,): whether each event begins a session, by the codes of users, which ascend, and of the
    sessions' names.

    Sessions that overlap are one: a part of it that was held out would have events of the same
    session before it."""
    keys = users.astype(np.int64) * (int(names.max(initial=0)) + 1) + names
    _, session_codes = np.unique(keys, return_inverse=True)
    last_events = np.zeros(len(keys), dtype=np.int64)
    last_events[session_codes] = np.arange(len(keys))  # a later event replaces an earlier one
    # the last event of all sessions that have begun
    ends = np.maximum.accumulate(last_events[session_codes])
    begins = np.ones(len(keys), dtype=np.bool_)
    begins[1:] = ends[:-1] < np.arange(1, len(keys))
    return begins


def are_divisions(sessions: Ragged, n_events: NDArray[np.integer[Any]]) -> bool:
    """Whether list i of n divides `n_events[i]` events into sessions: it begins with 0, ascends,
    and stays below the number of events."""
    starts = sessions.joined
    firsts = np.cumsum(sessions.lengths) - sessions.lengths  # where each list begins in `starts`
    if not sessions.lengths.all() or (starts >= np.repeat(n_events, sessions.lengths)).any():
        return False
    is_valid = np.ones(len(starts), dtype=np.bool_)
    is_valid[1:] = np.diff(starts) > 0
    is_valid[firsts] = starts[firsts] == 0
    return bool(is_valid.all())
