"""What a model learns from teachers, alone and served with a memory.

    python benchmarks/teachers.py WORK -o FILE.json --name NAME [--seeds 0,1,2]
       [--of memory|models|both] [--weight 0.5] [--seen]

WORK is a folder that `recipe.py --teachers ""` filled. Its models are compared on validation users
with models of the same seeds, examples and settings that learn from WORK/memory.zarr, from all
models of WORK/seed-*, or from both (`train --teacher`), with this weight in the loss. Each is also
served with WORK/memory.zarr, tuned on the same users."""

from argparse import Namespace
from pathlib import Path

from changed_training import compare, comparison_parser, served_metrics, store, train_recipe

from sidtool.data.split import open_split
from sidtool.evaluation.tuning import tune_memory
from sidtool.registry import open_memory

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


def served(args: Namespace, model: Path) -> Path:
    """A copy of a model with the memory, tuned on validation users."""
    out = model.with_name("model+memory")
    if not out.exists():
        split, memory = open_split(args.work / "split"), open_memory(str(args.work / "memory.zarr"))
        tune_memory(model, split, memory, out, exclude_seen=not args.seen)
    return out


def main() -> None:
    """Measure the teachers."""
    parser = comparison_parser(__doc__)
    parser.add_argument("--of", choices=tuple(CHANGES), default="memory")
    parser.add_argument("--weight", type=float, default=0.5)
    args = parser.parse_args()
    change = CHANGES[args.of]
    result = compare(args, trained, change)
    result["served"] = [
        served_metrics(
            args,
            served(args, trained(args, seed)),
            served(args, args.work / f"seed-{seed}" / "model"),
        )
        for seed in args.seeds
    ]
    store(args, result, change)
    for seed_metrics in result["served"]:
        print({name: values["ndcg@10"] for name, values in seed_metrics["differences"].items()})


if __name__ == "__main__":
    main()
