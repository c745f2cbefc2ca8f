"""Print what `sidtool evaluate --json` wrote as a table: each system on the same users, and on
those with rare targets.

Usage: table.py NAME=METRICS.json ... ; the baselines are those of the first file. R is HR: one
target a user."""

import json
import sys
from pathlib import Path

NAMES = ("hr@5", "hr@10", "ndcg@5", "ndcg@10")


def table(files: dict[str, Path]) -> str:
    """The table as Markdown, with the 95% intervals of the first system below it."""
    found = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in files.items()}
    first = next(iter(found.values()))
    rare = first["slices"]["rare"]
    systems = {
        name: (value["metrics"], value["slices"]["rare"]["metrics"])
        for name, value in found.items()
    }
    systems |= {
        name: (metrics, rare["baselines"][name]) for name, metrics in first["baselines"].items()
    }
    lines = [
        "| | R@5 | R@10 | N@5 | N@10 | rare R@10 | rare N@10 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, (metrics, of_rare) in systems.items():
        values = [metrics[key] for key in NAMES] + [of_rare[key] for key in ("hr@10", "ndcg@10")]
        lines.append(" | ".join([f"| {name}", *(f"{value:.4f}" for value in values)]) + " |")
    low, high = first["ci"]["hr@10"]
    lines.append(f"\n{first['n']} users; 95% interval of the first R@10: {low:.4f} to {high:.4f}")
    lines.append(f"rare: targets of 1 to {rare['events'][1]} training events, {rare['n']} users")
    return "\n".join(lines)


if __name__ == "__main__":
    print(
        table(
            {
                name: Path(path)
                for name, _, path in (argument.partition("=") for argument in sys.argv[1:])
            }
        )
    )
