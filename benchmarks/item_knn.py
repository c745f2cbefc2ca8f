"""Print popularity and three item-kNN on the leave-one-out test set of a file of interactions.

    python benchmarks/item_knn.py INTERACTIONS [--json FILE]

The three are cosine similarity, sidtool's default, and settings tuned on every fourth validation
user. Seen items are excluded; co-occurrence and popularity come from training events only."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from environment import command_line, environment
from item_knn_tuning import tune_item_knn
from popular_catalog import Catalog
from table import METRICS, markdown

from sidtool.data.interactions import read_interactions
from sidtool.data.split.protocols import SplitEvents
from sidtool.evaluation.baselines import UNTUNED, item_knn, popularity
from sidtool.evaluation.metrics import averages, find_targets, metric_names, metric_values
from sidtool.memory.manifest import KnnSettings
from sidtool.memory.similarity import item_similarity

K = 10
KS = (1, 5, 10)

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("interactions", type=Path)
parser.add_argument("--json", type=Path, help="write the results to this file")
args = parser.parse_args()

events = read_interactions(args.interactions)
split = SplitEvents(events).leave_one_out()
catalog = Catalog.of(sorted(set(events.items.tolist())), split.train)
histories = [catalog.index_of(example.history) for example in split.test]
targets = catalog.targets([example.item for example in split.test])
tuned = tune_item_knn(catalog, split.valid[::4], exclude_seen=True)

rankings = {"popularity": popularity(histories, len(catalog), K, exclude_seen=True)}
cosine = KnnSettings(distance=1.0, recency=1.0)
for name, settings in {"cosine": cosine, "default": UNTUNED, "tuned": tuned}.items():
    similarity = item_similarity(catalog.sequences, len(catalog), settings)
    rankings[f"item-kNN, {name}"] = item_knn(
        similarity, histories, K, settings=settings, exclude_seen=True
    )

means = {
    name: averages(metric_names(KS), metric_values(find_targets(ranked, targets), KS))
    for name, ranked in rankings.items()
}
rows = [[name, *[f"{mean[metric]:.4f}" for metric in METRICS]] for name, mean in means.items()]
print(f"tuned: {tuned}")
print(markdown(["test", *METRICS.values()], rows))
if args.json is not None:
    result = {"n": len(targets), "tuned": asdict(tuned), "systems": means}
    result |= {"command": command_line("item_knn.py", sys.argv[1:]), **environment()}
    args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
