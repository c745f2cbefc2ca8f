from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.errors import UsageError
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.bundle import trie as trie_module
from sidtool.tokenizer.bundle.trie import Trie
from tests.bundles import small_bundle


@st.composite
def catalogs(draw: st.DrawFn) -> tuple[np.ndarray[Any, Any], tuple[int, ...]]:
    """Sorted codes, with repeats, over a small space of uneven levels."""
    sizes = tuple(draw(st.lists(st.sampled_from([1, 2, 7, 300, 1 << 16]), min_size=1, max_size=4)))
    sid = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    codes = sorted(draw(st.lists(sid, min_size=1, max_size=60)))
    return np.array(codes, dtype=np.uint16).reshape(len(codes), len(sizes)), sizes


@given(catalogs(), st.sampled_from([1, 3, 1 << 17]))
def test_children_agree_with_a_dictionary(case: Any, chunk: int) -> None:
    codes, sizes = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trie_module, "CHUNK", chunk)
        trie = Trie.from_codes(codes, sizes)
    rows = [tuple(row) for row in codes.tolist()]
    for level in range(len(sizes)):
        prefixes = sorted({row[:level] for row in rows})
        assert len(trie.children[level]) == len(prefixes) + 1
        widest = 0
        for node, prefix in enumerate(prefixes):
            first, stop = trie.children[level][node : node + 2]
            legal = sorted({row[level] for row in rows if row[:level] == prefix})
            assert trie.codes[level][first:stop].tolist() == legal
            widest = max(widest, len(legal))
        assert trie.fan_out[level] == widest
    leaves = sorted(set(rows))
    assert [tuple(row) for row in trie.leaf_codes(np.arange(len(leaves))).tolist()] == leaves
    for leaf, sid in enumerate(leaves):
        expected = [row for row, codes_ in enumerate(rows) if codes_ == sid]
        assert trie.item_rows(trie.leaf_positions(leaf)).tolist() == expected
    assert (trie.leaf_start is None) == (len(leaves) == len(rows))
    assert trie.leaves(np.arange(len(rows))).tolist() == [leaves.index(row) for row in rows]
    counts = trie.items_per_leaf(np.arange(-1, len(leaves))).tolist()
    assert counts == [0, *(rows.count(sid) for sid in leaves)]
    positions, n_items = trie.items(np.arange(len(leaves)))
    assert (positions.tolist(), n_items.tolist()) == (list(range(len(rows))), counts[1:])


@given(catalogs(), st.booleans(), st.data())
def test_row_ids_of_the_bundle_are_returned(case: Any, is_whole: bool, data: st.DataObject) -> None:
    codes, sizes = case
    ids = st.sets(st.integers(0, 200), min_size=len(codes), max_size=len(codes))
    active = np.arange(len(codes)) if is_whole else np.array(sorted(data.draw(ids)))
    trie = Trie.from_codes(codes, sizes, None if is_whole else active)
    rows = np.array(data.draw(st.lists(st.integers(-1, 210), max_size=50)), dtype=np.int64)
    expected = sorted(set(rows.tolist()) & set(active.tolist()))
    positions = trie.positions(rows)
    assert active[positions].tolist() == expected
    for position in positions:
        (leaf,) = trie.leaves(np.array([position]))
        assert active[position] in trie.item_rows(trie.leaf_positions(int(leaf)))


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([[1, 2], [1, 1]], "lexicographic order"),
        ([[1, 2], [0, 3]], "lexicographic order"),
        (np.zeros((0, 2)), "no items"),
        ([[0, 0, 0]], "2 levels"),
    ],
)
def test_codes_that_make_no_trie_are_refused(codes: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Trie.from_codes(np.array(codes, dtype=np.uint16), (4, 4))


def test_a_bundle_without_active_items_has_no_trie() -> None:
    bundle = small_bundle(2)
    items = replace(bundle.items, retired=np.ones(2, dtype=np.bool_))
    with pytest.raises(UsageError, match="no items"):
        Bundle.of(items, None, "reassign", name="retired").trie()


def test_a_large_trie_uses_little_memory() -> None:
    rng = np.random.default_rng(0)
    keys = np.unique(rng.integers(0, 1 << 32, 200_000))
    codes = np.stack([(keys >> shift & 255).astype(np.uint16) for shift in (24, 16, 8, 0)], axis=1)
    trie = Trie.from_codes(codes, (256,) * 4)
    assert trie.nbytes < 7 * len(codes) + 5 * 65536
    assert [array.dtype for array in trie.codes] == [np.uint8] * 4
    assert (trie.leaf_codes(np.arange(len(codes))) == codes).all()
