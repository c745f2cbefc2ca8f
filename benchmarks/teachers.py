"""What a model learns from teachers, alone and served with a memory.

    python benchmarks/teachers.py WORK -o FILE.json --name NAME [--seeds 0,1,2]
        [--of memory|models|both] [--models 0,1,2] [--weight 0.5] [--seen]

WORK is a folder that `recipe.py --teachers ""` filled. Its models are compared on validation users
with models of the same seeds, examples and settings that learn from WORK/memory.zarr, from the
WORK/seed-* of `--models`, or from both (`train --teacher`), with this weight in the loss."""

import json
import sys
from argparse import Namespace
from pathlib import Path
from subprocess import run
from typing import Any

from changed_training import compare, comparison_parser, store, train_recipe
from recipe import parse_numbers


def trained(args: Namespace, seed: int) -> Path:
    """The model of a seed with teachers."""
    out = args.work / f"{args.of}-teacher-{args.weight}" / f"seed-{seed}" / "model"
    memory = [args.work / "memory.zarr"] if args.of != "models" else []
    models = [args.work / f"seed-{each}" / "model" for each in args.models]
    teachers = [*memory, *(models if args.of != "memory" else [])]
    return train_recipe(args.work, seed, out, [f"distill_weight={args.weight}"], teachers=teachers)


def served(args: Namespace, model: Path) -> Path:
    """A copy of a model with the memory, tuned on validation users."""
    out = model.with_name("model+memory")
    if not out.exists():
        words = ("tune-memory", model, args.work / "split", args.work / "memory.zarr", "-o", out)
        run([sys.executable, "-m", "sidtool", *words, seen_option(args)], check=True)
    return out


def seen_option(args: Namespace) -> str:
    """The option of the commands that recommend."""
    return "--no-exclude-seen" if args.seen else "--exclude-seen"


def served_metrics(args: Namespace, seed: int) -> dict[str, Any]:
    """The validation metrics of a seed's model with the memory, by the parts of what is served, and
    the paired difference from the recipe's model with the memory."""
    taught = served(args, trained(args, seed))
    of_recipe = served(args, args.work / f"seed-{seed}" / "model")
    words = ("evaluate", taught, args.work / "split", "--on", "valid", "--against", of_recipe)
    command = [sys.executable, "-m", "sidtool", *words, seen_option(args), "--json"]
    found = run(command, check=True, capture_output=True, text=True).stdout
    evaluation: dict[str, Any] = json.loads(found)
    return {name: evaluation[name] for name in ("metrics", "baselines", "differences")}


def main() -> None:
    """Measure the teachers."""
    parser = comparison_parser(__doc__)
    parser.add_argument("--of", choices=("memory", "models", "both"), default="memory")
    parser.add_argument("--models", type=parse_numbers, default=(0, 1, 2))
    parser.add_argument("--weight", type=float, default=0.5)
    args = parser.parse_args()
    change = {
        "memory": "memory as teacher",
        "models": "models as teachers",
        "both": "memory and models as teachers",
    }[args.of]
    result = compare(args, trained, change)
    result["served"] = [served_metrics(args, seed) for seed in args.seeds]
    store(args, result, change)
    for of_seed in result["served"]:
        print({name: values["ndcg@10"] for name, values in of_seed["differences"].items()})


if __name__ == "__main__":
    main()
