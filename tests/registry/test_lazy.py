"""A bundle of 10^6 items on S3 over HTTP: ten look-ups read a twentieth of its bytes at most."""

import uuid
from pathlib import Path

import numpy as np
import pytest

from sidtool.base.storage.storage import Storage
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.bundle.item_map import ItemMap
from sidtool.tokenizer.sid import SidSpace
from tests.s3 import BUCKET, Wire

ITEMS, SIZES = 1_000_000, (256, 256, 256)


@pytest.mark.slow
def test_ten_decodes_read_at_most_a_twentieth_of_a_million_items(s3: Wire, tmp_path: Path) -> None:
    keys = np.sort(np.random.default_rng(0).choice(256**3, size=ITEMS, replace=False))
    codes = np.stack(np.unravel_index(keys, SIZES), axis=1).astype(np.uint16)
    ids = [f"item-{row:07d}" for row in range(ITEMS)]
    Bundle.of(ItemMap.of(SidSpace(SIZES), ids, codes), None, "reassign", name="large").save(
        tmp_path / "large.zarr"
    )
    shop = Storage(f"s3://{BUCKET}/{uuid.uuid4().hex}/large.zarr")
    objects = dict(Storage(tmp_path / "large.zarr").read_all())
    shop.put(objects)
    s3.requests.clear()
    large = Bundle.open(shop.location)
    for row in np.random.default_rng(1).integers(ITEMS, size=10).tolist():
        assert large.item_ids(large.space.spell(codes[row])) == [ids[row]]
    assert 0 < s3.bytes_read <= 0.05 * sum(map(len, objects.values()))
