"""What a model learns from teachers, alone and served with a memory.

    python benchmarks/teachers.py WORK -o FILE.json --name NAME [--seeds 0,1,2]
       [--of memory|models|both] [--weight 0.5] [--seen]

WORK is a folder that `recipe.py --teachers ""` filled. Its models are compared on validation users
with models of the same seeds, examples and settings that learn from WORK/memory.zarr, from all
models of WORK/seed-*, or from both (`train --teacher`), with this weight in the loss. Each is also
served with WORK/memory.zarr, tuned on the same users."""

from argparse import Namespace
from pathlib import Path

from changed_training import compare, compare_served, comparison_parser, store, train_recipe

CHANGES = {
    "memory": "memory as teacher",
    "models": "models as teachers",
    "both": "memory and models as teachers",
}


def trained(args: Namespace, seed: int) -> Path:
    """The model of a seed with teachers."""
    out = args.work / f"{args.of}-teacher-{args.weight}" / f"seed-{seed}" / "model"
    memory, models = args.work / "memory.zarr", sorted(args.work.glob("seed-*/model"))
    teachers = {"memory": [memory], "models": models, "both": [memory, *models]}[args.of]
    return train_recipe(args.work, seed, out, [f"distill_weight={args.weight}"], teachers=teachers)


def main() -> None:
    """Measure the teachers."""
    parser = comparison_parser(__doc__)
    parser.add_argument("--of", choices=tuple(CHANGES), default="memory")
    parser.add_argument("--weight", type=float, default=0.5)
    args = parser.parse_args()
    change = CHANGES[args.of]
    result = {**compare(args, trained, change), "served": compare_served(args, trained)}
    store(args, result, change)


if __name__ == "__main__":
    main()
