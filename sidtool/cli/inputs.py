"""Files that several commands read."""

from pathlib import Path

from sidtool.errors import DataError


def read_ids(path: Path) -> list[str]:
    """Item ids, one per line. Raises DataError if the file cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return [line.strip() for line in lines if line.strip()]
