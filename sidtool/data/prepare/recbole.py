"""RecBole's atomic files: NAME.inter, and NAME.item beside it, which is read as any catalog."""

from collections.abc import Iterator
from pathlib import Path

from sidtool.data.columns import EventNames, choose_event_columns
from sidtool.data.prepare.csv_batches import csv_batches
from sidtool.data.prepare.raw import Batch
from sidtool.data.tables.tables import column_names


def read_inter(path: Path) -> Iterator[Batch]:
    """The events of an .inter file; the rating is the column `rating` if there is one."""
    available = column_names(path)
    columns = choose_event_columns(path, available, EventNames())
    rating = "rating" if "rating" in available else None
    assert columns.order is not None  # only --order row leaves it out
    return csv_batches(path, (columns.user, columns.item, columns.order, rating), delimiter="\t")


def find_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The .inter and .item files in a folder."""
    return sorted(folder.glob("*.inter")), sorted(folder.glob("*.item"))
