"""Compare encoders of the items' texts, and sizes of levels, on the validation users of a split.

    python benchmarks/encoders.py DATA -o WORK --model FOLDER [--levels 64x64x64,1024x512x512]

FOLDER is the model `minilm`. Each encoder (`lexical`, `minilm`, `both` side by side) is measured as
text-kNN, as the content of a memory (N@10 of the memory alone; the weight of the content is
chosen on the same users), and with `--levels` as the source of a codebook with co-occurrence, on
which a small model is trained for `--epochs`. Test is never read. WORK/result.json has what is
finished, and a run that was killed continues."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from catalog_examples import Part
from environment import command_line, environment
from new_items import text_knn
from popular_catalog import Catalog
from recipe import Dataset, Recipe, RecipeRun, parse_seeds, recipe_parser
from variants import Changes, write_variant

from sidtool.base.documents import parse_json
from sidtool.base.output import write_whole
from sidtool.data import Items, Vectors, read_items
from sidtool.data.split import open_split
from sidtool.evaluation.tuning.memory_tuning import CONTENT, TuneSimilarityOptions, tune_similarity
from sidtool.memory import DEFAULT, ItemContent
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.encoder import Encoder, load_encoder
from sidtool.tokenizer.encoder.lexical import LexicalEncoder
from sidtool.tokenizer.quantize.mlp import unit
from sidtool.tokenizer.sid import PopularityRanks

ENCODERS = ("lexical", "minilm", "both")
USERS = 3000
"""Validation users, about so many, evenly spread."""


@dataclass(frozen=True)
class Comparison:
    """The vectors and the work folder of one data set."""

    dataset: Dataset
    model: Path
    recipe: Path
    work: Path
    epochs: float

    @cached_property
    def items(self) -> Items:
        """The catalog."""
        return read_items(self.dataset.items, text_template=self.dataset.text_template)

    @cached_property
    def split(self) -> Path:
        """The split that everything uses."""
        return Recipe(self.dataset, RecipeRun(recipe=self.recipe), self.work).split()

    def vectors(self, encoder: str) -> Vectors:
        """(n, dim) vectors of length 1 of the items' texts, in the order of the catalog."""
        path = self.work / f"{encoder}.npy"
        if encoder == "both":
            return unit(np.concatenate([self.vectors("lexical"), self.vectors("minilm")], axis=1))
        if not path.exists():
            texts = self.items.texts
            made = (
                LexicalEncoder.fit(texts).vectors(texts)
                if encoder == "lexical"
                else load_encoder(Encoder(str(self.model))).vectors(texts)
            )
            ids = "".join(f"{item}\n" for item in self.items.ids)
            path.with_suffix(".ids.txt").write_text(ids, encoding="utf-8")
            np.save(path, made)
        return unit(np.load(path))

    def rows(self, ids: Iterable[str]) -> list[int]:
        """The place of each id in the catalog."""
        place = {item: row for row, item in enumerate(self.items.ids)}
        return [place[item] for item in ids]

    def text_knn(self, encoder: str) -> dict[str, float]:
        """The metrics of text-kNN."""
        split = open_split(self.split)
        step = max(1, len(split.valid) // USERS)
        catalog = Catalog.of(list(self.items.ids), split.train)
        part = Part.of(tuple(split.valid)[::step], catalog)
        vectors = self.vectors(encoder)[self.rows(catalog.ids)]
        ranked = text_knn(vectors, part.histories, 10, exclude_seen=self.dataset.exclude_seen)
        return {"n": len(part.examples), **part.score(PopularityRanks(ranked))}

    def memory(self, encoder: str) -> dict[str, float]:
        """N@10 of a memory alone without content, and with it at the best weight."""
        bundle = Bundle.from_vectors(self.items.ids, self.vectors(encoder), levels=(64, 64, 64))
        rows = self.rows(bundle.items.ids)
        content = ItemContent.of(bundle, self.vectors(encoder)[rows])
        options = TuneSimilarityOptions(
            users=USERS, exclude_seen=self.dataset.exclude_seen, fixed=asdict(DEFAULT)
        )
        split = open_split(self.split)
        alone = tune_similarity(split, bundle, None, options)
        tuned = tune_similarity(split, bundle, content, options)
        weight = 0.0 if tuned.content is None else tuned.content.settings.weight
        return {"without": alone.ndcg, "ndcg@10": tuned.ndcg, CONTENT: weight}

    def trained(self, encoder: str, levels: str, seed: int) -> dict[str, Any]:
        """The metrics of a model on a codebook of the encoder's vectors and co-occurrence."""
        changes: Changes = {
            "codebook": {"levels": levels},
            "train": {
                "num_train_epochs": self.epochs,
                "eval_strategy": "no",
                "save_strategy": "no",
            },
            "evaluate": {"limit": USERS, "num_beams": 20},
        }
        work = self.work / f"{encoder}-{levels}"
        recipe = write_variant(self.recipe, work / "recipe", changes)
        self.vectors(encoder)
        run = RecipeRun(recipe, on="valid", embeddings=self.work / f"{encoder}.npy", memory=False)
        steps = Recipe(self.dataset, run, work)
        metrics = steps.evaluate(steps.train(steps.bundle(), seed))
        return {"n": metrics["n"], **metrics["metrics"]}


def compare(
    comparison: Comparison, levels: Sequence[str], seeds: Sequence[int], trained: Sequence[str]
) -> None:
    """Measure what WORK/result.json lacks; models are trained for the encoders `trained`."""
    path = comparison.work / "result.json"
    results = parse_json(path.read_bytes()) if path.exists() else {}

    def measured(name: str, work: Callable[[], dict[str, Any]]) -> None:
        if name not in results:
            results[name] = work()
            result = {
                **results,
                **environment(),
                "command": command_line("encoders.py", sys.argv[1:]),
            }
            write_whole(path, json.dumps(result, indent=1) + "\n")
            print(name, json.dumps(results[name]), flush=True)

    for encoder in ENCODERS:
        measured(f"text-kNN {encoder}", lambda: comparison.text_knn(encoder))
        measured(f"memory {encoder}", lambda: comparison.memory(encoder))
    for seed in seeds:
        for size in levels:
            for encoder in trained:
                name = f"model {encoder} {size} seed {seed}"
                measured(name, lambda: comparison.trained(encoder, size, seed))


def main() -> None:
    """Run the comparison."""
    parser = recipe_parser(__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of the model minilm")
    parser.add_argument("--levels", default="", help="sizes of levels, separated by commas")
    parser.add_argument("--trained", default="lexical,minilm", help="encoders of trained models")
    parser.add_argument("--seeds", type=parse_seeds, default=(0,))
    parser.add_argument("--epochs", type=float, default=2)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    dataset = Dataset.open(args.data, args.dataset)
    comparison = Comparison(dataset, args.model, args.recipe, args.out.resolve(), args.epochs)
    levels = [size for size in args.levels.split(",") if size]
    compare(comparison, levels, args.seeds, args.trained.split(","))


if __name__ == "__main__":
    main()
