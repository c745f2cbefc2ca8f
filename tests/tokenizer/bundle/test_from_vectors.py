"""Bundles made of vectors in memory, and read as tables."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sidtool.base.errors import DataError, UsageError
from sidtool.data.items import make_items
from sidtool.data.vectors import Vectors
from sidtool.tokenizer.bundle import Bundle, verify
from sidtool.tokenizer.make.build import BuildOptions, build_codebook
from tests.bundles import small_bundle

IDS = [f"i{n}" for n in range(60)]
TITLES = [f"film {n}" for n in range(60)]
SIZES = (4, 4, 8)


def vectors(seed: int = 0) -> Vectors:
    return np.random.default_rng(seed).normal(size=(60, 8)).astype(np.float32)


def test_the_codes_are_those_of_the_command(tmp_path: Path) -> None:
    bundle = Bundle.from_vectors(IDS, vectors(), titles=TITLES, levels=SIZES, seed=3, name="shop")
    items = make_items(tuple(IDS), tuple(TITLES), tuple(TITLES), fields={}, template="{title}")
    options = BuildOptions(sizes=SIZES, seed=3)
    built = build_codebook(items, tmp_path / "shop.zarr", options, embeddings=vectors())
    assert bundle.sids() == built.sids()
    assert bundle.identity.codebook != ""
    assert bundle.manifest.codebook_report is not None
    np.testing.assert_array_equal(bundle.encode(vectors()), built.encode(vectors()))
    bundle.save(tmp_path / "again.zarr")
    assert verify(tmp_path / "again.zarr") == []
    assert Bundle.open(tmp_path / "again.zarr").digest == bundle.digest


def test_a_level_is_appended() -> None:
    doubled = np.repeat(vectors()[:30], 2, axis=0)
    bundle = Bundle.from_vectors(IDS, doubled, levels=(4, 8), collisions="append")
    assert bundle.space.levels == 3
    assert bundle.manifest.collisions.capacity == bundle.space.sizes[-1]
    assert len(set(bundle.sids().values())) == 60


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"ids": ["a", "a"]}, DataError, "repeated"),
        ({"ids": ["a"]}, DataError, "60 vectors for 1 items"),
        ({"titles": ["a"]}, DataError, "1 titles for 60 items"),
        ({"vectors": np.zeros(60)}, DataError, "array"),
        ({"method": "x"}, UsageError, "no method 'x'"),
        ({"depth": 3}, UsageError, "no option 'depth'"),
        ({"levels": (64,)}, DataError, "distinct"),
        ({"collisions": "drop"}, UsageError, "no collision policy 'drop'"),
        ({"spelling": "x"}, UsageError, "no spelling 'x'"),
        ({"ids": ["\ud800", *IDS[1:]]}, DataError, r"'\\ud800' has a lone surrogate"),
        ({"titles": ["\ud800", *TITLES[1:]]}, DataError, r"'\\ud800' has a lone surrogate"),
    ],
)
def test_what_does_not_fit_is_named(
    changed: dict[str, Any], error: type[Exception], message: str
) -> None:
    arguments: dict[str, Any] = {"ids": IDS, "vectors": vectors(), "levels": SIZES}
    with pytest.raises(error, match=message):
        Bundle.from_vectors(**(arguments | changed))


def test_an_id_that_no_bundle_can_hold_is_not_in_one(tmp_path: Path) -> None:
    small_bundle(5000, (20, 20, 20)).save(tmp_path / "large.zarr")
    for bundle in (small_bundle(), Bundle.open(tmp_path / "large.zarr")):
        with pytest.raises(DataError, match="lone surrogate"):
            bundle.sid("\ud800")


def test_a_table_has_the_active_items() -> None:
    bundle = small_bundle(40, (4, 5, 6))
    retired = bundle.items.retired.copy()
    retired[3] = True
    bundle = Bundle.of(replace(bundle.items, retired=retired), None, "reassign", name="some")
    table = bundle.to_arrow()
    assert table.schema.field("codes").type == pa.list_(pa.uint16(), 3)
    columns = table.to_pydict()
    assert dict(zip(columns["item_id"], columns["sid"], strict=True)) == bundle.sids()
    assert [bundle.space.spell(codes) for codes in columns["codes"]] == columns["sid"]
    rows = bundle.items.rows(columns["item_id"]).tolist()
    assert columns["title"] == [bundle.items.title(row) for row in rows]
    assert "title" not in Bundle.from_vectors(IDS, vectors(), levels=SIZES).to_arrow().column_names


def test_sids_are_decoded_together() -> None:
    bundle = small_bundle(40, (2, 3, 4), duplicates=True)
    sids = [bundle.space.spell(codes) for codes in np.ndindex(*bundle.space.sizes)]
    decoded = bundle.decode(sids)
    assert [sorted(items) for items in decoded] == [
        sorted(item for item, of_item in bundle.sids().items() if of_item == sid) for sid in sids
    ]
    assert [] in decoded
    assert bundle.decode([]) == []
    with pytest.raises(UsageError):
        bundle.decode([sids[0], "<s_a_1>"])
