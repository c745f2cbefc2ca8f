"""Measure what the latest events are worth to the memory alone, and how much of a new training
that replaces.

    python benchmarks/late_events.py DATA -o WORK [--seeds 0,1,2]

Events are divided by time. A model and its memory are trained on the first 80% and tuned on the
next 5%. Later, the first 90% are known: the same model gets a memory of those, and another model is
trained on them and tuned on the next 5%. All recommend for the targets of the last 5%, with
histories up to each target. The codebook is that of the first 80%; differences are paired
bootstraps over users. Steps that are done are not run again."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from compared import compare
from environment import environment
from recipe import Dataset, Recipe, RecipeRun, parse_seeds, recipe_parser
from table import markdown, spread

from sidtool.data.interactions import read_interactions
from sidtool.data.split.values import Example
from sidtool.evaluation.evaluation import evaluate_examples
from sidtool.evaluation.options import EvaluationOptions
from sidtool.memory.mixture.index import MemoryOptions
from sidtool.model.contract.contract import MEMORY_COPY
from sidtool.model.load import load_model_folder
from sidtool.recipes import StepError

EARLIER = (0.80, 0.85)
"""Shares of all events, by time, after which validation and test of the earlier split start."""
LATER = (0.90, 0.95)
METRICS = {"hr@1": "R@1", "hr@10": "R@10", "ndcg@10": "N@10"}
OLD = "model, memory of the first 80%"
REFRESHED = "model, memory of the first 90%"
RETRAINED = "model trained on the first 90%, with its memory"


def temporal(dataset: Dataset, shares: tuple[float, float]) -> tuple[object, ...]:
    """The options of a split at the moments after these shares of all events."""
    valid_from, test_from = map(repr, cuts_of(dataset, shares))
    cuts = ("--valid-from", valid_from, "--test-from", test_from)
    return ("--protocol", "temporal", *cuts)


def cuts_of(dataset: Dataset, shares: tuple[float, float]) -> tuple[float, float]:
    """The moments after these shares of all events."""
    moments = np.sort(read_interactions(dataset.interactions).order)
    first, second = (float(moments[int(share * len(moments))]) for share in shares)
    return first, second


def run_seed(dataset: Dataset, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train both models of a seed and measure them on the same later targets."""
    work = args.out.resolve() / f"seed-{seed}"
    run = RecipeRun(
        recipe=args.recipe, seeds=(seed,), encoder=args.encoder, embeddings=args.embeddings
    )
    earlier = Recipe(dataset, run, work / "earlier", protocol=temporal(dataset, EARLIER))
    cuts = temporal(dataset, LATER)
    later = Recipe(dataset, run, work / "later", extends=earlier.split(), protocol=cuts)
    bundle = earlier.bundle()
    model = earlier.with_memory(earlier.train(bundle, seed), bundle)
    retrained = later.with_memory(later.train(bundle, seed), bundle)
    systems = {
        OLD: (model, MemoryOptions()),
        REFRESHED: (model, MemoryOptions(str(retrained / MEMORY_COPY))),
        RETRAINED: (retrained, MemoryOptions()),
        "model alone": (model, MemoryOptions(weight=0.0)),
        "model trained on the first 90%, alone": (retrained, MemoryOptions(weight=0.0)),
    }
    options = EvaluationOptions(exclude_seen=dataset.exclude_seen)
    return {"seed": seed, "systems": measure(systems, later.held_out(args.on), options)}


def measure(
    systems: dict[str, tuple[Path, MemoryOptions]],
    examples: Sequence[Example],
    options: EvaluationOptions,
) -> dict[str, dict[str, Any]]:
    """Each system's metrics, and its paired difference in N@10 to the model with its old memory."""
    evaluations = {
        name: evaluate_examples(load_model_folder(model, memory=memory), examples, None, options)
        for name, (model, memory) in systems.items()
    }
    old = evaluations[OLD]
    return {
        name: {
            "n": len(examples),
            "metrics": {metric: evaluation.metrics[metric] for metric in METRICS},
            "difference": asdict(compare(evaluation, old)["all"]["ndcg@10"]),
        }
        for name, evaluation in evaluations.items()
    }


def result_table(seeds: list[dict[str, Any]]) -> str:
    """The mean over the seeds, and the share that the memory alone has of the gain in N@10."""
    rows = []
    for name in seeds[0]["systems"]:
        results = [seed["systems"][name] for seed in seeds]
        figures = [spread([result["metrics"][metric] for result in results]) for metric in METRICS]
        intervals = [
            f"{result['difference']['low']:.4f} to {result['difference']['high']:.4f}"
            for result in results
        ]
        rows.append([name, *figures, ", ".join(intervals)])
    header = ["", *METRICS.values(), "N@10 over the first row, 95% interval per seed"]
    lines = [markdown(header, rows), f"{seeds[0]['systems'][OLD]['n']} targets; {worth(seeds)}"]
    return "\n\n".join(lines)


def worth(seeds: list[dict[str, Any]]) -> str:
    """How much of a new training's gain in N@10 the new memory has by itself."""

    def ndcg(name: str) -> float:
        return mean(seed["systems"][name]["metrics"]["ndcg@10"] for seed in seeds)

    gain = ndcg(REFRESHED) - ndcg(OLD)
    possible = ndcg(RETRAINED) - ndcg(OLD)
    if possible <= 0:
        return f"the new memory adds {gain:.4f} N@10; a new training adds nothing ({possible:.4f})"
    return f"the new memory has {gain / possible:.0%} of a new training's gain in N@10"


def main() -> int:
    """Run, write WORK/result.json, print the table."""
    parser = recipe_parser(__doc__)
    parser.add_argument("--embeddings", type=Path, help="file of vectors of all items")
    parser.add_argument("--seeds", type=parse_seeds, default=(0, 1, 2))
    parser.add_argument("--on", choices=("valid", "test"), default="test")
    args = parser.parse_args()
    try:
        dataset = Dataset.open(args.data, args.dataset)
        seeds = [run_seed(dataset, args, seed) for seed in args.seeds]
    except (StepError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    result = {"on": args.on, "seeds": seeds, **environment()}
    (args.out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(result_table(seeds))
    print(f"{result['machine']}, commit {result['commit']}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
