from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidtool.model.vocabulary.tokens import SidTokens
from sidtool.recommendation.search.beam import beam_search
from sidtool.recommendation.search.device_trie import FilterArrays, trie_arrays
from sidtool.recommendation.search.filters import LeafFilter
from sidtool.tokenizer.bundle.trie import Trie
from sidtool.tokenizer.sid import SidSpace
from tests.search_cases import TEXT, catalog, make, model_of

rows = st.lists(st.integers(-1, 80), max_size=60)
rows_of_bundle = rows.map(lambda rows: np.array(rows, dtype=np.int64))


def eligible(trie: Trie, allow: Any, deny: Any) -> set[int]:
    """The row ids that a filter allows, by definition."""
    rows = {
        int(row)
        for leaf in range(trie.n_leaves)
        for row in trie.item_rows(trie.leaf_positions(leaf))
    }
    return (rows if allow is None else rows & set(allow.tolist())) - set(deny.tolist())


@st.composite
def tries(draw: st.DrawFn) -> Trie:
    """Tries with and without shared SIDs, of bundles with and without retired items."""
    n, seed = draw(st.integers(1, 50)), draw(st.integers(0, 99))
    codes = catalog((4, 3, 5), n, seed, repeats=draw(st.booleans()))
    if draw(st.booleans()):
        return Trie.from_codes(codes, (4, 3, 5))
    active = np.sort(np.random.default_rng(len(codes)).choice(80, len(codes), replace=False))
    return Trie.from_codes(codes, (4, 3, 5), active)


@given(
    tries(), st.lists(st.tuples(st.none() | rows_of_bundle, rows_of_bundle), min_size=1, max_size=4)
)
def test_the_items_below_a_node_that_pass_are_counted(trie: Trie, lists: Any) -> None:
    filters = [
        LeafFilter.of(trie, None if allow is None else trie.positions(allow), deny)
        for allow, deny in lists
    ]
    arrays = trie_arrays(trie, torch.device("cpu"))
    masks = FilterArrays([*filters, None], arrays)
    codes = trie.leaf_codes(np.arange(trie.n_leaves))
    for level in range(trie.levels):
        nodes = torch.arange(len(trie.codes[level])).expand(len(filters) + 1, 1, -1)
        counts = masks.eligible(level, nodes)[:, 0].tolist()
        prefixes = sorted({tuple(row[: level + 1]) for row in codes.tolist()})
        for (allow, deny), result in zip([*lists, (None, np.zeros(0))], counts, strict=True):
            good = eligible(trie, allow, deny)
            below = dict.fromkeys(prefixes, 0)
            for leaf in range(trie.n_leaves):
                prefix = tuple(codes[leaf, : level + 1].tolist())
                below[prefix] += len(good & set(trie.item_rows(trie.leaf_positions(leaf)).tolist()))
            assert list(below.values()) == result
    for (allow, deny), one in zip(lists, filters, strict=True):
        positions = np.arange(trie.n_items)
        passing = trie.item_rows(positions[one.passes(positions)]).tolist()
        assert passing == sorted(eligible(trie, allow, deny))
        assert one.n_eligible == len(passing)


@given(
    tries(),
    st.lists(st.tuples(st.none() | rows_of_bundle, rows_of_bundle), min_size=1, max_size=3),
    st.integers(1, 9),
)
def test_filtered_beams_are_full_and_have_no_excluded_item(trie: Trie, lists: Any, k: int) -> None:
    tokens = SidTokens(SidSpace((4, 3, 5)), TEXT)
    model = model_of("llama", tokens)
    filters = [
        LeafFilter.of(trie, None if allow is None else trie.positions(allow), deny)
        for allow, deny in lists
    ]
    prompts = [[9 + row, 8, 7] for row in range(len(lists))]
    result = beam_search(model, prompts, trie, tokens, num_beams=2, k=k, filters=filters)
    for (allow, deny), one in zip(lists, result, strict=True):
        good = eligible(trie, allow, deny)
        rows = [
            set(trie.item_rows(trie.leaf_positions(leaf)).tolist()) for leaf in range(trie.n_leaves)
        ]
        leaves = [leaf for leaf in range(trie.n_leaves) if good & rows[leaf]]
        assert len(one.leaves) == min(k, len(leaves))
        assert set(one.leaves.tolist()) <= set(leaves)


def test_requests_share_an_allow_list() -> None:
    trie, _ = make((4, 3, 5), 50)
    allowed = trie.positions(np.arange(20))
    filters = [LeafFilter.of(trie, allowed, np.array([row])) for row in range(3)]
    arrays = trie_arrays(trie, torch.device("cpu"))
    assert len(FilterArrays(filters, arrays).allowed_keys) == 20


@given(tries(), st.integers(0, 2), st.integers(-9, 9))
def test_a_child_is_found_by_its_code_whatever_the_level_lacks(
    trie: Trie, level: int, code: int
) -> None:
    children, codes = trie.children[level], trie.codes[level]
    nodes, exist = trie_arrays(trie, torch.device("cpu")).child(
        level, torch.arange(len(children) - 1), torch.full((len(children) - 1,), code)
    )
    for parent, (node, exists) in enumerate(zip(nodes.tolist(), exist.tolist(), strict=True)):
        below = codes[children[parent] : children[parent + 1]].tolist()
        assert exists == (code in below)
        assert node == children[parent] + (below.index(code) if exists else 0)
