"""Neighbors by vector and by SID, against loops."""

from pathlib import Path

import numpy as np

from sidtool.cli.reports.blocks import Details, Listing, Mark, Table
from sidtool.cli.reports.bundle_parts import NEAREST, QUERIES, neighbor_blocks
from sidtool.tokenizer.bundle import Bundle


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
    for each in details:
        assert isinstance(each, Details)
        item = each.summary.partition(":")[0]
        cosines = directions @ directions[ids.index(item)]
        order = [ids[at] for at in np.argsort(-cosines) if ids[at] != item][:NEAREST]
        nearest = each.blocks[0]
        assert isinstance(nearest, Table)
        assert [row[0] for row in nearest.rows] == order
        near_both_ways = [row[0] for row in nearest.rows if isinstance(row[3], Mark)]
        assert f"{len(near_both_ways)} of {NEAREST}" in each.summary
        codes = bundle.space.parse(sids[item])
        for neighbor, cosine, shared, _ in nearest.rows:
            np.testing.assert_allclose(cosine, cosines[ids.index(str(neighbor))], atol=1e-5)
            others = bundle.space.parse(sids[str(neighbor)])
            first = next(at for at in range(3) if codes[at] != others[at])
            assert shared == first
        instead = [block.lines for block in each.blocks[1:] if isinstance(block, Listing)]
        near_by_sid = {*near_both_ways, *(line for lines in instead for line in lines)}
        assert len(near_by_sid) == NEAREST
        # an item that shares more codes is nearer by SID than all that share fewer
        depth = {other: _shared(codes, bundle.space.parse(sids[other])) for other in ids}
        least = min(depth[other] for other in near_by_sid)
        assert all(other in near_by_sid or depth[other] <= least for other in set(ids) - {item})


def _shared(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    return next((at for at in range(len(one)) if one[at] != other[at]), len(one))
