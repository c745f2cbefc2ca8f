"""Measure what feedback, user fields and time gaps add to a recipe, alone and together.

    python benchmarks/feedback.py DATA -o WORK --dataset benchmarks/datasets/movielens.yaml \\
        --feedback rating --users ml-100k.user --user-field age --user-field occupation

Every variant has the same split, bundle, initial weights and settings; only the training examples
differ: their weights, or what stands beside the items. Fields stand there as tokens of their own,
one for each frequent value. Without `--users` nothing is known of them, and no variant has user
fields. Each variant is measured on all users of `--on`, and with `--positive` on those whose target
fulfills a condition, at item level over the full catalog. Differences from the plain recipe are
paired bootstraps over users of the mean over the seeds. Steps that are done are not run again."""

import argparse
import hashlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment
from model_values import model_values
from numpy.typing import NDArray
from recipe import Recipe
from reinforce_table import METRICS, Values, differences, group_means
from table import markdown, spread
from variant_run import VariantRun, chosen_variants, run_variants, variant_parser

from sidtool.data.fields.field_columns import FieldName
from sidtool.data.fields.fields import Condition
from sidtool.evaluation.bootstrap import everyone
from sidtool.model.prompt.template_slots import value_text

ALL = "all"
PLAIN = "plain"
WEIGHTS = "weights"
USER_FIELDS = "user fields"
TIME_GAPS = "time gaps"
IN_HISTORY = "feedback in history"
TOGETHER = "together"
VARIANTS: Mapping[str, frozenset[str]] = {
    PLAIN: frozenset(),
    WEIGHTS: frozenset({WEIGHTS}),
    USER_FIELDS: frozenset({USER_FIELDS}),
    TIME_GAPS: frozenset({TIME_GAPS}),
    IN_HISTORY: frozenset({IN_HISTORY}),
    TOGETHER: frozenset({WEIGHTS, USER_FIELDS, TIME_GAPS, IN_HISTORY}),
}
"""The parts of each variant."""
SEPARATOR = ";"
"""Between variants of the command line."""
MAX_VALUES = 64
"""Values of a field that have tokens."""


@dataclass(frozen=True)
class Fields:
    """The fields of a data set that the variants use."""

    feedback: str
    users: Path | None
    user_fields: tuple[str, ...]
    """Columns of `users`, with a type where one is given: `age:str`."""
    weight: str
    """`make-sft --weight`"""
    clip: float
    """`make-sft --weight-clip`"""

    @property
    def user_names(self) -> list[str]:
        """The columns without types."""
        return [FieldName.parse(name).name for name in self.user_fields]

    @property
    def variants(self) -> list[str]:
        """The variants that these fields allow."""
        return [name for name in VARIANTS if self.users is not None or name != USER_FIELDS]

    @property
    def split_options(self) -> list[object]:
        """The options of the split."""
        options: list[object] = ["--times", "--feedback", self.feedback]
        if self.users is not None:
            options += ["--users", self.users]
        for name in self.user_fields:
            options += ["--user-field", name]
        return options

    def templates(self, parts: frozenset[str]) -> dict[str, list[str]] | None:
        """The templates of `sequence` with these parts; None if nothing stands beside an item."""
        user = "".join(f"{{user.{name}:token}}" for name in self.user_names)
        prompt = f"{user}{{history}}" if USER_FIELDS in parts else "{history}"
        gap = "{gap:token}" if TIME_GAPS in parts else ""
        feedback = f"{{event.{self.feedback}:token}}" if IN_HISTORY in parts else ""
        item = f"{gap}{{sid}}{feedback}"
        if (prompt, item) == ("{history}", "{sid}"):
            return None
        return {"prompts": [prompt], "items": [item]}


@dataclass(frozen=True)
class FeedbackRun(VariantRun):
    """The steps of all variants of one recipe."""

    fields: Fields
    max_length: int
    """Tokens of an example, the same for all variants: fields take some beside the SIDs."""
    positive: Condition | None
    """Which targets are measured apart, too"""

    def split_options(self) -> list[object]:
        """Those of the data set, and its fields."""
        return [*self.recipe.dataset.split_options(), *self.fields.split_options]

    @cached_property
    def token_options(self) -> list[object]:
        """The options of extend-model that give tokens to the frequent values of the fields."""
        counts: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for sequence in self.split.train:
            for name in self.fields.user_names:
                counts[f"user.{name}"][value_text(sequence.fields.user.get(name))] += 1
            ratings = sequence.fields.event[self.fields.feedback]
            counts[f"event.{self.fields.feedback}"].update(map(value_text, ratings))
        options: list[object] = ["--field-token", "gap"]
        for name, values in counts.items():
            frequent = (value for value, _ in values.most_common(MAX_VALUES))
            options += ["--field-token", f"{name}={','.join(sorted(frequent))}"]
        return options

    def initial_model(self, seed: int) -> Path:
        """With tokens for the values of fields."""
        return self.recipe.initial_model(self.bundle, seed, *self.token_options)

    def example_options(self, variant: str) -> list[object]:
        """The weights and the templates of a variant."""
        parts = VARIANTS[variant]
        options: list[object] = ["--max-length", self.max_length]
        if WEIGHTS in parts:
            options += ["--weight", self.fields.weight, "--weight-clip", self.fields.clip]
        templates = self.fields.templates(parts)
        if templates is not None:
            text = json.dumps(templates) + "\n"
            # named by its content, which the record of a step does not hold
            digest = hashlib.sha256(text.encode()).hexdigest()[:8]
            file = self.folder(variant) / f"templates-{digest}.json"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            options += ["--template", f"sequence={file}"]
        return options

    def values(self, variant: str, seed: int) -> Values:
        """The metrics of a model on each user."""
        exclude_seen = self.recipe.dataset.exclude_seen
        on = self.recipe.run.on
        return model_values(self.model(variant, seed), self.part, on, exclude_seen=exclude_seen)

    @cached_property
    def groups(self) -> dict[str, NDArray[np.float64]]:
        """The groups of users that are measured, by name: the weight of each user."""
        groups = everyone(len(self.part))
        if self.positive is not None:
            name = self.positive.field
            kind = self.split.fields.need_feedback(name, "--feedback")
            values = [example.feedback[name] for example in self.part]
            groups[self.positive.text] = self.positive.holds(values, kind).astype(np.float64)
        return groups

    def baselines(self) -> dict[str, dict[str, dict[str, float]]]:
        """Popularity and item-kNN on each group."""
        model = self.model(PLAIN, self.recipe.run.seeds[0])
        on = self.recipe.run.on
        measured = {}
        for group in self.groups:
            name = f"metrics-{on}" if group == ALL else f"metrics-{on}-positive"
            options = [] if group == ALL else ["--target", group]
            metrics = model.with_name(f"{name}.json")
            evaluation = self.recipe.evaluated(model, metrics, "--on", on, *options)
            measured[group] = {name: dict(means) for name, means in evaluation["baselines"].items()}
        return measured


def result_of(run: FeedbackRun, variants: Sequence[str]) -> dict[str, Any]:
    """Run every step that is not done; the metrics of each seed, and paired differences of the
    means over the seeds, for each group of users."""
    seeds = run.recipe.run.seeds
    users = [example.user for example in run.part]
    means: dict[str, Values] = {}
    measured: dict[str, Any] = {}
    for variant in variants:
        seed_values = [run.values(variant, seed) for seed in seeds]
        mean_values = np.mean([values.values for values in seed_values], axis=0)
        means[variant] = Values(seed_values[0].names, mean_values)
        gains: Mapping[str, Any] = {}
        if variant != PLAIN:
            gains = differences(means[variant], means[PLAIN], users, run.groups)
        by_seed = [group_means(values, run.groups) for values in seed_values]
        measured[variant] = {
            group: {
                "seeds": [by_group[group] for by_group in by_seed],
                "gain": gains.get(group, {}),
            }
            for group in run.groups
        }
    return {
        "on": run.recipe.run.on,
        "n": {group: int(weights.sum()) for group, weights in run.groups.items()},
        "seeds": list(seeds),
        "fields": {"weight": run.fields.weight, "clip": run.fields.clip},
        "templates": {variant: run.fields.templates(VARIANTS[variant]) for variant in variants},
        "variants": measured,
        "baselines": run.baselines(),
        **environment(),
    }


def result_tables(result: Mapping[str, Any]) -> str:
    """For each group of users, the metrics of all variants and baselines, and the gains over the
    plain recipe."""
    tables = []
    for group, n in result["n"].items():
        rows = []
        for variant, by_group in result["variants"].items():
            measured = by_group[group]
            row: list[object] = [variant]
            for name in METRICS:
                row.append(spread([seed[name] for seed in measured["seeds"]]))
                gain = measured["gain"].get(name)
                interval = "" if gain is None else f"{gain['low']:+.4f} to {gain['high']:+.4f}"
                row += ["" if gain is None else f"{gain['mean']:+.4f}", interval]
            rows.append(row)
        for name, metrics in result["baselines"][group].items():
            cells = [cell for metric in METRICS for cell in (f"{metrics[metric]:.4f}", "", "")]
            rows.append([name, *cells])
        columns = [cell for name in METRICS for cell in (name, "gain", "95% interval")]
        title = f"{result['on']}, {group}, {n} users"
        tables.append(markdown([title, *columns], rows))
    return "\n\n".join(tables)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = variant_parser(__doc__, list(VARIANTS), SEPARATOR)
    parser.add_argument("--feedback", required=True, help="column of the events")
    parser.add_argument("--users", help="table of users in DATA")
    parser.add_argument("--user-field", action="append", default=[], help="its columns")
    parser.add_argument("--weight", help="make-sft --weight (default: exp(FEEDBACK/1))")
    parser.add_argument("--weight-clip", type=float, default=150.0)
    parser.add_argument("--positive", help="targets that are measured apart, like rating>=4")
    parser.add_argument("--max-length", type=int, default=256, help="tokens of an example")
    args = parser.parse_args(arguments)
    if (args.users is None) != (not args.user_field):
        parser.error("--users and --user-field belong together")
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write WORK/result-PART.json, print the table."""
    args = parse_arguments(arguments)
    fields = Fields(
        args.feedback,
        args.data / args.users if args.users is not None else None,
        tuple(args.user_field),
        args.weight or f"exp({args.feedback}/1)",
        args.weight_clip,
    )

    def measure(recipe: Recipe) -> dict[str, Any]:
        variants = chosen_variants(args.only, fields.variants, SEPARATOR)
        positive = Condition.parse(args.positive, option="--positive") if args.positive else None
        return result_of(FeedbackRun(recipe, fields, args.max_length, positive), variants)

    return run_variants(args, measure, result_tables)


if __name__ == "__main__":
    sys.exit(main())
