"""Splits and bundles for the tests of memories."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sidtool.memory import KnnSettings, Memory, build_memory
from sidtool.memory.memory import _digest
from sidtool.tokenizer.bundle.bundle import Bundle
from tests.bundles import small_bundle
from tests.data.split.cases import split_of

__all__ = ["split_of"]


def random_histories(seed: int, users: int, items: int, longest: int = 9) -> list[list[str]]:
    """Random walks over items "i0", "i1" ..."""
    rng = np.random.default_rng(seed)
    return [
        [f"i{number}" for number in rng.integers(0, items, size=rng.integers(1, longest))]
        for _ in range(users)
    ]


def small_memory(
    bundle: Bundle | None = None, settings: KnnSettings | None = None, *, seed: int = 0
) -> Memory:
    """A memory of 40 random users of a small bundle."""
    bundle = bundle or small_bundle()
    histories = random_histories(seed, 40, len(bundle.items))
    return build_memory(split_of(histories), bundle, settings)


def slow_scores(memory: Memory, rows: list[int]) -> np.ndarray:
    """The score of each item for a history of rows, by loops."""
    similar = memory.neighbors.to_scipy().toarray().astype(np.float64)
    scores = np.zeros(len(similar))
    for age, row in enumerate(reversed(rows)):
        scores += memory.manifest.settings.recency**age * similar[row]
    return scores


def forged(memory: Memory, change: Callable[[dict[str, np.ndarray]], object]) -> Memory:
    """A memory with changed arrays whose digest, if none is missing, is that of these arrays."""
    arrays = {name: array.copy() for name, array in memory.arrays.items()}
    change(arrays)
    is_whole = arrays.keys() == memory.arrays.keys()
    digest = _digest(memory.manifest, arrays) if is_whole else memory.digest
    return Memory(replace(memory.manifest, digest=digest), arrays)


def squared_cosines(vectors: np.ndarray, neighbors: int) -> np.ndarray:
    """Squared cosines of vectors and their neighbors, by loops."""
    count = len(vectors)
    result = np.zeros((count, count))
    for i in range(count):
        cosines = [-2.0 if i == j else float(vectors[i] @ other) for j, other in enumerate(vectors)]
        for j in sorted(range(count), key=lambda j: -cosines[j])[:neighbors]:
            if i != j and cosines[j] >= 0.1:
                result[i, j] = result[j, i] = cosines[j] ** 2
    return result
