"""The folder of an output's unfinished work, and the run that it belongs to."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidtool.base.documents import parse_json
from sidtool.base.errors import DataError, UsageError, raised_as
from sidtool.base.output import remove, write_whole
from sidtool.base.records import flat, shortened

RUN_FILE = "run.json"
MAX_LISTED = 5
"""Different settings that an error lists."""


def open_work_folder(
    work: Path, fingerprint: Mapping[str, Any], *, restart: str, force: bool = False
) -> None:
    """Keep an unfinished work folder of the same run, else start a new one. `fingerprint` has
    everything that must be equal for a run to resume, as JSON values; `restart` says how to start
    again. The caller holds the lock of the output. Raises without `force` as
    `check_work_folder`."""
    path = work / RUN_FILE
    if path.exists():
        try:
            return check_work_folder(work, fingerprint, restart=restart)
        except (DataError, UsageError):
            if not force:
                raise
    remove(work)
    work.mkdir(parents=True)
    write_whole(path, json.dumps(fingerprint, indent=1) + "\n")


def check_work_folder(
    work: Path, fingerprint: Mapping[str, Any], *, restart: str, partly: bool = False
) -> None:
    """Raise UsageError if an unfinished work folder belongs to a different run, DataError if its
    record is damaged; `restart` is the hint that says how to start again. `fingerprint` may be
    `partly` known: what both have is compared then."""
    path = work / RUN_FILE
    with raised_as(
        DataError, f"{path} is damaged", restart, errors=(OSError, ValueError, TypeError)
    ):
        old = flat(dict(parse_json(path.read_bytes())))
    new = flat(fingerprint)
    keys = old.keys() & new.keys() if partly else old.keys() | new.keys()
    different = [
        f"{key}: {shortened(old.get(key))}, not {shortened(new.get(key))}"
        for key in sorted(keys)
        if old.get(key) != new.get(key)
    ]
    if different:
        listed = "; ".join(different[:MAX_LISTED])
        n_unlisted = len(different) - MAX_LISTED
        raise UsageError(
            f"{work} has an unfinished run with different {listed}"
            + (f"; and {n_unlisted} more" if n_unlisted > 0 else ""),
            hint=f"repeat its settings to resume it; {restart}",
        )
