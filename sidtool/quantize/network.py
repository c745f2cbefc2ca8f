"""Feed-forward networks in numpy: how an embedding gets into the space of the centroids, and back.

Knows arrays; knows nothing of how they were trained. Layer i of a direction ("in" or "out") is `{direction}_{i}_weight`
(from, to) and `{direction}_{i}_bias` (to,), both float32; between layers stands max(x, 0).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.sid import Vectors

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
        vectors = vectors @ arrays[f"{direction}_{layer}_weight"] + arrays[f"{direction}_{layer}_bias"]
        layer += 1
    return vectors
