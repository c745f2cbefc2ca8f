"""Comparisons of a recipe's models with models of the same seeds, examples and initial weights that
are trained in another way."""

import json
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from environment import command_line, environment, store_under
from fused_models import NAMES, item_scores, metrics_of
from numpy.typing import NDArray
from recipe import parse_seeds
from table import markdown

from sidtool.base.digests import file_digest
from sidtool.data.split import open_split
from sidtool.evaluation import evaluate
from sidtool.evaluation.bootstrap import paired_differences
from sidtool.evaluation.metrics import averages
from sidtool.evaluation.tuning import tune_memory
from sidtool.model.contract import CONTRACT, TrainParams, read_contract
from sidtool.registry import open_memory
from sidtool.training import trainer_setup
from sidtool.training.settings_file import read_stages
from sidtool.training.training import train_stages


def train_recipe(
    work: Path,
    seed: int,
    out: Path,
    changed: Sequence[str] = (),
    *,
    trainer: Callable[..., Any] | None = None,
    teachers: Sequence[Path] = (),
) -> Path:
    """The model of a seed of a recipe's folder, with the settings of WORK/seed-N/model but for the
    changed ones, by another trainer or with teachers."""
    if not out.exists():
        if trainer is not None:
            setattr(trainer_setup, "CausalTrainer", trainer)  # noqa: B010
        params = read_contract(work / f"seed-{seed}" / "model").params
        assert isinstance(params, TrainParams)
        settings = {**params.options, **params.sft_fields}
        recorded = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
        stages = read_stages(None, [*recorded, *changed])
        start, examples = work / f"initial-{seed}" / "base+sid", work / "sft" / "train.jsonl"
        out.parent.mkdir(parents=True, exist_ok=True)
        train_stages(start, examples, out, stages, teachers=teachers, log=print)
    return out


def compare(
    args: Namespace, trained: Callable[[Namespace, int], Path], change: str
) -> dict[str, Any]:
    """The metrics of each seed with and without a change, and the difference of their means. Those
    of a model are stored beside it."""
    examples = open_split(args.work / "split").valid
    changed: list[NDArray[np.float64]] = []
    without: list[NDArray[np.float64]] = []
    for seed in args.seeds:
        for folder, values in (
            (trained(args, seed), changed),
            (args.work / f"seed-{seed}" / "model", without),
        ):
            kind = "alone-seen" if args.seen else "alone"
            stored = folder.with_name(f"{kind}-{file_digest(folder / CONTRACT)[:12]}.npy")
            if not stored.exists():
                scores = item_scores(folder, examples, exclude_seen=not args.seen)
                np.save(stored, metrics_of(scores, examples))
            values.append(np.load(stored))
    users = [example.user for example in examples]
    gains = paired_differences(NAMES, np.mean(changed, 0), np.mean(without, 0), users)["all"]
    return {
        "n": len(examples),
        "seeds": list(args.seeds),
        change: [averages(NAMES, values) for values in changed],
        "recipe": [averages(NAMES, values) for values in without],
        "gain": {name: gain.to_json() for name, gain in gains.items()},
        "command": command_line(Path(sys.argv[0]).name, sys.argv[1:]),
        **environment(),
    }


def comparison_parser(description: str | None) -> ArgumentParser:
    """The options of a script that compares trainings of a recipe's folder."""
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--seeds", type=parse_seeds, default=(0, 1, 2))
    parser.add_argument("--seen", action="store_true")
    return parser


def with_memory(args: Namespace, model: Path) -> Path:
    """A copy of a model with the memory, tuned on validation users."""
    out = model.with_name("model+memory")
    if not out.exists():
        split, memory = open_split(args.work / "split"), open_memory(str(args.work / "memory.zarr"))
        tune_memory(model, split, memory, out, exclude_seen=not args.seen)
    return out


def compare_served(
    args: Namespace, trained: Callable[[Namespace, int], Path]
) -> list[dict[str, Any]]:
    """`served_metrics` of each seed, of the changed model beside that of the recipe."""
    pairs = [(trained(args, seed), args.work / f"seed-{seed}" / "model") for seed in args.seeds]
    return [
        served_metrics(args, with_memory(args, model), with_memory(args, recipe))
        for model, recipe in pairs
    ]


def served_metrics(args: Namespace, served: Path, other: Path) -> dict[str, Any]:
    """The validation metrics of a model with its memory, by the parts of what is served, and the
    paired difference from another one."""
    evaluation = evaluate(
        served, args.work / "split", against=other, on="valid", exclude_seen=not args.seen
    ).to_json()
    return {name: evaluation[name] for name in ("n", "metrics", "baselines", "differences")}


def store(args: Namespace, result: dict[str, Any], change: str) -> None:
    """Print the table and write the results under the name of the data."""
    store_under(args.name, result, args.out)
    rows = [
        [system, *(f"{metrics[name]:.4f}" for name in ("hr@10", "ndcg@10"))]
        for system in (change, "recipe")
        for metrics in result[system]
    ]
    print(markdown(["model", "R@10", "N@10"], rows))
    print(result["gain"]["ndcg@10"])
    for of_seed in result.get("served", ()):
        print({name: values["ndcg@10"] for name, values in of_seed["differences"].items()})
