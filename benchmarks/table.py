"""Write results as Markdown tables; all benchmarks use it.

    python benchmarks/table.py RESULT.json [NAME=OTHER.json ...]

prints the results of a recipe (`recipe.py`) beside its baselines and, if given, other systems. R is
the hit rate: each user has one target."""

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

METRICS = {"hr@1": "R@1", "hr@5": "R@5", "hr@10": "R@10", "ndcg@5": "N@5", "ndcg@10": "N@10"}


def markdown(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def spread(values: Sequence[float]) -> str:
    """The mean, with the standard deviation where there are several values."""
    if not values:
        return ""
    deviation = f" ± {stdev(values):.4f}" if len(values) > 1 else ""
    return f"{mean(values):.4f}{deviation}"


def results_table(result: Mapping[str, Any], others: Mapping[str, Any] | None = None) -> str:
    """The means of every system, its number of seeds and the minutes per seed.

    A system is a mapping with `metrics`, or with a list `seeds` of such mappings."""
    systems = {"sidtool": result, **result["baselines"], **(others or {})}
    rows = [_system_row(name, system) for name, system in systems.items()]
    table = markdown([result.get("on", "test"), "seeds", *METRICS.values(), "minutes"], rows)
    first = result["seeds"][0]
    low, high = first["confidence_interval"]["hr@10"]
    interval = f"95% interval of R@10, seed {first['seed']}: {low:.4f} to {high:.4f}"
    return f"{table}\n\n{result['n']} users; {interval}"


def _system_row(name: str, system: Mapping[str, Any]) -> list[str]:
    seeds = system.get("seeds") or [system]
    metrics = [spread([seed["metrics"][metric] for seed in seeds]) for metric in METRICS]
    seconds = [seed["seconds"] for seed in seeds if "seconds" in seed]
    minutes = f"{mean(seconds) / 60:.0f}" if seconds else ""
    return [name, str(len(seeds)), *metrics, minutes]


def main() -> None:
    """Print the table of a results file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("result", type=Path)
    parser.add_argument("others", nargs="*", metavar="NAME=OTHER.json")
    args = parser.parse_args()
    others = {}
    for other in args.others:
        name, _, path = other.partition("=")
        others[name] = json.loads(Path(path).read_text(encoding="utf-8"))
    print(results_table(json.loads(args.result.read_text(encoding="utf-8")), others))


if __name__ == "__main__":
    main()
