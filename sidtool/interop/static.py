"""STATIC (youtube/static-constraint-decoding): the arrays that its `build_static_index` makes of a
catalog.

State of a prefix: 0 is the root and what follows a whole SID; code c of the first level is state c
+ 1; the prefixes of 2, 3 ... levels - 1 codes follow, in SID order. Codes are counted from 0 at
every level, as STATIC does: its vocabulary is the largest level. Written as one `.npz` with
STATIC's own names."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.bundle.bundle import Bundle
from sidtool.bundle.trie import Trie
from sidtool.errors import UsageError
from sidtool.output import new_file

DENSE_LEVELS = 2
"""Levels that STATIC looks up in a table; the others are rows of a sparse matrix."""


@dataclass(frozen=True)
class StaticIndex:
    """V is the vocabulary, S the number of states, d the number of dense levels."""

    packed_csr: NDArray[np.int32]
    """(edges + V, 2): code and next state of every edge, by state; then V rows of padding (V, 0).
    """
    indptr: NDArray[np.int32]
    """(S + 2,): where each state's edges start, and the padding."""
    layer_max_branches: NDArray[np.int64]
    """(levels,): the largest number of children at each depth."""
    start_mask: NDArray[np.bool_]
    """(V,): the first codes."""
    dense_mask: NDArray[np.bool_]
    """(V,) * d: the prefixes of d codes."""
    dense_states: NDArray[np.int32]
    """(V,) * d: their states."""


def static_index(trie: Trie) -> StaticIndex:
    """The arrays of a trie. Raises UsageError if it has a single level: STATIC needs one more than
    it keeps dense."""
    if trie.levels < 2:
        raise UsageError("STATIC needs semantic IDs of two levels at least, and these have 1")
    vocabulary, dense = max(trie.sizes), min(DENSE_LEVELS, trie.levels - 1)
    states, n_states = _states(trie, vocabulary)
    parents = [
        np.repeat(states[level - 1], np.diff(trie.children[level]))
        for level in range(1, trie.levels)
    ]
    codes = np.concatenate([column.astype(np.int32) for column in trie.codes[1:]])
    edges = np.stack([codes, np.concatenate(states[1:])], axis=1)
    padding = np.tile(np.array([[vocabulary, 0]], dtype=np.int32), (vocabulary, 1))
    counts = np.bincount(np.concatenate(parents), minlength=n_states)
    indptr = np.concatenate([[0], np.cumsum(counts), [len(edges) + vocabulary]]).astype(np.int32)
    start_mask = np.zeros(vocabulary, dtype=np.bool_)
    start_mask[trie.codes[0]] = True
    dense_mask, dense_states = _dense(trie, states[dense - 1], vocabulary, dense)
    return StaticIndex(
        np.concatenate([edges, padding]),
        indptr,
        np.array(trie.fan_out),
        start_mask,
        dense_mask,
        dense_states,
    )


def write_static(bundle: Bundle, path: Path, *, force: bool = False) -> None:
    """Write the arrays of the active items to an `.npz`."""
    arrays: dict[str, Any] = asdict(static_index(bundle.trie()))
    with new_file(path, force=force) as target, target.open("wb") as stream:
        np.savez(stream, **arrays)


def _states(trie: Trie, vocabulary: int) -> tuple[list[NDArray[np.int32]], int]:
    """The state of every node of each level, and the number of states."""
    states, total = [trie.codes[0].astype(np.int32) + 1], vocabulary + 1
    for column in trie.codes[1:-1]:
        states.append(np.arange(total, total + len(column), dtype=np.int32))
        total += len(column)
    return [*states, np.zeros(trie.n_leaves, dtype=np.int32)], total


def _dense(
    trie: Trie, states: NDArray[np.int32], vocabulary: int, dense: int
) -> tuple[NDArray[np.bool_], NDArray[np.int32]]:
    """Tables over the prefixes of `dense` codes: whether it is one, and its state."""
    places: list[NDArray[Any]] = [trie.codes[0]]
    for level in range(1, dense):
        widths = np.diff(trie.children[level])
        places = [*(np.repeat(column, widths) for column in places), trie.codes[level]]
    mask = np.zeros((vocabulary,) * dense, dtype=np.bool_)
    table = np.zeros(mask.shape, dtype=np.int32)
    mask[tuple(places)], table[tuple(places)] = True, states
    return mask, table
