"""Reads the parts of a split from the Parquet files that `write_parts` wrote."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import IntegrityError
from sidtool.data.coded import Coded, object_array
from sidtool.data.fields.fields import FieldTypes, Value
from sidtool.data.split.logs import PARTS
from sidtool.data.split.packed import (
    EventStore,
    PackedExamples,
    PackedSequences,
    Ragged,
    consecutive,
    ranges,
)
from sidtool.data.split.packing import PackedParts, parts_of_windows
from sidtool.data.split.record import SplitManifest
from sidtool.data.split.sessions import are_divisions
from sidtool.data.split.write_parts import ARROW_TYPES, file_name
from sidtool.data.tables import row_groups

BLOCK_EVENTS = 1 << 22
"""Events that are put in their places at once, about."""
NUMBER = "a number"
"""The type of a column of int64 or of double."""
WINDOW_COLUMNS = {"user": "string", "history": "list string", "item": "string", "position": "int32"}


@dataclass(frozen=True, eq=False)
class _Column:
    """A column of one file: n values, or the members of n lists."""

    values: Any
    """A chunked array, without dictionaries but for texts"""
    lengths: NDArray[np.int64]
    """(n,) of the lists; those of a column of values are 1"""

    @property
    def numbers(self) -> NDArray[Any]:
        """The values as numbers."""
        return np.asarray(self.values.to_numpy())


def read_logs(folders: Sequence[Path], manifest: SplitManifest) -> PackedParts:
    """The parts of a split whose events are ordered, of the users in some folders.

    Raises IntegrityError for columns that the manifest does not have, missing values, and positions
    that are not those of the events."""
    types = manifest.fields or FieldTypes()
    folder = folders[0]
    paths = [folder / file_name(part) for part in PARTS]
    files = [
        _read([folder / path.name for folder in folders], _kinds(part, manifest))
        for path, part in zip(paths, PARTS, strict=True)
    ]
    users, row_users = _coded_texts([file["user"] for file in files])
    log = _Log.of(paths, files, len(users), row_users)
    positions = log.joined([file["positions"].numbers for file in files])
    log.check(folder, positions)
    del files[0]["positions"]  # what was read is not kept beside the log
    names, items = _coded_texts([file.pop("items") for file in files])
    event_fields = {
        name: log.coded([file[f"event_{name}"] for file in files]) for name in types.event
    }
    user_fields = {
        name: _user_values(name, [file[f"user_{name}"] for file in files], row_users, users)
        for name in types.user
    }
    times = log.joined([file["times"].numbers for file in files]) if types.times else None
    store = EventStore(users, names, log.joined(items), types, event_fields, times, user_fields)
    train = PackedSequences(
        store,
        row_users[0],
        Ragged(store.items, log.row_starts[0], log.row_starts[0] + log.row_lengths[0]),
        None,
        None if manifest.sessions is None else _sessions(paths[0], files[0], log.row_lengths[0]),
    )
    valid, test = (_examples(paths[at], files[at], store, log, positions) for at in (1, 2))
    return PackedParts(train, valid, test, None)


def read_windows(folder: Path) -> PackedParts:
    """The parts of a split by `given`. Raises IntegrityError as `read_logs` does."""
    files = [_read([folder / file_name(part)], WINDOW_COLUMNS) for part in PARTS]
    users, row_users = _coded_texts([file["user"] for file in files])
    columns = [file[name] for file in files for name in ("history", "item")]
    names, items = _coded_texts(columns)
    store = EventStore(users, names, np.concatenate(items))
    parts = []
    first = 0
    for number, file in enumerate(files):
        n_shown, n_windows = len(items[2 * number]), len(items[2 * number + 1])
        lengths = file["history"].lengths
        starts = first + np.cumsum(lengths) - lengths
        histories = Ragged(store.items, starts, starts + lengths)
        events = np.arange(first + n_shown, first + n_shown + n_windows)
        targets = Ragged.of_lengths(events, np.ones(n_windows, dtype=np.int64))
        positions = file["position"].numbers
        parts.append(PackedExamples(store, row_users[number], histories, targets, positions))
        first += n_shown + n_windows
    return parts_of_windows(*parts)


def _kinds(part: str, manifest: SplitManifest) -> dict[str, str]:
    """The columns of a file, with their types."""
    types = manifest.fields or FieldTypes()
    kinds = {"user": "string", "items": "list string", "positions": "list int32"}
    if types.times:
        kinds["times"] = f"list {NUMBER}"
    kinds |= {f"event_{name}": f"list {ARROW_TYPES[kind]}" for name, kind in types.event.items()}
    kinds |= {f"user_{name}": ARROW_TYPES[kind] for name, kind in types.user.items()}
    if part == "train":
        return kinds | ({} if manifest.sessions is None else {"sessions": "list int32"})
    kinds["targets"] = "list int32"
    return kinds | ({"history": "int32"} if manifest.protocol == "last-session" else {})


def _read(paths: Sequence[Path], kinds: Mapping[str, str]) -> dict[str, _Column]:
    """The columns of files, one behind the other. Raises IntegrityError unless each has these, of
    these types, without missing values but in fields."""
    groups = []
    for path in paths:
        of_file = list(row_groups(path))
        if not of_file or set(of_file[0].column_names) != set(kinds):
            columns = of_file[0].column_names if of_file else "no rows"
            raise IntegrityError(f"{path} has {columns}, not the columns {list(kinds)}")
        groups += of_file
    path = paths[0]
    columns = {}
    for name, kind in kinds.items():
        chunks = [chunk for group in groups for chunk in group[name].chunks]
        columns[name] = _column(f"{path}: {name}", kind, chunks)
    for name, column in columns.items():
        is_of_events = name in ("positions", "times") or name.startswith("event_")
        if is_of_events and not np.array_equal(column.lengths, columns["items"].lengths):
            raise IntegrityError(f"{path}: {name} and items differ in length")
    return columns


def _column(label: str, kind: str, chunks: Sequence[Any]) -> _Column:
    import pyarrow as pa
    import pyarrow.compute as pc

    lengths = np.ones(sum(map(len, chunks)), dtype=np.int64)
    if kind.startswith("list "):
        if not all(pa.types.is_list(chunk.type) and not chunk.null_count for chunk in chunks):
            raise IntegrityError(f"{label} has a row without a list")
        lengths = np.concatenate([pc.list_value_length(chunk).to_numpy() for chunk in chunks])
        lengths = lengths.astype(np.int64)
        chunks = [chunk.flatten() for chunk in chunks]
        kind = kind.removeprefix("list ")
    values = pa.chunked_array(_of_one_type(chunks))
    actual = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    is_number = actual in (pa.int64(), pa.float64())
    if not (is_number if kind == NUMBER else actual == pa.type_for_alias(kind)):
        raise IntegrityError(f"{label} is of type {actual}, not {kind}")
    is_field = label.rpartition(": ")[2].startswith(("event_", "user_"))
    if values.null_count and not is_field:
        raise IntegrityError(f"{label} lacks a value")
    return _Column(values, lengths)


def _of_one_type(chunks: Sequence[Any]) -> Sequence[Any]:
    """The chunks of several files, some of which have codes, or whole numbers, where others have
    texts, or fractions."""
    import pyarrow as pa

    if len({chunk.type for chunk in chunks}) == 1:
        return chunks
    plain = [
        chunk.dictionary_decode() if pa.types.is_dictionary(chunk.type) else chunk
        for chunk in chunks
    ]
    kinds = {chunk.type for chunk in plain}
    is_mixed = kinds == {pa.int64(), pa.float64()}
    return [chunk.cast(pa.float64()) for chunk in plain] if is_mixed else plain


def _coded_texts(
    columns: Sequence[_Column],
) -> tuple[NDArray[np.object_], list[NDArray[np.int32]]]:
    """The distinct values of several columns, and the codes of each; a missing value is None."""
    import pyarrow as pa
    import pyarrow.compute as pc

    chunks = [chunk for column in columns for chunk in column.values.chunks]
    coded = [
        chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode()
        for chunk in chunks
    ]
    unified = pa.chunked_array(coded).unify_dictionaries()
    names = unified.chunk(0).dictionary.to_pylist()
    indexes = [pc.fill_null(chunk.indices, len(names)).to_numpy() for chunk in unified.chunks]
    bounds = np.cumsum([len(column.values) for column in columns])
    codes = np.concatenate(indexes).astype(np.int32, copy=False)
    return object_array([*names, *[None][: unified.null_count]]), np.split(codes, bounds[:-1])


def _user_values(
    name: str,
    columns: Sequence[_Column],
    row_users: Sequence[NDArray[np.int32]],
    users: NDArray[np.object_],
) -> Coded[Value | None]:
    """The value of each user. Raises IntegrityError if two rows of a user differ."""
    names, parts = _coded_texts(columns)
    codes, of_rows = np.concatenate(parts), np.concatenate(row_users)
    of_users = np.zeros(len(users), dtype=np.int32)
    of_users[of_rows] = codes
    wrong = np.flatnonzero(of_users[of_rows] != codes)
    if len(wrong):
        user = users[of_rows[wrong[0]]]
        raise IntegrityError(f"user_{name} of user {user!r} differs between two files")
    return Coded(names, of_users)


@dataclass(frozen=True, eq=False)
class _Log:
    """The events of all parts, one user after the other, by position."""

    row_users: Sequence[NDArray[np.int32]]
    """(rows,) for each part: user codes"""
    row_starts: Sequence[NDArray[np.int64]]
    """(rows,) for each part: where its events begin in the log"""
    row_lengths: Sequence[NDArray[np.int64]]
    """(rows,) for each part: how many these are"""
    starts: NDArray[np.int64]
    """(users,): where the events of each user begin"""
    totals: NDArray[np.int64]
    """(users,): the number of events of each user"""

    @classmethod
    def of(
        cls,
        paths: Sequence[Path],
        files: Sequence[Mapping[str, _Column]],
        n_users: int,
        row_users: Sequence[NDArray[np.int32]],
    ) -> "_Log":
        """Raises IntegrityError for a user with two rows in a file, or a row without events."""
        totals = np.zeros(n_users, dtype=np.int64)
        before = []
        for path, file, users in zip(paths, files, row_users, strict=True):
            if (np.bincount(users) > 1).any():
                raise IntegrityError(f"{path} has two rows of a user")
            if not file["items"].lengths.all():
                raise IntegrityError(f"{path} has a row without events")
            before.append(totals[users])
            totals[users] += file["items"].lengths
        starts = np.cumsum(totals) - totals
        row_starts = [starts[users] + first for users, first in zip(row_users, before, strict=True)]
        return cls(row_users, row_starts, [file["items"].lengths for file in files], starts, totals)

    def places(self, part: int, rows: slice = slice(None)) -> NDArray[np.int64]:
        """(events,): where the events of some rows of a part lie."""
        return consecutive(self.row_starts[part][rows], self.row_lengths[part][rows])

    def joined(self, parts: Sequence[NDArray[Any]]) -> NDArray[Any]:
        """(events,): the values of all parts, in the order of the log."""
        values = np.empty(sum(map(len, parts)), dtype=np.result_type(*parts))
        for number, part in enumerate(parts):
            first = 0
            for start, stop in ranges(self.row_lengths[number], BLOCK_EVENTS):
                places = self.places(number, slice(start, stop))
                values[places] = part[first : first + len(places)]
                first += len(places)
        return values

    def check(self, folder: Path, positions: NDArray[np.int32]) -> None:
        """Raise IntegrityError unless (events,) positions ascend for each user, and training events
        have 0, 1, 2 ..."""
        ascends = np.diff(positions) > 0
        ascends[self.starts[1:] - 1] = True
        if not ascends.all() or (positions[self.starts] < 0).any():
            raise IntegrityError(f"{folder}: the positions of a user do not ascend")
        # they ascend from 0 or more, so the last one is the largest that it can be without a gap
        starts, lengths = self.row_starts[0], self.row_lengths[0]
        if not np.array_equal(positions[starts + lengths - 1], lengths - 1):
            raise IntegrityError(f"{folder}: the training positions of a user are not 0, 1, 2 ...")

    def coded(self, columns: Sequence[_Column]) -> Coded[Value | None]:
        """(events,): the values of a field of events."""
        names, codes = _coded_texts(columns)
        return Coded(names, self.joined(codes))


def _sessions(path: Path, file: Mapping[str, _Column], n_events: NDArray[np.int64]) -> Ragged:
    sessions = Ragged.of_lengths(file["sessions"].numbers, file["sessions"].lengths)
    if not are_divisions(sessions, n_events):
        raise IntegrityError(f"{path}: the sessions of a user do not divide the events")
    return sessions


def _examples(
    path: Path,
    file: Mapping[str, _Column],
    store: EventStore,
    log: _Log,
    log_positions: NDArray[np.int32],
) -> PackedExamples:
    """The examples of a part. Raises IntegrityError for a target that is no event of its row, and
    for a history that lacks an event."""
    part = PARTS.index(path.stem)
    users = log.row_users[part]
    lengths, positions = file["targets"].lengths, file["targets"].numbers.astype(np.int64)
    rows = np.repeat(np.arange(len(users)), lengths)
    # one number for a row and a position; both ascend
    event_rows = np.repeat(np.arange(len(users)), log.row_lengths[part])
    event_keys = event_rows << 31 | file["positions"].numbers
    keys = rows << 31 | positions
    target_places = np.minimum(np.searchsorted(event_keys, keys), len(event_keys) - 1)
    if not np.array_equal(event_keys[target_places], keys) or (np.diff(keys) <= 0).any():
        raise IntegrityError(f"{path}: the targets of a user are not among the events of the row")
    events = log.places(part)[target_places]
    if "history" in file:
        shown = file["history"].numbers.astype(np.int64)
        targets = Ragged.of_lengths(events, lengths)
    else:
        users, shown = users[rows], positions
        targets = Ragged.of_lengths(events, np.ones(len(events), dtype=np.int64))
    if not targets.lengths.all() or (shown < 0).any():
        raise IntegrityError(f"{path}: a row has no target, or no history")
    starts = log.starts[users]
    is_long = shown > log.totals[users]
    last = np.where(is_long | (shown == 0), 0, starts + shown - 1)
    is_whole = (shown == 0) | (log_positions[last] == shown - 1)
    if (is_long | ~is_whole).any():
        raise IntegrityError(f"{path}: a history lacks an event before its target")
    histories = Ragged(store.items, starts, starts + shown)
    return PackedExamples(store, users, histories, targets, positions)
