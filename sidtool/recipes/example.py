"""Two files of a public data set, to try sidtool on, from public wheels by pinned hash."""

import csv
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from sidtool.base.errors import SidtoolError, UsageError
from sidtool.base.output import new_dir, refuse_existing
from sidtool.base.output_name import CSV_FOLDER
from sidtool.data.prepare import read_catalog_table, read_event_table

WHEELS = Path(__file__).with_name("wheels.txt")
"""The pins of MovieLens-100K and of MiniLM."""


def unpack_wheels(requirements: Path, out: Path, only: Sequence[str] = ()) -> Path:
    """Unpack the wheels that a requirements file pins, or only those of these names, into `out`.

    Does nothing if `out` exists. Raises SidtoolError if pip cannot download them."""
    if out.exists():
        return out
    lines = requirements.read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    wanted_pins = [pin for pin in pins if not only or pin.partition("==")[0] in only]
    with tempfile.TemporaryDirectory() as scratch, new_dir(out) as folder:
        pinned = Path(scratch, "requirements.txt")
        pinned.write_text("\n".join(wanted_pins), encoding="utf-8")
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command = [*download, "--require-hashes", "-r", str(pinned), "-d", scratch]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            reason = done.stderr.strip().splitlines() or ["pip failed"]
            raise SidtoolError(
                f"{', '.join(pin.partition(' ')[0] for pin in wanted_pins)} cannot be downloaded: "
                f"{reason[-1]}",
                hint="this needs pip and a network or an index (PIP_INDEX_URL)",
            )
        for wheel in sorted(Path(scratch).glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(folder)
    return out


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
    refuse_existing(out, force, CSV_FOLDER)
    with tempfile.TemporaryDirectory(prefix="sidtool-") as scratch:
        source = unpack_wheels(WHEELS, Path(scratch, "wheels"), only=("recbole",)) / SOURCE
        films = read_catalog_table(source / "ml-100k.item").cells
        ratings = read_event_table(source / "ml-100k.inter").cells
        with new_dir(out, force=force, kind=CSV_FOLDER) as folder:
            _write(folder / "items.csv", films)
            _write(folder / "events.csv", ratings)
    n_items, n_events = len(films["item_id"]), len(ratings["item_id"])
    return WrittenExample(out / "items.csv", out / "events.csv", n_items, n_events, LICENSE)


def _write(path: Path, columns: Mapping[str, Sequence[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
