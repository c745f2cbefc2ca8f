"""Raw reviews and ratings to `items.parquet` and `events.parquet`, which all commands read."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from sidtool.base.errors import DataError, UsageError, without_credentials
from sidtool.base.given_options import given_flags
from sidtool.base.inputs import keeps_inputs
from sidtool.base.options import check_options, group, option, options_from
from sidtool.base.output import new_dir, refuse_existing
from sidtool.base.output_name import FOLDER
from sidtool.base.records import JsonRecord
from sidtool.data.columns import EventNames
from sidtool.data.items import CatalogNames
from sidtool.data.prepare.cleaning import EVENTS_FILE, ITEMS_FILE
from sidtool.data.prepare.formats import FORMATS, Format, Source
from sidtool.data.prepare.raw import FilterOptions, RawEvents, Step, collect, filter_events
from sidtool.data.prepare.tables import read_events, read_items
from sidtool.data.tables.opening import as_url

CATALOG_FLAGS = ("--all-items", "--id-column", "--title-column")
RECORD = "prepare.json"
ROWS = 1 << 16
"""Rows of a table that are written at once."""


@dataclass(frozen=True)
class PrepareOptions(CatalogNames):
    """What is read, and what stays of it. Raises UsageError for columns of a format that has its
    own."""

    source: Source = option("table", flag="--from")
    """Format; table: any, by column names."""
    items: Path | None = option(None)
    """Metadata or catalog. Default: the file of the format beside the events."""
    all_items: bool = option(False)
    """Keep items without events, too."""
    filters: FilterOptions = group(FilterOptions)
    columns: EventNames = group(EventNames)
    rating_column: str | None = option(None)
    """Event column of ratings; `rating` by default."""

    def __post_init__(self) -> None:
        check_options(self)
        named = [flag for flag in given_flags(self) if flag.endswith("-column")]
        flag = next(iter([*given_flags(self.columns), *named]), None)
        if flag is not None and self.source != "table":
            raise UsageError(f"{flag} applies to --from table, not to {self.source}")

    @property
    def format(self) -> Format:
        """How the files of `source` are read."""
        if self.source == "table":
            return Format(
                find=None,
                read_events=partial(
                    read_events,
                    names=self.columns,
                    rating=self.rating_column,
                    needs_rating=self.filters.min_rating is not None,
                ),
                read_items=partial(read_items, id_column=self.id_column, title=self.title_column),
            )
        return FORMATS[self.source]


@dataclass(frozen=True)
class Prepared(JsonRecord):
    """What was read and what was written."""

    source: str
    event_files: tuple[str, ...]
    item_file: str | None
    filters: FilterOptions
    steps: tuple[Step, ...]
    """Counts after each filter."""
    dropped_items: Mapping[str, int]
    """Reason -> rows of the catalog that were left out: those without an id, all but the first of
    one id, and items without events."""
    items: int
    """Items that were written."""


@keeps_inputs()
def prepare(
    source: str | Path,
    out: str | Path,
    options: PrepareOptions | None = None,
    *,
    dry_run: bool = False,
    force: bool = False,
    **given: Any,
) -> Prepared:
    """Write `items.parquet`, `events.parquet` and `prepare.json` to the folder `out`. The options
    may also be given as keywords, except for the format: `PrepareOptions(source="recbole")`.

    `source` is a file of events or a folder of the data set's files. Events are held in memory with
    24 bytes each and every id once; items are read twice, and written as they are read. Without a
    file of items, the catalog has the ids alone. A dry run writes nothing. Raises UsageError if the
    output exists without `force` and for an option of a catalog without one, DataError for a
    malformed row and if no event stays.

    Examples:
        >>> prepared = sidtool.prepare("events.csv", "data")
        >>> prepared.steps[0].name, prepared.items
        ('read', 60)
    """
    source, out = Path(source), Path(out)
    options = options_from(PrepareOptions, options, given)
    refuse_existing(out, force, FOLDER)
    event_files, item_file = _files(source, options)
    flag = next((flag for flag in given_flags(options) if flag in CATALOG_FLAGS), None)
    if item_file is None and flag is not None:
        raise UsageError(f"{flag} requires a catalog", hint="give it by --items ITEMS")
    raw_format = options.format
    filters = options.filters
    if filters.min_rating is None and raw_format.min_rating is not None:
        filters = replace(filters, min_rating=raw_format.min_rating)
    catalog, dropped = None, {}
    if item_file is not None:
        row_counts = Counter(row["item_id"] for row in raw_format.read_items(item_file))
        dropped = {"empty_item_id": row_counts.pop("", 0)}
        dropped["duplicate_item_id"] = row_counts.total() - len(row_counts)
        catalog = set(row_counts)
    read = collect((path, raw_format.read_events(path)) for path in event_files)
    events, steps = filter_events(read, filters, catalog=catalog)
    if not len(events):
        counts = ", ".join(f"{step.events} after {step.name!r}" for step in steps)
        raise DataError(f"no event of {source} stays: {counts}")
    written_ids = {events.items[code] for code in np.unique(events.columns["item"]).tolist()}
    if catalog is not None and options.all_items:
        written_ids = catalog
    if catalog is not None:
        dropped["item_without_events"] = len(catalog) - len(written_ids)
    names = tuple(without_credentials(as_url(path)) for path in event_files)
    prepared = Prepared(
        options.source,
        names,
        without_credentials(as_url(item_file)) if item_file else None,
        filters,
        steps,
        {reason: count for reason, count in dropped.items() if count},
        len(written_ids),
    )
    if dry_run:
        return prepared
    with new_dir(out, force=force) as folder:
        if item_file is None:
            rows = iter([{"item_id": item} for item in events.items])
        else:
            rows = raw_format.read_items(item_file)
        _write_items(folder / ITEMS_FILE, _once(rows, written_ids))
        _write_events(folder / EVENTS_FILE, events)
        text = json.dumps(prepared.to_json(), indent=1, ensure_ascii=False)
        (folder / RECORD).write_text(f"{text}\n", encoding="utf-8")
    return prepared


def _files(source: Path, options: PrepareOptions) -> tuple[list[Path], Path | None]:
    """The files of events, and the file of items if there is one."""
    find_files = options.format.find
    if find_files is None:
        return [source], options.items
    if not source.exists():
        raise DataError(f"{source} does not exist")
    events, items = find_files(source if source.is_dir() else source.parent)
    if not source.is_dir():  # the file of events, with that of items beside it
        events = [source]
        items = [path for path in items if path != source]
    if not events:
        raise DataError(f"{source} has no file of events of {options.source}")
    if len(events) > 1 and not options.format.has_several_files:
        raise _several(source, "events", events, "give the one to read as SOURCE")
    if len(items) > 1 and options.items is None:
        raise _several(source, "items", items, "name the one to read with --items")
    return events, options.items or next(iter(items), None)


def _several(source: Path, content: str, files: list[Path], hint: str) -> UsageError:
    names = f"{files[0].name} and {files[1].name}"
    return UsageError(f"{source} has several files of {content}: {names}", hint=hint)


def _once(rows: Iterator[dict[str, str]], written_ids: set[str]) -> Iterator[dict[str, str]]:
    """The rows of some items, the first one of each."""
    remaining = set(written_ids)
    for row in rows:
        if row["item_id"] in remaining:
            remaining.remove(row["item_id"])
            yield row


def _write_items(path: Path, rows: Iterator[dict[str, str]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = next(rows)
    schema = pa.schema([(name, pa.string()) for name in first])
    rows = chain([first], rows)
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        while block := list(islice(rows, ROWS)):
            writer.write_table(pa.Table.from_pylist(block, schema))


def _write_events(path: Path, events: RawEvents) -> None:
    """Events by user and time; equal times stay in file order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    in_order = np.lexsort((events.columns["order"], events.columns["user"]))
    columns: dict[str, Any] = dict(events.select(in_order).columns)
    for content, ids in (("user", events.users), ("item", events.items)):
        texts = pa.array(ids, pa.string())
        coded = pa.DictionaryArray.from_arrays(pa.array(columns.pop(content)), texts)
        columns[f"{content}_id"] = coded.cast(pa.large_string())
    columns["timestamp"] = columns.pop("order")
    names = [name for name in ("user_id", "item_id", "timestamp", "rating") if name in columns]
    table = pa.table({name: columns[name] for name in names})
    pq.write_table(table, path, row_group_size=1 << 20, compression="zstd")
