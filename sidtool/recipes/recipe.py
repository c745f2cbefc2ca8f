"""A recipe is a folder of YAML files, each the `--config` of one command: a step is part of the
road if its file is there. Recipes of the package are folders beside this module. The commands of a
recipe on one data set are steps: `Plan` puts them in order for `fit`; others name their own inputs,
outputs and further options."""

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sidtool.base.documents import parse_yaml, read_document
from sidtool.base.errors import UsageError
from sidtool.base.given_options import given_words
from sidtool.data import CatalogNames, EventNames, UnknownOptions
from sidtool.recipes.steps import Step
from sidtool.training import DEFAULTS

RECIPES = Path(__file__).parent / "configs"
"""The recipes of the package, a folder each."""
PARTS: Mapping[str, str] = {
    "split": "split",
    "codebook": "build-codebook",
    "model": "init-model",
    "extend": "extend-model",
    **dict.fromkeys(("sft", "cpt", "labels"), "make-sft"),
    "memory": "build-memory",
    **dict.fromkeys(("train", "pretrain", "reward"), "train"),
    **dict.fromkeys(("rl", "reinforce"), "rl"),
    "evaluate": "evaluate",
    "lists": "evaluate-lists",
}
"""The command whose `--config` a file is; `reinforce` is of benchmarks/reinforce.py."""
COOCCURRENCE = "cooccurrence"
"""The key of recipe.yaml: whether the codebook is also of co-occurrence."""
_FILES = (
    *("recipe.yaml", *(f"{part}.yaml" for part in PARTS)),
    *(f"{part}.template.json" for part, command in PARTS.items() if command == "make-sft"),
)


def recipe_names() -> tuple[str, ...]:
    """The recipes of the package."""
    return tuple(sorted(folder.name for folder in RECIPES.iterdir() if folder.is_dir()))


@dataclass(frozen=True)
class Recipe:
    """A folder of YAML files."""

    folder: Path

    @classmethod
    def named(cls, name: str) -> "Recipe":
        """A recipe of the package, or a folder. Raises UsageError for anything else, for a folder
        without one of the files that every recipe has, and for a file or key that none has."""
        folder = RECIPES / name if name in recipe_names() else Path(name)
        if not folder.is_dir():
            raise UsageError(
                f"no recipe {name!r}: use {', '.join(recipe_names())} or a folder of YAML files"
            )
        recipe = cls(folder)
        recipe._check_files()
        for part in ("codebook", "sft", "train"):
            if not recipe.has(part):
                raise UsageError(f"recipe {folder} has no {part}.yaml")
        for key in recipe.settings("recipe"):
            if key != COOCCURRENCE:
                message = f"{recipe.config('recipe')} has no key {key!r}"
                raise UsageError(message, hint=f"it has {COOCCURRENCE}")
        if not isinstance(value := recipe.settings("recipe").get(COOCCURRENCE, True), bool):
            raise UsageError(
                f"{recipe.config('recipe')}: {COOCCURRENCE} must be true or false, not {value!r}"
            )
        return recipe

    def _check_files(self) -> None:
        """Raise UsageError for a file that no step reads."""
        for path in sorted(self.folder.iterdir()):
            is_beside = path.name.startswith((".", "README", "LICENSE")) or path.is_dir()
            if path.name not in _FILES and not is_beside:
                close = get_close_matches(path.name.lower(), _FILES, n=1)
                hint = f"did you mean {close[0]}?" if close else f"it has {', '.join(_FILES)}"
                raise UsageError(f"{path}: a recipe has no such file", hint=hint)

    def copied(self, folder: Path) -> "Recipe":
        """A copy of its files in a folder, which has no other files of recipes afterwards."""
        folder.mkdir(exist_ok=True)
        if folder.resolve() != self.folder.resolve():
            for name in _FILES:
                (folder / name).unlink(missing_ok=True)
                if (self.folder / name).is_file():
                    shutil.copyfile(self.folder / name, folder / name)
        return Recipe(folder)

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.name

    def config(self, part: str) -> Path:
        """The path of a file, which may be missing."""
        return self.folder / f"{part}.yaml"

    def has(self, part: str) -> bool:
        """Whether there is such a file."""
        return self.config(part).is_file()

    def options(self, part: str) -> tuple[object, ...]:
        """`--config FILE`, if there is such a file."""
        return ("--config", self.config(part)) if self.has(part) else ()

    def settings(self, part: str) -> Mapping[str, Any]:
        """What a file says, nothing if it is missing. Raises UsageError if it cannot be read."""
        if not self.has(part):
            return {}
        path = self.config(part)
        try:
            values = dict(parse_yaml(read_document(path).decode("utf-8-sig")) or {})
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(f"{path} cannot be read: {error}") from error
        # as --config reads them
        return {str(key).replace("-", "_"): value for key, value in values.items()}

    def number(self, part: str, name: str, default: float) -> float:
        """A number of at least 0 that a file says, or the default. Raises UsageError if it says
        something else."""
        value = self.settings(part).get(name)
        try:
            number = float(default if value is None else value)  # YAML reads 1e-3 as text
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not 0 <= number < math.inf:
            rule = "must be a number of at least 0"
            raise UsageError(f"{self.config(part)}: {name} {rule}, not {value!r}")
        return number

    @property
    def batch_size(self) -> int:
        """The examples of a training step."""
        name = "per_device_train_batch_size"
        per_device = self.number("train", name, DEFAULTS[name])
        return max(1, int(per_device * self.number("train", "gradient_accumulation_steps", 1)))


@dataclass(frozen=True)
class Inputs:
    """The files of a data set, and what they are read with."""

    items: Path
    events: Path
    columns: CatalogNames = field(default_factory=CatalogNames)
    names: EventNames = field(default_factory=EventNames)
    checks: UnknownOptions = field(default_factory=UnknownOptions)

    def cleaned(self, folder: Path) -> "Inputs":
        """The files that `check --fix` writes, whose columns have names that are guessed."""
        items, events = folder / "items.parquet", folder / "events.parquet"
        return Inputs(items, events, checks=self.checks)


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
        names = given_words(self.inputs.names)
        return step("split", out, "split", self.inputs.events, *names, *options)

    def codebook(self, out: Path, *options: object) -> Step:
        """The bundle of the catalog."""
        command = ("build-codebook", self.inputs.items, *given_words(self.inputs.columns))
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
        words: list[str] = []
        for name, value in settings.items():
            if value is not None:
                spelled = f"{value:g}" if isinstance(value, float) else str(value)
                words += ["--set", f"{name}={spelled}"]
        command = ("train", start, examples, *self.recipe.options(part), *words)
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


def flag(name: str, value: object) -> tuple[object, ...]:
    """A flag and its value, nothing for None."""
    return () if value is None else (name, value)
