"""Compare reinforcement with spending its compute on more supervised training.

    python benchmarks/reinforce.py DATA -o WORK [--seeds 0,1,2] [--only "GRPO; more SFT"]

The recipe's model of each seed is the start of every variant: weighted supervised training, the
algorithms of `sidtool rl`, and two controls that take about as many seconds as these on average:
more supervised training, and a teacher (half of the time trains it from other initial weights, the
other half continues the start with it). `collaborative reward alone` is there to be refused: the
guard of `sidtool rl` must see that item-kNN is imitated at the cost of some targets.

Learning rates are selected on validation with the first seed. Every model is measured once on
`--on`, at item level over the full catalog; differences are paired bootstraps over users of the
mean over the seeds. Steps that are done are not run again."""

import argparse
import csv
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import yaml
from environment import command_line, environment
from model_values import model_values
from recipe import Dataset, Recipe, RecipeRun, parse_seeds, recipe_parser
from reinforce_table import START, Values, differences, group_means, result_tables

from sidtool.data.split.files import open_split
from sidtool.data.split.split import Split
from sidtool.data.split.values import Example
from sidtool.data.tables.tables import read_columns
from sidtool.evaluation.groups import example_groups
from sidtool.examples.event_weights import WeightOptions
from sidtool.recipes import StepError

MORE_SFT = "more SFT"
TEACHER = "teacher"
WEIGHTED = "weighted SFT"
HACKED = "collaborative reward alone"

ALGORITHMS: Mapping[str, Mapping[str, object]] = {
    "GRPO": {"algorithm": "grpo", "beta": 1e-3, "sft_weight": 0},
    "GSPO": {"algorithm": "gspo"},
    "ECPO": {"algorithm": "ecpo"},
    HACKED: {"algorithm": "grpo", "reward": "collaborative=1", "beta": 0, "sft_weight": 0},
}
"""Settings of `sidtool rl`. Where nothing else is set, the reward is MiniOneRec's and the
cross-entropy of the targets is part of the loss."""
CONTROLS = (MORE_SFT, TEACHER)
VARIANTS = (*ALGORITHMS, WEIGHTED, *CONTROLS)

RL_RATES = (3e-5, 1e-4)
SFT_RATES = (2e-4, 1e-3)
TEACHER_STEP = 4 / 3
"""Cost of a training step with one teacher, against one without: a step is about three forward
passes, the teacher's is one more."""
RARITY = "rarity"
"""Column that weights events where a data set has no feedback: -log of the training events of the
item, so that exp(rarity/2) is one over their root."""
REFUSED = 3
"""Exit code of `sidtool rl` where every checkpoint is worse than the start on a slice."""


@dataclass(frozen=True)
class Cell:
    """A trained model of one variant and seed."""

    model: Path
    seconds: float
    tokens: int | None
    """Read in training; None where the command did not end at once."""
    refused: bool = False
    """Whether the guard refused every checkpoint."""


@dataclass
class Comparison:
    """The variants of one data set in one work folder."""

    recipe: Recipe
    rates: Mapping[str, Sequence[float]]
    """Variant -> learning rates to select from"""
    rl_settings: Sequence[str] = ()
    """Further settings of `sidtool rl`, key=value"""
    weight: str | None = None
    """`make-sft --weight`; None weights by rarity"""
    cells: dict[tuple[str, int, float], Cell] = field(default_factory=dict)

    @property
    def first_seed(self) -> int:
        """The seed whose models select the learning rates."""
        return self.recipe.run.seeds[0]

    @cached_property
    def bundle(self) -> Path:
        """The bundle of all models."""
        return self.recipe.bundle()

    @cached_property
    def split(self) -> Split:
        """The split of all models."""
        return open_split(self.recipe.split())

    def start(self, seed: int) -> Cell:
        """The recipe's model of a seed."""
        model = self.recipe.train(self.bundle, seed)
        return Cell(model, self.recipe.steps.seconds(f"seed-{seed}/model"), None)

    def cell(self, variant: str, seed: int, rate: float) -> Cell:
        """The model of a variant, trained if it is not there."""
        if variant == START:
            return self.start(seed)
        key = (variant, seed, rate)
        if key not in self.cells:
            self.cells[key] = self._train(*key)
        return self.cells[key]

    def _train(self, variant: str, seed: int, rate: float) -> Cell:
        if variant in ALGORITHMS:
            return self._reinforce(variant, seed, rate)
        if variant == WEIGHTED:
            return self._continue(variant, seed, rate, self._weighted_examples(), 1.0)
        examples = self.recipe.training_examples(self.bundle)
        if variant == MORE_SFT:
            return self._continue(variant, seed, rate, examples, 1.0)
        teacher = self._teacher(seed)
        share = 0.5 / TEACHER_STEP
        options = ("--teacher", teacher.model)
        student = self._continue(variant, seed, rate, examples, share, *options)
        tokens = sum(cell.tokens or 0 for cell in (teacher, student))
        return Cell(student.model, teacher.seconds + student.seconds, tokens)

    def _reinforce(self, variant: str, seed: int, rate: float) -> Cell:
        """A model trained by rewards. Where the guard refuses it, it is written all the same, to be
        measured."""
        settings = {"learning_rate": rate, "seed": seed, **ALGORITHMS[variant]}
        settings["exclude_seen"] = self.recipe.dataset.exclude_seen
        pairs = [f"{name}={_yaml_text(value)}" for name, value in settings.items()]
        options = list(self.recipe.commands.recipe.options("reinforce"))
        options += [word for pair in (*pairs, *self.rl_settings) for word in ("--set", pair)]
        if variant == HACKED:
            options += ["--reward-input", f"collaborative={self._memory()}"]
        examples = self.recipe.training_examples(self.bundle)
        folder = self._folder(variant, seed, rate)
        refusal = folder / "refused.json"
        started = time.monotonic()
        if not refusal.exists():
            try:
                return self._run(folder, "rl", self.start(seed).model, examples, *options)
            except StepError as error:
                if not str(error).endswith(f"exit code {REFUSED}"):
                    raise
                seconds = round(time.monotonic() - started, 1)
                refusal.write_text(json.dumps({"seconds": seconds}), encoding="utf-8")
        options.append("--allow-worse-slices")
        cell = self._run(folder, "rl", self.start(seed).model, examples, *options)
        seconds = json.loads(refusal.read_text(encoding="utf-8"))["seconds"]
        return Cell(cell.model, seconds + cell.seconds, None, refused=True)

    def _continue(
        self, variant: str, seed: int, rate: float, examples: Path, share: float, *options: object
    ) -> Cell:
        """The start, trained further for a share of the budget."""
        epochs = self.budget_epochs() * share
        settings = (
            f"learning_rate={rate}",
            f"num_train_epochs={epochs:.4g}",
            f"seed={seed}",
            "reverse_prob=0",  # the start has learned the order already
        )
        folder = self._folder(variant, seed, rate)
        return self._fit(folder, self.start(seed).model, examples, settings, *options)

    def _teacher(self, seed: int) -> Cell:
        """A model of other initial weights, trained for half of the budget."""
        initial_seed = seed + 1000
        settings = (f"num_train_epochs={self.budget_epochs() * 0.5:.4g}", f"seed={initial_seed}")
        start = self.recipe.initial_model(self.bundle, initial_seed)
        examples = self.recipe.training_examples(self.bundle)
        return self._fit(self._folder(f"{TEACHER} itself", seed), start, examples, settings)

    def _fit(
        self, folder: Path, start: Path, examples: Path, settings: Sequence[str], *options: object
    ) -> Cell:
        changed = [word for pair in settings for word in ("--set", pair)]
        config = self.recipe.commands.recipe.options("train")
        return self._run(folder, "train", start, examples, *config, *options, *changed)

    def _run(
        self, folder: Path, command: str, start: Path, examples: Path, *options: object
    ) -> Cell:
        summary = folder / "summary.json"
        model = folder / "model"
        parts = (command, start, examples, "-o", str(model), *options, "--json")
        self.recipe.steps.run(summary, *parts, saves_stdout=True)
        seconds = self.recipe.steps.seconds(str(summary.relative_to(self.recipe.work)))
        return Cell(model, seconds, json.loads(summary.read_text(encoding="utf-8"))["tokens"])

    def _folder(self, variant: str, seed: int, rate: float | None = None) -> Path:
        name = variant.replace(", ", "-").replace(" ", "-").lower()
        return self.recipe.work / f"seed-{seed}" / (name if rate is None else f"{name}-{rate:g}")

    def _memory(self) -> Path:
        memory = self.recipe.work / "memory.zarr"
        step = self.recipe.commands.memory(self.recipe.split(), self.bundle, memory)
        return self.recipe.steps.do(step)

    def _weighted_examples(self) -> Path:
        recipe, work = self.recipe, self.recipe.work
        interactions, weight = recipe.dataset.interactions, self.weight
        if weight is None:
            interactions = write_rarity(interactions, self.split, work / "rarity.csv")
            weight = f"exp({RARITY}/2)"
        inputs = replace(recipe.commands.inputs, events=interactions)
        columns = ("--feedback", WeightOptions(weight).field)
        options = (*recipe.dataset.split_options(), *columns)
        weighted = replace(recipe.commands, inputs=inputs)
        split = recipe.steps.do(weighted.split(work / "split-weighted", *options))
        made = (self.bundle, split, recipe.initial_model(self.bundle, 0))
        examples = work / "sft-weighted" / "train.jsonl"
        return recipe.steps.do(weighted.examples("sft", *made, examples, "--weight", weight))

    def budget_epochs(self) -> float:
        """Epochs of supervised training that take as long as the algorithms do on average.

        It is measured once, and stored: a run that goes on later must not count otherwise."""
        path = self.recipe.work / "budget.json"
        if not path.exists():
            algorithms = [name for name in ALGORITHMS if name in self.rates and name != HACKED]
            if not algorithms:
                raise StepError("the budget of supervised training is the time of an algorithm")
            seconds = mean(
                self.cell(name, self.first_seed, self.rate(name)).seconds for name in algorithms
            )
            settings = yaml.safe_load(self.recipe.config("train").read_text(encoding="utf-8"))
            per_epoch = self.start(self.first_seed).seconds / settings["num_train_epochs"]
            budget = {"seconds": seconds, "epochs": seconds / per_epoch}
            path.write_text(json.dumps(budget, indent=1) + "\n", encoding="utf-8")
        return float(json.loads(path.read_text(encoding="utf-8"))["epochs"])

    def rate(self, variant: str) -> float:
        """The learning rate of a variant that is best on validation with the first seed, among
        those that the guard accepts if there are any."""
        if variant == START:
            return 0.0

        def gain(rate: float) -> tuple[bool, float]:
            cell = self.cell(variant, self.first_seed, rate)
            return not cell.refused, float(self.values(cell, "valid").column("ndcg@10").mean())

        rates = self.rates[variant]
        return rates[0] if len(rates) == 1 else max(rates, key=gain)

    def values(self, cell: Cell, part: str) -> Values:
        """The metrics of a model on each example of a part, measured once."""
        exclude_seen = self.recipe.dataset.exclude_seen
        return model_values(cell.model, self.examples(part), part, exclude_seen=exclude_seen)

    def examples(self, part: str) -> tuple[Example, ...]:
        """The held-out examples of a part."""
        return tuple(self.split.test if part == "test" else self.split.valid)


def _yaml_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def write_rarity(interactions: Path, split: Split, out: Path) -> Path:
    """Write the events of a split, in the order of their file, with the column RARITY."""
    columns = split.origin.columns
    assert columns is not None  # chosen_variants
    if out.exists():
        return out
    trained = [item for sequence in split.train for item in sequence.items]
    n_events = dict(zip(*np.unique(trained, return_counts=True), strict=True))
    names = [name for name in (columns.user, columns.item, columns.order) if name is not None]
    table = read_columns(interactions, names, ids=[columns.user, columns.item])
    # an item that is only held out counts as one event
    rarity = [-math.log(n_events.get(item, 1)) for item in table[columns.item].to_pylist()]
    partial = out.with_suffix(".partial")
    with partial.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([*names, RARITY])
        writer.writerows(zip(*(table[name].to_pylist() for name in names), rarity, strict=True))
    partial.replace(out)
    return out


def run_comparison(comparison: Comparison, part: str) -> dict[str, Any]:
    """Train what is not trained, measure every model on a part, and return the result."""
    examples = comparison.examples(part)
    groups = example_groups(examples, comparison.split.train)
    users = [example.user for example in examples]
    systems: dict[str, Any] = {}
    means: dict[str, Values] = {}
    for variant in (START, *comparison.rates):
        rate = comparison.rate(variant)
        cells = {seed: comparison.cell(variant, seed, rate) for seed in comparison.recipe.run.seeds}
        measured = {seed: comparison.values(cell, part) for seed, cell in cells.items()}
        names = next(iter(measured.values())).names
        means[variant] = Values(
            names, np.mean([values.values for values in measured.values()], axis=0)
        )
        seeds = [
            {
                "seed": seed,
                "seconds": cell.seconds,
                "tokens": cell.tokens,
                "refused": cell.refused,
                "groups": group_means(measured[seed], groups),
            }
            for seed, cell in cells.items()
        ]
        systems[variant] = {"learning_rate": rate, "seeds": seeds}
    for variant, values in means.items():
        systems[variant]["differences"] = {
            other: differences(values, means[other], users, groups)
            for other in (START, *CONTROLS)
            if other in means and other != variant
        }
    return {
        "on": part,
        "n": len(examples),
        "systems": systems,
        "compared_with": [START, *CONTROLS],
        **environment(),
    }


def parse_rates(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in text.split(",") if number)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = recipe_parser(__doc__)
    parser.add_argument("--embeddings", type=Path, help="file of vectors of all items")
    parser.add_argument("--bundle", type=Path, help="a finished bundle, instead of a new codebook")
    parser.add_argument("--seeds", type=parse_seeds, default=(0, 1, 2))
    parser.add_argument("--on", choices=("valid", "test"), default="test")
    parser.add_argument("--only", help=f"variants, of: {'; '.join(VARIANTS)}")
    parser.add_argument("--rl-rates", type=parse_rates, default=RL_RATES)
    parser.add_argument("--sft-rates", type=parse_rates, default=SFT_RATES)
    parser.add_argument(
        "--weight", help="make-sft --weight of the weighted variant (default: by rarity of items)"
    )
    parser.add_argument(
        "--set", action="append", default=[], help="further setting of `sidtool rl`, key=value"
    )
    return parser.parse_args(arguments)


def chosen_variants(text: str | None, dataset: Dataset) -> list[str]:
    """The variants to run, in the order of VARIANTS: the budget of the last follows from the
    first. Raises StepError for an unknown one, and for weights of windows."""
    is_windows = dataset.protocol == "given"
    if text is None:
        return [name for name in VARIANTS if not (is_windows and name == WEIGHTED)]
    names = [name.strip() for name in text.split(";")]
    if is_windows and WEIGHTED in names:
        raise StepError(f"{dataset.interactions} holds windows, which have no weights")
    unknown = [name for name in names if name not in VARIANTS]
    if unknown:
        raise StepError(f"no variant {unknown[0]!r}: choose from {'; '.join(VARIANTS)}")
    return [variant for variant in VARIANTS if variant in names]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write WORK/result-PART.json, print the tables."""
    args = parse_arguments(arguments)
    run = RecipeRun(
        recipe=args.recipe,
        seeds=args.seeds,
        bundle=args.bundle,
        encoder=args.encoder,
        embeddings=args.embeddings,
    )
    try:
        dataset = Dataset.open(args.data, args.dataset)
        rates = {
            variant: args.rl_rates if variant in ALGORITHMS else args.sft_rates
            for variant in chosen_variants(args.only, dataset)
        }
        recipe = Recipe(dataset, run, args.out)
        comparison = Comparison(recipe, rates, args.set, args.weight)
        result = run_comparison(comparison, args.on)
    except (StepError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    result["data"] = dataset.interactions.parent.name
    result["command"] = command_line("reinforce.py", arguments or sys.argv[1:])
    path = args.out / f"result-{args.on}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(result_tables(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
