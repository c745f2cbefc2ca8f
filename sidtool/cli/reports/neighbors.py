"""Which of an item's nearest items by vector are still near by SID."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sidtool.cli.reports.blocks import Block, Details, Listing, Mark, Table, Text, named
from sidtool.data import VectorSource, open_vectors
from sidtool.tokenizer import (
    POOL,
    nearest,
    neighbor_preservation,
    prefix_similarity,
    shared_levels,
    unit,
)
from sidtool.tokenizer.bundle import Bundle

QUERIES = 12
"""Items whose neighbors are shown."""
NEAREST = 10
"""Neighbors of each."""


def neighbor_blocks(
    bundle: Bundle, embeddings: str | Path, of: str, *, seed: int = 0
) -> Iterator[Block]:
    """What the SIDs of a bundle keep of the neighbors by the vectors in a file, measured and for a
    few items drawn with the seed; `of` ends the captions.

    Raises DataError if the file has no vector of an active item, and as `open_vectors`."""
    items = bundle.items
    ids = [items.ids[row] for row in bundle.active.tolist()]
    vectors = open_vectors(Path(embeddings), ids, by_row=False)
    if len(ids) < 2:
        yield Text(f"Neighbors need two active items, there are {len(ids)}.")
        return
    codes = items.codes[bundle.active]
    measured = neighbor_preservation(vectors, codes, bundle.codebook, seed=seed)
    rows = tuple(enumerate(measured.jaccard, 1))
    yield Table(f"Neighbors kept by the first codes{of}", ("codes", "Jaccard overlap"), rows)
    yield Text(
        f"Mean overlap of the {measured.k} nearest items by vector and by prefix, for "
        f"{measured.queries:,} items among {measured.pool:,}. Below are {QUERIES} items drawn at "
        f"random: an item's neighbor is kept if it is also among the {NEAREST} nearest by SID."
    )
    yield from _examples(bundle, vectors, seed)


def _examples(bundle: Bundle, vectors: VectorSource, seed: int) -> Iterator[Details]:
    codes = bundle.items.codes[bundle.active]
    pool = np.random.default_rng(seed).permutation(len(codes))[:POOL]
    queries = np.arange(min(QUERIES, len(pool)))
    k = min(NEAREST, len(pool) - 1)
    if k < 1:
        return
    directions = unit(vectors.take(pool))
    cosines = directions[queries] @ directions.T  # (q, n)
    by_vector = nearest(cosines.copy(), queries, k)
    by_sid = nearest(prefix_similarity(codes[pool], queries, bundle.codebook), queries, k)
    shared = shared_levels(codes[pool], queries)
    items = bundle.items
    names = [named(items.ids[row], items.title(row)) for row in bundle.active[pool].tolist()]
    for query in queries.tolist():
        columns = (cosines[query], shared[query], by_vector[query], by_sid[query])
        yield _details(names, query, *columns)


def _details(
    names: Sequence[str],
    query: int,
    cosines: NDArray[np.float32],
    shared: NDArray[np.float64],
    by_vector: NDArray[np.bool_],
    by_sid: NDArray[np.bool_],
) -> Details:
    """The neighbors of one item; the arrays have one value per item of the pool."""
    neighbors = np.flatnonzero(by_vector)
    neighbors = neighbors[np.argsort(-cosines[neighbors], kind="stable")]
    rows = tuple(
        (
            names[at],
            float(cosines[at]),
            int(shared[at]),
            Mark("kept") if by_sid[at] else "lost",
        )
        for at in neighbors.tolist()
    )
    columns = ("nearest by vector", "cosine", "first codes shared", "by SID")
    instead = tuple(names[at] for at in np.flatnonzero(by_sid & ~by_vector).tolist())
    n_kept = int((by_vector & by_sid).sum())
    blocks: list[Listing | Table] = [Table(f"Neighbors of {names[query]}", columns, rows)]
    if instead:
        blocks.append(Listing("Near by SID instead:", instead))
    return Details(f"{names[query]}: {n_kept} of {len(rows)} neighbors kept", tuple(blocks))
