"""Which columns of a catalog and its events are probably meant, by their cells: for a hint, where
their names do not say it."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from sidtool.data.tables.tables import column_names, read_columns
from sidtool.data.times import guess_time_format, parse_time, units_per_second
from sidtool.data.unknown_ids import plain_id

ROWS = 1000
"""The first rows of the events, which are looked at."""
MIN_SHARE = 0.5
"""At least so many cells must have what a column is chosen for."""
Cells = Mapping[str, Sequence[str]]


def guess_flags(items: Path, events: Path | None) -> str | None:
    """The flags that name the columns, like "--id-column sku --title-column label"; those of
    columns that nothing speaks for are left out. None without any."""
    catalog = _cells(items)
    cells = _cells(events) if events else {}
    first = {name: values[:ROWS] for name, values in cells.items()}
    item_id, item = _ids(catalog, first)
    title = next((name for name in catalog if name != item_id and _are_texts(catalog[name])), None)
    others = [name for name in first if name != item]
    order = next((name for name in others if _are_times(first[name])), None)
    others = [name for name in others if name != order and not _are_times(first[name])]
    user = _user(cells, others, cells.get(item or ""))
    named = {
        "--id-column": item_id,
        "--title-column": title,
        "--user-column": user,
        "--item-column": item,
        "--order-column": order,
        "--time-format": guess_time_format(first[order]) if order else None,
    }
    flags = [f"{flag} {shlex.quote(value)}" for flag, value in named.items() if value]
    return " ".join(flags) or None


def _cells(path: Path) -> Cells:
    names = column_names(path)
    table = read_columns(path, names)
    return {name: [(value or "").strip() for value in table[name].to_pylist()] for name in names}


def _ids(catalog: Cells, events: Cells) -> tuple[str | None, str | None]:
    """The catalog's column whose cells differ, and the events' column that has most of its ids,
    which is rather one of the same name."""
    distinct = [name for name, cells in catalog.items() if 20 * len(set(cells)) > 19 * len(cells)]
    scores = {}
    for item_id in distinct:
        known = set(map(plain_id, catalog[item_id]))
        for name, cells in events.items():
            share = sum(plain_id(cell) in known for cell in cells) / max(len(cells), 1)
            if share >= MIN_SHARE:
                scores[item_id, name] = (item_id == name, share, len(set(cells)))
    if scores:
        return max(scores, key=lambda pair: scores[pair])
    return next(iter(distinct), None), None


def _are_texts(cells: Sequence[str]) -> bool:
    """Whether most cells differ and have letters."""
    named = [cell for cell in set(cells) if any(map(str.isalpha, cell))]
    return len(named) >= MIN_SHARE * len(cells)


def _are_times(cells: Sequence[str]) -> bool:
    """Whether most cells are dates, or numbers that are seconds since 1970 or a finer unit."""
    return guess_time_format(cells) is not None or (
        sum(map(_is_time, cells)) >= MIN_SHARE * len(cells)
    )


def _is_time(cell: str) -> bool:
    try:
        return units_per_second(parse_time(cell)) is not None
    except (ValueError, OverflowError):
        return False


def _user(cells: Cells, names: Sequence[str], items: Sequence[str] | None) -> str | None:
    """The column with the most values of those that most rows repeat; what an item determines, like
    its title, is no user."""
    distinct = {}
    for name in names:
        n_values = len(set(cells[name]))
        is_of_item = items and len(set(zip(items, cells[name], strict=True))) == len(set(items))
        if n_values <= MIN_SHARE * len(cells[name]) and (n_values == 1 or not is_of_item):
            distinct[name] = n_values
    return max(distinct, key=lambda name: distinct[name], default=None)
