"""Delimited files of any size, a block at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from sidtool.base.errors import DataError
from sidtool.data.prepare.raw import Batch, Place
from sidtool.data.tables.containers import BLOCK_BYTES, open_file, read_errors


def csv_batches(
    path: Path,
    columns: tuple[str, str, str, str | None],
    *,
    header: Sequence[str] | None = None,
    delimiter: str = ",",
) -> Iterator[Batch]:
    """The columns of user, item, time and rating (None: there is none) of a file without quotes
    over line ends. `header` names the columns of a file that does not.

    RecBole's types behind a colon are no part of a name. Raises DataError for a missing column or a
    malformed row."""
    import pyarrow as pa
    from pyarrow import csv

    with read_errors(path), open_file(path) as stream:
        reader = csv.open_csv(
            stream,
            csv.ReadOptions(block_size=BLOCK_BYTES, column_names=header),
            csv.ParseOptions(delimiter=delimiter, quote_char=False if delimiter == "\t" else '"'),
            csv.ConvertOptions(
                strings_can_be_null=False,
                column_types=_all_text(path, header, delimiter),
            ),
        )
        places = {name.split(":")[0]: place for place, name in enumerate(reader.schema.names)}
        missing = [name for name in columns if name is not None and name not in places]
        if missing:
            raise DataError(f"{path} has no column {missing[0]!r}: {', '.join(places)}")
        first = 1
        for block in reader:
            cells = [
                None if name is None else block.column(places[name]).cast(pa.string()).to_pylist()
                for name in columns
            ]
            users, items, times, ratings = cells
            assert users is not None
            assert items is not None
            assert times is not None
            yield Batch(users, items, times, ratings, Place(path, first))
            first += len(users)


def _all_text(path: Path, header: Sequence[str] | None, delimiter: str) -> dict[str, object]:
    """Every column as text: nothing is guessed from the first block."""
    import pyarrow as pa

    names = header
    if names is None:
        with open_file(path) as stream:
            names = stream.readline().decode("utf-8").rstrip("\r\n").split(delimiter)
    return {name.strip('"'): pa.string() for name in names}
