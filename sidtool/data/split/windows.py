"""Files that are already windowed, such as MiniOneRec's: a row is a history, cut to a fixed length,
and its target."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sidtool.base.errors import DataError
from sidtool.data.columns import HISTORY_COLUMNS, ID_COLUMNS, USER_COLUMNS, need_column
from sidtool.data.tables.json_tables import is_id
from sidtool.data.tables.list_cells import parse_list
from sidtool.data.tables.tables import column_names, read_columns


@dataclass(frozen=True)
class Window:
    """A row of such a file."""

    user: str
    history: tuple[str, ...]
    item: str


def read_windows(path: Path) -> tuple[Window, ...]:
    """The windows of a file, in file order.

    A history is a list in JSON or as a Python literal, or ids with blanks between them (RecBole's
    `item_id_list`). Raises UsageError for a missing column, DataError for a malformed cell."""
    available = column_names(path)
    user = need_column(path, available, None, USER_COLUMNS, "user id", "name it user_id")
    history = need_column(
        path, available, None, HISTORY_COLUMNS, "history", "name it history_item_id"
    )
    item = need_column(path, available, None, ID_COLUMNS, "item id", "name it item_id")
    table = read_columns(path, [user, history, item], ids=[user, item])
    cells = zip(*(table[name].to_pylist() for name in (user, history, item)), strict=True)
    windows = tuple(_window(path, row, *row_cells) for row, row_cells in enumerate(cells, 1))
    if not windows:
        raise DataError(f"{path} holds no rows")
    return windows


def _window(
    path: Path, row: int, user: str | None, history: str | None, item: str | None
) -> Window:
    if not user or not item:
        raise DataError(f"{path}, row {row}: the {'item' if user else 'user'} id is empty")
    text = (history or "").strip()
    members = parse_list(text) if text.startswith("[") else text.split()
    if members is None or not all(map(is_id, members)):
        raise DataError(f"{path}, row {row}: the history {text[:40]!r} is not a list of item ids")
    return Window(user, tuple(str(member) for member in members), item)


def positions(windows: Sequence[Window]) -> list[int]:
    """Index of each window's target in its user's whole sequence.

    A history shorter than the longest one in the files was not cut, so its length is the position.
    A history of full length may have been cut: it is joined to the user's earlier windows where the
    two overlap most. Its position is exact if the user's windows are in time order and complete,
    and otherwise the smallest one that agrees with the windows. A repeated full window is the same
    event: counted twice, it could hide a held-out event."""
    longest = max((len(window.history) for window in windows), default=0)
    sequences: dict[str, tuple[str, ...]] = {}
    placed: dict[Window, int] = {}
    for window in windows:
        if window in placed:
            continue
        sequence = sequences.get(window.user, ())
        if len(window.history) < longest:
            sequence = max(sequence, (*window.history, window.item), key=len)
            placed[window] = len(window.history)
        else:
            overlap = _overlap(sequence, window.history)
            placed[window] = len(sequence) - overlap + len(window.history)
            sequence = (*sequence, *window.history[overlap:], window.item)
        sequences[window.user] = sequence
    return [placed[window] for window in windows]


def _overlap(sequence: Sequence[str], history: Sequence[str]) -> int:
    """Length of the longest suffix of `sequence` that is a prefix of `history`."""
    longest = min(len(sequence), len(history))
    return next(
        n
        for n in range(longest, -1, -1)
        if tuple(sequence[len(sequence) - n :]) == tuple(history[:n])
    )
