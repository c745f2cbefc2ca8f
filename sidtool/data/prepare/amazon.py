"""Amazon reviews of 2014, 2018 and 2023: JSON Lines of reviews and of metadata, and the files of
ratings alone.

    2014   reviews_Beauty.json.gz, reviews_Beauty_5.json.gz, ratings_Beauty.csv; meta_Beauty.json.gz
    2018   Beauty.json.gz, Beauty_5.json.gz, Beauty.csv; meta_Beauty.json.gz
    2023   All_Beauty.jsonl(.gz), All_Beauty.csv; meta_All_Beauty.jsonl(.gz)

The metadata of 2014 are lines of Python dictionaries, not of JSON."""

import ast
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from sidtool.base.documents import parse_json
from sidtool.base.errors import DataError
from sidtool.data.prepare.raw import Cells, headless_batches, row_batches, table_batches
from sidtool.data.tables.json_tables import as_text, json_lines
from sidtool.data.tables.opening import open_file, read_errors

Year = Literal["2014", "2018", "2023"]
OLD_KEYS = {"user": "reviewerID", "item": "asin", "order": "unixReviewTime", "rating": "overall"}
KEYS: dict[Year, dict[str, str]] = {
    "2014": OLD_KEYS,
    "2018": OLD_KEYS,
    "2023": {"user": "user_id", "item": "parent_asin", "order": "timestamp", "rating": "rating"},
}
"""Keys of a review."""
RATING_COLUMNS: dict[Year, tuple[str, ...] | None] = {
    "2014": ("user", "item", "rating", "order"),
    "2018": ("item", "user", "rating", "order"),
    "2023": None,
}
"""Columns of the files of ratings, which have no header before 2023."""
FIELDS: dict[Year, dict[str, str]] = {
    "2014": {"description": "description", "brand": "brand", "categories": "categories"},
    "2018": {"description": "description", "brand": "brand", "categories": "category"},
    "2023": {"description": "description", "brand": "store", "categories": "categories"},
}
"""Column of the catalog -> key of the metadata."""
MAX_LINE = 1 << 22
"""Bytes of a line of Python that are parsed."""


def read_reviews(path: Path, year: Year) -> Iterator[Cells]:
    """The events of a file of reviews or ratings. Raises DataError, with the line, for a review
    without user, item or time."""
    if not path.name.lower().removesuffix(".gz").endswith(".csv"):
        return row_batches(_reviews(path, KEYS[year]))
    available = RATING_COLUMNS[year]
    if available is None:
        return table_batches(path, KEYS[year])
    return headless_batches(path, ".csv", available)


def _reviews(path: Path, keys: dict[str, str]) -> Iterator[tuple[str, str, str, str]]:
    for number, review in json_lines(path):
        user, item, time, rating = (as_text(review.get(key)) or "" for key in keys.values())
        if not (user and item and time):
            raise DataError(
                f"{path}, line {number}: a review has the keys {', '.join([*keys.values()][:3])}, "
                f"this one {', '.join(sorted(review))[:120]}"
            )
        yield user, item, time, rating


def read_metadata(path: Path, year: Year) -> Iterator[dict[str, str]]:
    """The items of a file of metadata. Raises DataError, with the line, for one without an id."""
    id_key = "parent_asin" if year == "2023" else "asin"
    names = {"title": "title", **FIELDS[year], "price": "price"}
    if year == "2023":
        names["features"] = "features"
    with read_errors(path), open_file(path) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            row = _row(path, number, line)
            item = as_text(row.get(id_key))
            if not item:
                raise DataError(f"{path}, line {number}: an item has the key {id_key}")
            cells = {name: as_text(row.get(key)) or "" for name, key in names.items()}
            yield {"item_id": item, **cells}


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """The object of a line of JSON, or of a Python dictionary as in 2014."""
    try:
        row = parse_json(line)
    except ValueError:
        row = None
        if len(line) <= MAX_LINE:
            with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
                row = ast.literal_eval(line.decode("utf-8").strip())
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {number}: neither a JSON object nor a Python dictionary")
    return row


def find_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The reviews and the metadata in a folder."""
    files = sorted(
        path
        for path in folder.iterdir()
        if path.name.lower().removesuffix(".gz").endswith((".json", ".jsonl", ".csv"))
    )
    metadata = [path for path in files if path.name.startswith("meta_")]
    return [path for path in files if path not in metadata], metadata
