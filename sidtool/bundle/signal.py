"""From sources of vectors, and from people, to what is quantised: fused vectors, pairs of items, and what is recorded.

Knows which signal enters where; how pairs are counted, fused or learned from is told in their own rooms.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from sidtool.catalog.splits import Split
from sidtool.catalog.together import met_together
from sidtool.errors import DataError, UsageError
from sidtool.quantize.fusion import Blend, Fusion, fuse, join_signal, join_sources
from sidtool.quantize.signal import factors, ppmi
from sidtool.sid import Vectors
from sidtool.vectors import VectorSource

Way = Literal["fused"]
"""How co-occurrence enters: as a part of every vector."""


@dataclass(frozen=True)
class Material:
    """What a codebook is fitted to."""

    vectors: VectorSource
    """(n, width): fused, where anything is."""
    fusion: Fusion | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """What the recipe records beside the codebook's own facts: of the training part alone."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """What is recorded beside the identity: of the whole file."""


def material(
    ids: Sequence[str],
    sources: Sequence[Vectors | VectorSource],
    *,
    weights: Sequence[float] = (),
    blend: Blend,
    split: Split | None = None,
    seed: int = 0,
) -> Material:
    """What the items `ids` are quantised by: `sources` of (n, dim_i) vectors, and the training events of a split.

    One source and nothing else passes as it is; what is fused is held in memory. Raises DataError if rows and items
    differ or no two items occur together, UsageError for weights that do not fit or a memory that is too little.
    """
    for vectors in sources:
        if len(vectors) != len(ids):
            raise DataError(f"{len(vectors)} vectors for {len(ids)} items")
    if split is None and len(sources) == 1 and blend.text_dim is None:
        return Material(VectorSource.of(sources[0]))
    arrays = [_whole(VectorSource.of(vectors)) for vectors in sources]
    fusion, joined = join_sources(arrays, weights, blend), np.concatenate(arrays, axis=1)
    if split is None:
        return Material(VectorSource.of(fuse(fusion.arrays, fusion.facts, joined)), fusion)
    together = met_together(split, ids, window=blend.window, decay=blend.decay)
    signal = factors(ppmi(together.counts), blend.signal_dim, seed)
    fusion, fused = join_signal(fusion, joined, signal, together.events, blend)
    return Material(VectorSource.of(fused), fusion, {"signal": together.facts}, {"interactions": split.facts})


def _whole(source: VectorSource) -> Vectors:
    if source.limit < len(source):
        raise UsageError(f"{len(source)} vectors are fused in memory, and {source.limit} fit the budget given")
    return source.all()
