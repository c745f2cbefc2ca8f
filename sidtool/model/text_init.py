"""What the texts of a code's items look like in a model's embeddings, for the first rows of new
tokens."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from sidtool.model.embedding_init import Matrix
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.bundle.item_map import ItemMap

BATCH = 1 << 14
"""Texts that are tokenized at a time."""


def title_tokens(items: ItemMap, tokenizer: Any, n_rows: int) -> csr_matrix:
    """(items, n_rows) float32: how often each token with an embedding row occurs in the title of
    each item, divided by the title's length. Rows of items without a title are zero."""
    indexes: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
    lengths: list[int] = []
    for titles in _batches(items):
        encoded = tokenizer(titles, add_special_tokens=False, verbose=False)["input_ids"]
        for ids in encoded:
            with_row = np.array([token for token in ids if token < n_rows], dtype=np.int64)
            indexes.append(with_row)
            lengths.append(len(with_row))
    shares = 1 / np.maximum(np.repeat(lengths, lengths), 1)
    pointers = np.concatenate([[0], np.cumsum(lengths)])
    columns = np.concatenate(indexes)
    return csr_matrix((shares.astype(np.float32), columns, pointers), (len(items), n_rows))


def level_points(bundle: Bundle, tokens: csr_matrix, rows: Matrix) -> list[Matrix]:
    """Per level, (codes, width) float32: the mean over a code's active items of the mean embedding
    row of their titles' tokens. A code without items is the mean of its level.

    `tokens` are those of `title_tokens`, `rows` (n_rows, width) the existing embedding rows."""
    active = bundle.active
    titles = tokens[active]  # (active, n_rows)
    has_title = np.diff(titles.indptr) > 0
    titles = titles[has_title]
    codes = bundle.items.codes[active][has_title]
    points = []
    for level, size in enumerate(bundle.space.sizes):
        places = (codes[:, level].astype(np.int64), np.arange(len(codes)))
        members = csr_matrix((np.ones(len(codes), np.float32), places), (size, len(codes)))
        counts = np.asarray(members.sum(axis=1), dtype=np.float32)  # (codes, 1)
        means = (members @ titles) @ rows / np.maximum(counts, 1)
        empty = counts[:, 0] == 0
        means[empty] = means[~empty].mean(axis=0)
        points.append(means.astype(np.float32))
    return points


def _batches(items: ItemMap) -> Iterator[Sequence[str]]:
    for start in range(0, len(items), BATCH):
        stop = min(start + BATCH, len(items))
        yield [items.title(row) for row in range(start, stop)]
