"""What recipe.sh left, as one result: every seed, mean and standard deviation beside the baselines.

    python benchmarks/summary.py WORK_DIR -o RESULT.json [NAME=OTHER_WORK_DIR ...]

Popularity and item-kNN are measured on the same examples, item-kNN also tuned on valid; SASRec is
in the table if sasrec.py wrote WORK_DIR/sasrec.json. The other folders are further runs of the
recipe (imported indexes, say) on the same test users. R is HR: one target a user."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from environment import environment
from questions import read_questions

from sidtool.errors import DataError
from sidtool.evaluate.baselines import item_knn, item_similarity, tune_item_knn

NAMES = ("hr@5", "hr@10", "ndcg@5", "ndcg@10")
Run = dict[str, Any]


def runs(work: Path) -> list[Run]:
    """The finished seeds of a work folder, each with its own seconds and those of the steps that
    all share."""
    folders = sorted(path.parent for path in work.glob("seed-*/metrics.json"))
    if not folders:
        raise DataError(f"{work} holds no finished seed", hint="recipe.sh makes them")
    found = []
    for folder in folders:
        evaluation = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        seconds = _seconds(work / "seconds") + _seconds(folder / "seconds")
        facts = {"seed": int(folder.name.removeprefix("seed-")), "seconds": seconds}
        found.append(
            facts
            | {name: evaluation[name] for name in ("n", "metrics", "ci", "baselines", "settings")}
        )
    if len({run["n"] for run in found}) > 1:
        raise DataError(f"the seeds in {work} were asked different numbers of users")
    return sorted(found, key=lambda run: run["seed"])


def tuned_knn(work: Path, *, exclude_seen: bool) -> dict[str, Any]:
    """Item-kNN with the settings that are best on valid (of its users, some 5,000 evenly spaced),
    on test."""
    asked = read_questions(work / "bundle.zarr", work / "sft" / "train.jsonl")
    every = max(1, len(asked.valid.examples) // 5000)
    catalog, valid = asked.catalog, asked.valid.examples[::every]
    how = tune_item_knn(catalog, asked.events, valid, exclude_seen=exclude_seen)
    similar = item_similarity(asked.train, len(catalog), how)
    ranked = item_knn(similar, asked.test.histories, 50, settings=how, exclude_seen=exclude_seen)
    return {"metrics": asked.test.score(ranked), "settings": asdict(how)}


def summarize(work: Path, others: dict[str, Path]) -> dict[str, Any]:
    """The result as a JSON object."""
    seeds = runs(work)
    first, lineage = (
        seeds[0],
        json.loads((work / "sft" / "train.jsonl.meta.json").read_text(encoding="utf-8")),
    )
    baselines: dict[str, Any] = {
        name: {"metrics": metrics} for name, metrics in first["baselines"].items()
    }
    baselines["item-knn, tuned on valid"] = tuned_knn(
        work, exclude_seen=first["settings"]["exclude_seen"]
    )
    if (work / "sasrec.json").exists():
        kept = ("seed", "metrics", "seconds", "dropout", "epoch")
        rival = json.loads((work / "sasrec.json").read_text(encoding="utf-8"))["seeds"]
        baselines["SASRec, full cross-entropy"] = {
            "seeds": [{key: run[key] for key in kept} for run in rival]
        }
    for name, folder in others.items():
        baselines[name] = {
            "seeds": [
                {key: run[key] for key in ("seed", "metrics", "seconds")} for run in runs(folder)
            ]
        }
    return {
        "seeds": [{key: run[key] for key in ("seed", "metrics", "seconds", "ci")} for run in seeds],
        "baselines": baselines,
        "n": first["n"],
        "settings": first["settings"],
        "protocol": lineage["protocol"],
        "held_out_events": lineage["held_out_events"],
        **environment(),
    }


def table(result: dict[str, Any]) -> str:
    """Every system's means on test, with the standard deviation over seeds where there are several."""
    systems = {"sidtool": result} | result["baselines"]
    lines = ["| test | seeds | R@5 | R@10 | N@5 | N@10 | minutes a seed |", "| --- " * 7 + "|"]
    for name, system in systems.items():
        seeds = system.get("seeds") or [system]
        values = [_spread([seed["metrics"][key] for seed in seeds]) for key in NAMES]
        spent = [seed["seconds"] / 60 for seed in seeds if "seconds" in seed]
        minutes = f"{mean(spent):.0f}" if spent else ""
        lines.append("| " + " | ".join([name, str(len(seeds)), *values, minutes]) + " |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")


def _seconds(path: Path) -> int:
    return sum(map(int, path.read_text().split())) if path.exists() else 0


def main() -> None:
    """Write RESULT and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("others", nargs="*", metavar="NAME=OTHER_WORK_DIR")
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_intermixed_args()
    others = {
        name: Path(folder) for name, _, folder in (other.partition("=") for other in args.others)
    }
    result = summarize(args.work, others)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))
    low, high = result["seeds"][0]["ci"]["hr@10"]
    print(f"\n{result['n']} users; 95% interval of the first seed's R@10: {low:.4f} to {high:.4f}")
    print(f"{result['held_out_events']} held-out events in training rows; {args.out}")


if __name__ == "__main__":
    main()
