"""Any table of events, and any catalog, by the names of their columns."""

from collections.abc import Iterator
from pathlib import Path

from sidtool.base.errors import UsageError
from sidtool.data.columns import EventNames, choose_event_columns
from sidtool.data.prepare.raw import Batch, Place
from sidtool.data.prepare.tables import read_catalog_table
from sidtool.data.tables.tables import column_names, read_columns
from sidtool.data.times import read_order, trimmed

RATING = "rating"


def read_events(path: Path, names: EventNames, rating: str | None = None) -> Iterator[Batch]:
    """The events of a table, read whole; dates become seconds since 1970. The rating is the column
    of that name unless another one is named."""
    available = column_names(path)
    columns = choose_event_columns(path, available, names)
    if rating is not None and rating not in available:
        raise UsageError(f"{path} has no column {rating!r}", hint=f"it has {', '.join(available)}")
    rating = rating or (RATING if RATING in available else None)
    used = [column for column in (columns.user, columns.item, columns.order, rating) if column]
    cells = read_columns(path, used, ids=[columns.user, columns.item])
    n = len(cells[columns.user])
    times = list(map(str, range(n)))
    if columns.order is not None:
        times = [
            repr(moment) for moment in read_order(path, trimmed(cells[columns.order]))[0].tolist()
        ]
    users, items = (
        [cell or "" for cell in cells[name].to_pylist()] for name in (columns.user, columns.item)
    )
    ratings = None if rating is None else [cell or "" for cell in cells[rating].to_pylist()]
    yield Batch(users, items, times, ratings, Place(path, 1))


def read_items(
    path: Path, id_column: str | None = None, title: str | None = None
) -> Iterator[dict[str, str]]:
    """The items of a catalog, with every column."""
    table = read_catalog_table(path, id_column, title)
    for cells in zip(*table.cells.values(), strict=True):
        row = dict(zip(table.names, cells, strict=True))
        first = {"item_id": row.pop(table.columns.id)}
        if table.columns.title is not None:
            first["title"] = row.pop(table.columns.title)
        yield first | row
