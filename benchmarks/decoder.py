"""Compare the decoder with `generate`, with the bare forward passes, and over growing catalogs.

    python benchmarks/decoder.py [--quick] [--json] [--threads 2] [PART ...]

Every comparison runs the two sides in turns and takes medians, so that a busy machine disturbs both
alike. `--quick` uses small sizes, which only show that the parts work."""

import argparse
import ctypes
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from decoder_cases import (
    LEVELS,
    TEXT,
    VOCABULARY,
    catalog,
    medians,
    prompts_of,
    qwen3,
    trie_and_tokens,
)
from decoder_encoder import T5Shape, encoder_decoder
from decoder_memory import with_memory
from decoder_shares import shares
from decoder_sides import check_results, prefix_function, run_beam, run_generate
from environment import command_line, environment


@dataclass(frozen=True)
class Scale:
    """The sizes of the parts."""

    repeats: int
    catalog: int
    large: int
    requests: int
    memory: tuple[int, int]  # batch, width
    batch: tuple[int, int]
    hidden: int
    layers: int
    t5: T5Shape
    memory_rounds: int
    memory_items: tuple[int, ...]


FULL = Scale(
    5, 100_000, 10_000_000, 100_000, (32, 50), (8, 20), 512, 8, T5Shape(), 8, (10**4, 10**6, 10**7)
)
QUICK = Scale(
    1,
    10_000,
    1_000_000,
    2_000,
    (4, 10),
    (4, 10),
    128,
    2,
    T5Shape(128, 1, 10, (1, 2)),
    1,
    (10**3, 10**4),
)


def run_floor(model: Any, prompts: list[list[int]], width: int) -> None:
    """Forward passes of transformers without head or search: the prefill, and L - 1 passes of W
    tokens with a cache."""
    import torch

    with torch.no_grad():
        cache = model.model(input_ids=torch.tensor(prompts), use_cache=True).cache
        tokens = torch.full((len(prompts), width), 7)
        for _ in LEVELS[1:]:
            cache = model.model(input_ids=tokens, cache=cache, use_cache=True).cache


# The parts
# ------------------------------------------------------------------------------------------------


def against_generate(scale: Scale) -> dict[str, Any]:
    """Speed-up over `generate` with a prefix function; checks that all SIDs are valid and, under
    vocabulary normalization, equal."""
    codes = catalog(scale.catalog)
    model = qwen3(scale.hidden, scale.layers, VOCABULARY)
    scratch, scratch_8k = qwen3(128, 2, VOCABULARY), qwen3(128, 2, 8192)
    batch, width = scale.batch
    figures: dict[str, Any] = {}
    for name, one, text, n, wide, normalizes in (
        ("batch1", model, TEXT, 1, 50, ("level", "vocabulary")),
        ("batch8", model, TEXT, batch, width, ("level",)),
        ("scratch", scratch, TEXT, batch, width, ("level",)),
        (
            "scratch_8k",
            scratch_8k,
            7000,
            batch,
            width,
            ("level",),
        ),  # the vocabulary of a model trained from scratch
    ):
        trie, tokens = trie_and_tokens(codes, text)
        allowed, prompts = prefix_function(codes, text), prompts_of(n, text)
        check_results(
            run_generate(one, prompts, wide, allowed), one, prompts, wide, trie, tokens, codes
        )
        sides = [
            partial(run_beam, one, prompts, wide, trie, tokens, normalize)
            for normalize in normalizes
        ]
        slow, *fast = medians(
            scale.repeats, partial(run_generate, one, prompts, wide, allowed), *sides
        )
        for normalize, seconds in zip(normalizes, fast, strict=True):
            key = f"speedup_{name}" if normalize == "level" else f"speedup_{name}_{normalize}"
            figures |= {key: slow / seconds, f"seconds_{name}_{normalize}": seconds}
        figures[f"seconds_{name}_generate"] = slow
    return figures


def growth(scale: Scale) -> dict[str, Any]:
    """Ratio of the seconds per request over a large and a small catalog, and the seconds that the
    large trie takes to build."""
    import torch

    from sidtool.recommendation.search.device_trie import TrieArrays
    from sidtool.tokenizer.bundle.trie import Trie

    model, prompts = qwen3(scale.hidden, scale.layers, VOCABULARY), prompts_of(1)
    few, many = catalog(10_000), catalog(scale.large)
    start = time.perf_counter()
    Trie.from_codes(many, LEVELS)
    build = time.perf_counter() - start
    (small, tokens), (large, _) = trie_and_tokens(few), trie_and_tokens(many)
    small_seconds, large_seconds = medians(
        5 * scale.repeats,
        lambda: run_beam(model, prompts, 50, small, tokens, "level"),
        lambda: run_beam(model, prompts, 50, large, tokens, "level"),
    )
    spent = 0.0
    gather = TrieArrays.candidates

    def timed(self: Any, level: int, nodes: torch.Tensor) -> Any:
        nonlocal spent
        start = time.perf_counter()
        candidates = gather(self, level, nodes)
        spent += time.perf_counter() - start
        return candidates

    TrieArrays.candidates = timed  # type: ignore[method-assign]
    shares = []
    for _ in range(5 * scale.repeats):
        spent, start = 0.0, time.perf_counter()
        run_beam(model, prompts, 50, large, tokens, "level")
        shares.append(spent / (time.perf_counter() - start))
    TrieArrays.candidates = gather  # type: ignore[method-assign]
    return {
        "growth_1e4_1e7": large_seconds / small_seconds,
        "constraint_share": float(np.median(shares)),
        "trie_items": scale.large,
        "trie_seconds": build,
        "trie_megabytes": large.nbytes / 1e6,
    }


def floor(scale: Scale) -> dict[str, Any]:
    """Ratio of the decoder's seconds to those of the bare forward passes."""
    model = qwen3(scale.hidden, scale.layers, VOCABULARY)
    trie, tokens = trie_and_tokens(catalog(scale.catalog))
    prompts = prompts_of(scale.batch[0])
    bare, decoder = medians(
        2 * scale.repeats,
        lambda: run_floor(model, prompts, 50),
        lambda: run_beam(model, prompts, 50, trie, tokens, "level"),
    )
    return {"over_floor": decoder / bare, "seconds_floor": bare}


def survival(scale: Scale) -> dict[str, Any]:
    """CPU seconds of a search that follows a target per prompt over those of one that does not, on
    a model so small that the search itself has a large share."""
    text = 7000
    model = qwen3(128, 2, 8192)
    trie, tokens = trie_and_tokens(catalog(scale.catalog), text)
    prompts = prompts_of(scale.batch[0], text)
    targets = np.random.default_rng(2).integers(0, trie.n_leaves, len(prompts)).tolist()
    plain, followed = medians(
        20 * scale.repeats,
        lambda: run_beam(model, prompts, 50, trie, tokens, "level"),
        lambda: run_beam(model, prompts, 50, trie, tokens, "level", targets),
        clock=time.process_time,
    )
    return {"over_without_survival": followed / plain, "seconds_without_survival": plain}


def memory(scale: Scale) -> dict[str, Any]:
    """Peak memory beyond the loaded model, each side in its own process."""
    peaks = {}
    for side in ("beam", "generate"):
        quick = ["--quick"] if scale is QUICK else []
        command = [
            sys.executable,
            __file__,
            "--peak",
            side,
            "--threads",
            str(os.environ["OMP_NUM_THREADS"]),
            *quick,
        ]
        peaks[side] = float(
            subprocess.run(command, check=True, capture_output=True, text=True).stdout
        )
    ratio = peaks["beam"] / peaks["generate"]
    return {
        "memory_ratio": ratio,
        "megabytes_beam": peaks["beam"],
        "megabytes_generate": peaks["generate"],
    }


def peak(scale: Scale, side: str) -> float:
    """Peak megabytes of one side beyond the loaded model. Linux only."""
    codes = catalog(scale.catalog)
    trie, tokens = trie_and_tokens(codes)
    model = qwen3(scale.hidden, scale.layers, VOCABULARY)
    batch, width = scale.memory
    prompts, allowed = prompts_of(batch), prefix_function(codes, TEXT)
    # the first call allocates buffers that stay: they do not count
    run_beam(model, prompts[:1], 2, trie, tokens, "level")
    # memory that loading freed but did not return would hide later allocations
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    # the peak counts from here
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    if side == "beam":
        run_beam(model, prompts, width, trie, tokens, "level")
    else:
        run_generate(model, prompts, width, allowed)
    return (_status("VmHWM") - before) / 1e3


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(key)))


def legality(scale: Scale) -> dict[str, Any]:
    """Random requests on a tiny model: the number of SIDs that are repeated or not in an
    independently built set."""
    from sidtool.recommendation.search.beam import beam_search

    rng = np.random.default_rng(2)
    codes = catalog(scale.catalog)
    trie, tokens = trie_and_tokens(codes, 500)
    legal = set(map(tuple, codes.tolist()))
    model = qwen3(64, 1, 1600)
    wrong = 0
    emitted = 0
    for start in range(0, scale.requests, 1000):
        batch = min(1000, scale.requests - start)
        prompts = [rng.integers(10, 500, length).tolist() for length in rng.integers(1, 20, batch)]
        for ranked in beam_search(model, prompts, trie, tokens, num_beams=5, k=5):
            sids = list(map(tuple, trie.leaf_codes(ranked.leaves).tolist()))
            emitted += len(sids)
            wrong += 5 - len(set(sids) & legal)
    return {"requests": scale.requests, "emitted": emitted, "illegal": wrong}


PARTS: dict[str, Callable[[Scale], dict[str, Any]]] = {
    "generate": against_generate,
    "growth": growth,
    "floor": floor,
    "shares": lambda scale: shares(
        qwen3(scale.hidden, scale.layers, VOCABULARY), scale.catalog, scale.batch, scale.repeats
    ),
    "survival": survival,
    "memory": memory,
    "legality": legality,
    "encoder-decoder": lambda scale: encoder_decoder(scale.repeats, scale.catalog, scale.t5),
    "with-memory": lambda scale: with_memory(scale.memory_rounds, scale.memory_items),
}


def main() -> None:
    """Run the parts and print their results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all if none is given"
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peak", choices=("beam", "generate"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    import torch
    from transformers.utils import logging

    torch.set_num_threads(arguments.threads)
    logging.set_verbosity_error()
    scale = QUICK if arguments.quick else FULL
    if arguments.peak:
        print(peak(scale, arguments.peak))
        return
    figures: dict[str, Any] = {}
    for name in arguments.parts or PARTS:
        part = PARTS[name](scale)
        figures |= part
        if not arguments.json:
            for key, value in part.items():
                print(
                    f"{key:28} {value:.4g}" if isinstance(value, float) else f"{key:28} {value}",
                    flush=True,
                )
    if arguments.json:
        command = command_line("decoder.py", sys.argv[1:])
        print(json.dumps({**figures, "command": command, **environment()}, indent=1))


if __name__ == "__main__":
    main()
