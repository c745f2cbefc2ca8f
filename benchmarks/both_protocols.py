"""One model per data set under both protocols: seen items removed, and kept.

    python benchmarks/both_protocols.py --set NAME MODEL SPLIT [--set ...] --json FILE [--limit N]

Every system of `evaluate` is measured on the same test users, with full ranking at item level. The
memory, its gate and the re-ranker stay as they were tuned. What FILE has already is not measured
again, so a killed run continues."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from environment import command_line, environment
from table import METRICS, markdown

import sidtool

PROTOCOLS = {"removed": True, "kept": False}
"""What happens to seen items -> `exclude_seen`."""


def measured(model: str, split: str, exclude_seen: bool, limit: int | None) -> dict[str, Any]:
    """The number of users, the metrics of the model and those of the other systems."""
    evaluation = sidtool.evaluate(
        model, split, exclude_seen=exclude_seen, limit=limit, samples=0
    ).to_json()
    return {name: evaluation[name] for name in ("n", "metrics", "baselines")}


def main() -> None:
    """Measure what is missing, store it, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ("NAME", "MODEL", "SPLIT")
    parser.add_argument("--set", nargs=3, action="append", required=True, metavar=names)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--limit", type=int, help="users per data set; default: all")
    args = parser.parse_args()
    stored: dict[str, Any] = json.loads(args.json.read_text()) if args.json.exists() else {}
    sets: dict[str, Any] = stored.get("sets", {})
    for name, model, split in args.set:
        for protocol, exclude_seen in PROTOCOLS.items():
            protocols = sets.setdefault(name, {})
            if protocol in protocols:
                continue
            protocols[protocol] = measured(model, split, exclude_seen, args.limit)
            print(f"{name}, {protocol}: done", file=sys.stderr, flush=True)
            command = command_line("both_protocols.py", sys.argv[1:])
            result = {"sets": sets, "command": command, **environment()}
            args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    rows = []
    for name, protocols in sets.items():
        for system in ("model with memory", *protocols["kept"]["baselines"]):
            for protocol, values in protocols.items():
                is_model = system == "model with memory"
                metrics = values["metrics"] if is_model else values["baselines"][system]
                rows.append(
                    [name, system, protocol, *(f"{metrics[metric]:.4f}" for metric in METRICS)]
                )
    print(markdown(["data set", "system", "seen items", *METRICS.values()], rows))


if __name__ == "__main__":
    main()
