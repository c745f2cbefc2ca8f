"""What alignment.sh left, as one result and as tables: titles beside chance, arms beside popularity
and item-kNN.

Usage: alignment_table.py WORK_DIR -o RESULT.json. What is not there yet is left out. Arms are
measured on the users that all of them answered, with paired intervals against next-item."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from environment import environment

from sidtool.bundle import Bundle
from sidtool.data.examples import read_events, read_examples
from sidtool.evaluate.baselines import UNTUNED, Catalog, item_knn, item_similarity, popularity
from sidtool.evaluate.bootstrap import intervals, paired_differences
from sidtool.evaluate.metrics import find_targets, metric_names, metric_values
from sidtool.model.contract import read_contract

K = 10
METRICS = (f"hr@{K}", f"ndcg@{K}")
BASE = "next-item"
ARMS = ("scratch", BASE, "alignment", "rows-first")
THERE, BACK = "title-to-sid", "sid-to-title"
ASKED = {"as-trained": (THERE, BACK), "paraphrased": (THERE,), "held-out": (THERE, BACK)}


def training(work: Path, name: str) -> dict[str, Any]:
    """How an arm was trained: every stage that its contract names, and what the run said when it
    ended."""
    contract = read_contract(work / f"arm-{name}")
    made = [*contract.parents, {"stage": contract.stage, "params": contract.params}]
    stages = [{"stage": one["stage"]} | one["params"] for one in made if "options" in one["params"]]
    kept = [
        {key: stage[key] for key in ("stage", "options", "settings", "weights")} for stage in stages
    ]
    return {"base": contract.base_model, "stages": kept, "said": _read(work / f"arm-{name}.json")}


def titles(work: Path) -> dict[str, Any]:
    """Figures of every film list and direction, as `evaluate --task` gave them."""
    part = work / "titles"
    asked = {
        name: {task: _read(part / f"{name}-{task}.json") for task in tasks}
        for name, tasks in ASKED.items()
    }
    return {
        "asked": asked,
        "rows": _read(part / "train.jsonl.meta.json")["tasks"],
        **training(work, "titles"),
    }


def title_table(found: dict[str, Any]) -> str:
    """The table of titles as Markdown."""
    columns = (
        "title -> SID, exact",
        "chance",
        "level 1",
        "chance",
        "SID -> title, token F1",
        "exact match",
    )
    lines = ["| titles | " + " | ".join(columns) + " |", "| --- " * 7 + "|"]
    for name, each in found["asked"].items():
        there, back = each[THERE], each.get(BACK)
        cells = [f"{name} ({there['n']})"]
        for metric in ("exact", "prefix@1"):
            cells += [
                _told(there["metrics"][metric], there["ci"][metric]),
                f"{there['chance'][metric]:.4f}",
            ]
        for metric in ("token_f1", "exact_match"):
            cells.append(_told(back["metrics"][metric], back["ci"][metric]) if back else "-")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def arms(work: Path, names: list[str]) -> dict[str, Any]:
    """Metrics of arms and baselines on the same users, with intervals and differences from BASE."""
    answers = {
        name: [json.loads(line)["items"] for line in _lines(work / f"arm-{name}.jsonl")]
        for name in names
    }
    users = min(map(len, answers.values()))
    examples = list(read_examples(work / "next" / "test.jsonl"))[:users]
    sequences = list(read_events(work / "next" / "events.jsonl"))
    bundle = Bundle.open(str(work / "ml.zarr"))
    catalog = Catalog.of(list(bundle.items.ids), [user.items for user in sequences])
    targets = catalog.targets([example.item for example in examples])
    histories = [catalog.numbers(example.history) for example in examples]
    similar = item_similarity(
        [catalog.numbers(user.items) for user in sequences], len(catalog), UNTUNED
    )
    ranked = {
        "popularity": popularity(histories, len(catalog), K, exclude_seen=True),
        "item-kNN": item_knn(similar, histories, K, settings=UNTUNED, exclude_seen=True),
    }
    for name, found in answers.items():
        ranked[name] = np.full((users, K), -1)
        for row, items in zip(ranked[name], found[:users], strict=True):
            row[: len(items)] = catalog.targets(items)
    columns = [metric_names((K,)).index(metric) for metric in METRICS]
    values = {
        name: metric_values(find_targets(rows, targets), (K,))[:, columns]
        for name, rows in ranked.items()
    }
    who = [example.user for example in examples]
    systems: dict[str, Any] = {}
    for name, mine in values.items():
        ends = [(float(low), float(high)) for low, high in intervals(mine, who)]
        systems[name] = {"metrics": dict(zip(METRICS, map(float, mine.mean(0)), strict=True))}
        systems[name]["ci"] = dict(zip(METRICS, ends, strict=True))
        if BASE in values and name != BASE:
            apart = [(d.mean, d.low, d.high) for d in paired_differences(mine, values[BASE], who)]
            systems[name][f"less {BASE}"] = dict(zip(METRICS, apart, strict=True))
        if name in answers:
            systems[name]["training"] = training(work, name)
    return {"users": users, "systems": systems}


def arm_table(found: dict[str, Any]) -> str:
    """The table of arms as Markdown."""
    lines = [
        f"| {found['users']} test users | HR@{K} | N@{K} | HR@{K} less {BASE}'s | N@{K} less "
        f"{BASE}'s |"
    ]
    lines.append("| --- " * 5 + "|")
    for name, system in found["systems"].items():
        cells = [_told(system["metrics"][metric], system["ci"][metric]) for metric in METRICS]
        apart = system.get(f"less {BASE}")
        for metric in METRICS:
            mean, low, high = apart[metric] if apart else (0.0, 0.0, 0.0)
            cells.append(f"{mean:+.4f} ({low:+.4f} to {high:+.4f})" if apart else "-")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _told(value: float, ends: tuple[float, float]) -> str:
    return f"{value:.4f} ({ends[0]:.4f} to {ends[1]:.4f})"


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def main() -> None:
    """Write RESULT and print it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("-o", "--out", type=Path, required=True)
    args = parser.parse_args()
    result: dict[str, Any] = {"seed": 0, **environment()}
    wanted = [f"{name}-{task}.json" for name, tasks in ASKED.items() for task in tasks]
    if all((args.work / "titles" / name).exists() for name in wanted):
        result["titles"] = titles(args.work)
        print(title_table(result["titles"]), end="\n\n")
    answered = [name for name in ARMS if (args.work / f"arm-{name}.jsonl").exists()]
    if answered:
        result["arms"] = arms(args.work, answered)
        print(arm_table(result["arms"]), end="\n\n")
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(args.out)


if __name__ == "__main__":
    main()
