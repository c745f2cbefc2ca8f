import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sidtool.base.errors import DataError
from sidtool.cli.reports import bundle_parts
from sidtool.cli.reports.blocks import Details, Listing, Mark, Node, Scatter, Table
from sidtool.cli.reports.bundle_page import bundle_page
from sidtool.cli.reports.bundle_parts import (
    DRAWN,
    NEAREST,
    QUERIES,
    CodebookTree,
    grouped_points,
    map_blocks,
    neighbor_blocks,
    principal_plane,
)
from sidtool.cli.reports.render import render
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.bundle.item_map import ItemMap
from sidtool.tokenizer.make.explain import explain
from sidtool.tokenizer.sid import SidSpace
from tests.bundles import small_bundle
from tests.cli.reports.html_page import parsed


def four_items() -> Bundle:
    """Two red lamps below code 0, a blue soap and a retired one below code 1."""
    items = ItemMap.of(
        SidSpace((2, 2), begin=None, end=None),
        ["a", "b", "c", "d"],
        np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.uint16),
        ["red lamp", "red lamp two", "blue soap", "old soap"],
        np.array([False, False, False, True]),
    )
    return Bundle.of(items, None, "reassign", name="four")


def walked(nodes: tuple[Node, ...]) -> list[Node]:
    return [subtree_node for node in nodes for subtree_node in (node, *walked(node.children))]


def test_the_tree_counts_active_items() -> None:
    lamps, soap = CodebookTree(four_items(), {"a": "x", "b": "y", "c": "y"}).nodes()
    assert (lamps.prefix, lamps.items) == ("<s_a_0>", 2)
    # of two values with one item each, the first
    assert (lamps.common, lamps.common_share) == ("x", 0.5)
    assert [term.word for term in lamps.terms] == ["lamp", "red"]
    assert [example.item_id for example in lamps.examples] == ["a", "b"]
    assert [example.item_id for example in soap.examples] == ["c"]
    assert soap.terms == ()
    assert (soap.common, soap.common_share) == ("y", 1.0)
    _, soap = CodebookTree(four_items(), {"a": "x"}).nodes()
    assert (soap.common, soap.common_share) == ("", 0.0)


def test_a_bundle_of_retired_items_has_a_page(tmp_path: Path) -> None:
    bundle = small_bundle(3)
    retired = replace(bundle.items, retired=np.ones(3, dtype=np.bool_))
    empty = Bundle.of(retired, bundle.codebook, "reassign", name="empty")
    assert CodebookTree(empty).nodes() == ()
    np.save(tmp_path / "vectors.npy", np.ones((3, 8), dtype=np.float32))
    (tmp_path / "vectors.ids.txt").write_text("i0\ni1\ni2\n")
    page = bundle_page({"empty": empty}, embeddings=tmp_path / "vectors.npy")
    assert "Neighbors need two active items, there are 0." in parsed(render(page)).text


def test_the_tree_of_a_small_bundle_has_every_item() -> None:
    bundle = small_bundle(200, (4, 5, 20), seed=1)
    nodes = walked(CodebookTree(bundle).nodes())
    items = [example.item_id for node in nodes for example in node.examples]
    assert sorted(items) == sorted(bundle.items.ids)
    assert not any(node.left_out for node in nodes)


def test_every_node_has_the_words_and_the_number_that_explain_has() -> None:
    bundle = small_bundle(200, (4, 5, 20), seed=1)
    for node in walked(CodebookTree(bundle).nodes()):
        group = explain(bundle, node.prefix, terms=bundle_parts.TERMS)
        assert (node.items, node.terms) == (group.items, group.terms)


def test_a_large_tree_says_what_it_leaves_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_parts, "WHOLE", 10)
    monkeypatch.setattr(bundle_parts, "WIDTHS", (4, 2, 1))
    bundle = small_bundle(300, (4, 5, 20), seed=1)
    nodes = CodebookTree(bundle).nodes()
    assert sum(node.items for node in nodes) == 300
    for node in nodes:
        others = node.items - sum(child.items for child in node.children)
        assert (len(node.children), node.left_out) == (2, f"and 3 more codes with {others} items")


def test_the_plane_is_that_of_the_largest_variances() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(50, 5)).astype(np.float32) * [5, 3, 1, 1, 0.1]
    points, variance = principal_plane(vectors.astype(np.float32))
    centered = vectors - vectors.mean(axis=0)
    left, singular, _ = np.linalg.svd(centered, full_matrices=False)
    expected = left[:, :2] * singular[:2]
    np.testing.assert_allclose(np.abs(points), np.abs(expected), atol=1e-3)
    assert variance == pytest.approx((singular[:2] ** 2).sum() / (singular**2).sum(), rel=1e-5)
    points, variance = principal_plane(vectors[:, :1].astype(np.float32))
    assert (points.shape, points[:, 1].any(), variance) == ((50, 2), False, 1.0)


def test_groups_of_points_are_the_most_frequent_ones() -> None:
    groups = ["b", "a", "a", "", *"cdefghi"]
    points = np.zeros((len(groups), 2))
    series = grouped_points(points, list(map(str, range(len(groups)))), groups)
    assert [group.name for group in series] == ["a", "b", "c", "d", "e", "f", "g", "all others"]
    assert (series[0].labels, series[-1].labels) == (("1", "2"), ("3", "9", "10"))


def test_a_map_needs_a_codebook_and_three_items() -> None:
    assert not list(map_blocks(small_bundle(codebook=False), None, "", ""))
    assert not list(map_blocks(small_bundle(2), None, "", ""))
    text, chart = map_blocks(small_bundle(DRAWN + 5, (20, 20, 20)), None, "", "")
    assert isinstance(text, str)
    assert text.startswith(f"{DRAWN:,} of {DRAWN + 5:,} items")
    assert isinstance(chart, Scatter)
    assert sum(len(series.points) for series in chart.series) == DRAWN


def test_levels_are_measured_by_hand() -> None:
    page = bundle_page({"four": four_items()}, {"a": "x", "b": "x", "c": "y"}, "kind")
    (levels,) = (section for section in page.sections if section.heading == "Levels")
    table = levels.blocks[0]
    assert isinstance(table, Table)
    figures = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    assert [row["prefixes"] for row in figures] == [2, 3]
    assert [row["items sharing one"] for row in figures] == [2, 0]
    assert [row["largest"] for row in figures] == [2, 1]
    # both lamps are x; at the second level no item shares its prefix
    assert [row["purity"] for row in figures] == [1.0, None]


def test_a_catalog_of_other_items_is_refused() -> None:
    bundle_page({"shop": four_items()}, {"b": "", "x": "red"}, "color")
    with pytest.raises(DataError, match=r"lacks all 3 items of shop \(first: 'a'\)"):
        bundle_page({"shop": four_items()}, {"x": "red", "y": "blue"}, "color")


def test_two_bundles_are_compared() -> None:
    old = four_items()
    codes = old.items.codes.copy()
    codes[0] = [1, 1]
    items = ItemMap.of(old.space, ["a", "b", "c", "e"], codes, list(old.items.titles or ()))
    new = Bundle.of(items, None, "reassign", name="new")
    page = bundle_page({"old": old, "new": new})
    (section,) = (section for section in page.sections if section.heading == "From old to new")
    counts, *_, moves = section.blocks
    assert isinstance(counts, Table)
    assert isinstance(moves, Table)
    assert ("added", 1, "e") in counts.rows
    assert ("moved at level 1", 1, "a") in counts.rows
    assert moves.rows == (("a", "<s_a_0><s_b_0>", "<s_a_1><s_b_1>", 1),)
    assert parsed(render(page)).text.count("From old to new") >= 2


@pytest.mark.slow
def test_a_page_does_not_grow_with_the_catalog() -> None:
    sizes, seconds = [], []
    for items in (20_000, 200_000):
        bundle = small_bundle(items, (64, 64, 64))
        start = time.process_time()
        page = render(bundle_page({"large": bundle}))
        seconds.append(time.process_time() - start)
        sizes.append(len(page))
    assert sizes[1] < 1.1 * sizes[0] < 5e6
    # no step takes longer than in proportion to the items
    assert seconds[1] < 15 * seconds[0]


def test_the_page_names_what_it_samples() -> None:
    text = parsed(render(bundle_page({"small": small_bundle(2100, (20, 20, 20))}))).text
    assert "2,000 of 2,100 items" in text
    assert "at most 64, 8, 3, 2 codes" in text


def test_kept_neighbors_are_near_both_ways(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ids = [f"i{n}" for n in range(50)]
    vectors = rng.normal(size=(50, 4)).astype(np.float32)
    bundle = Bundle.from_vectors(ids, vectors, levels=(4, 4, 8))
    np.save(tmp_path / "v.npy", vectors)
    (tmp_path / "v.ids.txt").write_text("\n".join(ids))
    table, _, *details = neighbor_blocks(bundle, tmp_path / "v.npy", "")
    assert isinstance(table, Table)
    assert [number for number, _ in table.rows] == [1, 2, 3]
    assert len(details) == QUERIES
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    sids = bundle.sids()
    for detail in details:
        assert isinstance(detail, Details)
        item = detail.summary.partition(":")[0]
        cosines = directions @ directions[ids.index(item)]
        order = [ids[at] for at in np.argsort(-cosines) if ids[at] != item][:NEAREST]
        nearest = detail.blocks[0]
        assert isinstance(nearest, Table)
        assert [row[0] for row in nearest.rows] == order
        near_both_ways = [row[0] for row in nearest.rows if isinstance(row[3], Mark)]
        assert f"{len(near_both_ways)} of {NEAREST}" in detail.summary
        codes = bundle.space.parse(sids[item])
        for neighbor, cosine, n_shared, _ in nearest.rows:
            np.testing.assert_allclose(cosine, cosines[ids.index(str(neighbor))], atol=1e-5)
            assert n_shared == _shared(codes, bundle.space.parse(sids[str(neighbor)]))
        instead = [block.lines for block in detail.blocks[1:] if isinstance(block, Listing)]
        near_by_sid = {*near_both_ways, *(line for lines in instead for line in lines)}
        assert len(near_by_sid) == NEAREST
        # an item that shares more codes is nearer by SID than all that share fewer
        depth = {other: _shared(codes, bundle.space.parse(sids[other])) for other in ids}
        least = min(depth[other] for other in near_by_sid)
        assert all(other in near_by_sid or depth[other] <= least for other in set(ids) - {item})


def _shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return next((at for at in range(len(one)) if one[at] != other[at]), len(one))
