"""Comma and tab separated files, RecBole's among them, as columns of strings. A .csv whose header
has no comma is separated by what its header has: semicolons, tabs or bars.

A quote that is never closed would swallow the rest of the file, and pyarrow lets it. Its reader is
used for files in which every quote opens a cell, closes it or is doubled; all others are read by
Python's, which is slower and strict: it refuses what it cannot read, with the line."""

import csv
from codecs import BOM_UTF8
from collections.abc import Container, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from io import TextIOWrapper
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError
from sidtool.base.threads import arrow_thread_count, in_threads
from sidtool.data.coded import Column
from sidtool.data.tables.opening import BLOCK_BYTES, open_file, refuse_repeated

DELIMITERS = {
    **dict.fromkeys((".csv", ".txt", ".dat"), ","),
    **dict.fromkeys((".tsv", ".item", ".inter", ".user"), "\t"),
}
OTHERS = (";", "\t", "|")
"""Where the header has no comma, of a .csv as spreadsheets write it, of a .txt or .dat."""
RECBOLE = (".item", ".inter", ".user")
QUOTE = ord('"')
SCAN_BYTES = 1 << 18
"""Bytes that are searched for quotes at once: few enough for the processor's cache."""
REASONS = {
    "unexpected end of data": "a quote is opened and never closed",
    "expected after": "text follows a closing quote; a quote inside of quotes is doubled",
}
"""Words of the messages of Python's csv module -> what they mean."""


def header(path: Path, kind: str) -> tuple[str, ...]:
    """The column names in the first row; RecBole's without their type. Raises DataError if there
    are none, or two are equal."""
    names = tuple(
        cell.split(":")[0] if kind in RECBOLE else cell for cell in _first_row(path, kind)
    )
    if not any(names):
        raise DataError(f"{path} is empty: its first line should name the columns")
    refuse_repeated(path, names)
    return names


def delimiter(path: Path, kind: str) -> str:
    """What stands between the cells of a file."""
    usual = DELIMITERS[kind]
    if usual != ",":
        return usual
    with open_file(path) as stream:
        first = stream.readline(SCAN_BYTES).decode("utf-8", "replace")
    others = [other for other in OTHERS if other in first]
    return usual if usual in first or not others else max(others, key=first.count)


def delimited_batches(
    path: Path,
    names: Sequence[str],
    ids: Container[str],
    *,
    kind: str,
    available: Sequence[str] | None = None,
) -> Iterator[dict[str, Column]]:
    """The named columns, a block of the file at a time unless only the strict parser reads it. In
    `ids`, too, every cell is a text. `available` names the columns of a file without a header.

    Raises DataError, with the line, for a malformed row."""
    import pyarrow as pa

    place_by_name = {name: place for place, name in enumerate(available or header(path, kind))}
    places = {name: place_by_name[name] for name in names}
    quotes = "none" if kind in RECBOLE else _quotes(path, delimiter(path, kind))
    done = 0
    if quotes != "unusual":
        try:
            for batch in _fast_batches(path, kind, places, quotes == "usual", available):
                yield batch
                done += len(batch[names[0]])
            return
        except pa.ArrowInvalid:
            pass  # Python's parser names the line, and reads rows of any length
    width = None if available is None else len(place_by_name)
    columns = _read_strictly(path, kind, places, width)
    yield {name: column.slice(done) for name, column in columns.items()}


def _fast_batches(
    path: Path, kind: str, places: dict[str, int], has_quotes: bool, available: Sequence[str] | None
) -> Iterator[dict[str, Column]]:
    """Read by pyarrow, block by block. Raises ArrowInvalid."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    cells = available or _first_row(path, kind)
    used = [cells[place] for place in places.values()]
    read_options = arrow_csv.ReadOptions(block_size=BLOCK_BYTES, column_names=available)
    parse_options = arrow_csv.ParseOptions(
        delimiter=delimiter(path, kind),
        quote_char='"' if has_quotes else False,
        newlines_in_values=has_quotes,
    )
    convert_options = arrow_csv.ConvertOptions(
        include_columns=used,
        column_types=dict.fromkeys(used, pa.string()),
        strings_can_be_null=False,
    )
    with (
        open_file(path) as stream,
        arrow_csv.open_csv(stream, read_options, parse_options, convert_options) as reader,
    ):
        for batch in reader:
            table = pa.Table.from_batches([batch])
            yield dict(zip(places, table.columns, strict=True))


def _quotes(path: Path, delimiter: str) -> Literal["none", "usual", "unusual"]:
    """Whether a file has quotes, and whether each of them opens a cell, closes it or is doubled.

    Usual quotes open and close by turns: the first, third ... follows a delimiter, a line end or a
    quote, and one of these follows the second, fourth ..."""
    is_border = np.zeros(256, dtype=np.bool_)
    is_border[[ord(delimiter), ord("\n"), ord("\r"), QUOTE]] = True
    n_quotes = size = 0
    splits_line = False

    def quoted_blocks() -> Iterator[tuple[bytes, int]]:
        """The blocks with quotes, each behind the last byte before it, and 1 if a quote is open
        before that byte, else 0."""
        nonlocal n_quotes, size, splits_line
        last = b"\n"
        with open_file(path, skip_mark=False) as stream:
            while block := stream.read(SCAN_BYTES):
                size += len(block)
                if size == len(block):
                    block = block.removeprefix(BOM_UTF8)
                n_in_block = block.count(b'"')
                if n_in_block or last == b'"':
                    n_before_last = n_quotes - (last == b'"')
                    yield last + block, n_before_last % 2
                n_quotes += n_in_block
                last = block[-1:]
                # pyarrow drops a line feed at the start of its next block
                splits_line |= n_quotes % 2 == 1 and last == b"\r" and size % BLOCK_BYTES == 0

    are_usual = in_threads(partial(_are_usual, is_border), quoted_blocks(), arrow_thread_count())
    if not all(are_usual) or splits_line or n_quotes % 2:
        return "unusual"
    return "usual" if n_quotes else "none"


def _are_usual(is_border: NDArray[np.bool_], block: tuple[bytes, int]) -> bool:
    """Whether a border stands before each quote that opens and behind each that closes. `block` has
    bytes, and 1 if a quote is open before them, else 0. A neighbor outside of them is not checked:
    it stands beside the quote in another block, or the file ends."""
    data, is_open = block
    values = np.frombuffer(data, dtype=np.uint8)
    quotes = np.flatnonzero(values == QUOTE)
    opening = quotes[is_open::2]
    closing = quotes[1 - is_open :: 2]
    before = values[opening[opening > 0] - 1]
    behind = values[closing[closing < len(values) - 1] + 1]
    return bool(is_border[before].all() and is_border[behind].all())


def _read_strictly(
    path: Path, kind: str, places: dict[str, int], width: int | None
) -> dict[str, Column]:
    """Read by Python's csv module; `width` is the number of cells of a row, None if the first row
    is a header."""
    import pyarrow as pa

    columns: dict[str, list[str]] = {name: [] for name in places}
    with closing(_csv_rows(path, kind)) as rows:
        has_header = width is None
        if width is None:
            width = len(next(rows)[1])
        for line, cells in rows:
            if not cells:  # a blank line
                continue
            if len(cells) != width and has_header:
                raise DataError(f"{path}, line {line}: {len(cells)} cells, the header has {width}")
            if len(cells) != width:
                raise DataError(f"{path}, line {line}: {len(cells)} cells, other rows have {width}")
            for name, place in places.items():
                columns[name].append(_unicode(path, line, cells[place]))
    return {
        name: pa.chunked_array([pa.array(values, pa.string())]) for name, values in columns.items()
    }


def _first_row(path: Path, kind: str) -> list[str]:
    """The cells of the first row."""
    with closing(_csv_rows(path, kind)) as rows:
        line, cells = next(rows, (0, []))
    return [_unicode(path, line, cell) for cell in cells]


def _unicode(path: Path, line: int, cell: str) -> str:
    """The cell. Raises DataError if its bytes are not UTF-8."""
    if not cell.isascii() and any("\udc80" <= character <= "\udcff" for character in cell):
        raise DataError(
            f"{path}, line {line}: not UTF-8",
            hint="save it as UTF-8, or convert it, like `iconv -f windows-1252 -t utf-8`; "
            "`sidtool prepare --from movielens` reads MovieLens as it is",
        )
    return cell


def _csv_rows(path: Path, kind: str) -> Generator[tuple[int, list[str]], None, None]:
    """The first line of each row and its cells, in which a byte that is not UTF-8 is a lone
    surrogate. Raises DataError, with the line, for a row that cannot be read."""
    with open_file(path) as stream:
        lines = TextIOWrapper(stream, encoding="utf-8", errors="surrogateescape", newline="")
        quoting: Any = csv.QUOTE_NONE if kind in RECBOLE else csv.QUOTE_MINIMAL
        reader = csv.reader(lines, delimiter=delimiter(path, kind), quoting=quoting, strict=True)
        line = 1
        try:
            for cells in reader:
                yield line, cells
                line = reader.line_num + 1
        except csv.Error as error:
            reason = str(error)
            for words, meaning in REASONS.items():
                if words in reason:
                    reason = meaning
            raise DataError(f"{path}, line {line}: cannot be read ({reason})") from error
