"""The folder of an output's unfinished work, and the run that it belongs to."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidtool.base.documents import parse_json
from sidtool.base.errors import DataError, UsageError
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
    again. The caller holds the lock of the output. Raises, without `force`, UsageError if the
    folder belongs to a different run, DataError if its record is damaged."""
    path = work / RUN_FILE
    if path.exists():
        try:
            old = flat(dict(parse_json(path.read_bytes())))
        except (OSError, ValueError, TypeError) as error:
            if not force:
                reason = " ".join(str(error).split())
                raise DataError(f"{path} is damaged: {reason}", hint=restart) from error
            old = {RUN_FILE: "damaged"}
        new = flat(fingerprint)
        different = [
            f"{key}: {shortened(old.get(key))}, not {shortened(new.get(key))}"
            for key in sorted({*old, *new})
            if old.get(key) != new.get(key)
        ]
        if not different:
            return
        if not force:
            listed = "; ".join(different[:MAX_LISTED])
            rest = len(different) - MAX_LISTED
            raise UsageError(
                f"{work} has an unfinished run with different {listed}"
                + (f"; and {rest} more" if rest > 0 else ""),
                hint=f"repeat its settings to resume it; {restart}",
            )
    remove(work)
    work.mkdir(parents=True)
    write_whole(path, json.dumps(fingerprint, indent=1) + "\n")
