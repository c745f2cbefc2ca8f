"""STATIC (youtube/static-constraint-decoding): the arrays of its `build_static_index`.

A state stands for a prefix: 0 is the root and the end of a SID, code c of the first level leads to
state c + 1, and the prefixes of 2, 3 ... levels - 1 codes follow in SID order. Codes start at 0 at
every level, so the vocabulary is the largest level. The arrays are written as one `.npz`.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import UsageError
from sidtool.base.output import new_file
from sidtool.integrations.formats.token_ids import ModelTokens
from sidtool.tokenizer.bundle import Bundle, Trie
from sidtool.tokenizer.sid import ItemRows

DENSE_LEVELS = 2
"""Levels that STATIC reads from a dense table; the others are rows of a sparse matrix."""


@dataclass(frozen=True)
class StaticIndex:
    """V is the size of the vocabulary, S the number of states, d the number of dense levels."""

    packed_csr: NDArray[np.int32]
    """(edges + V, 2): code and next state of every edge, by state; then V rows of padding (V, 0)"""
    indptr: NDArray[np.int32]
    """(S + 2,): where each state's edges start, then the padding"""
    layer_max_branches: NDArray[np.int64]
    """(levels,): the largest number of children at each depth"""
    start_mask: NDArray[np.bool_]
    """(V,): whether a code starts a SID"""
    dense_mask: NDArray[np.bool_]
    """(V,) * d: whether d codes start a SID"""
    dense_states: NDArray[np.int32]
    """(V,) * d: their states"""


def static_index(trie: Trie, tokens: ModelTokens | None = None) -> StaticIndex:
    """The arrays of a trie, over codes or over the token ids of a model, which all its codes have.

    Raises UsageError if SIDs have one level: STATIC needs at least two."""
    if trie.levels < 2:
        raise UsageError("STATIC needs semantic IDs of at least two levels, and these have 1")
    if tokens is None:
        vocabulary = max(trie.sizes)
        n_dense = min(DENSE_LEVELS, trie.levels - 1)
        labels = [codes.astype(np.int32) for codes in trie.codes]
    else:
        vocabulary = tokens.vocabulary
        n_dense = 1
        by_level = zip(tokens.levels, trie.codes, strict=True)
        labels = [ids[codes].astype(np.int32) for ids, codes in by_level]
    states, n_states = _node_states(labels, vocabulary)
    start_mask = np.zeros(vocabulary, dtype=np.bool_)
    start_mask[labels[0]] = True
    packed_csr, indptr = _sparse_edges(trie, labels, states, n_states, vocabulary)
    dense_mask, dense_states = _dense_tables(trie, labels, states, vocabulary, n_dense)
    return StaticIndex(
        packed_csr=packed_csr,
        indptr=indptr,
        layer_max_branches=np.array(trie.fan_out),
        start_mask=start_mask,
        dense_mask=dense_mask,
        dense_states=dense_states,
    )


def write_static(
    bundle: Bundle, path: Path, tokens: ModelTokens | None = None, *, force: bool = False
) -> None:
    """Write the arrays of the active items to an `.npz`."""
    trie = bundle.trie()
    if tokens is not None:
        codes = bundle.items.codes
        rows = tokens.rows_with_tokens(codes, bundle.active)
        trie = Trie.from_codes(codes[rows], bundle.space.sizes, ItemRows(rows))
    arrays: dict[str, Any] = asdict(static_index(trie, tokens))
    with new_file(path, force=force) as target, target.open("wb") as stream:
        np.savez(stream, **arrays)


Labels = list[NDArray[np.int32]]
"""For each level, the code or token id of every node."""


def _node_states(labels: Labels, vocabulary: int) -> tuple[list[NDArray[np.int32]], int]:
    """The state of every node of each level, and the number of states."""
    states = [labels[0] + 1]
    n_states = vocabulary + 1
    for level_labels in labels[1:-1]:
        n_nodes = len(level_labels)
        states.append(np.arange(n_states, n_states + n_nodes, dtype=np.int32))
        n_states += n_nodes
    leaves = np.zeros(len(labels[-1]), dtype=np.int32)  # a whole SID leads back to the root
    return [*states, leaves], n_states


def _sparse_edges(
    trie: Trie,
    labels: Labels,
    states: list[NDArray[np.int32]],
    n_states: int,
    vocabulary: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """`packed_csr` and `indptr`: the edges from the second level on."""
    parents = np.concatenate(
        [
            np.repeat(states[level - 1], np.diff(trie.children[level]))
            for level in range(1, trie.levels)
        ]
    )
    edge_labels = np.concatenate(labels[1:])
    # token ids need not be in the order of codes
    order = np.lexsort((edge_labels, parents))
    edges = np.stack([edge_labels, np.concatenate(states[1:])], axis=1)[order]  # (edges, 2)
    padding = np.tile(np.array([[vocabulary, 0]], dtype=np.int32), (vocabulary, 1))
    # edges per state; the padding follows as one more state
    counts = np.bincount(parents, minlength=n_states)
    end = len(edges) + vocabulary
    indptr = np.concatenate([[0], np.cumsum(counts), [end]]).astype(np.int32)
    return np.concatenate([edges, padding]), indptr


def _dense_tables(
    trie: Trie,
    labels: Labels,
    states: list[NDArray[np.int32]],
    vocabulary: int,
    n_levels: int,
) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
    """`dense_mask` and `dense_states` over the prefixes of `n_levels` codes."""
    columns: list[NDArray[Any]] = [labels[0]]
    for level in range(1, n_levels):
        n_children = np.diff(trie.children[level])
        parents = [np.repeat(column, n_children) for column in columns]
        columns = [*parents, labels[level]]
    mask = np.zeros((vocabulary,) * n_levels, dtype=np.bool_)
    table = np.zeros(mask.shape, dtype=np.int32)
    mask[tuple(columns)] = True
    table[tuple(columns)] = states[n_levels - 1]
    return mask, table
