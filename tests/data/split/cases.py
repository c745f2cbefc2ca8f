"""Splits of training events, and windows cut from sequences."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from sidtool.data.split import Event, Example, Split, UserSequence
from sidtool.data.split.windows import Window
from tests.data.tables.files import write_table


def sequence_of(user: str, items: Sequence[str]) -> UserSequence:
    """The first events of a user."""
    return UserSequence(user, tuple(items), tuple(range(len(items))))


def split_of(histories: Sequence[Sequence[str]], held_out: Sequence[Example] = ()) -> Split:
    """A user "u0", "u1" ... for each history of training events."""
    train = (sequence_of(f"u{number}", items) for number, items in enumerate(histories))
    return Split("leave-one-out", tuple(train), tuple(held_out), ())


def trained(split: Split) -> list[Event]:
    return [
        (sequence.user, item, position)
        for sequence in split.train
        for item, position in zip(sequence.items, sequence.positions, strict=True)
    ]


def windows_of(user: str, items: list[str], length: int) -> list[tuple[Window, int]]:
    """Every window of a sequence, with the position of its target."""
    return [
        (Window(user, tuple(items[max(0, at - length) : at]), items[at]), at)
        for at in range(1, len(items))
    ]


def write_rows(path: Path, rows: Iterable[tuple[str, Sequence[str], str]]) -> Path:
    """A file of windows: user, history, and target of each."""
    users, histories, items = (list(column) for column in zip(*rows, strict=True))
    spelled = [str(list(history)) for history in histories]
    return write_table(path, {"user_id": users, "history_item_id": spelled, "item_id": items})


def write_windows(folder: Path, events: list[tuple[str, str, int]]) -> list[Path]:
    """Events as files of windows: the last event of each user is the test target, the one before it
    the validation target."""
    rows: dict[str, list[tuple[str, list[str], str]]] = {"train": [], "valid": [], "test": []}
    for user in dict.fromkeys(user for user, _, _ in events):
        items = [item for owner, item, _ in events if owner == user]
        for place in range(1, len(items)):
            part = {len(items) - 1: "test", len(items) - 2: "valid"}.get(place, "train")
            rows[part].append((user, items[:place], items[place]))
    return [write_rows(folder / f"{part}.csv", part_rows) for part, part_rows in rows.items()]
