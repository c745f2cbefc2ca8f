"""Which of several trainings the valid users choose: the one whose mean N@10 over the seeds is
best. Prints its name.

    python benchmarks/choose.py WORK_DIR NAME... --seeds SEED...

WORK_DIR/seed-SEED/NAME-valid.json is what `sidtool evaluate --json` said of all valid users. One
name is chosen unseen."""

import argparse
import json
import sys
from pathlib import Path
from statistics import mean


def main() -> None:
    """Read, compare, print; the figures go to standard error."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--seeds", nargs="+", required=True)
    asked = parser.parse_args()
    found = {}
    for name in asked.names if len(asked.names) > 1 else ():
        files = [asked.work / f"seed-{seed}" / f"{name}-valid.json" for seed in asked.seeds]
        metrics = [json.loads(file.read_text(encoding="utf-8"))["metrics"] for file in files]
        found[name] = mean(one["ndcg@10"] for one in metrics)
        each = ", ".join(f"{one['hr@10']:.4f} / {one['ndcg@10']:.4f}" for one in metrics)
        print(
            f"{name}: R@10 / N@10 of all valid users, by seed: {each}; mean N@10 {found[name]:.4f}",
            file=sys.stderr,
        )
    print(max(found, key=lambda name: found[name]) if found else asked.names[0])


if __name__ == "__main__":
    main()
