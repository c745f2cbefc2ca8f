"""Two files of a public data set, to try sidtool on."""

import csv
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sidtool.base.errors import UsageError
from sidtool.base.output import new_dir, refuse_existing
from sidtool.base.output_name import FOLDER
from sidtool.data.prepare import read_catalog_table, read_event_table
from sidtool.recipes.wheels import WHEELS, unpack_wheels

Example = Literal["movielens"]
SOURCE = Path("recbole", "dataset_example", "ml-100k")
LICENSE = "MovieLens-100K by GroupLens, from RecBole's package: for research, not to be passed on"


@dataclass(frozen=True)
class WrittenExample:
    """The files of an example."""

    items: Path
    events: Path
    n_items: int
    n_events: int
    license: str


def write_example(name: Example, out: str | Path, *, force: bool = False) -> WrittenExample:
    """Write `items.csv` and `events.csv` of a data set to the folder `out`.

    The data set comes from a public package by pinned hash; nothing of it is in sidtool. Raises
    UsageError for another name, or if `out` exists without `force`; SidtoolError if pip cannot
    download it.

    Examples:
        >>> sidtool.write_example("movielens", "data").n_events  # doctest: +SKIP
        100000
    """
    if name != "movielens":
        raise UsageError(f"no example {name!r}: use movielens")
    out = Path(out)
    refuse_existing(out, force, FOLDER)
    with tempfile.TemporaryDirectory(prefix="sidtool-") as scratch:
        source = unpack_wheels(WHEELS, Path(scratch, "wheels"), only=("recbole",)) / SOURCE
        films = read_catalog_table(source / "ml-100k.item").cells
        ratings = read_event_table(source / "ml-100k.inter").cells
        with new_dir(out, force=force) as folder:
            _write(folder / "items.csv", films)
            _write(folder / "events.csv", ratings)
    n_items, n_events = len(films["item_id"]), len(ratings["item_id"])
    return WrittenExample(out / "items.csv", out / "events.csv", n_items, n_events, LICENSE)


def _write(path: Path, columns: Mapping[str, Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
