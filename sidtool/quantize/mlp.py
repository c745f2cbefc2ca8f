"""Feed-forward networks in numpy: how an embedding gets into the space of the centroids, and back.

Knows arrays; knows nothing of how they were trained. Layer i of a direction ("in" or "out") is
`{direction}_{i}_weight` (from, to) and `{direction}_{i}_bias` (to,), both float32; between layers
stands max(x, 0)."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.sid import Vectors

BLOCK = 1024
"""Rows that are computed at once. Short blocks are padded: a matrix product of another shape rounds
differently."""

Arrays = Mapping[str, NDArray[Any]]


def has(arrays: Arrays, direction: str) -> bool:
    """Whether there is a network in that direction."""
    return f"{direction}_0_weight" in arrays


def forward(arrays: Arrays, direction: str, vectors: Vectors) -> Vectors:
    """(n, from) -> (n, to) float32; without a layer in that direction the vectors themselves."""
    layer = 0
    while f"{direction}_{layer}_weight" in arrays:
        if layer:
            vectors = np.maximum(vectors, 0)
        vectors = (
            vectors @ arrays[f"{direction}_{layer}_weight"] + arrays[f"{direction}_{layer}_bias"]
        )
        layer += 1
    return vectors


def by_blocks(function: Callable[[Vectors], Vectors], vectors: Vectors, width: int) -> Vectors:
    """(n, from) -> (n, width) float32, block by block: what becomes of a row does not depend on the
    rows beside it.

    `function` maps a block to as many rows of at most `width` values; zeros are appended up to it.
    """
    found = np.zeros((len(vectors), width), dtype=np.float32)
    for start in range(0, len(vectors), BLOCK):
        rows = vectors[start : start + BLOCK]
        block = function(padded(rows))
        found[start : start + len(rows), : block.shape[1]] = block[: len(rows)]
    return found


def padded(rows: Vectors) -> Vectors:
    """A whole block: the rows, and zeros below."""
    block = np.zeros((BLOCK, rows.shape[1]), dtype=np.float32)
    block[: len(rows)] = rows
    return block


def unit(vectors: Vectors) -> Vectors:
    """(n, dim) rows scaled to length 1; rows of zeros stay as they are."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    norms[norms == 0] = 1
    return (vectors / norms).astype(np.float32)
