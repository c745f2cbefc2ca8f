"""Measure how much of a new training a refresh replaces.

    python benchmarks/refresh.py DATA -o WORK [--seeds 0,1,2] [--shares 0.2]

The old model is trained without a random 10% of the items, their events, and the users who have
fewer than three events left. The new data has all items, events and users, and a codebook of
another seed. Compared on the new test users: the old model with the aligned bundle, a refreshed
one (a share of the training steps), and one that is trained anew. Item level, full ranking, seen
items left out unless the data set's description says otherwise; differences are paired bootstraps
over users."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

from compared import compare
from divided_items import EVENTS, OLD, divide_items, write_events_of
from environment import environment
from recipe import Dataset, Recipe, RecipeRun, parse_seeds, recipe_parser
from table import markdown, spread

from sidtool.data.split.values import Example
from sidtool.evaluation.evaluation import evaluate_examples
from sidtool.evaluation.options import EvaluationOptions
from sidtool.model.load import load_model_folder

NEW_SHARE = 0.1
"""Of the items, added after the old model was trained."""
MIN_EVENTS = 3
METRICS = {"hr@10": "R@10", "ndcg@10": "N@10"}


def run_seed(dataset: Dataset, args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Train the old and the new model of a seed, refresh the old one, and compare."""
    work = args.out.resolve() / f"seed-{seed}"
    settings = RecipeRun(
        recipe=args.recipe, seeds=(seed,), encoder=args.encoder, embeddings=args.embeddings
    )
    items = divide_items(dataset.items, work / "items", NEW_SHARE, seed) / OLD
    events = write_events_of(items, dataset.interactions, work / "events", MIN_EVENTS)
    old_dataset = replace(dataset, items=items, interactions=events / EVENTS)
    # one work folder per data set: the steps have the same names
    old = Recipe(old_dataset, settings, work / "old")
    new = Recipe(dataset, settings, work / "new", extends=old.split())
    old_model = old.train(old.bundle(), seed)
    bundle = new.build_codebook(work / "new" / "bundle.zarr", "--seed", seed + 1)
    systems = {"trained anew": new.train(bundle, seed)}
    aligned = work / "new" / "aligned"
    systems["aligned only"] = new.steps.run(aligned, "refresh", old_model, bundle, "-o", aligned)
    for share in args.shares:
        name = f"refreshed, {share:g} of the steps"
        out = work / "new" / f"refreshed-{share:g}"
        parts = ["refresh", old_model, bundle, new.split(), "-o", out, "--share", share]
        systems[name] = new.steps.run(out, *parts, "--seed", seed)
    options = EvaluationOptions(exclude_seen=dataset.exclude_seen)
    return {"seed": seed, "systems": measure(systems, new.held_out(args.on), options)}


def measure(
    systems: dict[str, Path], examples: Sequence[Example], options: EvaluationOptions
) -> dict[str, Any]:
    """Each system's metrics, and its paired difference to the model that is trained anew."""
    evaluations = {
        name: evaluate_examples(load_model_folder(model), examples, None, options)
        for name, model in systems.items()
    }
    anew = evaluations["trained anew"]
    return {
        name: {
            "n": len(examples),
            "metrics": {metric: evaluation.metrics[metric] for metric in METRICS},
            "difference": asdict(compare(evaluation, anew)["all"]["ndcg@10"]),
        }
        for name, evaluation in evaluations.items()
    }


def result_table(seeds: list[dict[str, Any]]) -> str:
    """The mean over the seeds, and the share of the new training's N@10."""
    rows = []
    for name in seeds[0]["systems"]:
        results = [seed["systems"][name]["metrics"] for seed in seeds]
        anew = [seed["systems"]["trained anew"]["metrics"]["ndcg@10"] for seed in seeds]
        share = mean(result["ndcg@10"] for result in results) / mean(anew)
        figures = [spread([result[metric] for result in results]) for metric in METRICS]
        rows.append([name, *figures, f"{share:.1%}"])
    return markdown(["", *METRICS.values(), "of N@10 trained anew"], rows)


def main() -> None:
    """Run, write WORK/result.json, print the table."""
    parser = recipe_parser(__doc__)
    parser.add_argument("--embeddings", type=Path, help="file of vectors of all items")
    parser.add_argument("--seeds", type=parse_seeds, default=(0, 1, 2))
    parser.add_argument("--shares", type=parse_shares, default=(0.2,))
    parser.add_argument("--on", choices=("valid", "test"), default="test")
    args = parser.parse_args()
    dataset = Dataset.open(args.data, args.dataset)
    seeds = [run_seed(dataset, args, seed) for seed in args.seeds]
    result = {"on": args.on, "seeds": seeds, **environment()}
    (args.out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(result_table(seeds))


def parse_shares(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in text.split(",") if number)


if __name__ == "__main__":
    main()
