"""What methods.sh left, as one result and as tables: R@10 and N@10 of every method and signal, by
data set.

Usage: methods_table.py WORK_DIR -o RESULT.json [--add EARLIER.json]. Valid is what a default is
chosen on; test stands beside it. Seeds are the model's; R is HR: one target a user. What is not
there yet is left out. --add brings seeds that an earlier run of methods.sh measured, with its
machine; of a seed that both have, WORK_DIR's counts."""

import argparse
import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml
from environment import environment

from sidtool.bundle import Bundle

METRICS = ("hr@10", "ndcg@10")
PARTS = {"valid": "metrics-valid.json", "test": "metrics.json"}


def collect(work: Path) -> dict[str, Any]:
    """Data set -> method-signal -> what was trained on and the metrics of every seed."""
    found: dict[str, Any] = {}
    for run in sorted(work.glob("*/*-*/")):
        seeds = {part: _seeds(run, name) for part, name in PARTS.items()}
        if not seeds["valid"]:
            continue
        method, _, signal = run.name.rpartition("-")
        bundle = Bundle.open(str(run / "bundle.zarr"))
        recipe = yaml.safe_load((run / "recipe" / "train.yaml").read_text(encoding="utf-8"))
        facts = {
            "method": method,
            "signal": signal,
            "sizes": list(bundle.space.sizes),
            "bundle": bundle.identity.items,
        }
        facts["epochs"] = recipe["num_train_epochs"]
        found.setdefault(run.parent.name, {})[run.name] = facts | seeds
    return found


def _seeds(run: Path, name: str) -> list[dict[str, Any]]:
    found = []
    for path in sorted(run.glob(f"seed-*/{name}")):
        evaluation = json.loads(path.read_text(encoding="utf-8"))
        baseline = {metric: evaluation["baselines"]["item-knn"][metric] for metric in METRICS}
        mine = {metric: evaluation["metrics"][metric] for metric in METRICS}
        seed = {"seed": int(path.parent.name.removeprefix("seed-")), "n": evaluation["n"]}
        found.append(seed | {"metrics": mine, "item-knn": baseline})
    return found


def add(found: dict[str, Any], earlier: dict[str, Any]) -> None:
    """Put the seeds of an earlier result beside those found."""
    for dataset in sorted(earlier.keys() & found.keys()):
        for name, run in earlier[dataset].items():
            mine = found[dataset].setdefault(name, {**run, **{part: [] for part in PARTS}})
            for fact in ("sizes", "epochs"):
                if mine[fact] != run[fact]:
                    raise SystemExit(
                        f"{dataset}, {name}: {fact} {mine[fact]} here, {run[fact]} in the "
                        "earlier result"
                    )
            for part in PARTS:
                have = {seed["seed"] for seed in mine[part]}
                more = [
                    {"machine": earlier["machine"], **seed}
                    for seed in run[part]
                    if seed["seed"] not in have
                ]
                mine[part] = sorted([*mine[part], *more], key=lambda seed: seed["seed"])


def table(name: str, runs: dict[str, Any]) -> str:
    """One data set's table as Markdown, the best mean N@10 on valid first."""
    heads = [f"{part} {metric}" for part in PARTS for metric in ("R@10", "N@10")]
    lines = [
        f"| {name} | co-occurrence | seeds | " + " | ".join(heads) + " |",
        "| --- " * (3 + len(heads)) + "|",
    ]
    best = sorted(runs.values(), key=lambda run: -_mean(run["valid"], "ndcg@10"))
    for run in best:
        cells = [
            run["method"],
            "yes" if run["signal"] == "together" else "no",
            str(len(run["valid"])),
        ]
        cells += [_spread(run[part], metric) for part in PARTS for metric in METRICS]
        lines.append("| " + " | ".join(cells) + " |")
    knn = [
        f"{_of(best[0][part][0], metric):.4f}" if best[0][part] else ""
        for part in PARTS
        for metric in METRICS
    ]
    lines.append("| item-kNN | | | " + " | ".join(knn) + " |")
    return "\n".join(lines)


def _of(seed: dict[str, Any], metric: str) -> float:
    return float(seed["item-knn"][metric])


def _mean(seeds: list[dict[str, Any]], metric: str) -> float:
    return mean(seed["metrics"][metric] for seed in seeds)


def _spread(seeds: list[dict[str, Any]], metric: str) -> str:
    values = [seed["metrics"][metric] for seed in seeds]
    if not values:
        return ""
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


def main() -> None:
    """Write RESULT and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--add", type=Path)
    args = parser.parse_args()
    found = collect(args.work)
    if args.add:
        add(found, json.loads(args.add.read_text(encoding="utf-8")))
    for name, runs in found.items():
        print(table(name, runs), end="\n\n")
    args.out.write_text(json.dumps({**found, **environment()}, indent=1) + "\n", encoding="utf-8")
    print(args.out)


if __name__ == "__main__":
    main()
