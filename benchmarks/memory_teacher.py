"""What a model learns from a memory as its teacher, alone and served with that memory.

    python benchmarks/memory_teacher.py WORK -o FILE.json --name NAME [--seeds 0,1,2]
        [--weight 0.5] [--seen]

WORK is a folder that `recipe.py --teachers ""` filled: its models are compared on validation users
with models of the same seeds, examples and settings that learn from WORK/memory.zarr, too
(`train --teacher`), whose distributions have this weight in the loss."""

import json
import sys
from argparse import Namespace
from pathlib import Path
from subprocess import run
from typing import Any

from changed_training import compare, comparison_parser, store, train_recipe


def trained(args: Namespace, seed: int) -> Path:
    """The model of a seed with the memory as teacher."""
    out = Path(args.work) / f"memory-teacher-{args.weight}" / f"seed-{seed}" / "model"
    weight = f"distill_weight={args.weight}"
    return train_recipe(args.work, seed, out, [weight], teachers=[args.work / "memory.zarr"])


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
    """Measure the memory as teacher."""
    parser = comparison_parser(__doc__)
    parser.add_argument("--weight", type=float, default=0.5)
    args = parser.parse_args()
    change = "memory as teacher"
    result = compare(args, trained, change)
    result["served"] = [served_metrics(args, seed) for seed in args.seeds]
    store(args, result, change)
    for of_seed in result["served"]:
        print({name: values["ndcg@10"] for name, values in of_seed["differences"].items()})


if __name__ == "__main__":
    main()
