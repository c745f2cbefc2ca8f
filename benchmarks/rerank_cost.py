"""What a re-ranker adds to the CPU time of a request to a model with a memory.

    python benchmarks/rerank_cost.py MODEL SPLIT [--requests 64] [--rounds 9] [--json FILE]

MODEL is a folder in which `tune-memory` left a memory with a re-ranker. The same requests, test
histories of the split, are searched with 50 beams for 10 items, one by one and in batches of 16:
by the model alone, by the mixture, and by the mixture with the re-ranker, in turns within one run.
Medians of CPU seconds, so that other processes of the machine count less."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

from decoder_cases import medians
from environment import command_line, environment
from table import markdown

from sidtool.data.split import evenly_spaced, open_split
from sidtool.evaluation.ranking import IndexedExamples, example_queries
from sidtool.model import LoadedModel, load_model_folder
from sidtool.recommendation import Query, QuerySession

BATCHES = (1, 16)
BEAMS = 50
K = 10


def side(
    session: QuerySession, loaded: LoadedModel, queries: list[Query], batch: int
) -> Callable[[], object]:
    """A function that searches the next batch of the queries."""
    starts = cycle(range(0, len(queries), batch))

    def search() -> object:
        start = next(starts)
        return session.search_items(
            loaded.model, queries[start : start + batch], k=K, num_beams=BEAMS
        )

    return search


def main() -> None:
    """Measure, print the table, store it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("split", type=Path)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--json", type=Path, help="write the results to this file")
    args = parser.parse_args()
    loaded = load_model_folder(args.model)
    reranked = QuerySession.of(loaded)
    if reranked.reranking is None:
        raise SystemExit(f"{args.model} has no re-ranker")
    mixture = replace(reranked, reranking=None)
    alone = replace(mixture, mixture=None)
    examples = evenly_spaced(open_split(args.split).test, args.requests)
    indexed = IndexedExamples.of(loaded.bundle, examples, exclude_seen=True)
    queries = list(example_queries(reranked, indexed))
    batches: dict[str, Any] = {}
    for batch in BATCHES:
        sides = [side(session, loaded, queries, batch) for session in (alone, mixture, reranked)]
        rounds = args.rounds * args.requests // batch
        seconds = medians(rounds, *sides, clock=time.process_time)
        names = ("alone", "mixture", "reranked")
        per_request = {name: 1000 * s / batch for name, s in zip(names, seconds, strict=True)}
        batches[str(batch)] = {"milliseconds": per_request, "ratio": seconds[2] / seconds[1]}
    header = ["requests in a batch", "model alone, CPU ms", "mixture", "re-ranked", "ratio"]
    rows = [
        [size, *[f"{value:.1f}" for value in row["milliseconds"].values()], f"{row['ratio']:.2f}"]
        for size, row in batches.items()
    ]
    print(markdown(header, rows))
    if args.json is not None:
        result = {"batches": batches, "command": command_line("rerank_cost.py", sys.argv[1:])}
        args.json.write_text(json.dumps({**result, **environment()}, indent=1) + "\n")


if __name__ == "__main__":
    main()
