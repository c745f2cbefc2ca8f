"""Golden files of each format: every later version reads them with the same content."""

from pathlib import Path

from sidtool.bundle import Bundle, verify
from sidtool.bundle.decode import Decoded, decode

GOLDEN = Path(__file__).resolve().parent.parent / "golden"


def test_the_bundle_of_format_1_opens() -> None:
    path = GOLDEN / "bundle.zarr.zip"
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
