"""A split whose users are divided into parts by ranges of buckets, each of which is made alone.

Rows of events are first grouped by the parts of their users. The rows of one part are then a table
of their own, in the order of the input, which is split as any other. The digests of buckets make
those of the whole split."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sidtool.base.digests import file_digest
from sidtool.base.errors import DataError, UsageError
from sidtool.base.records import Digest, JsonRecord
from sidtool.base.threads import release_arrow_memory
from sidtool.data.coded import Texts
from sidtool.data.columns import EventColumns, EventNames, Header
from sidtool.data.event_sort import ORDER, USER
from sidtool.data.fields.fields import TARGET, TARGET_VALUES, FieldTypes
from sidtool.data.interactions import ITEM, EventCoder, runs_of_cells
from sidtool.data.split.consistency import check_parts
from sidtool.data.split.digests import BucketDigests, pair_digest
from sidtool.data.split.make import SplitOptions, make_split
from sidtool.data.split.packed import BUCKETS, user_buckets
from sidtool.data.split.protocols import refuse_empty
from sidtool.data.split.record import SPLIT_FORMAT, Cuts, SplitCounts, SplitManifest
from sidtool.data.split.write_parts import folder_name, write_logs
from sidtool.data.tables.tables import column_batches, column_names
from sidtool.data.times import check_one_unit, check_same_kind, iso_times

GROUPED_ROWS = 1 << 19
"""Rows of a file that are grouped together: a batch of each part is of so many rows."""


@dataclass(frozen=True)
class PartPlan:
    """How events are split in parts. Raises UsageError for what needs the events of all users."""

    options: SplitOptions
    parts: int

    def __post_init__(self) -> None:
        options = self.options
        by_rows = options.columns.order_by == "row"
        for is_used, words in (
            (options.protocol == "given", "--protocol given: windows are joined in one process"),
            (bool(options.extends), "--extends: two splits are compared in one process"),
            (options.fields.users is not None, "--users: each part would read the whole table"),
            (
                options.protocol == "temporal" and options.cuts() is None,
                "--protocol temporal without --valid-from and --test-from: the default cuts are "
                "those of all events in one order",
            ),
            (
                options.protocol == "temporal" and by_rows,
                "--protocol temporal with --order row: the cuts count the rows of one file",
            ),
        ):
            if is_used:
                raise UsageError(f"a split in parts cannot use {words}")

    def columns_of(self, path: Path) -> EventColumns:
        """The columns of a file of events; errors as in `read_interactions`."""
        header = Header(path, column_names(path))
        for name in self.options.further_columns:
            header.check(name, "events")
        return header.events(self.options.columns, has_options=True)

    def buckets(self, part: int) -> range:
        """The buckets of a part."""
        # the smallest bucket b with b * parts // BUCKETS == part, and that of the next part
        first, stop = (-(-number * BUCKETS // self.parts) for number in (part, part + 1))
        return range(first, stop)


@dataclass(frozen=True)
class GroupedRows(JsonRecord):
    """What became of one file of events."""

    counts: tuple[int, ...]
    """(parts,) rows of each"""
    units: dict[str, int]
    """How many times are in each unit, as `count_units`"""
    first_order: str | None
    """The order of the first row; None where rows order the events"""


def group_rows(plan: PartPlan, columns: EventColumns, source: Path, out: Path) -> GroupedRows:
    """Write the rows of a file of events, with the columns that a split reads, as an Arrow file
    with a batch for each part, run by run.

    Raises DataError for an empty id or an order that is none, UsageError for a missing column."""
    import pyarrow as pa

    file_columns = plan.columns_of(source)
    if file_columns != columns:
        raise DataError(
            f"{source} has its events in the columns {file_columns}, another file in {columns}"
        )
    used = (columns.user, columns.item, columns.order, *plan.options.further_columns)
    names = list(dict.fromkeys(filter(None, used)))
    batches = column_batches(source, names, ids=[columns.user, columns.item])
    coder = EventCoder()
    counts = np.zeros(plan.parts, dtype=np.int64)
    schema = pa.schema([(name, pa.string()) for name in names])
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.OSFile(str(out), "wb") as sink, pa.ipc.new_file(sink, schema, options=options) as file:
        for run, first in runs_of_cells(batches, GROUPED_ROWS):
            contents = {USER: columns.user, ITEM: columns.item, ORDER: columns.order}
            cells = {content: run[name] for content, name in contents.items() if name is not None}
            if columns.time_format is not None:
                cells[ORDER] = iso_times(cells[ORDER], columns.time_format)
            coder.check(source, pa.table(cells), first)
            coded = run[columns.user].combine_chunks().dictionary_encode()
            buckets = user_buckets(Texts(coded.dictionary)).astype(np.int64)
            row_parts = (buckets * plan.parts // BUCKETS)[coded.indices.to_numpy()]
            sizes = np.bincount(row_parts, minlength=plan.parts)
            # the rows of a part stay in order
            order = np.argsort(row_parts.astype(np.int16), kind="stable")
            [rows] = run.take(order).combine_chunks().to_batches()
            for start, size in zip(np.cumsum(sizes) - sizes, sizes, strict=True):
                file.write_batch(rows.slice(start, size))
            counts += sizes
            del run, cells, coded, rows  # before the next run is read
            release_arrow_memory()  # else it grows with the runs
    in_units = {str(unit): count for unit, count in coder.units.items()}
    first_order = None if coder.first_order is None else coder.first_order[1]
    return GroupedRows(tuple(counts.tolist()), in_units, first_order)


def gather_rows(grouped: Sequence[Path], part: int, parts: int, out: Path) -> None:
    """Write the rows that several files of `group_rows` have of a part as a Parquet file, in their
    order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    batches = []
    for path in grouped:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batches += [reader.get_batch(at) for at in range(part, reader.num_record_batches, parts)]
    # reading texts as codes, which few of them repeat, would take most of the time
    table = pa.Table.from_batches(batches).combine_chunks()
    pq.write_table(table, out, compression="none", use_dictionary=False)


def check_orders(source: str, files: Sequence[tuple[str, GroupedRows]]) -> None:
    """Raise DataError if the files of events have times in several units, or numbers in some and
    dates in others."""
    units: Counter[float] = Counter()
    first: tuple[str, str] | None = None  # the first file with orders, and its first order
    for name, rows in files:
        units += Counter({float(unit): count for unit, count in rows.units.items()})
        if rows.first_order is not None:
            first = first or (name, rows.first_order)
            first_name, first_order = first
            both_names = Path(f"{first_name} and {name}")
            check_same_kind(both_names, (0, first_order), (0, rows.first_order))
    check_one_unit(Path(source), units)


@dataclass(frozen=True)
class SplitPart(JsonRecord):
    """What is known of one part of a split."""

    counts: SplitCounts
    digests: BucketDigests
    """Those of its buckets"""
    events_digest: Digest | None
    files: dict[str, Digest]
    """Name in the folder of the part -> SHA-256"""
    fields: FieldTypes | None = None
    cuts: Cuts | None = None
    empty: tuple[str, ...] = ()
    """Fields of events without a value; TARGET without a target"""


def split_part(
    plan: PartPlan, columns: EventColumns, number: int, rows: Path, folder: Path
) -> SplitPart:
    """Split the rows of a part, given as a file, and write its files into a folder."""
    options = replace(plan.options, columns=EventNames())
    split = make_split(rows, options, recorded=columns, is_subset=True)
    logs = check_parts(split, is_whole=False)
    assert logs is not None  # windows are refused
    write_logs(folder, split, logs)
    digests = BucketDigests.of(split.train, split.valid, split.test, plan.buckets(number))
    files = {path.name: file_digest(path) for path in sorted(folder.iterdir())}
    origin = split.origin
    nothing = {TARGET: TARGET_VALUES[False]}
    empty = tuple(
        name
        for name, column in split.train.store.fields.items()
        if all(column.names[code] == nothing.get(name) for code in np.unique(column.codes))
    )
    return SplitPart(
        split.counts, digests, origin.events_digest, files, origin.fields, origin.cuts, empty
    )


def empty_part(plan: PartPlan, number: int) -> SplitPart:
    """What is known of a part without events, which has no files."""
    nothing = hashlib.sha256(bytes(16)).hexdigest()  # the numbers of users and of items: 0
    digests = (nothing,) * len(plan.buckets(number))
    counts = SplitCounts(0, 0, 0, 0, repeated_targets=0, tied_targets=0)
    return SplitPart(counts, BucketDigests(digests, digests, digests), None, {})


def joined_manifest(
    plan: PartPlan, columns: EventColumns, parts: Sequence[SplitPart]
) -> SplitManifest:
    """The manifest of a split that lies in the folders of its parts, given in their order.

    Raises DataError if training, validation or test is empty, if a field has another type in
    another part or a value in none, and if no part has a target."""
    options = plan.options
    made = [part for part in parts if part.files]
    fields = made[0].fields
    for part in made:
        if part.fields != fields:
            raise DataError(
                f"the fields of the events have the types {fields} and {part.fields} in two parts",
                hint="name the types, like --feedback rating:float",
            )
    empty = set.intersection(*(set(part.empty) for part in made))
    if TARGET in empty:
        raise DataError(f"no event fulfills --target {' '.join(options.fields.target)}")
    if empty:
        raise DataError(f"{', '.join(sorted(empty))}: no event has a value")
    totals = Counter[str]()
    for part in parts:
        totals.update(part.counts.to_json())
    counts = SplitCounts(**totals)
    refuse_empty(options.protocol, counts)
    digests = BucketDigests.joined([part.digests for part in parts])
    events = ":".join(part.events_digest for part in made if part.events_digest)
    return SplitManifest(
        protocol=options.protocol,
        digest=pair_digest(digests.train_digest, digests.held_out_digest),
        train_digest=digests.train_digest,
        held_out_digest=digests.held_out_digest,
        events_digest=hashlib.sha256(events.encode()).hexdigest(),
        counts=counts,
        cuts=made[0].cuts,
        columns=columns,
        files={
            f"{folder_name(number)}/{name}": digest
            for number, part in enumerate(parts)
            for name, digest in part.files.items()
        },
        fields=fields,
        sessions=options.sessions,
        parts=plan.parts,
        format=SPLIT_FORMAT,
    )
