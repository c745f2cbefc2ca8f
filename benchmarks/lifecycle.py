"""Measure what a trained model still does after its tokenizer changed.

    python benchmarks/lifecycle.py DATA -o WORK [--seed 0] [--only items]

Items added: bundle and model are made with a random 80% of the items and their events, `add-items`
adds the others. Before and after, the model recommends alone and with a memory, which has no events
of the new items; its settings and weight are chosen on validation users, whose targets include new
items. Codebook retrained: the same data with another seed, before and after `align`. Item level,
full ranking, seen items left out unless the data set's description says otherwise; differences are
paired bootstraps over users. `--only` measures one of the two. Steps that are done are not run
again."""

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from compared import compare
from divided_items import NEW, OLD, divide_items
from environment import environment
from growth import METRIC, Growth, after_adding, measure
from new_items import refuse_windows, write_windows_without
from recipe import Dataset, Recipe, RecipeRun, recipe_parser
from table import markdown

from sidtool import Bundle, read_items
from sidtool.base.errors import SidtoolError
from sidtool.data.split.files import read_split
from sidtool.data.split.split import Split
from sidtool.model.load import load_model_folder
from sidtool.recipes import StepError
from sidtool.tokenizer.make.diff import diff
from sidtool.tokenizer.make.encode import item_vectors

NEW_SHARE = 0.2
"""Of the items, added after the model was trained."""


def after_retraining(
    model_folder: Path, retrained: Path, aligned: Path, split: Split, exclude_seen: bool
) -> dict[str, Any]:
    """The model with its own bundle, with a retrained one, and with that one aligned."""
    model = load_model_folder(str(model_folder))
    bundles = {
        "original": model.bundle,
        "retrained": Bundle.open(str(retrained)),
        "aligned": Bundle.open(str(aligned)),
    }
    result: dict[str, Any] = {"n": len(split.test), "sids_kept": {}, METRIC: {}}
    evaluations = {}
    for name, bundle in bundles.items():
        # loading refuses an unaligned bundle: it is put in after the check, to see what the check
        # saves
        evaluations[name] = measure(replace(model, bundle=bundle), split.test, exclude_seen)
        result["sids_kept"][name] = diff(model.bundle, bundle).kept
        result[METRIC][name] = evaluations[name].metrics[METRIC]
    difference = compare(evaluations["aligned"], evaluations["original"])["all"][METRIC]
    return {**result, "aligned_difference": asdict(difference)}


def run_adding(whole: Recipe, seed: int) -> Growth:
    """Train a model without some of the items, and add them to its bundle.

    Everything is of one split, which has no training events of the new items."""
    work = whole.work.parent
    split = read_split(whole.split())
    refuse_windows(split)
    items = divide_items(whole.dataset.items, work / f"items-{seed}", NEW_SHARE, seed)
    new_items = set(read_items(items / NEW).ids)
    windows = write_windows_without(split, new_items, work / f"windows-{seed}")
    dataset = replace(
        whole.dataset,
        items=items / OLD,
        protocol="given",
        interactions=windows / "train.csv",
        valid=windows / "valid.csv",
        test=windows / "test.csv",
    )
    part = Recipe(dataset, whole.run, work / f"old-{seed}")
    bundle = part.bundle()
    model = part.train(bundle, seed)
    child = part.work / "child.zarr"
    command = ["add-items", bundle, items / NEW, "-o", child, *part.vectors()]
    part.steps.run(child, *command)
    after = with_later_memory(whole, part, model, child)
    return Growth(
        before=load_model_folder(part.with_memory(model, bundle)),
        after=load_model_folder(after),
        split=read_split(part.split()),
        vectors=item_vectors(
            Bundle.open(str(child)),
            whole.dataset.items if whole.run.embeddings is None else None,
            embeddings=[] if whole.run.embeddings is None else [whole.run.embeddings],
        ),
        exclude_seen=dataset.exclude_seen,
    )


def with_later_memory(whole: Recipe, part: Recipe, model: Path, child: Path) -> Path:
    """The model with the later bundle and a memory of all items of the data set."""
    rebound = part.work / "grown" / "model"
    memory, out = rebound.with_name("memory.zarr"), rebound.with_name("model+memory")
    steps, commands, split = part.steps, part.commands, part.split()
    seen = part.seen_options()
    steps.run(rebound, "rebind", model, child, "-o", rebound)
    options = ("--tune", *whole.content_options(child), *seen)
    steps.do(commands.memory(split, child, memory, *options))
    return steps.do(commands.tuning(rebound, split, memory, out, *seen))


def run(dataset: Dataset, args: argparse.Namespace) -> dict[str, Any]:
    """Make the bundles and models of the chosen parts, and measure them."""
    work = args.out.resolve()
    settings = RecipeRun(
        recipe=args.recipe, seeds=(args.seed,), encoder=args.encoder, embeddings=args.embeddings
    )
    whole = Recipe(dataset, settings, work / "all")
    result: dict[str, Any] = {"seed": args.seed, **environment()}
    if args.only != "codebook":
        result["items_added"] = after_adding(run_adding(whole, args.seed), args.seed)
    if args.only != "items":
        result["codebook_retrained"] = run_retraining(whole, args.seed)
    return result


def run_retraining(whole: Recipe, seed: int) -> dict[str, Any]:
    """Train a model of all items, and build and align a codebook of another seed."""
    bundle = whole.bundle()
    model = whole.train(bundle, seed)
    retrained = whole.build_codebook(whole.work / "retrained.zarr", "--seed", seed + 1)
    aligned = whole.work / "aligned.zarr"
    whole.steps.run(aligned, "align", retrained, "--to", bundle, "-o", aligned)
    split = read_split(whole.split())
    return after_retraining(model, retrained, aligned, split, whole.dataset.exclude_seen)


def result_table(result: dict[str, Any]) -> str:
    """R@10 in each situation: of the model, with its memory, and of text-kNN."""
    rows: list[tuple[Any, ...]] = []
    note = ""
    if added := result.get("items_added"):
        rows += item_rows(added)
        change = added["old_targets"]["with_memory"]["difference"]
        interval = f"{change['low']:.4f} to {change['high']:.4f}"
        note = f"\n\nold targets with memory, after over before: 95% interval {interval}"
    if codebook := result.get("codebook_retrained"):
        rows += [(f"{name} codebook", value) for name, value in codebook[METRIC].items()]
    cells = [[name, *[f"{value:.4f}" for value in values]] for name, *values in rows]
    filled = [row + [""] * (4 - len(row)) for row in cells]
    return markdown(["R@10", "model", "with memory", "text-kNN"], filled) + note


def item_rows(added: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Rows of the table for the added items: a name and up to three values."""
    old = added["old_targets"]
    new = added["new_targets"]
    old_histories = new["histories_without_new_items"]
    only_new = added["new_targets_among_new_items"]
    mixture = only_new["with_memory"]
    text = only_new["text_knn"]
    names = ("beam", "with_memory", "text_knn")
    return [
        ("old target, before adding items", old["before"], old["with_memory"]["before"]),
        ("old target, after", old["after"], old["with_memory"]["after"]),
        ("new target, full catalog", *[new[name] for name in names]),
        ("... by the history's old items", *[old_histories[name] for name in names]),
        (
            "new target, only new items, --allow",
            only_new["allow_list"],
            mixture["allow_list"],
            text,
        ),
        (
            "new target, only new items, --candidates",
            only_new["candidate_scoring"],
            mixture["candidate_scoring"],
            text,
        ),
    ]


def main() -> int:
    """Run, write WORK/result.json, print the table."""
    parser = recipe_parser(__doc__)
    parser.add_argument("--embeddings", type=Path, help="file of vectors of all items")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=("items", "codebook"), help="one of the two parts")
    args = parser.parse_args()
    try:
        result = run(Dataset.open(args.data, args.dataset), args)
    except (StepError, SidtoolError, ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    (args.out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(result_table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
