"""The commands of a recipe on one data set, as steps. `Plan` puts them in order for `fit`; others
name their own inputs, outputs and further options."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidtool.base.options import options_of
from sidtool.recipes.profile import Inputs
from sidtool.recipes.recipe import Recipe
from sidtool.recipes.steps import Step


@dataclass(frozen=True)
class Commands:
    """The commands of a recipe. Each has what the recipe's file for it says, and then the further
    `options` that it is given."""

    recipe: Recipe
    inputs: Inputs
    text_template: str | None = None
    """Text of an item; None: as the recipe says, or the title."""

    def split(self, out: Path, *options: object) -> Step:
        """The split of the events."""
        names = given_flags(self.inputs.names)
        return step("split", out, "split", self.inputs.events, *names, *options)

    def codebook(self, out: Path, *options: object) -> Step:
        """The bundle of the catalog."""
        command = ("build-codebook", self.inputs.items, *given_flags(self.inputs.columns))
        template = flag("--text-template", self.text_template)
        return step(
            "codebook", out, *command, *self.recipe.options("codebook"), *template, *options
        )

    def untrained(self, out: Path, seed: int, *options: object) -> Step:
        """A model with random weights."""
        command = ("init-model", self.inputs.items, "--seed", seed)
        return step("model", out, *command, *self.recipe.options("model"), *options)

    def tokens(self, base: object, bundle: Path, out: Path, seed: int, *options: object) -> Step:
        """A model with tokens for SIDs."""
        command = ("extend-model", base, bundle, "--seed", seed)
        return step("tokens", out, *command, *self.recipe.options("extend"), *options)

    def examples(
        self, part: str, bundle: Path, split: Path, model: Path, out: Path, *options: object
    ) -> Step:
        """The training examples that a file of the recipe says: sft, cpt or labels."""
        command = ("make-sft", bundle, self.inputs.items, split, "--model", model)
        template = self.recipe.folder / f"{part}.template.json"
        templates = ("--template", ("sequence=", template)) if template.is_file() else ()
        return step("examples", out, *command, *self.recipe.options(part), *templates, *options)

    def training(
        self,
        part: str,
        start: Path,
        examples: Path,
        out: Path,
        settings: Mapping[str, object],
        *options: object,
    ) -> Step:
        """A training by a file of the recipe: train, pretrain or reward. `settings` that are not
        None replace those of the file."""
        command = ("train", start, examples, *self.recipe.options(part), *set_words(settings))
        return step("training", out, *command, *options)

    def memory(self, split: Path, bundle: Path, out: Path, *options: object) -> Step:
        """The memory of the training events."""
        return step("memory", out, "build-memory", split, bundle, *options)

    def tuning(self, model: Path, split: Path, memory: Path, out: Path, *options: object) -> Step:
        """A copy of the model with a memory, whose weight is chosen on validation users."""
        command = ("tune-memory", model, split, memory)
        return step("weight of the memory", out, *command, *options)

    def evaluation(self, model: Path, split: Path, out: Path, *options: object) -> Step:
        """The evaluation of a model as JSON."""
        command = ("evaluate", model, split, *self.recipe.options("evaluate"), *options, "--json")
        return Step("evaluation", command, out, saves_stdout=True)


def step(name: str, output: Path, *command: object) -> Step:
    """A step whose command replaces its output."""
    return Step(name, (*command, "-o", output, "--force"), output)


def set_words(settings: Mapping[str, object]) -> tuple[str, ...]:
    """`--set NAME=VALUE` for each value that is not None."""
    words: list[str] = []
    for name, value in settings.items():
        if value is not None:
            spelled = f"{value:g}" if isinstance(value, float) else str(value)
            words += ["--set", f"{name}={spelled}"]
    return tuple(words)


def flag(name: str, value: object) -> tuple[object, ...]:
    """A flag and its value, nothing for None."""
    return () if value is None else (name, value)


def given_flags(options: Any) -> tuple[str, ...]:
    """The flags of the options of a dataclass that are not their defaults, and their values."""
    words: list[str] = []
    for entry, declared in options_of(type(options)):
        value = getattr(options, entry.name)
        if value != entry.default:
            name = declared.flag or f"--{entry.name.replace('_', '-')}"
            words += [name, str(value)]
    return tuple(words)
