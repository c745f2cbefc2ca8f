"""What a re-ranker gains over the mixture that it orders, on test users.

    python benchmarks/rerank.py MODEL SPLIT MEMORY -o WORK [--seeds 0,1,2] [--users N]
        [--limit N] [--seen]

MODEL is a trained model of the memory's bundle. Weight, power, gate and re-ranker are chosen on
validation users, all or `--users`, as `tune-memory` does; the re-ranker is fitted once per seed.
Test is read once: mixture and re-ranked lists come from the same search, with 50 beams as in
`evaluate`. What the model has searched is kept in WORK, so a killed run continues. Items of the
history are left out unless `--seen` is given. New items are those without training events; lists
without them are those of the same search."""

import argparse
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from environment import command_line, environment
from numpy.typing import NDArray
from recipe import parse_seeds
from table import markdown

from sidtool.data.split import Split, evenly_spaced, open_split
from sidtool.evaluation.bootstrap import paired_differences
from sidtool.evaluation.groups import SLICES
from sidtool.evaluation.ranking import (
    IndexedExamples,
    SystemValues,
    example_queries,
    rank_examples,
    rank_index,
)
from sidtool.evaluation.tuning.mixture_candidates import Candidates
from sidtool.evaluation.tuning.mixture_choice import MixtureChoice, choose_for_new_items
from sidtool.evaluation.tuning.reranker_fit import choose_reranker
from sidtool.memory import Memory
from sidtool.memory.mixture import FeatureIndex, MemoryIndex, Reranker, WeightedMemory
from sidtool.model import LoadedModel, load_model_folder
from sidtool.recipes.steps import content_digest
from sidtool.recommendation import WINDOW, QuerySession, in_windows
from sidtool.recommendation.rerank import Reranking
from sidtool.recommendation.search import RankedItems
from sidtool.registry.references import open_memory
from sidtool.tokenizer.sid import ItemRows, Leaves, SidPositions

KS = (1, 5, 10)
METRICS = ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10")
TUNING_BEAMS = 100
TEST_BEAMS = 50


@dataclass(frozen=True, eq=False)
class Bench:
    """A model, its memory, and where searches are kept."""

    loaded: LoadedModel
    memory: Memory
    work: Path
    exclude_seen: bool

    def indexed(self, split: Split, part: str, limit: int | None) -> IndexedExamples:
        """The validation or test examples, at most `limit`."""
        examples = evenly_spaced(split.valid if part == "valid" else split.test, limit)
        bundle = self.loaded.bundle
        return IndexedExamples.of(bundle, examples, exclude_seen=self.exclude_seen)

    def session(self, weighted: WeightedMemory) -> QuerySession:
        """Searches with the memory at a weight."""
        return QuerySession.of(replace(self.loaded, memory=weighted))

    def searched(
        self, name: str, session: QuerySession, examples: IndexedExamples, k: int
    ) -> list[RankedItems]:
        """The k best items of the mixture for each example, kept in WORK."""
        path = self.work / f"{name}.npz"
        if not path.exists():
            ranked: list[RankedItems] = []
            for batch in in_windows(
                example_queries(session, examples, follow=False), WINDOW, 0, None
            ):
                ranked += session.search_items(self.loaded.model, batch, k=k, num_beams=k)
                print(f"{name}: {len(ranked)} of {len(examples.examples)}", file=sys.stderr)
            arrays = {
                "lengths": np.array([len(items.positions) for items in ranked]),
                "positions": np.concatenate([items.positions for items in ranked]),
                "scores": np.concatenate([items.scores for items in ranked]),
                "shares": np.concatenate([items.memory_shares for items in ranked]),
                "model": np.concatenate([items.model_scores for items in ranked]),
            }
            np.savez(path, allow_pickle=False, **arrays)
        stored = np.load(path)
        ends = np.cumsum(stored["lengths"])[:-1]
        names = ("positions", "scores", "shares", "model")
        columns = [np.split(stored[column], ends) for column in names]
        return [
            RankedItems(SidPositions(positions), scores, shares, model)
            for positions, scores, shares, model in zip(*columns, strict=True)
        ]

    def model_alone(self, examples: IndexedExamples) -> Leaves:
        """The SIDs that the model recommends for each example, kept in WORK."""
        path = self.work / "test-model.npy"
        if not path.exists():
            ranked = rank_examples(self.loaded, examples, k=TEST_BEAMS, num_beams=TEST_BEAMS)
            np.save(path, ranked.leaves)
        return Leaves(np.load(path))


@dataclass(frozen=True, eq=False)
class Measured:
    """The metrics of test users, and groups of them."""

    users: tuple[str, ...]
    groups: dict[str, NDArray[np.float64]]

    @classmethod
    def of(cls, examples: IndexedExamples, index: MemoryIndex) -> "Measured":
        """Groups by the targets' training events."""
        events = index.item_events(examples.targets)
        first, last = SLICES["rare"]
        groups = {
            "all": np.ones(len(events)),
            "warm": (events > 0).astype(np.float64),
            "rare": ((events >= first) & (events <= (last or 0))).astype(np.float64),
            "new": ((events == 0) & (examples.targets >= 0)).astype(np.float64),
        }
        groups = {name: weights for name, weights in groups.items() if weights.any()}
        return cls(tuple(example.user for example in examples.examples), groups)

    def means(self, values: NDArray[np.float64]) -> dict[str, Any]:
        """Group -> metric -> mean of (n, METRICS) values."""
        return {
            group: dict(
                zip(METRICS, np.average(values, axis=0, weights=weights).tolist(), strict=True)
            )
            for group, weights in self.groups.items()
        }

    def gains(self, values: NDArray[np.float64], others: NDArray[np.float64]) -> dict[str, Any]:
        """Group -> metric -> paired difference with its interval."""
        differences = paired_differences(METRICS, values, others, self.users, self.groups)
        return {
            group: {name: difference.to_json() for name, difference in by_metric.items()}
            for group, by_metric in differences.items()
        }


def of_lists(examples: IndexedExamples, ranked: list[RankedItems]) -> NDArray[np.float64]:
    """(n, METRICS) of the first items of each list."""
    table = np.full((len(ranked), max(KS)), -1, dtype=np.int64)
    for row, items in zip(table, ranked, strict=True):
        first = items.positions[: max(KS)]
        row[: len(first)] = first
    return SystemValues.of_items(examples, SidPositions(table), KS).columns(METRICS)


def tuned(
    bench: Bench, examples: IndexedExamples, seeds: tuple[int, ...]
) -> tuple[MixtureChoice, float, list[tuple[Reranker | None, dict[str, float]]], dict[str, Any]]:
    """The mixture and its factor of new items, a re-ranker of each seed, and times in seconds."""
    even = bench.session(WeightedMemory(bench.memory, weight=0.5, power=1.0))
    assert even.mixture is not None
    index = even.mixture.index
    ranked = bench.searched("valid", even, examples, TUNING_BEAMS)
    distributions = index.distributions(examples.histories, 1.0)
    candidates = Candidates.of(examples, index, ranked, distributions)
    users = [example.user for example in examples.examples]
    choice, factor = choose_for_new_items(candidates, users)
    start = time.process_time()
    features = FeatureIndex.of(bench.memory, index, bench.loaded.bundle)
    scaled = candidates.with_factor(factor)
    seconds: dict[str, Any] = {"features": time.process_time() - start, "fits": []}
    fits = []
    for seed in seeds:
        start = time.process_time()
        manifest = bench.memory.manifest
        fits.append(choose_reranker(scaled, choice, examples, features, manifest, seed=seed))
        seconds["fits"].append(time.process_time() - start)
    return choice, factor, fits, {"users": len(users), "cpu_seconds": seconds}


def measure(
    bench: Bench, split: Split, seeds: tuple[int, ...], users: int | None, limit: int | None
) -> dict[str, Any]:
    """Everything that the results file has of the data set."""
    valid = bench.indexed(split, "valid", users)
    choice, factor, fits, tuning = tuned(bench, valid, seeds)
    weighted = WeightedMemory(bench.memory, choice.weight, choice.power, choice.gate, factor)
    session = bench.session(weighted)
    assert session.mixture is not None
    index = session.mixture.index
    test = bench.indexed(split, "test", limit)
    ranked = bench.searched("test", session, test, TEST_BEAMS)
    without_new = [items.take(np.flatnonzero(~index.is_new[items.positions])) for items in ranked]
    priors = session.mixture.priors(test.histories)
    measured = Measured.of(test, index)
    mixture = of_lists(test, ranked)
    alone = SystemValues.of_sids(test, bench.model_alone(test), KS).columns(METRICS)
    by_memory = rank_index(index, test, power=choice.power, k=max(KS))
    memory_alone = SystemValues.of_items(test, by_memory, KS).columns(METRICS)
    systems = {
        "mixture": measured.means(mixture),
        "mixture without new items": measured.means(of_lists(test, without_new)),
        "model alone": measured.means(alone),
        "memory alone": measured.means(memory_alone),
    }
    features = FeatureIndex.of(bench.memory, index, bench.loaded.bundle)
    histories: list[ItemRows | None] = list(test.histories)
    results = []
    for seed, (reranker, judged) in zip(seeds, fits, strict=True):
        result: dict[str, Any] = {"seed": seed, "validation": judged, "used": reranker is not None}
        if reranker is not None:
            reranking = Reranking(reranker, features)
            values = of_lists(test, reranking.reorder(ranked, priors, histories, max(KS)))
            result |= {"metrics": measured.means(values), "gain": measured.gains(values, mixture)}
            result |= {"scale": reranker.scale, "new_item_bonus": reranker.new_item_bonus}
            fewer = reranking.reorder(without_new, priors, histories, max(KS))
            result["metrics without new items"] = measured.means(of_lists(test, fewer))
        results.append(result)
    return {
        "n": {group: int(weights.sum()) for group, weights in measured.groups.items()},
        "exclude_seen": bench.exclude_seen,
        "weight": None if choice.gate else choice.weight,
        "power": choice.power,
        "new_item_factor": factor,
        "tuning": tuning,
        "systems": systems,
        "seeds": results,
    }


def shown(result: dict[str, Any]) -> str:
    """The metrics of all users as a table."""
    rows = {name: means["all"] for name, means in result["systems"].items()}
    rows |= {
        f"re-ranked, seed {run['seed']}": run["metrics"]["all"]
        for run in result["seeds"]
        if run["used"]
    }
    cells = [
        [name, *(f"{means[metric]:.4f}" for metric in METRICS)] for name, means in rows.items()
    ]
    return markdown(["system", *METRICS], cells)


def main() -> None:
    """Measure, write the results file, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("model", "split", "memory"):
        parser.add_argument(name, type=Path, metavar=name.upper())
    parser.add_argument("-o", "--out", type=Path, required=True, help="work folder")
    parser.add_argument("--seeds", type=parse_seeds, default=(0, 1, 2))
    parser.add_argument("--users", type=int, help="validation users, evenly spread")
    parser.add_argument("--limit", type=int, help="test users, evenly spread")
    parser.add_argument("--seen", action="store_true")
    parser.add_argument("--trained", default="", help="how MODEL was trained, for the results file")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    digests = [content_digest(path) for path in (args.model, args.split, args.memory)]
    inputs = json.dumps([*digests, args.users, args.limit, args.seen])
    record = args.out / "made.json"
    recorded = record.read_text(encoding="utf-8") if record.exists() else None
    if recorded != inputs and any(args.out.glob("*.npz")):
        parser.error(f"{args.out} holds searches of other inputs or options: use another folder")
    record.write_text(inputs, encoding="utf-8")
    bench = Bench(
        load_model_folder(str(args.model)), open_memory(str(args.memory)), args.out, not args.seen
    )
    result = measure(bench, open_split(args.split), args.seeds, args.users, args.limit)
    result |= {"trained": args.trained, **environment()}
    result["command"] = command_line("rerank.py", sys.argv[1:])
    path = args.out / "result.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(shown(result))


if __name__ == "__main__":
    main()
