"""Windows cut from sequences."""

from pathlib import Path

from sidtool.data.split.windows import Window
from tests.data.tables.files import write_table


def windows_of(user: str, items: list[str], length: int) -> list[tuple[Window, int]]:
    """Every window of a sequence, with the position of its target."""
    return [
        (Window(user, tuple(items[max(0, at - length) : at]), items[at]), at)
        for at in range(1, len(items))
    ]


def write_windows(folder: Path, events: list[tuple[str, str, int]]) -> list[Path]:
    """Events as files of windows: the last event of each user is the test target, the one before it
    the validation target."""
    rows: dict[str, list[dict[str, str]]] = {"train": [], "valid": [], "test": []}
    for user in dict.fromkeys(user for user, _, _ in events):
        items = [item for owner, item, _ in events if owner == user]
        for place in range(1, len(items)):
            part = {len(items) - 1: "test", len(items) - 2: "valid"}.get(place, "train")
            row = {"user_id": user, "history_item_id": str(items[:place])}
            rows[part].append(row | {"item_id": items[place]})
    paths = []
    for part, table in rows.items():
        columns = {name: [row[name] for row in table] for name in table[0]}
        paths.append(write_table(folder / f"{part}.csv", columns))
    return paths
