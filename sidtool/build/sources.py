"""From sources of vectors, and from people, to what is quantized: fused vectors, pairs of items,
and what is recorded.

Knows which signal enters where; how pairs are counted, fused or learned from is told in their own
rooms."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np

from sidtool.data.cooccurrence import Cooccurrence, count_cooccurrence
from sidtool.data.splits import Split
from sidtool.data.vectors import VectorSource
from sidtool.errors import DataError, UsageError
from sidtool.quantize.contrastive import Pairs
from sidtool.quantize.fusion import Blend, Fusion, fuse, join_signal, join_sources
from sidtool.quantize.ppmi import factors, ppmi
from sidtool.sid import Vectors

Way = Literal["fused", "contrastive", "both"]
"""How co-occurrence enters: as a part of every vector, as a loss of the method, or as both."""


@dataclass(frozen=True)
class Material:
    """What a codebook is fitted to."""

    vectors: VectorSource
    """(n, width): fused, where anything is."""
    fusion: Fusion | None = None
    pairs: Pairs | None = None
    """Rows that occur together, for a method that learns from them."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """What the recipe records beside the codebook's own facts: of the training part alone."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """What is recorded outside the identity: the split, with what it holds out."""


def material(
    ids: Sequence[str],
    sources: Sequence[Vectors | VectorSource],
    *,
    weights: Sequence[float] = (),
    blend: Blend,
    split: Split | None = None,
    signal: Way = "fused",
    seed: int = 0,
) -> Material:
    """What the items `ids` are quantized by: `sources` of (n, dim_i) vectors, and the training
    events of a split.

    One source and nothing else passes as it is; what is fused is held in memory. Raises DataError
    if rows and items differ or no two items occur together, UsageError for weights that do not fit
    or a memory that is too little."""
    for vectors in sources:
        if len(vectors) != len(ids):
            raise DataError(f"{len(vectors)} vectors for {len(ids)} items")
    if split is None:
        return _fused(sources, weights, blend, None, seed)
    pairs = count_cooccurrence(split, ids, window=blend.window, decay=blend.decay)
    fused_pairs = None if signal == "contrastive" else pairs
    given = _fused(sources, weights, blend, fused_pairs, seed)
    return replace(
        given,
        pairs=None if signal == "fused" else Pairs.of(pairs.counts),
        recipe={"signal": {"way": signal, **asdict(pairs.record)}},
        source={"split": split.reference.to_json()},
    )


def _fused(
    sources: Sequence[Vectors | VectorSource],
    weights: Sequence[float],
    blend: Blend,
    cooccurrence: Cooccurrence | None,
    seed: int,
) -> Material:
    if cooccurrence is None and len(sources) == 1 and blend.text_dim is None:
        return Material(VectorSource.of(sources[0]))
    arrays = [_whole(VectorSource.of(vectors)) for vectors in sources]
    fusion, joined = join_sources(arrays, weights, blend), np.concatenate(arrays, axis=1)
    if cooccurrence is None:
        return Material(VectorSource.of(fuse(fusion.arrays, fusion.facts, joined)), fusion)
    signal = factors(ppmi(cooccurrence.counts), blend.signal_dim, seed)
    fusion, fused = join_signal(fusion, joined, signal, cooccurrence.events, blend)
    return Material(VectorSource.of(fused), fusion)


def _whole(source: VectorSource) -> Vectors:
    if source.limit < len(source):
        raise UsageError(
            f"{len(source)} vectors are fused in memory, and {source.limit} fit the budget given"
        )
    return source.all()
