"""What a model keeps when its tokenizer changes: the measurements of lifecycle.sh.

    python benchmarks/lifecycle.py divide DATA OUT [--seed 0]            a random 80% of the items,
    and the others python benchmarks/lifecycle.py grown MODEL CHILD TEST                items added:
    warm targets and cold ones python benchmarks/lifecycle.py retrained MODEL NEW ALIGNED TEST
    a retrained codebook, before and after align

Item level, full ranking, seen items left out; differences are paired bootstraps over users. Prints
one JSON object."""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

SHARE = 0.8
METRIC, K, WIDTH = "hr@10", 10, 50
SCORED_USERS = 500
"""Users with a cold target for whom every new item is scored: exact scoring runs them all as one
tree a user."""


def divide(data: Path, out: Path, seed: int) -> dict[str, Any]:
    """Write old.jsonl (a random 80% of the items) and new.jsonl (the others)."""
    from sidtool.output import new_dir

    lines = (data / "items.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    old = np.random.default_rng(seed).permutation(len(lines)) < round(SHARE * len(lines))
    with new_dir(out) as folder:
        for name, inside in (("old.jsonl", old), ("new.jsonl", ~old)):
            (folder / name).write_text(
                "".join(np.array(lines, dtype=object)[inside]), encoding="utf-8"
            )
    return {"old": int(old.sum()), "new": int((~old).sum())}


def grown(model: str, child: str, test: str, seed: int) -> dict[str, Any]:
    """The model through its own bundle and through the child's: warm targets in both, cold ones in
    the child."""
    from sidtool import Bundle
    from sidtool.build.diff import diff
    from sidtool.evaluate.report import compare
    from sidtool.model.load import load_model_folder

    before, after = load_model_folder(model), load_model_folder(model, bundle=Bundle.open(child))
    examples = read(test)
    warm = before.bundle.items.rows([one.item for one in examples]) >= 0
    warm_ones = [one for one, known in zip(examples, warm, strict=True) if known]
    cold_ones = [one for one, known in zip(examples, warm, strict=True) if not known]
    old, new = measure(before, warm_ones), measure(after, warm_ones)
    change = diff(before.bundle, after.bundle)
    return {
        "moved": len(change.moved),
        "added": len(change.added),
        "warm": {"n": len(warm_ones), "before": old.metrics[METRIC], "after": new.metrics[METRIC]},
        "warm_difference": asdict(compare(new, old)[METRIC]),
        "warm_relative": new.metrics[METRIC] / old.metrics[METRIC] - 1,
        "cold": {"n": len(cold_ones), "beam": measure(after, cold_ones).metrics[METRIC]},
        "cold_among_new": among(after, change.added, cold_ones, seed),
    }


def among(served: Any, new: Any, examples: list[Any], seed: int) -> dict[str, Any]:
    """HR@10 where only the new items may be given: by beam under an allow list, and by exact
    scoring of each."""
    from sidtool.recommend.recommend import Request, recommend, score_items

    drawn = np.random.default_rng(seed).permutation(len(examples))[:SCORED_USERS].tolist()
    requests = [Request(history=examples[place].history) for place in drawn]
    targets = [examples[place].item for place in drawn]
    answers = {
        "allow_list": recommend(served, requests, k=K, width=WIDTH, exclude_seen=True, allow=new),
        "candidate_scoring": score_items(served, requests, new, k=K, exclude_seen=True),
    }
    hits = {
        name: float(
            np.mean([target in one.items for target, one in zip(targets, found, strict=True)])
        )
        for name, found in answers.items()
    }
    return {"n": len(drawn), "items": len(new), "chance": K / len(new), **hits}


def retrained(model: str, new: str, aligned: str, test: str) -> dict[str, Any]:
    """The model through its own bundle, through a retrained one as it is, and through that one
    aligned."""
    from sidtool import Bundle
    from sidtool.build.diff import diff
    from sidtool.evaluate.report import compare
    from sidtool.model.load import load_model_folder

    served, examples = load_model_folder(model), read(test)
    bundles = {
        "original": served.bundle,
        "unaligned": Bundle.open(new),
        "aligned": Bundle.open(aligned),
    }
    # an unaligned bundle is refused for good reason; to see what that spares, it is put in past the
    # check
    found = {
        name: measure(replace(served, bundle=bundle), examples) for name, bundle in bundles.items()
    }
    kept = {name: diff(served.bundle, bundle).kept for name, bundle in bundles.items()}
    return {
        "n": len(examples),
        "sids_kept": kept,
        METRIC: {name: one.metrics[METRIC] for name, one in found.items()},
        "aligned_share": found["aligned"].metrics[METRIC] / found["original"].metrics[METRIC],
        "aligned_difference": asdict(compare(found["aligned"], found["original"])[METRIC]),
    }


def read(test: str) -> list[Any]:
    """The examples of a file."""
    from sidtool.data.examples import read_examples

    return list(read_examples(Path(test)))


def measure(served: Any, examples: list[Any]) -> Any:
    """An evaluation without baselines."""
    from sidtool.evaluate.report import evaluate

    return evaluate(served, examples, None, width=WIDTH, exclude_seen=True)


def main() -> None:
    """Run the part asked for and print what it found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("divide", "grown", "retrained"))
    parser.add_argument("arguments", nargs="+")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    if given.part == "divide":
        found = divide(*map(Path, given.arguments), seed=given.seed)
    elif given.part == "grown":
        found = grown(*given.arguments, seed=given.seed)
    else:
        found = retrained(*given.arguments)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
