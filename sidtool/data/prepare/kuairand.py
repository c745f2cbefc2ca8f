"""KuaiRand: logs of shown videos, of which the clicked ones are events, and features of videos."""

from pathlib import Path

COLUMNS = {"user": "user_id", "item": "video_id", "time": "time_ms", "rating": "is_click"}
"""Feedback serves as rating: 1 for a click."""


def find_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The logs and the basic features in a folder, or in its folder `data`."""
    inner = folder / "data"
    place = inner if inner.is_dir() else folder
    logs = sorted(place.glob("log_*.csv"))
    features = sorted(place.glob("video_features_basic*.csv"))
    return logs, features
