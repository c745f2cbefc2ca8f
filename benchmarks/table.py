"""Print what `sidtool evaluate --json` wrote as a table: R@5, R@10, N@5, N@10 of each system on the same users.

Usage: table.py NAME=METRICS.json ... ; the baselines are those of the first file. R is HR: one target a user.
"""

import json
import sys
from pathlib import Path

NAMES = ("hr@5", "hr@10", "ndcg@5", "ndcg@10")


def table(files: dict[str, Path]) -> str:
    """The table as Markdown, with the 95% intervals of the first system below it."""
    found = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in files.items()}
    first = next(iter(found.values()))
    systems = {name: value["metrics"] for name, value in found.items()} | first["baselines"]
    lines = ["| | R@5 | R@10 | N@5 | N@10 |", "| --- | --- | --- | --- | --- |"]
    for name, metrics in systems.items():
        lines.append(" | ".join([f"| {name}", *(f"{metrics[key]:.4f}" for key in NAMES)]) + " |")
    low, high = first["ci"]["hr@10"]
    lines.append(f"\n{first['n']} users; 95% interval of the first R@10: {low:.4f} to {high:.4f}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table({name: Path(path) for name, _, path in (argument.partition("=") for argument in sys.argv[1:])}))
