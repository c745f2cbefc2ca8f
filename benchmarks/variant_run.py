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

from recipe import Dataset, Recipe, RecipeRun, parse_numbers, recipe_parser

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

    @cached_property
    def split_folder(self) -> Path:
        """The split of all variants."""
        split = self.recipe.work / "split"
        options = self.split_options()
        interactions = self.recipe.dataset.interactions
        return self.recipe.steps.run(split, "split", interactions, "-o", split, *options)

    @cached_property
    def split(self) -> Split:
        """The same, read."""
        return open_split(self.split_folder)

    @property
    def part(self) -> Sequence[Example]:
        """The examples that are evaluated."""
        return self.split.test if self.recipe.run.on == "test" else self.split.valid

    @cached_property
    def bundle(self) -> Path:
        """The bundle of all variants, built with co-occurrence in the training events."""
        bundle = self.recipe.work / "bundle.zarr"
        options = [*self.recipe.text_options(), "--config", self.recipe.config("codebook")]
        options += [*self.recipe.vectors(), "--interactions", self.split_folder]
        items = self.recipe.dataset.items
        return self.recipe.steps.run(bundle, "build-codebook", items, "-o", bundle, *options)

    def initial_model(self, seed: int) -> Path:
        """The model that every variant of a seed starts from."""
        return self.recipe.initial_model(self.bundle, seed)

    def folder(self, variant: str) -> Path:
        """The folder of what a variant has for itself."""
        return self.recipe.work / variant.replace(" ", "-")

    def examples(self, variant: str) -> Path:
        """The training examples of a variant."""
        model = self.initial_model(0)
        options: list[object] = ["--model", model, "--config", self.recipe.config("sft")]
        options += self.example_options(variant)
        examples = self.folder(variant) / "sft" / "train.jsonl"
        inputs = (self.bundle, self.recipe.dataset.items, self.split_folder)
        return self.recipe.steps.run(examples, "make-sft", *inputs, "-o", examples, *options)

    def model(self, variant: str, seed: int) -> Path:
        """The trained model of a variant and a seed."""
        examples = self.examples(variant)
        model = self.folder(variant) / f"seed-{seed}" / "model"
        start = self.initial_model(seed)
        options = ("--config", self.recipe.config("train"), "--set", f"seed={seed}")
        return self.recipe.steps.run(model, "train", start, examples, "-o", model, *options)


def variant_parser(
    description: str | None, variants: Sequence[str], separator: str
) -> argparse.ArgumentParser:
    """The parser of `recipe_parser` with seeds, the evaluated part, and which of the variants to
    run besides the first one."""
    parser = recipe_parser(description)
    parser.add_argument("--seeds", type=parse_numbers, default=(0, 1, 2))
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
