"""Cleaned copies of a catalog and its events, with a count of everything that was changed."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import RefusedError, UsageError
from sidtool.base.inputs import keeps_inputs
from sidtool.base.options import options_from
from sidtool.base.output import new_dir, refuse_existing
from sidtool.base.output_name import PARQUET_FOLDER
from sidtool.base.ranges import run_starts
from sidtool.base.records import JsonRecord
from sidtool.data.coded import BLOCK, Coded, Texts, arrow_numbers, coded_texts, numpy_numbers
from sidtool.data.columns import CatalogColumns, EventColumns, EventNames
from sidtool.data.items import CatalogNames
from sidtool.data.prepare.check import (
    MEANINGS,
    CheckReport,
    normal_form,
    repeated_rows,
    report,
    unusable_events,
)
from sidtool.data.prepare.tables import (
    CatalogTable,
    Cells,
    EventTable,
    are_empty,
    read_tables,
    renamed,
)
from sidtool.data.times import parse_moments, trimmed
from sidtool.data.unknown_ids import known_spellings

ITEM_COLUMNS = CatalogColumns("item_id", "title")
EVENT_COLUMNS = EventColumns("user_id", "item_id", "timestamp")
ITEMS_FILE = "items.parquet"
EVENTS_FILE = "events.parquet"
MAX_LOST_SHARE = 0.2
"""Of the events; cleaning that loses more is refused."""


@dataclass(frozen=True)
class Cleaned(JsonRecord):
    """What cleaning changed, and what is left to report."""

    dropped_items: Mapping[str, int]
    """Reason -> rows of the catalog that were left out."""
    respelled_items: int
    """Rows of the catalog whose id was written in its normal form."""
    dropped_events: Mapping[str, int]
    """Reason -> events that were left out."""
    respelled_events: int
    """Events whose item or user was written in its normal form, or whose item as in the
    catalog."""
    converted_times: int
    """Times that were divided: milliseconds or smaller units among seconds."""
    left: CheckReport
    """The report of the cleaned tables."""


@keeps_inputs()
def clean(
    items: str | Path,
    events: str | Path | None,
    out: str | Path,
    *,
    id_column: str | None = None,
    title_column: str | None = None,
    event_names: EventNames | None = None,
    allow_losses: bool = False,
    force: bool = False,
    **given: Any,
) -> Cleaned:
    """Write cleaned copies of a catalog and events on its items to the folder `out`, as `sidtool
    check --fix` does; docs/data.md says what is cleaned. The files and the columns are those of
    `check`. `left` of the result has the problems that cleaning cannot mend, and `left.stops` those
    that would stop a build. Raises as `check` and `clean_tables`.

    Examples:
        >>> cleaned = sidtool.clean("items.jsonl", "events.csv", "cleaned")
        >>> cleaned.dropped_events, cleaned.left.stops
        ({}, ())
    """
    out = Path(out)
    refuse_existing(out, force, PARQUET_FOLDER)
    columns = CatalogNames(id_column=id_column, title_column=title_column)
    path = None if events is None else Path(events)
    names = options_from(EventNames, event_names, given)
    tables = read_tables(Path(items), path, columns, names)
    return clean_tables(*tables, out, allow_losses=allow_losses, force=force)


def clean_tables(
    catalog: CatalogTable,
    events: EventTable | None,
    out: Path,
    *,
    allow_losses: bool = False,
    force: bool = False,
) -> Cleaned:
    """Write `items.parquet`, and `events.parquet` if there are events, to the folder `out`.

    Ids are written in their normal form, those of events as in the catalog if a program changed
    most of those that it lacks: leading zeros, ".0", case. Of rows with one id, the first with a
    title is kept. Events are sorted by user and time; those without user, item or time, of unknown
    items, and repeated ones are left out. Columns get the names item_id, title, user_id and
    timestamp; others are kept as text. Raises UsageError if the output exists without `force`, or
    if another column has one of these names; RefusedError if more than a fifth of the events would
    be lost, without `allow_losses`."""
    items, dropped_items, respelled = clean_catalog(catalog)
    dropped_events: dict[str, int] = {}
    respelled_events = converted = 0
    cleaned = None
    if events is not None:
        cleaned, dropped_events, respelled_events, converted = clean_events(events, items)
        if not allow_losses:
            _check_loss(events, dropped_events)
    with new_dir(out, force=force, kind=PARQUET_FOLDER) as folder:
        _write(folder / ITEMS_FILE, items.cells)
        if cleaned is not None:
            _write(folder / EVENTS_FILE, cleaned.cells)
    return Cleaned(
        dropped_items,
        respelled,
        dropped_events,
        respelled_events,
        converted,
        report(items, cleaned),
    )


def _check_loss(events: EventTable, dropped: Mapping[str, int]) -> None:
    """Raise RefusedError if too many events would be lost; one that repeats another is not."""
    lost = {reason: count for reason, count in dropped.items() if reason != "duplicate_event"}
    n_lost = sum(lost.values())
    if n_lost <= MAX_LOST_SHARE * len(events.users):
        return
    reasons = ", ".join(f"{count} {MEANINGS[reason]}" for reason, count in lost.items())
    guess = None
    if "unreadable_time" in lost:
        guess = events.time_format_hint
    raise RefusedError(
        f"cleaning would lose {n_lost} of {len(events.users)} events: {reasons}",
        hint=guess or "`sidtool check --allow-losses` writes the others",
    )


def clean_catalog(catalog: CatalogTable) -> tuple[CatalogTable, dict[str, int], int]:
    """The catalog with one row per id, rows left out by reason, and ids that were respelled."""
    ids = _spelled(catalog.ids, map(normal_form, catalog.ids.names))
    is_empty = are_empty(ids)
    order = np.lexsort((~catalog.has_title, ids.codes))  # of each id, rows with a title come first
    rows = np.sort(order[run_starts(ids.codes[order])])
    rows = rows[~is_empty[rows]]
    empty = int(is_empty.sum())
    dropped = Counter(empty_item_id=empty, duplicate_item_id=len(ids) - empty - len(rows))
    respelled = int(_differ(ids, catalog.ids)[rows].sum())
    cells = {**catalog.cells, catalog.columns.id: ids}
    cells = _renamed(catalog.path, cells, catalog.usual_names, rows)
    columns = replace(ITEM_COLUMNS, title="title" if "title" in cells else None)
    counts = dict(+dropped)  # without reasons that no row has
    return CatalogTable(catalog.path, columns, cells), counts, respelled


class CleanedEvents(NamedTuple):
    """The events of a catalog's items by user and time, and counts as in `Cleaned`."""

    events: EventTable
    dropped: dict[str, int]
    respelled: int
    converted_times: int


def clean_events(events: EventTable, catalog: CatalogTable) -> CleanedEvents:
    """Clean events as `clean_tables` says, by a catalog that was cleaned before."""
    users = _spelled(events.users, map(normal_form, events.users.names))
    items = _spelled(events.items, map(normal_form, events.items.names))
    spellings = known_spellings(catalog.ids.names, catalog.unknown_ids(items))
    items = _spelled(items, (spellings.get(item, item) for item in items.names))
    file_rows = np.arange(len(users))
    written_times = events.times or Coded(
        Texts(arrow_numbers(file_rows).cast("large_string")), file_rows
    )
    moments = parse_moments(written_times.names)
    ratios = moments.ratios  # divide times: 1000 for milliseconds among seconds
    texts: Iterable[str] = Texts(trimmed(written_times.names.arrow))
    if (ratios > 1).any():
        texts = (
            format(Decimal(text) / int(ratio), "f") if ratio > 1 else text
            for text, ratio in zip(texts, ratios.tolist(), strict=True)
        )
    times = _spelled(written_times, texts)
    moments, ratios = moments.at(written_times.codes), ratios[written_times.codes]
    is_dropped = np.zeros(len(users), dtype=np.bool_)
    dropped = Counter[str]()
    for reason, is_unusable in unusable_events(users, items, moments, catalog).items():
        dropped[reason] = int((is_unusable & ~is_dropped).sum())  # a row counts for one reason
        is_dropped |= is_unusable
    rows = np.flatnonzero(~is_dropped)
    if events.times is not None:
        repeated = repeated_rows(*(cells.codes[rows] for cells in (users, items, times)))
        dropped["duplicate_event"] = len(repeated)
        rows = np.delete(rows, repeated)
    # by user, in the order of the file, then by time; events at one time stay in that order, too
    seconds = moments.seconds / ratios
    rows = rows[np.lexsort((seconds[rows], users.codes[rows]))]
    are_respelled = _differ(users, events.users) | _differ(items, events.items)
    respelled = int(are_respelled[rows].sum())
    converted = int((ratios[rows] > 1).sum())
    columns = events.columns
    if columns.order is None and "timestamp" in events.cells:
        raise UsageError(
            f"{events.path} has a column 'timestamp', which the number of each row would replace",
            hint="rename it in the file, or order the events by it",
        )
    order_column = columns.order or "timestamp"
    cells = {**events.cells, columns.user: users, columns.item: items, order_column: times}
    names = {"user_id": columns.user, "item_id": columns.item, "timestamp": order_column}
    cells = _renamed(events.path, cells, names, rows)
    cleaned = EventTable(events.path, EVENT_COLUMNS, cells)
    return CleanedEvents(cleaned, dict(+dropped), respelled, converted)


def _spelled(cells: Cells, spellings: Iterable[str]) -> Cells:
    """The cells with a spelling of each distinct one, which several may share."""
    import pyarrow as pa

    texts = spellings if isinstance(spellings, Texts) else Texts.packed(spellings)
    distinct = coded_texts(pa.chunked_array([texts.arrow]))
    return Coded(distinct.names, distinct.codes[cells.codes])


def _differ(cells: Cells, others: Cells) -> NDArray[np.bool_]:
    """(n,): whether the cells of two columns differ."""
    return cells.names.places_in(others.names)[cells.codes] != others.codes


def _renamed(
    path: Path, cells: Mapping[str, Cells], names: Mapping[str, str], rows: NDArray[np.int64]
) -> dict[str, Cells]:
    """Some rows, with the columns by their new names. Raises as `renamed`."""
    columns = renamed(path, cells, names)
    return {name: _taken(column, rows) for name, column in columns.items()}


def _taken(cells: Cells, rows: NDArray[np.int64]) -> Cells:
    """Some rows of a column, coded by first appearance among them."""
    coded = arrow_numbers(cells.codes[rows]).dictionary_encode()
    return Coded(Texts(cells.names.arrow.take(coded.dictionary)), numpy_numbers(coded.indices))


def _write(path: Path, cells: Mapping[str, Cells]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {}
    for name, column in cells.items():
        names = column.names.arrow
        values = _numbers(names) if name == "timestamp" else names
        kind = pa.string() if values is names else values.type
        blocks = [
            values.take(arrow_numbers(column.codes[at : at + BLOCK])).cast(kind)
            for at in range(0, len(column), BLOCK)
        ]
        columns[name] = pa.chunked_array(blocks, kind)
    table = pa.table(columns).combine_chunks()  # the pages of a file depend on the chunks
    pq.write_table(table, path, compression="zstd")


def _numbers(column: Any) -> Any:
    """A column of texts as numbers if all of them are, else as it is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for kind in (pa.int64(), pa.float64()):
        try:
            return pc.cast(column, kind)
        except pa.ArrowInvalid:
            continue
    return column
