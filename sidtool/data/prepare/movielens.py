"""MovieLens: 100K (u.data, u.item), 1M and 10M (.dat), 20M and later (.csv)."""

from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path

from sidtool.base.errors import DataError
from sidtool.data.prepare.raw import Cells, headless_batches, row_batches, table_batches
from sidtool.data.tables.opening import open_file, read_errors
from sidtool.data.tables.tables import read_columns

GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance"),
    *("Sci-Fi", "Thriller", "War", "Western"),
)
"""The last columns of u.item."""
COLUMNS = {"user": "userId", "item": "movieId", "order": "timestamp", "rating": "rating"}
SIBLINGS = {"u.data": "u.item", "ratings.dat": "movies.dat", "ratings.csv": "movies.csv"}
"""Files of ratings, and of films beside them."""


def read_ratings(path: Path) -> Iterator[Cells]:
    """The events of a file of ratings."""
    if path.name.endswith(".dat"):
        return row_batches(_ratings(path))
    if path.name.endswith(".csv"):
        return table_batches(path, COLUMNS)
    return headless_batches(path, ".inter", ("user", "item", "rating", "order"))


def _ratings(path: Path) -> Iterator[tuple[str, str, str, str]]:
    for number, cells in _split_lines(path, "::"):
        if len(cells) != 4:
            raise DataError(f"{path}, line {number}: {len(cells)} cells, a rating has 4")
        user, item, rating, time = cells
        yield user, item, time, rating


def read_films(path: Path) -> Iterator[dict[str, str]]:
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
    """Number and cells of each line. The files before 20M are Latin-1."""
    with read_errors(path), open_file(path) as stream:
        for number, line in enumerate(TextIOWrapper(stream, encoding="latin-1"), 1):
            if line.strip():
                yield number, line.rstrip("\r\n").split(separator)


def find_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The ratings and the films in a folder."""
    ratings = [folder / name for name in SIBLINGS if (folder / name).exists()][:1]
    films = [folder / SIBLINGS[path.name] for path in ratings]
    return ratings, [path for path in films if path.exists()]
