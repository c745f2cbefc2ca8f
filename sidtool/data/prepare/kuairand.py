"""KuaiRand: logs of shown videos, of which the clicked ones are events, and features of videos."""

from collections.abc import Iterator
from pathlib import Path

from sidtool.base.errors import DataError
from sidtool.data.tables.tables import column_names, read_columns

COLUMNS = {"user": "user_id", "item": "video_id", "time": "time_ms", "rating": "is_click"}
"""Feedback serves as rating: 1 for a click."""


def read_videos(path: Path) -> Iterator[dict[str, str]]:
    """The videos of a file of features, with every column; there are no titles."""
    names = column_names(path)
    if "video_id" not in names:
        raise DataError(f"{path} has no column 'video_id': {', '.join(names)}")
    table = read_columns(path, names, ids=["video_id"])
    for cells in zip(*(table[name].to_pylist() for name in names), strict=True):
        row = {name: cell or "" for name, cell in zip(names, cells, strict=True)}
        yield {"item_id": row.pop("video_id"), **row}


def find_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The logs and the basic features in a folder, or in its folder `data`."""
    inner = folder / "data"
    place = inner if inner.is_dir() else folder
    logs = sorted(place.glob("log_*.csv"))
    features = sorted(place.glob("video_features_basic*.csv"))
    return logs, features
