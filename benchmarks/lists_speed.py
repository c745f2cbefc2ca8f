"""Compare a list of ten items with the bare forward passes and with ten searches for one item.

    python benchmarks/lists_speed.py [--quick] [--json] [--threads 2] [--device cpu]

The floor is the prefill and 10 L passes of as many tokens as there are beams, by transformers'
forward without head or search. Ten searches are those of a caller who has no lists: each has the
items found so far at the end of its prompt and on its deny list. All sides of a case run in turns,
and medians are compared: of CPU seconds, which a busy machine disturbs little, or of seconds on
another device. `--quick` uses small sizes, which only show that the script works."""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from decoder_cases import LEVELS, medians, prompts_of, qwen3, trie_and_tokens
from decoder_cases import catalog as random_catalog
from environment import command_line, environment

LENGTH = 10
"""Items of a list."""


@dataclass(frozen=True)
class Case:
    """A model of `layers` layers, and requests to it."""

    hidden: int
    layers: int
    vocabulary: int
    text: int
    """token ids below this are text"""
    batch: int
    width: int


@dataclass(frozen=True)
class Ratios:
    """What the sides of a case take, relative to each other."""

    parameters: float
    """millions, without embeddings"""
    batch: int
    width: int
    seconds: float
    """of a list, per batch"""
    over_floor: float
    """list over the floor"""
    searches_over_list: float
    """ten searches of the same width over a list"""
    wide_searches_over_list: float
    """ten searches of 50 beams, as `recommend` runs by default, over a list"""


SMALL = (128, 2, 8192, 7000)
LARGE = (512, 8, 152_960, 151_900)
FULL = [Case(*SMALL, batch, width) for batch in (1, 8) for width in (1, 4, 10, 50)]
FULL += [Case(*LARGE, 1, width) for width in (1, 4, 10, 50)]
QUICK = [Case(64, 1, 1600, 500, 2, 2)]


def run_floor(model: Any, prompts: list[list[int]], width: int) -> None:
    """The prefill, and a pass of `width` tokens for each code of a list, with a cache."""
    import torch

    with torch.no_grad():
        ids = torch.tensor(prompts, device=model.device)
        cache = model.model(input_ids=ids, use_cache=True).cache
        tokens = torch.full((len(prompts), width), 7, device=model.device)
        for _ in range(LENGTH * len(LEVELS)):
            cache = model.model(input_ids=tokens, cache=cache, use_cache=True).cache


def run_list(model: Any, prompts: list[list[int]], width: int, trie: Any, tokens: Any) -> Any:
    """One list for each prompt."""
    from sidtool.recommendation.search.list_search import search_lists

    return search_lists(
        model, prompts, trie, tokens, length=LENGTH, num_beams=width, token_budget=1 << 20
    )


def run_searches(model: Any, prompts: list[list[int]], width: int, trie: Any, tokens: Any) -> None:
    """The next item of each prompt, ten times."""
    from sidtool.recommendation.search.beam import beam_search
    from sidtool.recommendation.search.filters import LeafFilter
    from sidtool.tokenizer.sid import ItemRows

    histories = [list(prompt) for prompt in prompts]
    leaf_lists: list[list[int]] = [[] for _ in prompts]
    for _ in range(LENGTH):
        denied = [ItemRows(np.array(leaves, dtype=np.int64)) for leaves in leaf_lists]
        filters = [LeafFilter.of(trie, None, rows) for rows in denied]
        results = beam_search(
            model,
            histories,
            trie,
            tokens,
            num_beams=width,
            k=1,
            filters=filters,
            token_budget=1 << 20,
        )
        for history, leaves, result in zip(histories, leaf_lists, results, strict=True):
            leaves.append(int(result.leaves[0]))
            codes = trie.leaf_codes(result.leaves[:1])
            # behind the begin token that the prompt ends with: the SID, its end, the next begin
            history += [*tokens.ids(codes)[0, 1:].tolist(), tokens.begin]


def measure(cases: list[Case], *, items: int, repeats: int, device: str) -> Iterator[Ratios]:
    """The ratios of each case over a catalog of so many items."""
    codes = random_catalog(items)
    for case in cases:
        model = qwen3(case.hidden, case.layers, case.vocabulary).to(device)
        trie, tokens = trie_and_tokens(codes, case.text)
        prompts = prompts_of(case.batch, case.text)
        width = case.width
        clock = time.process_time if device == "cpu" else time.perf_counter
        floor, lists, narrow, wide = medians(
            repeats,
            lambda: run_floor(model, prompts, width),
            lambda: run_list(model, prompts, width, trie, tokens),
            lambda: run_searches(model, prompts, width, trie, tokens),
            lambda: run_searches(model, prompts, max(width, 50), trie, tokens),
            clock=clock,
        )
        counted = sum(weight.numel() for weight in model.model.layers.parameters())
        yield Ratios(
            counted / 1e6, case.batch, width, lists, lists / floor, narrow / lists, wide / lists
        )


def main() -> None:
    """Print a row for each case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--small", action="store_true", help="the small model alone")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    import torch
    from transformers.utils import logging

    torch.set_num_threads(arguments.threads)
    logging.set_verbosity_error()
    cases = QUICK if arguments.quick else FULL
    if arguments.small:
        cases = [case for case in cases if case.hidden == SMALL[0]]
    items = 2000 if arguments.quick else 100_000
    repeats = 1 if arguments.quick else arguments.repeats
    if not arguments.json:
        print("| M parameters | batch | beams | s | over the floor | 10 searches | of 50 beams |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
    results = []
    for ratios in measure(cases, items=items, repeats=repeats, device=arguments.device):
        results.append(asdict(ratios))
        if not arguments.json:
            numbers = [f"{value:.3g}" for value in asdict(ratios).values()]
            print(f"| {' | '.join(numbers)} |", flush=True)
    if arguments.json:
        command = command_line("lists_speed.py", sys.argv[1:])
        print(json.dumps({"cases": results, "command": command, **environment()}, indent=1))


if __name__ == "__main__":
    main()
