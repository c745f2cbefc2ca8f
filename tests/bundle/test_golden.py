"""Bundles that earlier versions wrote: every later version opens them, and they say what they said."""

from pathlib import Path

import numpy as np
import pytest

from sidtool.bundle import Bundle, verify
from sidtool.bundle.decode import Decoded, decode

GOLDEN = Path(__file__).resolve().parent.parent / "golden"


def test_format_0_opens_for_ever() -> None:
    path = GOLDEN / "format-0.zarr.zip"
    assert verify(path) == []
    bundle = Bundle.open(path)
    assert (
        bundle.identity.digest == "10fc0541f3b0cf535017c7783a49871593995b15208604f72c26fbd4e9a09d3c"
    )
    assert bundle.space.sizes == (4, 5, 6)
    assert bundle.sid("i3") == "<s_a_2><s_b_1><s_c_4>"
    assert bundle.item_ids("<s_a_2><s_b_1><s_c_4>") == ["i3"]
    assert bundle.items.title(bundle.items.row("i3")) == "film 3"
    assert bundle.codebook is not None
    np.testing.assert_array_equal(bundle.encode(bundle.codebook.levels[0])[:, 0], np.arange(4))


def test_format_1_opens_for_ever() -> None:
    path = GOLDEN / "format-1.zarr.zip"
    assert verify(path) == []
    bundle = Bundle.open(path)
    assert bundle.manifest.format == 1
    assert (
        bundle.identity.space == "9021582f75d779123cf410b57aaeac4d7f265b02c0d5bfb6b0dea09b8254c323"
    )
    assert (
        bundle.identity.codebook
        == "24d24de29f3349dc6928189967c3880fea1be32a6877ab39a5dadc022715730b"
    )
    assert (
        bundle.identity.items == "f4c78cb044c799fe79561e29f1bba63db29bb3ad680e5808cea80cd8198fdba0"
    )
    assert (
        bundle.identity.digest == "249014aa4b2b36652d45edc3936b5df1e24026374d3ad96593da8ba28435c1c0"
    )
    assert list(bundle.items.ids) == ["i1", "i4", "i0", "i2", "ü/é 漢字"]
    assert bundle.items.codes.tolist() == [[0, 0, 0], [1, 3, 2], [2, 1, 4], [2, 1, 4], [3, 4, 5]]
    assert bundle.items.retired.tolist() == [False, True, False, False, False]
    assert (
        bundle.space.spell([2, 1, 4], markers=True)
        == "<|sid_begin|><s_a_2><s_b_1><s_c_4><|sid_end|>"
    )
    assert bundle.sid("ü/é 漢字") == "<s_a_3><s_b_4><s_c_5>"
    assert decode(
        bundle, "<s_a_2><s_b_1><s_c_4> <s_a_1><s_b_3><s_c_2> <s_a_3><s_b_4><s_c_5> <s_a_0>"
    ) == [
        Decoded("<s_a_2><s_b_1><s_c_4>", "item", ("i0", "i2"), ("film 0", "film 2, of i0's SID")),
        Decoded("<s_a_1><s_b_3><s_c_2>", "retired", ("i4",), ("retired film",)),
        Decoded("<s_a_3><s_b_4><s_c_5>", "item", ("ü/é 漢字",), ("Amélie — <s_a_1>",)),
        Decoded("<s_a_0>", "malformed"),
    ]
    assert bundle.codebook is not None
    halves = bundle.codebook.levels[0] / 2  # its encoder doubles a vector
    assert bundle.encode(halves).tolist() == [[0, 1, 5], [1, 1, 5], [2, 1, 5], [3, 1, 5]]


@pytest.mark.parametrize("name", ["again.zarr", "again.zarr.zip"])
def test_format_0_becomes_format_1_without_another_identity(tmp_path: Path, name: str) -> None:
    old = Bundle.open(GOLDEN / "format-0.zarr.zip")
    old.save(tmp_path / name)
    assert Bundle.open(tmp_path / name).manifest.format == 1
    assert Bundle.open(tmp_path / name).identity == old.identity
    assert verify(tmp_path / name) == []
