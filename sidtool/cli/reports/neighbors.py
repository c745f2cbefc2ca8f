"""Which of an item's nearest items by vector are still near by SID."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sidtool.cli.reports.blocks import Block, Details, Listing, Mark, Table, Text, named
from sidtool.data import VectorSource, open_vectors
from sidtool.tokenizer import NearItems, near_items, neighbor_preservation
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
    near = near_items(vectors, codes, bundle.codebook, queries=QUERIES, k=NEAREST, seed=seed)
    items = bundle.items
    names = [named(items.ids[row], items.title(row)) for row in bundle.active[near.pool].tolist()]
    for query in range(len(near.cosines)):
        yield _details(names, query, near)


def _details(names: Sequence[str], query: int, near: NearItems) -> Details:
    """The neighbors of one item; `names` has one per item of the pool."""
    cosines = near.cosines[query]
    by_vector = near.by_vector[query]
    by_sid = near.by_sid[query]
    neighbors = np.flatnonzero(by_vector)
    neighbors = neighbors[np.argsort(-cosines[neighbors], kind="stable")]
    rows = tuple(
        (
            names[at],
            float(cosines[at]),
            int(near.shared[query, at]),
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
