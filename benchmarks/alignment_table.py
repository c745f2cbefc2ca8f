"""Print arms beside popularity and item-kNN on the same test users, with paired intervals against one of the arms.

Usage: alignment_table.py BUNDLE TEST EVENTS BASE NAME=ANSWERS.jsonl ... ; ANSWERS are what `sidtool recommend -o` wrote
for the first users of TEST, with ten items each; BASE is the name of the arm that all are set against.
"""

import json
import sys
from pathlib import Path

import numpy as np

from sidtool.bundle import Bundle
from sidtool.catalog.rows import read_events, read_examples
from sidtool.evaluate.baselines import UNTUNED, Catalogue, item_knn, item_similarity, popularity
from sidtool.evaluate.bootstrap import intervals, paired_differences
from sidtool.evaluate.metrics import find_targets, metric_names, metric_values

K = 10


def table(bundle: Path, test: Path, events: Path, base: str, arms: dict[str, Path]) -> str:
    """The table as Markdown."""
    answers = {name: [json.loads(line)["items"] for line in path.open(encoding="utf-8")] for name, path in arms.items()}
    users = min(map(len, answers.values()))
    examples, sequences = list(read_examples(test))[:users], list(read_events(events))
    catalogue = Catalogue.of(list(Bundle.open(str(bundle)).items.ids), [user.items for user in sequences])
    targets = catalogue.targets([example.item for example in examples])
    histories = [catalogue.numbers(example.history) for example in examples]
    similar = item_similarity([catalogue.numbers(user.items) for user in sequences], len(catalogue), UNTUNED)
    ranked = {
        "popularity": popularity(histories, len(catalogue), K, exclude_seen=True),
        "item-kNN": item_knn(similar, histories, K, settings=UNTUNED, exclude_seen=True),
    }
    for name, found in answers.items():
        ranked[name] = np.full((users, K), -1)
        for row, items in zip(ranked[name], found[:users], strict=True):
            row[: len(items)] = catalogue.targets(items)
    columns = [metric_names((K,)).index(metric) for metric in (f"hr@{K}", f"ndcg@{K}")]
    values = {name: metric_values(find_targets(rows, targets), (K,))[:, columns] for name, rows in ranked.items()}
    who = [example.user for example in examples]
    lines = [f"| {users} test users | HR@{K} | N@{K} | HR@{K} less {base}'s | N@{K} less {base}'s |"]
    lines.append("| --- " * 5 + "|")
    for name, mine in values.items():
        ends = intervals(mine, who)
        cells = [f"{mean:.4f} ({low:.4f} to {high:.4f})" for mean, (low, high) in zip(mine.mean(0), ends, strict=True)]
        for each in paired_differences(mine, values[base], who):
            cells.append("-" if name == base else f"{each.mean:+.4f} ({each.low:+.4f} to {each.high:+.4f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    *paths, base = sys.argv[1:5]
    arms = dict(argument.split("=", 1) for argument in sys.argv[5:])
    print(table(*map(Path, paths), base, {name: Path(path) for name, path in arms.items()}))
