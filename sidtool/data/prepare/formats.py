"""Which files public data sets have, and how their events and items are read.

Amazon reviews: JSON Lines of reviews and of metadata, and the files of ratings alone.

    2014   reviews_Beauty.json.gz, reviews_Beauty_5.json.gz, ratings_Beauty.csv; meta_Beauty.json.gz
    2018   Beauty.json.gz, Beauty_5.json.gz, Beauty.csv; meta_Beauty.json.gz
    2023   All_Beauty.jsonl(.gz), All_Beauty.csv; meta_All_Beauty.jsonl(.gz)

The metadata of 2014 are lines of Python dictionaries, not of JSON.

MovieLens: 100K (u.data, u.item), 1M and 10M (.dat), 20M and later (.csv)."""

import ast
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from sidtool.base.documents import parse_json
from sidtool.base.errors import DataError
from sidtool.data.prepare.raw import Cells, headless_batches, row_batches, table_batches
from sidtool.data.prepare.tables import read_events, read_items
from sidtool.data.tables.json_tables import as_text, json_lines
from sidtool.data.tables.opening import open_file, read_errors
from sidtool.data.tables.tables import read_columns

Source = Literal[
    "amazon-2014", "amazon-2018", "amazon-2023", "movielens", "recbole", "kuairand", "table"
]
Year = Literal["2014", "2018", "2023"]
OLD_KEYS = {"user": "reviewerID", "item": "asin", "order": "unixReviewTime", "rating": "overall"}
REVIEW_KEYS: dict[Year, dict[str, str]] = {
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
METADATA_KEYS: dict[Year, dict[str, str]] = {
    "2014": {"description": "description", "brand": "brand", "categories": "categories"},
    "2018": {"description": "description", "brand": "brand", "categories": "category"},
    "2023": {"description": "description", "brand": "store", "categories": "categories"},
}
"""Column of the catalog -> key of the metadata."""
MAX_LINE = 1 << 22
"""Bytes of a line of Python that are parsed."""
GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance"),
    *("Sci-Fi", "Thriller", "War", "Western"),
)
"""The last columns of u.item."""
MOVIELENS = {"user": "userId", "item": "movieId", "order": "timestamp", "rating": "rating"}
FILMS = {"u.data": "u.item", "ratings.dat": "movies.dat", "ratings.csv": "movies.csv"}
"""Files of ratings, and of films beside them."""
KUAIRAND = {"user": "user_id", "item": "video_id", "order": "time_ms", "rating": "is_click"}
"""Columns of its logs of shown videos; feedback serves as rating: 1 for a click, which is an
event."""


@dataclass(frozen=True)
class Format:
    """How a public data set is read."""

    find: Callable[[Path], tuple[list[Path], list[Path]]] | None
    """The files of events and the files of items in a folder; None for tables, whose paths may be
    patterns, folders and URLs."""
    read_events: Callable[[Path], Iterator[Cells]]
    read_items: Callable[[Path], Iterator[dict[str, str]]]
    has_several_files: bool = False
    """Whether the events of a data set are in more than one file."""
    min_rating: float | None = None
    """What is an event, unless the user says so."""


def _read_reviews(path: Path, year: Year) -> Iterator[Cells]:
    """The events of a file of reviews or ratings. Raises DataError, with the line, for a review
    without user, item or time."""
    if not path.name.lower().removesuffix(".gz").endswith(".csv"):
        return row_batches(_reviews(path, REVIEW_KEYS[year]))
    available = RATING_COLUMNS[year]
    if available is None:
        return table_batches(path, REVIEW_KEYS[year])
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


def _read_metadata(path: Path, year: Year) -> Iterator[dict[str, str]]:
    """The items of a file of metadata. Raises DataError, with the line, for one without an id."""
    id_key = REVIEW_KEYS[year]["item"]
    names = {"title": "title", **METADATA_KEYS[year], "price": "price"}
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


def _amazon_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The reviews and the metadata in a folder."""
    files = sorted(
        path
        for path in folder.iterdir()
        if path.name.lower().removesuffix(".gz").endswith((".json", ".jsonl", ".csv"))
    )
    metadata = [path for path in files if path.name.startswith("meta_")]
    return [path for path in files if path not in metadata], metadata


def _read_ratings(path: Path) -> Iterator[Cells]:
    """The events of a file of ratings."""
    if path.name.endswith(".dat"):
        return row_batches(_ratings(path))
    if path.name.endswith(".csv"):
        return table_batches(path, MOVIELENS)
    return headless_batches(path, ".inter", ("user", "item", "rating", "order"))


def _ratings(path: Path) -> Iterator[tuple[str, str, str, str]]:
    for number, cells in _split_lines(path, "::"):
        if len(cells) != 4:
            raise DataError(f"{path}, line {number}: {len(cells)} cells, a rating has 4")
        user, item, rating, time = cells
        yield user, item, time, rating


def _read_films(path: Path) -> Iterator[dict[str, str]]:
    """The films of a file, with their genres separated by commas."""
    if path.name.endswith(".csv"):
        table = read_columns(path, ["movieId", "title", "genres"], ids=["movieId"])
        rows = zip(*(column.to_pylist() for column in table.values()), strict=True)
        for item, title, genres in rows:
            yield _film(item or "", title or "", (genres or "").split("|"))
        return
    is_dat = path.name.endswith(".dat")
    for number, cells in _split_lines(path, "::" if is_dat else "|"):
        if len(cells) != (3 if is_dat else 5 + len(GENRES)):
            raise DataError(f"{path}, line {number}: {len(cells)} cells are no film")
        if is_dat:
            yield _film(cells[0], cells[1], cells[2].split("|"))
        else:
            flags = zip(GENRES, cells[5:], strict=True)
            yield _film(cells[0], cells[1], [genre for genre, flag in flags if flag == "1"])


def _film(item: str, title: str, genres: list[str]) -> dict[str, str]:
    return {"item_id": item, "title": title, "genres": ", ".join(genres)}


def _split_lines(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each line. The files of 10M are in UTF-8, those of 100K and 1M in
    Latin-1, which is hardly ever UTF-8, too."""
    with read_errors(path), open_file(path) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                try:
                    text = line.decode("utf-8")
                except UnicodeDecodeError:
                    text = line.decode("latin-1")
                yield number, text.rstrip("\r\n").split(separator)


def _movielens_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The ratings and the films in a folder."""
    ratings = [folder / name for name in FILMS if (folder / name).exists()][:1]
    films = [folder / FILMS[path.name] for path in ratings]
    return ratings, [path for path in films if path.exists()]


def _amazon(year: Year) -> Format:
    return Format(
        _amazon_files, partial(_read_reviews, year=year), partial(_read_metadata, year=year)
    )


def _kuairand_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The logs and the basic features in a folder, or in its folder `data`."""
    inner = folder / "data"
    place = inner if inner.is_dir() else folder
    return sorted(place.glob("log_*.csv")), sorted(place.glob("video_features_basic*.csv"))


FORMATS: dict[str, Format] = {
    "amazon-2014": _amazon("2014"),
    "amazon-2018": _amazon("2018"),
    "amazon-2023": _amazon("2023"),
    "movielens": Format(_movielens_files, _read_ratings, _read_films),
    "recbole": Format(
        lambda folder: (sorted(folder.glob("*.inter")), sorted(folder.glob("*.item"))),
        read_events,
        read_items,
    ),
    "kuairand": Format(
        _kuairand_files,
        partial(table_batches, columns=KUAIRAND),
        partial(read_items, id_column="video_id"),
        has_several_files=True,
        min_rating=1.0,
    ),
}
