"""Runs that compare variants of a recipe: models with the same split, bundle, initial weights and
settings, whose training examples differ."""

import argparse
import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from recipe import Dataset, Recipe, RecipeRun, parse_seeds, recipe_parser

from sidtool.data.split.files import open_split
from sidtool.data.split.split import Split
from sidtool.data.split.values import Example
from sidtool.recipes import StepError


@dataclass(frozen=True)
class VariantRun(ABC):
    """The steps of all variants of one recipe."""

    recipe: Recipe

    @abstractmethod
    def split_options(self) -> Iterable[object]:
        """The options of the split."""

    @abstractmethod
    def example_options(self, variant: str) -> Iterable[object]:
        """The options of a variant's training examples, behind the model and the recipe's."""

    def __post_init__(self) -> None:
        self.recipe.protocol = tuple(self.split_options())

    @cached_property
    def split(self) -> Split:
        """The split of all variants."""
        return open_split(self.recipe.split())

    @property
    def part(self) -> Sequence[Example]:
        """The examples that are evaluated."""
        return self.split.test if self.recipe.run.on == "test" else self.split.valid

    @cached_property
    def bundle(self) -> Path:
        """The bundle of all variants, built with co-occurrence in the training events."""
        return self.recipe.bundle()

    def initial_model(self, seed: int) -> Path:
        """The model that every variant of a seed starts from."""
        return self.recipe.initial_model(self.bundle, seed)

    def folder(self, variant: str) -> Path:
        """The folder of what a variant has for itself."""
        return self.recipe.work / variant.replace(" ", "-")

    def examples(self, variant: str) -> Path:
        """The training examples of a variant."""
        options = self.example_options(variant)
        folder = self.folder(variant) / "sft"
        return self.recipe.make_examples(self.bundle, self.initial_model(0), folder, *options)

    def model(self, variant: str, seed: int) -> Path:
        """The trained model of a variant and a seed."""
        model = self.folder(variant) / f"seed-{seed}" / "model"
        inputs = (self.initial_model(seed), self.examples(variant), model)
        step = self.recipe.commands.training("train", *inputs, {"seed": seed})
        return self.recipe.steps.do(step)


def variant_parser(
    description: str | None, variants: Sequence[str], separator: str
) -> argparse.ArgumentParser:
    """The parser of `recipe_parser` with seeds, the evaluated part, and which of the variants to
    run besides the first one."""
    parser = recipe_parser(description)
    parser.add_argument("--seeds", type=parse_seeds, default=(0, 1, 2))
    parser.add_argument("--on", choices=("valid", "test"), default="test")
    listed = f"{separator} ".join(variants)
    parser.add_argument("--only", help=f"what to run besides {variants[0]}, of: {listed}")
    return parser


def chosen_variants(text: str | None, variants: Sequence[str], separator: str) -> list[str]:
    """The variants to run: the first one, with which the others are compared, and those of `text`,
    by default all. Raises StepError for an unknown one."""
    names = list(variants) if text is None else [name.strip() for name in text.split(separator)]
    for name in names:
        if name not in variants:
            listed = f"{separator} ".join(variants)
            raise StepError(f"no variant {name!r}: choose from {listed}")
    return [variant for variant in variants if variant == variants[0] or variant in names]


def run_variants(
    args: argparse.Namespace,
    measure: Callable[[Recipe], dict[str, Any]],
    table: Callable[[Mapping[str, Any]], str],
) -> int:
    """Measure the recipe that the command line names, write WORK/result-PART.json and print the
    table. Returns the exit code."""
    settings = RecipeRun(args.recipe, args.seeds, on=args.on, encoder=args.encoder, memory=False)
    try:
        recipe = Recipe(Dataset.open(args.data, args.dataset), settings, args.out)
        result = measure(recipe)
    except StepError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    path = args.out / f"result-{args.on}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(table(result))
    return 0
