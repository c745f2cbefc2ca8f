"""The time that a memory adds to a request, for growing memories: a part of decoder.py.

Times are CPU seconds, so that other processes of the machine count less, and ratios are of medians
within one run."""

import mmap
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from decoder_cases import PROMPT, catalog, medians, prompts_of, qwen3, trie_and_tokens

WIDTH = 50
NEIGHBORS = 100
HISTORY = PROMPT // 4
"""Items of a history: as many as the prompt has SIDs."""
VOCABULARY = 4096
TEXT = 2000
REQUESTS = 8
"""Batches that are taken in turns, so that no request finds its rows in a cache."""


@dataclass(frozen=True)
class Case:
    """A model, and the number of requests in a batch."""

    name: str
    hidden: int
    layers: int
    batch: int
    factor: int
    """times the rounds: fast cases need more for a stable median"""


CASES = (
    Case("small_batch1", 128, 3, 1, 5),  # 0.6 M parameters beside its embeddings
    Case("small_batch16", 128, 3, 16, 1),
    Case("large_batch1", 512, 8, 1, 1),  # 25 M
)


def with_memory(rounds: int, sizes: tuple[int, ...]) -> dict[str, float]:
    """For each case and size: seconds per batch with a memory over those without; and of those
    with, the largest size over the smallest."""
    figures: dict[str, float] = {}
    for case in CASES:
        model = qwen3(case.hidden, case.layers, VOCABULARY)
        sides = [side for items in sizes for side in _sides(case, model, items)]
        seconds = medians(rounds * case.factor, *sides, clock=time.process_time)
        alone = dict(zip(sizes, seconds[::2], strict=True))
        mixture = dict(zip(sizes, seconds[1::2], strict=True))
        figures[f"seconds_{case.name}"] = alone[sizes[0]]
        for items in sizes:
            figures[f"memory_{case.name}_{items:.0e}"] = mixture[items] / alone[items]
        figures[f"growth_{case.name}"] = mixture[sizes[-1]] / mixture[sizes[0]]
    return figures


def _sides(case: Case, model: Any, items: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """A request without and with a memory, from histories and prompts to ranked items."""
    from sidtool.memory.mixture.index import Mixture
    from sidtool.recommendation.search.beam import beam_search
    from sidtool.recommendation.search.results import rank_items
    from sidtool.tokenizer.sid import ItemRows

    trie, tokens = trie_and_tokens(catalog(items), TEXT)
    rng = np.random.default_rng(5)
    histories = [ItemRows(rng.integers(0, items, HISTORY)) for _ in range(case.batch * REQUESTS)]
    prompts = prompts_of(case.batch * REQUESTS, TEXT)
    mixture = Mixture(random_index(items, histories), 2.0, 0.4)

    def side(use_memory: bool) -> Callable[[], Any]:
        batches = cycle(range(0, len(prompts), case.batch))

        def request() -> Any:
            start = next(batches)
            batch = slice(start, start + case.batch)
            priors = mixture.priors(histories[batch]) if use_memory else [None] * case.batch
            results = beam_search(
                model,
                prompts[batch],
                trie,
                tokens,
                num_beams=WIDTH,
                k=10,
                normalize="trie",
                priors=priors,
                token_budget=1 << 30,
            )
            pairs = zip(results, priors, strict=True)
            return [rank_items(result, trie, None, prior, 10) for result, prior in pairs]

        return request

    return side(False), side(True)


def random_index(items: int, histories: list[Any]) -> Any:
    """A memory of so many items with NEIGHBORS random neighbors each, in SID order.

    Only the rows that the histories read are filled: the others take no memory, and no request
    touches them. Each is on pages of its own, as in a memory that is filled."""
    from sidtool.memory.mixture.index import MemoryIndex
    from sidtool.memory.rows import SparseRows

    rng = np.random.default_rng(4)
    offsets = np.arange(items + 1) * NEIGHBORS
    neighbors = _sparse_zeros(items * NEIGHBORS, np.uint32)
    weights = _sparse_zeros(items * NEIGHBORS, np.float32)
    for row in np.unique(np.concatenate(histories)).tolist():
        span = slice(offsets[row], offsets[row + 1])
        distinct = np.unique(rng.integers(0, items, 2 * NEIGHBORS))
        neighbors[span] = np.sort(rng.permutation(distinct)[:NEIGHBORS])
        weights[span] = rng.random(NEIGHBORS) ** 3 + 1e-3
    rows = np.arange(items)
    events = np.ones(items, dtype=np.int64)
    is_new = np.zeros(items, dtype=np.bool_)
    return MemoryIndex(SparseRows(offsets, neighbors, weights), 0.75, rows, events, items, is_new)


def _sparse_zeros(n: int, dtype: Any) -> Any:
    """(n,) zeros that take memory where they are written, in small pages: a huge page per row would
    be the whole array. Linux only."""
    pages = mmap.mmap(-1, n * np.dtype(dtype).itemsize)
    pages.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(pages, dtype=dtype)
