"""Print popularity and item-kNN (cosine, default, tuned on every fourth valid user) on a
leave-one-out test set.

Usage: item_knn.py INTERACTIONS. Seen items are removed; co-occurrence and popularity come from
training events only."""

import sys
from pathlib import Path

from sidtool.data.interactions import read_interactions
from sidtool.data.splits import leave_one_out
from sidtool.evaluate.baselines import (
    UNTUNED,
    Catalog,
    KnnSettings,
    item_knn,
    item_similarity,
    popularity,
)
from sidtool.evaluate.baselines import tune_item_knn as tune
from sidtool.evaluate.metrics import find_targets, metric_values

events = read_interactions(Path(sys.argv[1]))
split = leave_one_out(events)
catalog = Catalog.of(sorted(set(events.items.tolist())), [user.items for user in split.train])
train = [catalog.numbers(user.items) for user in split.train]
histories = [catalog.numbers(example.history) for example in split.test]
targets = catalog.targets([example.item for example in split.test])
tuned = tune(catalog, split.train, split.valid[::4], exclude_seen=True)
ranked = {"popularity": popularity(histories, len(catalog), 10, exclude_seen=True)}
for name, how in {
    "cosine": KnnSettings(distance=1.0, recency=1.0),
    "default": UNTUNED,
    f"tuned: {tuned}": tuned,
}.items():
    similar = item_similarity(train, len(catalog), how)
    ranked[f"item-kNN, {name}"] = item_knn(similar, histories, 10, settings=how, exclude_seen=True)
print("| test | R@5 | R@10 | N@5 | N@10 |\n| --- | --- | --- | --- | --- |")
for name, found in ranked.items():
    means = metric_values(find_targets(found, targets), (5, 10)).mean(axis=0)[:4]
    print(f"| {name} | " + " | ".join(f"{value:.4f}" for value in means) + " |")
