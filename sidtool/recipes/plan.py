"""The steps of the road from two files to an evaluation, as sidtool's command lines."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sidtool.base.errors import UsageError
from sidtool.base.given_options import given_words
from sidtool.recipes.profile import Choices
from sidtool.recipes.recipe import COOCCURRENCE, Commands, Inputs, Recipe, flag, step
from sidtool.recipes.steps import Step


@dataclass(frozen=True)
class Plan:
    """The steps of a recipe in one folder."""

    recipe: Recipe
    inputs: Inputs
    folder: Path
    encoder: str
    """Encoder of the items' texts, as `build-codebook` takes it."""
    seed: int
    base: str | None
    """The language model that a recipe without one of its own is for."""
    choices: Choices

    @property
    def split(self) -> Path:
        """The split that every later step uses."""
        return self.folder / "split"

    @property
    def bundle(self) -> Path:
        """The tokenizer."""
        return self.folder / "bundle.zarr"

    @property
    def initial(self) -> Path:
        """The untrained model with tokens for SIDs."""
        return self.folder / "base+sid"

    @property
    def memory(self) -> Path:
        """The memory of the training events."""
        return self.folder / "memory.zarr"

    @property
    def model(self) -> Path:
        """The model that is evaluated."""
        if self.recipe.has("memory"):
            return self.folder / "model+memory"
        return self.folder / ("aligned" if self.recipe.has("rl") else "model")

    @property
    def metrics(self) -> Path:
        """The evaluation."""
        return self.folder / "evaluation.json"

    @property
    def page(self) -> Path:
        """The report."""
        return self.folder / "report.html"

    @property
    def reward_inputs(self) -> dict[str, Path]:
        """What rewards score items by, by their names."""
        return {"label": self.folder / "reward"} if self.recipe.has("reward") else {}

    def examples_of(self, part: str) -> Path:
        """The training examples that a file of the recipe says: sft, cpt or labels."""
        return self.folder / part / "train.jsonl"

    def steps(self) -> list[Step]:
        """All steps, in order."""
        return [*self.before_training(), *self.from_training()]

    @property
    def _commands(self) -> Commands:
        return Commands(self.recipe, self.inputs, self.choices.text_template)

    def before_training(self) -> Iterator[Step]:
        """The steps up to the training, and the memory, which needs no model. Raises UsageError if
        the recipe is for a language model and none was named, or makes its own and one was; and if
        it names an encoder."""
        recipe, commands = self.recipe, self._commands
        if "encoder" in recipe.settings("codebook"):
            message = f"{recipe.config('codebook')}: encoder has no effect in a recipe"
            raise UsageError(message, hint="sidtool fit --encoder ENCODER")
        yield commands.split(self.split, *recipe.options("split"))
        has_cooccurrence = recipe.settings("recipe").get(COOCCURRENCE, True)
        yield commands.codebook(
            self.bundle,
            *("--encoder", _path_or_word(self.encoder), "--seed", self.seed),
            *flag("--interactions", self.split if has_cooccurrence else None),
        )
        if recipe.has("model") == bool(self.base):
            problem = "makes its own" if self.base else "needs a language"
            raise UsageError(
                f"recipe {recipe.name} {problem} model",
                hint="leave out --model" if self.base else "--model hf://ORG/NAME, or a folder",
            )
        base = _path_or_word(self.base) if self.base else self.folder / "base"
        if not self.base:
            setting = flag("--set", self.choices.model_setting)
            options = ("--bundle", self.bundle, *setting)
            yield commands.untrained(self.folder / "base", self.seed, *options)
        yield commands.tokens(base, self.bundle, self.initial, self.seed)
        history = flag("--history-length", self.choices.history)
        yield self._examples("examples", "sft", *history)
        if recipe.has("cpt"):
            names = () if "field" in recipe.settings("cpt") else self.choices.text_columns
            columns = [word for name in names for word in ("--field", name)]
            yield self._examples("examples of running text", "cpt", *columns)
        if recipe.has("labels"):
            yield self._examples("examples of labels", "labels")
        if recipe.has("memory"):
            options = ("--items", self.inputs.items, *recipe.options("memory"))
            yield commands.memory(self.split, self.bundle, self.memory, *options)
        if recipe.has("pretrain"):
            yield self._training("continued pre-training", "pretrain", "cpt", "pretrained")

    def from_training(self) -> Iterator[Step]:
        """The training and the steps that need its model."""
        recipe, commands = self.recipe, self._commands
        yield self.training(self.folder / "model", {})
        if recipe.has("reward"):
            yield self._training("reward model", "reward", "labels", "reward")
        trained = self.folder / ("aligned" if recipe.has("rl") else "model")
        if recipe.has("rl"):
            command = ("rl", self.folder / "model", self.examples_of("sft"), *recipe.options("rl"))
            command = (*command, "--set", f"seed={self.seed}")
            for name, path in self.reward_inputs.items():
                command = (*command, "--reward-input", (f"{name}=", path))
            if self.reward_inputs:
                command = (*command, "--split", self.split)
            yield step("rewards", trained, *command)
        if recipe.has("memory"):
            users = flag("--users", self.choices.tuning_users)
            yield commands.tuning(trained, self.split, self.memory, self.model, *users)
        limit = flag("--limit", self.choices.test_users)
        allowed = given_words(self.inputs.checks)
        yield commands.evaluation(self.model, self.split, self.metrics, *limit, *allowed)
        if recipe.has("lists"):
            command = ("evaluate-lists", self.model, self.split, *recipe.options("lists"))
            command = (*command, *limit, *allowed, "--json")
            yield Step("evaluation of lists", command, self.folder / "lists.json", True)
        yield step("report", self.page, "report", self.metrics)

    def _examples(self, name: str, part: str, *options: object) -> Step:
        allowed = given_words(self.inputs.checks)
        made = (self.bundle, self.split, self.initial, self.examples_of(part))
        options = ("--seed", self.seed, *allowed, *options)
        return replace(self._commands.examples(part, *made, *options), name=name)

    def _training(self, name: str, part: str, examples: str, out: str) -> Step:
        """A training beside that of the model."""
        inputs = (self.initial, self.examples_of(examples), self.folder / out)
        return replace(self._commands.training(part, *inputs, {"seed": self.seed}), name=name)

    def training(self, out: Path, settings: Mapping[str, object]) -> Step:
        """The training of the model; `settings` replace the chosen ones."""
        start = self.folder / "pretrained" if self.recipe.has("pretrain") else self.initial
        defaults: dict[str, object] = {
            "seed": self.seed,
            "num_train_epochs": self.choices.epochs,
            "eval_users": self.choices.eval_users,
            "stop_step": self.choices.stop_step,
        }
        values = defaults | dict(settings)
        return self._commands.training("train", start, self.examples_of("sft"), out, values)


def check_step(inputs: Inputs, folder: Path, *, fixes: bool) -> Step:
    """The step that checks the files; with `fixes` it writes cleaned copies to FOLDER/data."""
    command = (
        *("check", inputs.items, inputs.events),
        *given_words(inputs.columns),
        *given_words(inputs.names),
        *given_words(inputs.checks),
    )
    if fixes:
        data = folder / "data"
        return Step("check", (*command, "--fix", data), data)
    return Step("check", (*command, "--json"), folder / "check.json", saves_stdout=True)


def _path_or_word(text: str) -> object:
    """A path if there is such a file or folder, which is then an input of the step."""
    return Path(text) if Path(text).exists() else text
