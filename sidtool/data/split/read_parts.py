"""Reads the parts of a split from the Parquet files that `write_parts` wrote."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import IntegrityError
from sidtool.base.ranges import consecutive
from sidtool.base.threads import release_arrow_memory
from sidtool.data.coded import Coded, Texts, numpy_numbers, object_array
from sidtool.data.fields.fields import EventStore, FieldTypes, Value
from sidtool.data.split.logs import PARTS
from sidtool.data.split.packed import PackedExamples, PackedSequences, Ragged
from sidtool.data.split.packing import PackedParts, parts_of_windows
from sidtool.data.split.part_columns import (
    NUMBER,
    PartColumn,
    PartFile,
    coded_columns,
    joined_arrays,
    read_part,
)
from sidtool.data.split.record import SplitManifest
from sidtool.data.split.sessions import are_divisions
from sidtool.data.split.write_parts import ARROW_TYPES, file_name

WINDOW_COLUMNS = {"user": "string", "history": "list string", "item": "string", "position": "int32"}


def read_logs(folders: Sequence[Path], manifest: SplitManifest) -> PackedParts:
    """The parts of a split whose events are ordered, of the users in some folders.

    Raises IntegrityError for columns that the manifest does not have, missing values, and positions
    that are not those of the events."""
    types = manifest.fields or FieldTypes()
    paths = [folders[0] / file_name(part) for part in PARTS]
    files = [
        read_part([folder / path.name for folder in folders], _kinds(path.stem, manifest))
        for path in paths
    ]
    # coded by rows, not by a dictionary of the file: training users ascend
    users, row_users = _coded_users([file.pop("user").decoded for file in files])
    release_arrow_memory()  # of the columns of users, and below of those of positions and items
    log = _Log.of(paths, files, len(users), row_users)
    release_arrow_memory()
    names, items = coded_columns([file.pop("items") for file in files])
    store_items = log.joined(items, np.int32)
    del items
    release_arrow_memory()
    event_fields = {
        name: log.coded([file.pop(f"event_{name}") for file in files]) for name in types.event
    }
    user_fields = {
        name: _user_values(name, [file.pop(f"user_{name}") for file in files], row_users, users)
        for name in types.user
    }
    times = None
    if types.times:
        columns = [file.pop("times").numbers for file in files]
        times = log.joined([[column] for column in columns], np.result_type(*columns))
    store = EventStore(users, Texts(names), store_items, types, event_fields, times, user_fields)
    lengths = log.row_lengths[0]
    starts = log.starts[row_users[0]]
    sessions = None
    if manifest.sessions is not None:
        sessions = Ragged.of_lengths(files[0]["sessions"].numbers, files[0]["sessions"].lengths)
        if not are_divisions(sessions, lengths):
            raise IntegrityError(f"{paths[0]}: the sessions of a user do not divide the events")
    items_of_users = Ragged(store.items, starts, starts + lengths)
    train = PackedSequences(store, row_users[0], items_of_users, None, sessions)
    valid, test = (_examples(paths[at], files[at], store, log) for at in (1, 2))
    return PackedParts(train, valid, test, None)


def read_windows(folder: Path) -> PackedParts:
    """The parts of a split by `given`. Raises IntegrityError as `read_logs` does."""
    files = [read_part([folder / file_name(part)], WINDOW_COLUMNS) for part in PARTS]
    users, row_users = _coded_users([file["user"] for file in files])
    # the store has, file by file, the items of all histories, then those of all targets
    columns = [file[name] for file in files for name in ("history", "item")]
    names, codes_of_columns = coded_columns(columns)
    codes = [joined_arrays(list(chunks)) for chunks in codes_of_columns]
    store = EventStore(users, Texts(names), np.concatenate(codes))
    parts = []
    first = 0
    for file, user_codes in zip(files, row_users, strict=True):
        lengths = file["history"].lengths
        stops = first + np.cumsum(lengths, dtype=np.int64)
        histories = Ragged(store.items, stops - lengths, stops)
        first_target = first + int(lengths.sum())
        first = first_target + len(user_codes)  # a window has one target
        targets = Ragged.single(np.arange(first_target, first))
        positions = file["position"].numbers
        parts.append(PackedExamples(store, user_codes, histories, targets, positions))
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


def _coded_users(columns: Sequence[PartColumn]) -> tuple[Texts, list[NDArray[np.int32]]]:
    """The users of several columns, and their codes in each."""
    import pyarrow as pa

    texts = [pa.chunked_array(column.chunks) for column in columns]
    # files of users who all have three events or more have the same users
    others = [not text.equals(texts[0]) for text in texts]
    if not any(others) and pa.types.is_string(texts[0].type):
        users = Texts(texts[0].combine_chunks())
        if users.are_distinct:  # by their order, which digests need; a table of hashes takes longer
            return users, [np.arange(len(users), dtype=np.int32)] * len(columns)
    distinct = [column for column, is_other in zip(columns, others, strict=True) if is_other]
    values, parts = coded_columns([columns[0], *distinct])
    first_codes, *other_codes = (joined_arrays(list(part)) for part in parts)
    return Texts(values), [other_codes.pop(0) if is_other else first_codes for is_other in others]


def _values(names: Any, codes: NDArray[np.int32]) -> Coded[Value | None]:
    """The values of a field by codes, those below 0 are missing."""
    values = names.to_pylist()
    if (codes < 0).any():
        codes = np.where(codes < 0, np.int32(len(values)), codes)
        values.append(None)
    return Coded(object_array(values), codes)


def _user_values(
    name: str, columns: Sequence[PartColumn], row_users: Sequence[NDArray[np.int32]], users: Texts
) -> Coded[Value | None]:
    """The value of each user. Raises IntegrityError if two rows of a user differ."""
    names, parts = coded_columns(columns)
    codes, user_codes = np.concatenate([*chain.from_iterable(parts)]), np.concatenate(row_users)
    codes_by_user = np.zeros(len(users), dtype=np.int32)
    codes_by_user[user_codes] = codes
    wrong = np.flatnonzero(codes_by_user[user_codes] != codes)
    if len(wrong):
        user = users[user_codes[wrong[0]]]
        raise IntegrityError(f"user_{name} of user {user!r} differs between two files")
    return _values(names, codes_by_user)


@dataclass(frozen=True, eq=False)
class _Log:
    """The events of all parts, one user after the other, by position."""

    row_users: Sequence[NDArray[np.int32]]
    """(rows,) for each part: user codes"""
    row_lengths: Sequence[NDArray[np.int32]]
    """(rows,) for each part: how many events it has of the user"""
    starts: NDArray[np.int64]
    """(users,): where the events of each user begin"""
    whole: NDArray[np.int32]
    """(users,): how many of them have the positions 0, 1, 2 ...: the first ones"""
    places: Sequence[NDArray[np.int64]]
    """(events,) for valid and test: where the events of the part lie"""
    is_train: NDArray[np.bool_]
    """(events of all parts,): the training events, whose users ascend"""

    @classmethod
    def of(
        cls,
        paths: Sequence[Path],
        files: Sequence[PartFile],
        n_users: int,
        row_users: Sequence[NDArray[np.int32]],
    ) -> "_Log":
        """Raises IntegrityError for a user with two rows in a file, a row without events, positions
        that do not ascend for a user, and those of training if they are not 0, 1, 2 ..."""
        totals, whole = np.zeros((2, n_users), dtype=np.int32)
        last = np.full(n_users, -1, dtype=np.int32)
        lengths = [file["items"].lengths for file in files]
        before = []
        for path, file, users, counts in zip(paths, files, row_users, lengths, strict=True):
            # of all users: their arrays as they are, not a copy
            at: Any = slice(None) if np.array_equal(users, np.arange(n_users)) else users
            is_there = np.zeros(n_users, dtype=np.bool_)
            is_there[at] = True
            if np.count_nonzero(is_there) < len(users):
                raise IntegrityError(f"{path} has two rows of a user")
            if not counts.all():
                raise IntegrityError(f"{path} has a row without events")
            if path is paths[0]:
                # they follow from the counts, and are the largest column: read by chunk, not kept
                if not _count_from_zero(file.pop("positions").chunks, counts):
                    raise IntegrityError(
                        f"{path}: the training positions of a user are not 0, 1, 2 ..."
                    )
                last[at] = counts - 1
                whole[at] = counts
            else:
                positions = file["positions"].numbers
                stops = np.cumsum(counts, dtype=np.int64)
                firsts = stops - counts
                ascends = np.ones(len(positions), dtype=np.bool_)
                np.greater(positions[1:], positions[:-1], out=ascends[1:])
                ascends[firsts] = positions[firsts] > last[at]
                if not ascends.all():
                    raise IntegrityError(f"{path}: the positions of a user do not ascend")
                is_whole = positions == consecutive(totals[at], counts)
                if len(users):
                    whole[at] += np.add.reduceat(is_whole, firsts, dtype=np.int32)
                last[at] = positions[stops - 1]
            before.append(totals[at].copy())
            totals[at] += counts
        starts = np.cumsum(totals, dtype=np.int64) - totals
        places = [
            consecutive(starts[row_users[part]] + before[part], lengths[part]) for part in (1, 2)
        ]
        is_train = np.ones(totals.sum(), dtype=np.bool_)
        for part_places in places:
            is_train[part_places] = False
        return cls(row_users, lengths, starts, whole, places, is_train)

    def joined(self, parts: Sequence[Iterable[NDArray[Any]]], dtype: Any) -> NDArray[Any]:
        """(events,): the values of all parts, each in arrays that follow one another, in the order
        of the log; an array of training events ends with those of a user."""
        values = np.empty(len(self.is_train), dtype=dtype)
        ends = np.cumsum(self.row_lengths[0], dtype=np.int64)
        n_before = start = 0
        for array in parts[0]:
            n_before += len(array)
            user = int(np.searchsorted(ends, n_before, side="right"))
            stop = int(self.starts[user]) if user < len(self.starts) else len(values)
            values[start:stop][self.is_train[start:stop]] = array
            start = stop
        for places, arrays in zip(self.places, parts[1:], strict=True):
            values[places] = joined_arrays(list(arrays))
        return values

    def coded(self, columns: Sequence[PartColumn]) -> Coded[Value | None]:
        """(events,): the values of a field of events."""
        names, parts = coded_columns(columns)
        return _values(names, self.joined(parts, np.int32))


def _count_from_zero(chunks: Sequence[Any], lengths: NDArray[np.int32]) -> bool:
    """Whether the values of every list are 0, 1, 2 ...; a list lies in one chunk, and none is
    empty."""
    ends = np.cumsum(lengths, dtype=np.int64)
    row, n_before = 0, 0
    for chunk in chunks:
        n_before += len(chunk)
        stop = int(np.searchsorted(ends, n_before, side="right"))
        sizes = lengths[row:stop]
        values = numpy_numbers(chunk)
        firsts = np.cumsum(sizes, dtype=np.int64) - sizes
        rises = np.diff(values) == 1
        rises[firsts[1:] - 1] = True  # from one list to the next, a value may do anything
        is_whole = sizes.sum() == len(values)
        if not is_whole or values[firsts].any() or not rises.all():
            return False
        row = stop
    return row == len(lengths)


def _examples(path: Path, file: PartFile, store: EventStore, log: _Log) -> PackedExamples:
    """The examples of a part. Raises IntegrityError for a target that is no event of its row, and
    for a history that lacks an event."""
    part = PARTS.index(path.stem)
    users, events = log.row_users[part], log.places[part - 1]
    lengths, positions = file["targets"].lengths, file["targets"].numbers
    event_lengths, event_positions = log.row_lengths[part], file["positions"].numbers
    if not lengths.all():
        raise IntegrityError(f"{path}: a row has no target")
    has_equal_lengths = np.array_equal(lengths, event_lengths)
    if not (has_equal_lengths and np.array_equal(positions, event_positions)):
        rows = np.repeat(np.arange(len(users)), lengths)
        # one number for a row and a position; both ascend
        event_keys = np.repeat(np.arange(len(users)), event_lengths) << 31 | event_positions
        keys = rows << 31 | positions
        target_places = np.minimum(np.searchsorted(event_keys, keys), len(event_keys) - 1)
        if not np.array_equal(event_keys[target_places], keys) or (np.diff(keys) <= 0).any():
            raise IntegrityError(
                f"{path}: the targets of a user are not among the events of the row"
            )
        events = events[target_places]
    if "history" in file:
        history_lengths = file["history"].numbers
        targets = Ragged.of_lengths(events, lengths)
    else:
        users, history_lengths = np.repeat(users, lengths), positions
        targets = Ragged.single(events)
    if (history_lengths < 0).any():
        raise IntegrityError(f"{path}: a row has no history")
    if (history_lengths > log.whole[users]).any():
        raise IntegrityError(f"{path}: a history lacks an event before its target")
    starts = log.starts[users]
    histories = Ragged(store.items, starts, starts + history_lengths)
    return PackedExamples(store, users, histories, targets, positions)
