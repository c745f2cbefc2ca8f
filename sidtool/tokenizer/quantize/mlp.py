"""Feed-forward networks in numpy, which map embeddings to the space of the centroids and back.

Layer i of a network called "in" has the float32 arrays `in_{i}_weight` (from, to) and `in_{i}_bias`
(to,); the activation between layers is max(x, 0)."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Rows = NDArray[np.float32]
"""(rows, width): vectors, or what a layer makes of them."""
HIDDEN = (512, 256, 128)
Epochs = Annotated[
    int,
    "Passes over the vectors in training, by batches of up to 512; few vectors need more passes.",
]
BLOCK = 1024
"""Rows computed at once. Shorter blocks are padded: a matrix product of another shape rounds
differently, and codes must not depend on the other rows."""

Arrays = Mapping[str, NDArray[Any]]


def has(arrays: Arrays, network: str) -> bool:
    """Whether the arrays contain a network of that name."""
    return f"{network}_0_weight" in arrays


def forward(arrays: Arrays, network: str, vectors: Rows) -> Rows:
    """(n, from) -> (n, to) float32; the vectors themselves if there is no such network."""
    layer = 0
    while f"{network}_{layer}_weight" in arrays:
        if layer:
            vectors = np.maximum(vectors, 0)
        weight = arrays[f"{network}_{layer}_weight"]
        bias = arrays[f"{network}_{layer}_bias"]
        vectors = vectors @ weight + bias
        layer += 1
    return vectors


def check_network(arrays: Arrays, network: str, width: int) -> int:
    """The width of what a network gives for vectors of some width; that width if there is none.
    Raises ValueError unless the shapes of its arrays fit each other, KeyError if a bias is
    missing."""
    layer = 0
    while f"{network}_{layer}_weight" in arrays:
        weight = arrays[f"{network}_{layer}_weight"]
        bias = arrays[f"{network}_{layer}_bias"]
        if weight.ndim != 2 or weight.shape[0] != width or bias.shape != weight.shape[1:]:
            raise ValueError(
                f"network {network!r}, layer {layer} has shapes {weight.shape} and {bias.shape} "
                f"for vectors of width {width}"
            )
        width = weight.shape[1]
        layer += 1
    return width


def by_blocks(
    function: Callable[[Rows], NDArray[Any]],
    vectors: Rows,
    width: int,
    dtype: DTypeLike = np.float32,
) -> NDArray[Any]:
    """(n, from) -> (n, width) in padded blocks: a row's result does not depend on others.
    `function` maps a block to as many rows of at most `width` values; zeros fill up the rest."""
    result = np.zeros((len(vectors), width), dtype=dtype)
    for start in range(0, len(vectors), BLOCK):
        rows = vectors[start : start + BLOCK]
        padded = np.zeros((BLOCK, rows.shape[1]), dtype=np.float32)
        padded[: len(rows)] = rows
        block = function(padded)
        result[start : start + len(rows), : block.shape[1]] = block[: len(rows)]
    return result


def unit(vectors: Rows) -> Rows:
    """(n, dim) rows scaled to length 1; rows of zeros stay zero."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    norms[norms == 0] = 1
    return (vectors / norms).astype(np.float32)
