"""Measure what a trained model still does after its tokenizer changed.

    python benchmarks/lifecycle.py DATA -o WORK [--seed 0] [--recipe benchmarks/recipes/default]

Items added: bundle and model are made with a random 80% of the items, `add-items` adds the others.
Codebook retrained: the same data with another seed, before and after `align`. Item level, full
ranking, seen items left out; differences are paired bootstraps over users."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment
from recipe import RECIPES, Dataset, Recipe, RecipeRun
from table import markdown

from sidtool import Bundle
from sidtool.build.diff import diff
from sidtool.evaluation.evaluation import EvaluationOptions, evaluate_examples
from sidtool.evaluation.results import compare
from sidtool.model.load import load_model_folder
from sidtool.output import new_dir
from sidtool.recommendation.recommend import recommend
from sidtool.recommendation.recommend_options import RecommendOptions
from sidtool.recommendation.requests import Request
from sidtool.splits.examples import read_examples
from sidtool.splits.split import Example

SHARE = 0.8
"""Of the items, in the bundle that the others are added to."""
METRIC, K, WIDTH = "hr@10", 10, 50
SCORED_USERS = 500
"""Users with a new target for whom every new item is scored, which takes one tree per user."""


def divide_items(items: Path, out: Path, seed: int) -> Path:
    """Write old.jsonl (a random 80% of the items) and new.jsonl (the others) to a new folder."""
    if out.exists():
        return out
    lines = np.array(items.read_text(encoding="utf-8").splitlines(keepends=True), dtype=object)
    is_old = np.random.default_rng(seed).permutation(len(lines)) < round(SHARE * len(lines))
    with new_dir(out) as folder:
        for name, selected in (("old.jsonl", is_old), ("new.jsonl", ~is_old)):
            (folder / name).write_text("".join(lines[selected]), encoding="utf-8")
    return out


def measure(model: Any, examples: Sequence[Example]) -> Any:
    """An evaluation without baselines."""
    options = EvaluationOptions(num_beams=WIDTH, exclude_seen=True)
    return evaluate_examples(model, examples, None, options)


def after_adding(model_folder: Path, child: Path, test: Path, seed: int) -> dict[str, Any]:
    """The model with its own bundle and with the child: users whose target is an old item with
    both, users whose target is a new one with the child."""
    before = load_model_folder(str(model_folder))
    after = load_model_folder(str(model_folder), bundle=Bundle.open(str(child)))
    examples = list(read_examples(test))
    is_old = before.bundle.items.rows([example.item for example in examples]) >= 0
    old = [example for example, flag in zip(examples, is_old, strict=True) if flag]
    new = [example for example, flag in zip(examples, is_old, strict=True) if not flag]
    old_before = measure(before, old)
    old_after = measure(after, old)
    change = diff(before.bundle, after.bundle)
    return {
        "moved": len(change.moved),
        "added": len(change.added),
        "old_targets": {
            "n": len(old),
            "before": old_before.metrics[METRIC],
            "after": old_after.metrics[METRIC],
            "difference": asdict(compare(old_after, old_before)["all"][METRIC]),
        },
        "new_targets": {"n": len(new), "beam": measure(after, new).metrics[METRIC]},
        "new_targets_among_new_items": only_new_items(after, change.added, new, seed),
    }


def only_new_items(
    model: Any, new_items: Sequence[str], examples: Sequence[Example], seed: int
) -> dict[str, Any]:
    """Hit rates where only new items may be recommended: by beam search under an allow list, and by
    scoring every one of them."""
    sample = np.random.default_rng(seed).permutation(len(examples))[:SCORED_USERS].tolist()
    requests = [Request(history=examples[index].history) for index in sample]
    targets = [examples[index].item for index in sample]
    options = RecommendOptions(k=K, num_beams=WIDTH, exclude_seen=True)
    answers = {
        "allow_list": recommend(model, requests, replace(options, allow=tuple(new_items))),
        "candidate_scoring": recommend(model, requests, options, candidates=new_items),
    }
    result = {"n": len(sample), "items": len(new_items), "chance": K / len(new_items)}
    for name, recommendations in answers.items():
        pairs = zip(targets, recommendations, strict=True)
        result[name] = float(np.mean([target in ranked.items for target, ranked in pairs]))
    return result


def after_retraining(
    model_folder: Path, retrained: Path, aligned: Path, test: Path
) -> dict[str, Any]:
    """The model with its own bundle, with a retrained one, and with that one aligned."""
    model = load_model_folder(str(model_folder))
    examples = list(read_examples(test))
    bundles = {
        "original": model.bundle,
        "retrained": Bundle.open(str(retrained)),
        "aligned": Bundle.open(str(aligned)),
    }
    result: dict[str, Any] = {"n": len(examples), "sids_kept": {}, METRIC: {}}
    evaluations = {}
    for name, bundle in bundles.items():
        # loading refuses an unaligned bundle: it is put in after the check, to see what the check
        # saves
        evaluations[name] = measure(replace(model, bundle=bundle), examples)
        result["sids_kept"][name] = diff(model.bundle, bundle).kept
        result[METRIC][name] = evaluations[name].metrics[METRIC]
    difference = compare(evaluations["aligned"], evaluations["original"])["all"][METRIC]
    return {**result, "aligned_difference": asdict(difference)}


def run(dataset: Dataset, args: argparse.Namespace) -> dict[str, Any]:
    """Make the bundles and models, and measure them."""
    work = args.out.resolve()
    settings = RecipeRun(recipe=args.recipe, seeds=(args.seed,), encoder=args.encoder)
    whole = Recipe(dataset, settings, work / "all")
    bundle = whole.bundle()
    model = whole.train(bundle, args.seed)
    items = divide_items(dataset.items, work / f"items-{args.seed}", args.seed)
    part = Recipe(replace(dataset, items=items / "old.jsonl"), settings, work / f"old-{args.seed}")
    part_bundle = part.bundle()
    part_model = part.train(part_bundle, args.seed)

    child = part.work / "child.zarr"
    vectors = part.vectors()
    part.steps.run(child, "add-items", part_bundle, items / "new.jsonl", "-o", child, *vectors)
    retrained = whole.build_codebook(work / "all" / "retrained.zarr", "--seed", args.seed + 1)
    aligned = whole.work / "aligned.zarr"
    whole.steps.run(aligned, "align", retrained, "--to", bundle, "-o", aligned)
    return {
        "seed": args.seed,
        "items_added": after_adding(part_model, child, part.part_file("test"), args.seed),
        "codebook_retrained": after_retraining(model, retrained, aligned, whole.part_file("test")),
        **environment(),
    }


def result_table(result: dict[str, Any]) -> str:
    """R@10 in each situation."""
    added = result["items_added"]
    only_new = added["new_targets_among_new_items"]
    retrained = result["codebook_retrained"]
    rows = [
        ["old target, before adding items", added["old_targets"]["before"]],
        ["old target, after", added["old_targets"]["after"]],
        ["new target, beam search", added["new_targets"]["beam"]],
        ["new target, only new items, --allow", only_new["allow_list"]],
        ["new target, only new items, --candidates", only_new["candidate_scoring"]],
        *[[f"{name} codebook", value] for name, value in retrained[METRIC].items()],
    ]
    return markdown(["", "R@10"], [[name, f"{value:.4f}"] for name, value in rows])


def main() -> None:
    """Run, write WORK/result.json, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True, help="work folder")
    parser.add_argument("--dataset", type=Path, help="YAML file that names the files in DATA")
    parser.add_argument("--encoder", type=Path, help="folder of a sentence-transformers model")
    parser.add_argument("--recipe", type=Path, default=RECIPES / "default")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    result = run(Dataset.open(args.data, args.dataset), args)
    (args.out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(result_table(result))


if __name__ == "__main__":
    main()
