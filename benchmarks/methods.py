"""Compare the codebook methods by the model trained with each, with and without co-occurrence.

    python benchmarks/methods.py DATA -o WORK [--methods rq-kmeans,opq] [--seeds 0,1,2] [--epochs 2]

Every method builds a codebook with its own defaults; the model, the recipe and the number of epochs
are the same. `balanced` is rq-kmeans with `--balanced`, `rq-kmeans` is without. Prints R@10 and
N@10 on validation, on which a default is chosen, and on test."""

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any, Literal

from environment import environment
from recipe import Dataset, RecipeRun, parse_seeds, run_recipe
from table import markdown, spread
from variants import write_variant

from sidtool.recipes import RECIPES

METHODS: dict[str, dict[str, Any]] = {
    "rq-kmeans": {"method": "rq-kmeans", "balanced": False},
    "balanced": {"method": "rq-kmeans", "balanced": True},
    "rq-vae": {"method": "rq-vae"},
    "rq-kmeans+": {"method": "rq-kmeans+"},
    "opq": {"method": "opq"},
    "pq": {"method": "pq"},
}
PARTS: tuple[Literal["valid", "test"], ...] = ("valid", "test")
METRICS = {"hr@10": "R@10", "ndcg@10": "N@10"}


def run_method(
    method: str, cooccurrence: bool, dataset: Dataset, args: argparse.Namespace
) -> dict[str, Any]:
    """The results of one method on both parts of the split."""
    work = args.out.resolve() / f"{method}-{'cooccurrence' if cooccurrence else 'text'}"
    changes = {
        "codebook": {"levels": args.levels} | METHODS[method],
        # two checkpoints: a training this short has few to choose from
        "train": {
            "num_train_epochs": args.epochs,
            "eval_users": 200,
            "eval_steps": 0.5,
            "save_steps": 0.5,
        },
        "evaluate": {"limit": args.limit, "num_beams": 20},
    }
    recipe = write_variant(RECIPES / "default", work / "recipe", changes)
    results: dict[str, Any] = {}
    for part in PARTS:
        run = RecipeRun(
            recipe=recipe,
            seeds=args.seeds,
            on=part,
            encoder=args.encoder,
            cooccurrence=cooccurrence,
        )
        results[part] = run_recipe(dataset, run, work)
    return {"method": method, "cooccurrence": cooccurrence, **results}


def methods_table(results: list[dict[str, Any]]) -> str:
    """All methods, the best mean N@10 on validation first, with item-kNN last."""
    header = [f"{part} {label}" for part in PARTS for label in METRICS.values()]
    rows = []
    for result in sorted(results, key=lambda result: -_mean_ndcg(result)):
        cells = [spread(_values(result[part], name)) for part in PARTS for name in METRICS]
        rows.append([result["method"], "yes" if result["cooccurrence"] else "no", *cells])
    baselines = [results[0][part]["baselines"]["item-knn"]["metrics"] for part in PARTS]
    knn = [f"{metrics[name]:.4f}" for metrics in baselines for name in METRICS]
    return markdown(["method", "co-occurrence", *header], [*rows, ["item-kNN", "", *knn]])


def _values(result: dict[str, Any], metric: str) -> list[float]:
    return [seed["metrics"][metric] for seed in result["seeds"]]


def _mean_ndcg(result: dict[str, Any]) -> float:
    return mean(_values(result["valid"], "ndcg@10"))


def main() -> None:
    """Run the methods, write WORK/result.json, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True, help="work folder")
    parser.add_argument("--dataset", type=Path, help="YAML file that names the files in DATA")
    parser.add_argument("--encoder", type=Path, help="folder of a sentence-transformers model")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--levels", default="256x256x256")
    parser.add_argument("--seeds", type=parse_seeds, default=(0, 1, 2))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--limit", type=int, default=6000, help="users, evenly spread")
    args = parser.parse_args()
    dataset = Dataset.open(args.data, args.dataset)
    results = []
    for method in args.methods.split(","):
        for cooccurrence in (False, True):
            results.append(run_method(method, cooccurrence, dataset, args))
    result = {"methods": results, **environment()}
    (args.out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(methods_table(results))


if __name__ == "__main__":
    main()
