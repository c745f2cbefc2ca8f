"""Measure what each part of a recipe contributes: train it with one change at a time.

    python benchmarks/ablation.py DATA -o WORK [--only recipe,wide] [--seeds 0] [--epochs 12]
        [--result FILE.json]

Every variant is measured on all validation users; test is never read. Models train without
teachers and recommend without a memory. Variants with the same codebook settings share the
codebook."""

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from environment import command_line, environment
from recipe import Dataset, Recipe, RecipeRun, parse_seeds, run_recipe
from table import METRICS, markdown, spread
from variants import Changes, write_variant

from sidtool.recipes import RECIPES


def _width(size: int) -> list[str]:
    """Fields of a model of this width, with heads as wide as those of `neox-tiny`."""
    fields = {"hidden_size": size, "intermediate_size": 4 * size, "num_attention_heads": size // 32}
    return [f"{name}={value}" for name, value in fields.items()]


VARIANTS: dict[str, Changes] = {
    "recipe": {},
    "adamw": {"train": {"optimizer": "adamw", "learning_rate": 1.5e-3}},
    "softmax-over-level": {"train": {"softmax_over": "level"}},
    "not-reversed": {"train": {"reverse_prob": 0.0}},
    "not-reversed-dropout-0.2": {"train": {"reverse_prob": 0.0, "dropout": 0.2}},
    "dropout-0.2": {"train": {"dropout": 0.2}},
    "dropout-0.3": {"train": {"dropout": 0.3}},
    "item-dropout-0": {"train": {"item_dropout": 0.0}},
    "item-dropout-0.3": {"train": {"item_dropout": 0.3}},
    "label-smoothing": {"train": {"label_smoothing_factor": 0.1}},
    "batch-128": {"train": {"per_device_train_batch_size": 128}},
    "history-50": {"sft": {"history_length": 50, "max_length": 200}},
    "256x256x256": {"codebook": {"levels": "256x256x256"}},
    "cooccurrence-0.3": {"codebook": {"set": ["collaborative_weight=0.3"]}},
    "cooccurrence-0.7": {"codebook": {"set": ["collaborative_weight=0.7"]}},
    "text-only": {},
    "gpt2": {"model": {"preset": "gpt2-tiny"}},
    "wide": {"model": {"preset": "gpt2-mini"}, "train": {"learning_rate": 1e-3}},
    "2m": {"model": {"set": _width(192)}},
    "4m": {"model": {"set": [*_width(256), "num_hidden_layers=4"]}},
    "28-epochs-dropout-0.2": {"train": {"num_train_epochs": 28, "dropout": 0.2}},
}
TEXT_ONLY = "text-only"
"""The variant whose codebook is built without co-occurrence."""


def run_variant(
    name: str, dataset: Dataset, recipe: Path, work: Path, args: argparse.Namespace
) -> dict[str, Any]:
    """The result of one variant on validation."""
    changes = VARIANTS[name]
    train = {"num_train_epochs": args.epochs} | dict(changes.get("train", {}))
    folder = write_variant(recipe, work / name / "recipe", {**changes, "train": train})
    cooccurrence = name != TEXT_ONLY
    built = RecipeRun(recipe=folder, encoder=args.encoder, cooccurrence=cooccurrence)
    settings = (folder / "codebook.yaml").read_bytes() + str(cooccurrence).encode()
    codebook = work / "codebooks" / hashlib.sha256(settings).hexdigest()[:12]
    bundle = Recipe(dataset, built, codebook).bundle()
    run = RecipeRun(recipe=folder, seeds=args.seeds, on="valid", bundle=bundle, memory=False)
    return run_recipe(dataset, run, work / name)


def main() -> None:
    """Run the variants and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True, help="work folder")
    parser.add_argument("--recipe", type=Path, default=RECIPES / "default")
    parser.add_argument("--dataset", type=Path, help="YAML file that names the files in DATA")
    parser.add_argument("--encoder", type=Path, help="folder of a sentence-transformers model")
    parser.add_argument("--only", help=f"variants, comma-separated: {', '.join(VARIANTS)}")
    parser.add_argument("--seeds", type=parse_seeds, default=(0,))
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--result", type=Path, help="write the results to this file, as they come")
    args = parser.parse_args()
    dataset = Dataset.open(args.data, args.dataset)
    results = {}
    for name in args.only.split(",") if args.only else VARIANTS:
        results[name] = run_variant(name, dataset, args.recipe, args.out.resolve(), args)
        if args.result is not None:
            command = command_line("ablation.py", sys.argv[1:])
            written = {"variants": results, **environment(), "command": command}
            args.result.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    rows = []
    for name, result in results.items():
        seeds = result["seeds"]
        metrics = [spread([seed["metrics"][metric] for seed in seeds]) for metric in METRICS]
        rows.append([name, len(seeds), *metrics])
    print(json.dumps(environment()))
    print(markdown(["validation", "seeds", *METRICS.values()], rows))


if __name__ == "__main__":
    main()
