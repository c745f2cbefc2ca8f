"""What models gain when their distributions over items are averaged, whatever codebooks they have.

    python benchmarks/fused_models.py SPLIT MODEL MODEL ... -o FILE.json --name NAME [--on valid]
        [--users N] [--seen] [--mixed MODEL+MEMORY]

The models are trained on SPLIT with bundles of the same items. Each recommends its best items by
beam search. An item's score is the mean of its probabilities, 0 where it was not found. Full
ranking, item level; items of the history are left out unless `--seen` is given. Two models of one
codebook show what an ensemble gains, two of different codebooks what is gained beyond that. With
`--mixed`, the first model and the mean are each mixed with the memory of a model, too, by the best
of several weights on the same users."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from environment import command_line, environment, store_under
from numpy.typing import NDArray
from table import markdown

from sidtool.data.split import Example, evenly_spaced, open_split
from sidtool.evaluation.bootstrap import paired_differences
from sidtool.evaluation.metrics import averages, find_targets, metric_names, metric_values
from sidtool.evaluation.ranking import IndexedExamples, example_queries
from sidtool.memory.mixture import MemoryIndex
from sidtool.model import load_model_folder
from sidtool.recommendation import WINDOW, QuerySession, in_windows
from sidtool.tokenizer.sid import ItemRows

BEAMS = 100
KS = (1, 5, 10)
NAMES = metric_names(KS)

WEIGHTS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
"""Of a memory in a mixture."""

Scores = list[dict[str, float]]
"""Of each example: the probability of the items that a model, or a memory, found."""


def item_scores(folder: Path, examples: Sequence[Example], *, exclude_seen: bool) -> Scores:
    """The probabilities of the items that a model without its memory finds."""
    loaded = load_model_folder(str(folder))
    indexed = IndexedExamples.of(loaded.bundle, examples, exclude_seen=exclude_seen)
    session = QuerySession.of(loaded)
    queries = example_queries(session, indexed, follow=False)
    trie = loaded.bundle.trie()
    ids = loaded.bundle.items.ids
    scores: Scores = []
    for batch in in_windows(queries, WINDOW, 0, None):
        for items in session.search_items(loaded.model, batch, k=BEAMS, num_beams=BEAMS):
            rows = trie.item_rows(items.positions).tolist()
            probabilities = np.exp(items.scores).tolist()
            scores.append(dict(zip((ids[row] for row in rows), probabilities, strict=True)))
        print(f"{folder}: {len(scores)} of {len(examples)}", file=sys.stderr)
    return scores


def memory_scores(folder: Path, examples: Sequence[Example], *, exclude_seen: bool) -> Scores:
    """The probabilities of the items that the memory of a model finds."""
    loaded = load_model_folder(str(folder))
    assert loaded.memory is not None
    memory = loaded.memory
    index = MemoryIndex.of(memory.memory, loaded.bundle, memory.new_item_factor)
    indexed = IndexedExamples.of(loaded.bundle, examples, exclude_seen=exclude_seen)
    trie = loaded.bundle.trie()
    ids = loaded.bundle.items.ids
    scores: Scores = []
    for start in range(0, len(examples), WINDOW):
        histories = indexed.histories[start : start + WINDOW]
        for items in index.distributions(histories, memory.power):
            denied = indexed.denied_positions(len(scores))
            items = items.select(~np.isin(items.positions, denied))
            rows = trie.item_rows(items.positions).tolist()
            probabilities = np.exp(items.log_probs).tolist()
            scores.append(dict(zip((ids[row] for row in rows), probabilities, strict=True)))
    return scores


def fused(systems: Sequence[Scores], weights: Sequence[float] | None = None) -> Scores:
    """The weighted mean of the systems' probabilities; equal weights unless given."""
    weights = weights or [1 / len(systems)] * len(systems)
    means = []
    for example_scores in zip(*systems, strict=True):
        total: dict[str, float] = {}
        for scores, weight in zip(example_scores, weights, strict=True):
            for item, probability in scores.items():
                total[item] = total.get(item, 0.0) + probability * weight
        means.append(total)
    return means


def best_mixed(
    model: Scores, memory: Scores, examples: Sequence[Example]
) -> tuple[float, NDArray[np.float64]]:
    """The memory's weight with the best NDCG@10, and the metrics with it."""
    mixtures = [
        (weight, metrics_of(fused([model, memory], [1 - weight, weight]), examples))
        for weight in WEIGHTS
    ]
    return max(mixtures, key=lambda mixture: mixture[1][:, NAMES.index("ndcg@10")].mean())


def metrics_of(scores: Scores, examples: Sequence[Example]) -> NDArray[np.float64]:
    """(n, metrics) of the items in descending order of their scores."""
    ranked = np.full((len(examples), max(KS)), -1, dtype=np.int64)
    targets = np.zeros(len(examples), dtype=np.int64)
    for row, (example_scores, example) in enumerate(zip(scores, examples, strict=True)):
        best = sorted(example_scores, key=lambda item: (-example_scores[item], item))[: max(KS)]
        # the target is item 0 of its row, all others are any other number
        ranked[row, : len(best)] = [int(item != example.item) for item in best]
    return metric_values(find_targets(ItemRows(ranked), ItemRows(targets)), KS)


def short_name(model: Path) -> str:
    """The end of a path, by which a results file names a model."""
    return "/".join(model.parts[-3:])


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The metrics of each model, of all fused, and the differences from the first."""
    split = open_split(args.split)
    part = split.valid if args.on == "valid" else split.test
    examples = evenly_spaced(part, args.users)
    systems = [item_scores(model, examples, exclude_seen=not args.seen) for model in args.models]
    values = [metrics_of(scores, examples) for scores in systems]
    mean = fused(systems)
    fused_values = metrics_of(mean, examples)
    result = {
        "on": args.on,
        "n": len(examples),
        "models": [
            {"model": short_name(model), "metrics": averages(NAMES, model_values)}
            for model, model_values in zip(args.models, values, strict=True)
        ],
        "fused": {"metrics": averages(NAMES, fused_values)},
        "gain over the first": gains(fused_values, values[0], examples),
        "command": command_line("fused_models.py", sys.argv[1:]),
        **environment(),
    }
    if args.mixed is not None:
        memory = memory_scores(args.mixed, examples, exclude_seen=not args.seen)
        first_weight, first_values = best_mixed(systems[0], memory, examples)
        fused_weight, mixed_values = best_mixed(mean, memory, examples)
        result["mixed with the memory"] = {
            "first": {"weight": first_weight, "metrics": averages(NAMES, first_values)},
            "fused": {"weight": fused_weight, "metrics": averages(NAMES, mixed_values)},
            "gain over the first": gains(mixed_values, first_values, examples),
        }
    return result


def gains(
    changed: NDArray[np.float64], first: NDArray[np.float64], examples: Sequence[Example]
) -> dict[str, Any]:
    """The differences of two systems' metrics, paired by user."""
    users = [example.user for example in examples]
    differences = paired_differences(NAMES, changed, first, users)["all"]
    return {name: asdict(difference) for name, difference in differences.items()}


def main() -> None:
    """Print the table and write the results file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("split", type=Path)
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--on", choices=("valid", "test"), default="valid")
    parser.add_argument("--users", type=int, help="evenly spread")
    parser.add_argument("--seen", action="store_true")
    parser.add_argument("--mixed", type=Path, help="a model with a memory")
    args = parser.parse_args()
    result = measure(args)
    store_under(args.name, result, args.out)
    systems = [*result["models"], {"model": "fused", **result["fused"]}]
    rows = [
        [system["model"], *(f"{system['metrics'][name]:.4f}" for name in ("hr@10", "ndcg@10"))]
        for system in systems
    ]
    print(markdown(["model", "R@10", "N@10"], rows))
    print(result["gain over the first"]["ndcg@10"])
    if args.mixed is not None:
        print(result["mixed with the memory"]["gain over the first"]["ndcg@10"])


if __name__ == "__main__":
    main()
