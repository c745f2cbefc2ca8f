"""Files that are already windowed, such as MiniOneRec's: a row is a history, cut to a fixed length,
and its target."""

from bisect import bisect
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

from sidtool.base.errors import DataError
from sidtool.data.columns import Header
from sidtool.data.tables.json_tables import is_id, parse_list
from sidtool.data.tables.tables import column_names, read_columns

Events = tuple[str, ...]
"""Items of consecutive events of a user."""


@dataclass(frozen=True)
class Window:
    """A row of such a file."""

    user: str
    history: tuple[str, ...]
    item: str

    @cached_property
    def events(self) -> Events:
        """The items of the history and the target."""
        return (*self.history, self.item)


def read_windows(path: Path) -> tuple[Window, ...]:
    """The windows of a file, in file order.

    A history is a list in JSON or as a Python literal, or ids with blanks between them (RecBole's
    `item_id_list`). Raises UsageError for a missing column, DataError for a malformed cell."""
    header = Header(path, column_names(path))
    user = header.need("user id", "name it user_id")
    history = header.need("history", "name it history_item_id")
    item = header.need("item id", "name it item_id")
    table = read_columns(path, [user, history, item], ids=[user, item])
    users, histories, items = (table[name].to_pylist() for name in (user, history, item))
    windows = []
    for row, (user_id, cell, item_id) in enumerate(zip(users, histories, items, strict=True), 1):
        if not user_id or not item_id:
            raise DataError(f"{path}, row {row}: the {'item' if user_id else 'user'} id is empty")
        text = (cell or "").strip()
        members = parse_list(text) if text.startswith("[") else text.split()
        if members is None or not all(map(is_id, members)):
            raise DataError(
                f"{path}, row {row}: the history {text[:40]!r} is not a list of item ids"
            )
        windows.append(Window(user_id, tuple(map(str, members)), item_id))
    if not windows:
        raise DataError(f"{path} holds no rows")
    return tuple(windows)


def join_windows(
    train: Sequence[Window], valid: Sequence[Window], test: Sequence[Window]
) -> tuple[dict[Window, int], set[Window]]:
    """The index of each window's target in its user's whole sequence, and the training windows that
    show a held-out target, or may show it by what the windows have in common.

    A window is taken to show another event of the same item only where it must: because the
    position of one of both is known, or because the windows that would lie between are missing from
    a sequence that otherwise lacks none.

    Raises DataError if histories that were not cut begin a sequence in two ways, and this concerns
    training windows or a held-out item that is in training windows of the user."""
    longest = 0
    may_be_cut: set[Window] = set()
    user_windows: dict[str, tuple[list[Window], list[Window]]] = {}  # in training, and held out
    for number, part in enumerate((train, valid, test)):
        length = max((len(window.history) for window in part), default=0)
        longest = max(longest, length)
        may_be_cut.update(window for window in part if len(window.history) == length)
        for window in part:
            user_windows.setdefault(window.user, ([], []))[number > 0].append(window)
    positions: dict[Window, int] = {}
    leaking = set()
    for trained, held_out in user_windows.values():
        _check_agreement(trained, held_out, longest)
        joined = JoinedWindows.of([*trained, *held_out], longest, may_be_cut)
        positions |= joined.positions
        targets: dict[str, set[Window]] = defaultdict(set)
        for target in held_out:
            targets[target.item].add(target)
        for window in dict.fromkeys(trained):
            if any(
                joined.may_show(window, target)
                for item in set(window.events)
                for target in targets.get(item, ())
            ):
                leaking.add(window)
    return positions, leaking


def _check_agreement(trained: Sequence[Window], held_out: Sequence[Window], longest: int) -> None:
    """Raise DataError unless the histories of a user that were not cut, those shorter than the
    `longest` ones of the files, are the beginnings of one sequence."""
    trained_items = {item for window in trained for item in window.events}
    # where no training window has a held-out item, the order of held-out ones does not matter
    is_leak_possible = any(target.item in trained_items for target in held_out)
    compared = [*trained, *held_out] if is_leak_possible else trained
    uncut = [window for window in compared if len(window.history) < longest]
    sequence = max((window.events for window in uncut), key=len, default=())
    for window in uncut:
        for place, (item, expected) in enumerate(zip(window.events, sequence, strict=False), 1):
            if item != expected:
                raise DataError(
                    f"the windows of user {window.user!r} are not of one sequence: event {place} "
                    f"is {item!r} in one history that was not cut and {expected!r} in another",
                    hint="cut the histories of all files to one length, and give each sequence a "
                    "user id of its own",
                )


@dataclass(frozen=True)
class JoinedWindows:
    """The windows of one user, joined by their overlaps. The order of the files decides only where
    nothing overlaps.

    A history shorter than the longest one in the files was not cut, so it begins with the user's
    first event. Equal windows are the same event: counted twice, one could hide a held-out one."""

    longest: int
    """Items of the longest history in the files, of any user."""
    positions: Mapping[Window, int]
    """The index of each window's target in the user's whole sequence: exact if no window is
    missing and none is repeated, else the smallest one that agrees with the overlaps."""
    is_complete: bool
    """Whether each event of the joined sequence but the first is the target of a window."""
    cut: Set[Window]
    """Windows that may not begin with the user's first event: those with the longest history, of
    all files, or of their own file if windows are missing."""
    window_events: Set[Events]
    """The events of each window."""

    @classmethod
    def of(cls, windows: Iterable[Window], longest: int, may_be_cut: Set[Window]) -> Self:
        """Join windows of a user; `may_be_cut` are those with the longest history of their file."""
        distinct = {window.events: window for window in windows}
        cut = [events for events in distinct if len(events) > longest]
        uncut = [events for events in distinct if len(events) <= longest]
        # other windows that are not cut are the beginning of the longest one
        joinable = [max(uncut, key=len), *cut] if uncut else cut
        chains = _chains(joinable, longest, is_first_fixed=bool(uncut))
        sequence: list[str] = []
        positions = {distinct[events]: len(events) - 1 for events in uncut}
        for events, overlap in chains:
            sequence += events[overlap:]
            positions[distinct[events]] = len(sequence) - 1
        # of each event but the first, with up to `longest` events before it
        spans = [(max(0, end - longest - 1), end) for end in range(2, len(sequence) + 1)]
        is_complete = all(tuple(sequence[start:end]) in distinct for start, end in spans)
        cut_windows = {distinct[events] for events in cut} if is_complete else may_be_cut
        return cls(longest, positions, is_complete, cut_windows, distinct.keys())

    def may_show(self, window: Window, target: Window) -> bool:
        """Whether a window may show the event that is the target of another one: where both have
        the same items up to that event, and each further event of the window is the target of one,
        too, if this is true of the joined sequence."""
        events, target_events = window.events, target.events
        n_before = len(target_events) - 1
        for place, item in enumerate(events):
            if item != target.item:
                continue
            # the position of an uncut window is known, that of the other event would be larger
            earlier = window if place < n_before else target
            if place != n_before and earlier not in self.cut:
                continue
            n_shared = min(place, n_before) + 1
            if events[place + 1 - n_shared : place + 1] != target_events[-n_shared:]:
                continue
            prefix = target_events if place < n_before else events[: place + 1]
            joined = prefix + events[place + 1 :]
            if not self.is_complete or all(
                joined[max(0, index - self.longest) : index + 1] in self.window_events
                for index in range(len(prefix), len(joined))
            ):
                return True
        return False


def _chains(
    windows: Sequence[Events], longest: int, is_first_fixed: bool
) -> Iterator[tuple[Events, int]]:
    """Distinct windows in order, each with its overlap with the one before: the longest overlaps
    are joined first, among equal ones that with the next window of the files. The first window
    stays the first if that is known."""
    followers: dict[int, tuple[int, int]] = {}
    last_by_first = {index: index for index in range(len(windows))}  # windows of each chain
    for overlap in range(longest, 0, -1):
        if len(last_by_first) < 2:
            break
        waiting: dict[Events, list[int]] = defaultdict(list)
        for first in list(last_by_first)[is_first_fixed:]:
            waiting[windows[first][:overlap]].append(first)
        for first in list(last_by_first):
            while first in last_by_first:  # else it was joined to another chain
                last = last_by_first[first]
                candidates = waiting.get(windows[last][-overlap:], [])
                place = bisect(candidates, last)
                nearest = (*candidates[place : place + 2], *candidates[:2])
                # a chain does not follow itself
                follower = next((index for index in nearest if index != first), None)
                if follower is None or len(windows[last]) < overlap:
                    break
                candidates.remove(follower)
                followers[last] = follower, overlap
                last_by_first[first] = last_by_first.pop(follower)
    for first in last_by_first:
        link: tuple[int, int] | None = (first, 0)
        while link is not None:
            yield windows[link[0]], link[1]
            link = followers.get(link[0])
