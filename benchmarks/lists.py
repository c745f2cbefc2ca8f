"""Compare lists with the first items of a ranking, on held-out sessions.

    python benchmarks/lists.py DATA -o WORK --dataset benchmarks/datasets/movielens.yaml \\
        --session-gap 30m

Every model has the same split, bundle, initial weights, settings and training events; only the
training examples differ: histories of single items, lists of the next `--length` items, or both.
The fourth model is that of lists after a round of preference alignment on the NDCG of its own
lists. The lists of each model that learned lists are compared with the first items of its own
ranking, with those of the model of items, popularity and item-kNN. Differences from the model of
items are paired bootstraps over users of the mean over the seeds; lists after alignment are
compared with those before it. Steps that are done are not run again."""

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment
from recipe import Recipe
from table import markdown
from variant_run import VariantRun, chosen_variants, run_variants, variant_parser

from sidtool.data.split.split import evenly_spaced
from sidtool.evaluation.lists import ListEvaluationOptions
from sidtool.evaluation.lists.list_evaluation import (
    Values,
    differences,
    evaluate_list_makers,
    list_maker,
    means,
)
from sidtool.evaluation.lists.list_metrics import list_metric_names
from sidtool.model.contract.stage_record import ModelReference
from sidtool.model.load import LoadedModel, load_model_folder
from sidtool.recipes import StepError
from sidtool.recommendation.recommend_options import RecommendOptions
from sidtool.recommendation.recommendations import recommend
from sidtool.recommendation.requests import Request

ITEMS = "items"
LISTS = "lists"
BOTH = "both"
TASKS: Mapping[str, Sequence[str]] = {
    ITEMS: ("sequence=1",),
    LISTS: ("list=1",),
    BOTH: ("sequence=1", "list=1"),
}
"""The tasks of each model's training examples, that of items first."""
ALIGNED = "aligned"
"""The model of lists after preference alignment."""
ALIGNMENT: Sequence[object] = (
    *("--algorithm", "ipa", "--reward", "ndcg=1"),
    *("--set", "num_train_epochs=1", "--set", "candidate_lists=8", "--set", "sft_weight=1"),
    *("--set", "metric_for_best_model=list_reward"),
)
"""The options of `rl`: one round, eight lists of each history."""
NAMES = (*TASKS, ALIGNED)
REFUSED = 3
"""Exit code of `sidtool rl` where every checkpoint is worse than the start on a slice."""
SEPARATOR = ","
"""Between models of the command line."""
REFERENCE = f"{ITEMS}: top items"
"""The system that others are compared with, but those after alignment."""
SHOWN = ("recall", "ndcg", "kendall_tau", "diversity", "novelty")
"""The metrics of the table, without their cut-off."""


@dataclass(frozen=True)
class Protocol:
    """How sessions are found, and what lists are."""

    sessions: tuple[str, str]
    """the option of `split` that says what a session is, and its value"""
    length: int = 10
    stride: int | None = None
    num_beams: int = 10
    max_length: int = 256
    """tokens of an example, the same for all models"""
    timed: int = 64
    """requests that are timed"""


@dataclass(frozen=True)
class ListRun(VariantRun):
    """The steps of all models of one recipe."""

    protocol: Protocol

    def split_options(self) -> tuple[str, ...]:
        """The split by sessions."""
        return ("--protocol", "last-session", *self.protocol.sessions)

    @cached_property
    def template(self) -> Path:
        """The template of lists: the history alone, as that of item sequences."""
        file = self.recipe.work / "list-template.json"
        file.write_text('{"prompts": ["{history}"]}\n', encoding="utf-8")
        return file

    def example_options(self, variant: str) -> list[object]:
        """The tasks of a model, and what lists are."""
        options: list[object] = ["--max-length", self.protocol.max_length]
        for task in TASKS[variant]:
            options += ["--task", task]
        if variant != ITEMS:
            options += ["--list-length", self.protocol.length]
            options += ["--template", f"list={self.template}"]
        if variant != ITEMS and self.protocol.stride is not None:
            options += ["--list-stride", self.protocol.stride]
        return options

    def model(self, variant: str, seed: int) -> Path:
        """The trained model of a name and a seed."""
        if variant != ALIGNED:
            return super().model(variant, seed)
        model = self.recipe.work / ALIGNED / f"seed-{seed}" / "model"
        examples = self.examples(LISTS)
        options = (*ALIGNMENT, "--set", f"eval_num_beams={self.protocol.num_beams}")
        seen = f"exclude_seen={self.recipe.dataset.exclude_seen}".lower()
        options += ("--set", seen, "--set", f"seed={seed}")
        start = super().model(LISTS, seed)
        command = ("rl", start, examples, "-o", model, *options)
        refusal = self.refusal(seed)
        if not refusal.exists():
            try:
                return self.recipe.steps.run(model, *command)
            except StepError as error:
                if error.exit_code != REFUSED:
                    raise
                refusal.touch()
        # written all the same, to be measured
        return self.recipe.steps.run(model, *command, "--allow-worse-slices")

    def refusal(self, seed: int) -> Path:
        """A file that is there if the guard of `rl` refused every checkpoint of a seed."""
        return self.recipe.work / ALIGNED / f"seed-{seed}" / "refused"

    def systems(self, name: str, seed: int) -> dict[str, Values]:
        """By system: every metric of every user, of the model's lists, of its ranking, and with the
        model of items the baselines. They are stored beside the model, and measured again if its
        weights or the options change."""
        model = self.model(name, seed)
        part = self.recipe.run.on
        path = model.with_name(f"lists-{part}.npz")
        made = json.dumps([ModelReference.of(model).weights, repr(self.protocol)], sort_keys=True)
        if path.exists():
            with np.load(path) as stored:
                if str(stored["made"]) == made:
                    return {key: stored[key] for key in stored.files if key != "made"}
        systems = self._measure(name, model)
        arrays: dict[str, Any] = {"made": made, **systems}
        np.savez(path, **arrays)
        return systems

    def _measure(self, name: str, model: Path) -> dict[str, Values]:
        loaded = load_model_folder(model)
        makers = {
            system: list_maker(loaded, options)
            for system, options in self.requests(name, loaded).items()
        }
        options = ListEvaluationOptions(
            length=self.protocol.length,
            exclude_seen=self.recipe.dataset.exclude_seen,
            baselines=name == ITEMS,
        )
        evaluation = evaluate_list_makers(
            loaded.bundle, makers, self.part, self.split.train, options
        )
        return dict(evaluation.values)

    def requests(self, name: str, loaded: LoadedModel) -> dict[str, RecommendOptions]:
        """By system: how the lists of a model are searched for, and its ranking."""
        ranking = RecommendOptions(
            k=self.protocol.length,
            num_beams=self.protocol.num_beams,
            exclude_seen=self.recipe.dataset.exclude_seen,
        )
        searches: dict[str, RecommendOptions] = {}
        if loaded.contract.list_prompt is not None:
            searches[f"{name}: lists"] = replace(ranking, list=True)
            searches[f"{name}: greedy lists"] = replace(ranking, list=True, num_beams=1)
        # the ranking keeps all beams that it is given, so it gets as many as items at least
        n_beams = max(self.protocol.length, self.protocol.num_beams)
        searches[f"{name}: top items"] = replace(ranking, num_beams=n_beams)
        return searches

    def seconds(self, name: str, seed: int) -> dict[str, float]:
        """Seconds of one request by system, in batches."""
        loaded = load_model_folder(self.model(name, seed))
        examples = evenly_spaced(self.part, self.protocol.timed)
        requests = [Request(example.user, example.history) for example in examples]
        return {
            system: _seconds(loaded, requests, options)
            for system, options in self.requests(name, loaded).items()
        }


def _seconds(loaded: LoadedModel, requests: Sequence[Request], options: RecommendOptions) -> float:
    """Wall-clock seconds of a request, the shorter of two runs."""
    runs = []
    for _ in range(2):
        started = time.perf_counter()
        answered = sum(1 for _ in recommend(loaded, requests, options))
        runs.append((time.perf_counter() - started) / answered)
    return min(runs)


def reference_of(system: str) -> str:
    """The system that this one is compared with."""
    name, _, label = system.partition(": ")
    return f"{LISTS}: {label}" if name == ALIGNED else REFERENCE


def result_of(run: ListRun, names: Sequence[str]) -> dict[str, Any]:
    """Run every step that is not done: per system the metrics of each seed, intervals of the mean
    over the seeds, and paired differences from the model of items."""
    seeds = run.recipe.run.seeds
    users = [example.user for example in run.part]
    metrics = list_metric_names(run.protocol.length)
    by_system: dict[str, list[Values]] = {}
    seconds: dict[str, float] = {}
    for name in names:
        for seed in seeds:
            for system, values in run.systems(name, seed).items():
                by_system.setdefault(system, []).append(values)
        seconds |= run.seconds(name, seeds[0])
    mean_values = {system: _mean(values) for system, values in by_system.items()}
    measured: dict[str, Any] = {}
    for system, seed_values in by_system.items():
        gain = {}
        reference = reference_of(system)
        if system != reference:
            gain = differences(metrics, mean_values[system], mean_values[reference], users, seed=0)
        measured[system] = {
            "reference": reference,
            "seeds": [
                {name: mean.mean for name, mean in means(metrics, values, users, seed=0).items()}
                for values in seed_values
            ],
            "mean": means(metrics, mean_values[system], users, seed=0),
            "gain": gain,
            "seconds": seconds.get(system),
        }
    return {
        "on": run.recipe.run.on,
        "n": len(users),
        "targets": sum(len(example.items) for example in run.part),
        "seeds": list(seeds),
        "refused": [seed for seed in seeds if run.refusal(seed).exists()],
        "protocol": asdict(run.protocol),
        "training_seconds": {
            name: run.recipe.steps.seconds(*(f"{name}/seed-{seed}/model" for seed in seeds))
            for name in names
        },
        "systems": {
            system: {**record, "mean": _records(record["mean"]), "gain": _records(record["gain"])}
            for system, record in measured.items()
        },
        **environment(),
    }


def _mean(values: Sequence[Values]) -> Values:
    """(n, metrics): the mean over the seeds for which a metric is defined; NaN without one."""
    stacked = np.stack(values)
    defined = np.isfinite(stacked).sum(axis=0)
    return np.where(defined > 0, np.nansum(stacked, axis=0) / np.maximum(defined, 1), np.nan)


def _records(records: Mapping[str, Any]) -> dict[str, Any]:
    return {name: record.to_json() for name, record in records.items()}


def result_table(result: Mapping[str, Any]) -> str:
    """Each system's metrics with intervals, its gains over the model of items, and its time."""
    length = result["protocol"]["length"]
    names = [f"{name}@{length}" if name in ("recall", "ndcg") else name for name in SHOWN]
    rows = []
    for system, figures in result["systems"].items():
        row: list[object] = [system]
        for name in names:
            row += _cells(figures["mean"].get(name), figures["gain"].get(name))
        row.append("" if figures["seconds"] is None else f"{1000 * figures['seconds']:.0f}")
        rows.append(row)
    columns = [cell for name in names for cell in (name, "gain")]
    text = f"{result['n']} users, {result['targets']} held-out items, {len(result['seeds'])} seeds"
    if result["refused"]:
        text += f"; worse on a slice after alignment: seeds {result['refused']}"
    return f"{markdown([result['on'], *columns, 'ms a request'], rows)}\n\n{text}"


def _cells(mean: Mapping[str, Any] | None, gain: Mapping[str, Any] | None) -> list[object]:
    if mean is None:
        return ["", ""]
    figure = f"{mean['mean']:.4f} ({mean['low']:.4f} to {mean['high']:.4f})"
    if gain is None:
        return [figure, ""]
    return [figure, f"{gain['mean']:+.4f} ({gain['low']:+.4f} to {gain['high']:+.4f})"]


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = variant_parser(__doc__, list(NAMES), SEPARATOR)
    sessions = parser.add_mutually_exclusive_group(required=True)
    sessions.add_argument("--session-gap", help="time between sessions, like 30m")
    sessions.add_argument("--session-column", help="column of the events that names sessions")
    parser.add_argument("--length", type=int, default=10, help="items of a list")
    parser.add_argument("--stride", type=int, help="make-sft --list-stride (default: the length)")
    parser.add_argument("--num-beams", type=int, default=10, help="partial lists that are kept")
    parser.add_argument("--timed", type=int, default=64, help="requests that are timed")
    return parser.parse_args(arguments)


def protocol_of(args: argparse.Namespace) -> Protocol:
    """The protocol that the command line describes."""
    sessions = ("--session-column", args.session_column)
    if args.session_gap is not None:
        sessions = ("--session-gap", args.session_gap)
    beams = {"num_beams": args.num_beams, "timed": args.timed}
    return Protocol(sessions, args.length, args.stride, **beams)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write WORK/result-PART.json, print the table."""
    args = parse_arguments(arguments)

    def measure(recipe: Recipe) -> dict[str, Any]:
        names = chosen_variants(args.only, list(NAMES), SEPARATOR)
        if ALIGNED in names and LISTS not in names:
            names.insert(1, LISTS)
        return result_of(ListRun(recipe, protocol_of(args)), names)

    return run_variants(args, measure, result_table)


if __name__ == "__main__":
    sys.exit(main())
