"""The steps of the road from two files to an evaluation, as sidtool's command lines."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidtool.base.errors import UsageError
from sidtool.base.options import options_of
from sidtool.recipes.profile import Choices, Inputs
from sidtool.recipes.recipe import Recipe
from sidtool.recipes.steps import Step


@dataclass(frozen=True)
class Plan:
    """The steps of a recipe in one folder."""

    recipe: Recipe
    inputs: Inputs
    folder: Path
    encoder: str = "lexical"
    """Encoder of the items' texts, as `build-codebook` takes it."""
    seed: int = 0
    base: str | None = None
    """The language model that a recipe without one of its own is for."""
    choices: Choices = field(default_factory=Choices)

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
    def examples(self) -> Path:
        """The training examples."""
        return self.examples_of("sft")

    @property
    def memory(self) -> Path:
        """The memory of the training events."""
        return self.folder / "memory.zarr"

    @property
    def trained(self) -> Path:
        """The trained model alone."""
        return self.folder / ("aligned" if self.recipe.has("rl") else "model")

    @property
    def model(self) -> Path:
        """The model that is evaluated."""
        has_memory = self.recipe.has("memory")
        return self.folder / "model+memory" if has_memory else self.trained

    @property
    def metrics(self) -> Path:
        """The evaluation."""
        return self.folder / "evaluation.json"

    @property
    def page(self) -> Path:
        """The report."""
        return self.folder / "report.html"

    def examples_of(self, part: str) -> Path:
        """The training examples that a file of the recipe says: sft, cpt or labels."""
        return self.folder / part / "train.jsonl"

    def steps(self) -> list[Step]:
        """All steps, in order."""
        return [*self.before_training(), *self.from_training()]

    def before_training(self) -> Iterator[Step]:
        """The steps up to the training, and the memory, which needs no model."""
        names = given_flags(self.inputs.names)
        options = (*self.recipe.options("split"), *names)
        yield self._step("split", self.split, "split", self.inputs.events, *options)
        yield self._step(
            "codebook",
            self.bundle,
            *("build-codebook", self.inputs.items, *given_flags(self.inputs.columns)),
            *("--encoder", _path_or_word(self.encoder)),
            *_flag("--interactions", self.split if self.recipe.has_cooccurrence else None),
            *self.recipe.options("codebook"),
            *_flag("--text-template", self.choices.text_template),
        )
        yield from self._untrained_model()
        history = _flag("--history-length", self.choices.history)
        yield self._examples("examples", "sft", *history)
        if self.recipe.has("cpt"):
            columns = [word for name in self.choices.text_columns for word in ("--field", name)]
            yield self._examples("examples of running text", "cpt", *columns)
        if self.recipe.has("labels"):
            yield self._examples("examples of labels", "labels")
        if self.recipe.has("memory"):
            yield self._step(
                "memory",
                self.memory,
                *("build-memory", self.split, self.bundle, "--items", self.inputs.items),
                *self.recipe.options("memory"),
            )
        if self.recipe.has("pretrain"):
            command = self._train(self.initial, "cpt", "pretrain")
            yield self._step("continued pre-training", self.folder / "pretrained", *command)

    def from_training(self) -> Iterator[Step]:
        """The training and the steps that need its model."""
        yield self._step("training", self.folder / "model", *self.train({}))
        if self.recipe.has("reward"):
            command = self._train(self.initial, "labels", "reward")
            yield self._step("reward model", self.folder / "reward", *command)
        if self.recipe.has("rl"):
            yield self._step("rewards", self.trained, *self._rl())
        if self.recipe.has("memory"):
            yield self._step(
                "weight of the memory",
                self.model,
                *("tune-memory", self.trained, self.split, self.memory),
                *_flag("--users", self.choices.tuning_users),
            )
        limit = _flag("--limit", self.choices.test_users)
        allowed = _switch("--allow-unknown", self.inputs.allow_unknown)
        command = ("evaluate", self.model, self.split, *self.recipe.options("evaluate"))
        command = (*command, *limit, *allowed, "--json")
        yield Step("evaluation", command, self.metrics, saves_stdout=True)
        if self.recipe.has("lists"):
            command = ("evaluate-lists", self.model, self.split, *self.recipe.options("lists"))
            command = (*command, *limit, "--json")
            yield Step("evaluation of lists", command, self.folder / "lists.json", True)
        yield self._step("report", self.page, "report", self.metrics)

    def _untrained_model(self) -> Iterator[Step]:
        """The steps that make the model that is trained. Raises UsageError if the recipe is for a
        language model and none was named."""
        base: object = self.folder / "base"
        if self.recipe.has("model"):
            yield self._step(
                "model",
                self.folder / "base",
                *("init-model", self.inputs.items, "--bundle", self.bundle, "--seed", self.seed),
                *self.recipe.options("model"),
                *_flag("--set", self.choices.model_setting),
            )
        elif self.base is None:
            raise UsageError(
                f"recipe {self.recipe.name} needs a language model",
                hint="--model hf://ORG/NAME, or a folder",
            )
        else:
            base = _path_or_word(self.base)
        yield self._step(
            "tokens",
            self.initial,
            *("extend-model", base, self.bundle, "--seed", self.seed),
            *self.recipe.options("extend"),
        )

    def _examples(self, name: str, part: str, *options: object) -> Step:
        template = self.recipe.folder / f"{part}.template.json"
        return self._step(
            name,
            self.examples_of(part),
            *("make-sft", self.bundle, self.inputs.items, self.split, "--model", self.initial),
            *self.recipe.options(part),
            *(("--template", ("sequence=", template)) if template.is_file() else ()),
            *_switch("--allow-unknown", self.inputs.allow_unknown),
            *options,
        )

    def _train(
        self, start: Path, examples: str, part: str, settings: Mapping[str, object] | None = None
    ) -> tuple[object, ...]:
        values = {"seed": self.seed} | dict(settings or {})
        set_values = {name: value for name, value in values.items() if value is not None}
        pairs = (
            f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
            for name, value in set_values.items()
        )
        words = [word for pair in pairs for word in ("--set", pair)]
        options = self.recipe.options(part)
        return ("train", start, self.examples_of(examples), *options, *words)

    def _rl(self) -> tuple[object, ...]:
        command = ("rl", self.folder / "model", self.examples, *self.recipe.options("rl"))
        command = (*command, "--set", f"seed={self.seed}")
        if not self.recipe.has("reward"):
            return command
        reward = ("label=", self.folder / "reward")
        return (*command, "--reward-input", reward, "--split", self.split)

    def train(self, settings: Mapping[str, object]) -> tuple[object, ...]:
        """The command that trains, without its output; `settings` replace the chosen ones."""
        start = self.folder / "pretrained" if self.recipe.has("pretrain") else self.initial
        chosen: dict[str, object] = {
            "num_train_epochs": self.choices.epochs,
            "eval_users": self.choices.eval_users,
        }
        return self._train(start, "sft", "train", chosen | dict(settings))

    def _step(self, name: str, output: Path, *command: object) -> Step:
        return Step(name, (*command, "-o", output, "--force"), output)


def check_step(inputs: Inputs, folder: Path, *, fixes: bool) -> Step:
    """The step that checks the files; with `fixes` it writes cleaned copies to FOLDER/data."""
    command = (
        *("check", inputs.items, inputs.events),
        *given_flags(inputs.columns),
        *given_flags(inputs.names),
        *_switch("--allow-unknown", inputs.allow_unknown),
    )
    if fixes:
        data = folder / "data"
        return Step("check", (*command, "--fix", data), data)
    return Step("check", (*command, "--json"), folder / "check.json", saves_stdout=True)


def given_flags(options: Any) -> tuple[str, ...]:
    """The flags of the options of a dataclass that are not their defaults, and their values."""
    words: list[str] = []
    for entry, declared in options_of(type(options)):
        value = getattr(options, entry.name)
        if value != entry.default:
            flag = declared.flag or f"--{entry.name.replace('_', '-')}"
            words += [flag, str(value)]
    return tuple(words)


def _flag(flag: str, value: object) -> tuple[object, ...]:
    return () if value is None else (flag, value)


def _switch(flag: str, is_given: bool) -> tuple[str, ...]:
    return (flag,) if is_given else ()


def _path_or_word(text: str) -> object:
    """A path if there is such a file or folder, which is then an input of the step."""
    return Path(text) if Path(text).exists() else text
