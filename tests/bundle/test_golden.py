"""Bundles that earlier versions wrote: every later version opens them, and they say what they said."""

from pathlib import Path

import numpy as np

from sidtool.bundle import Bundle, verify

GOLDEN = Path(__file__).resolve().parent.parent / "golden"


def test_format_0_opens_for_ever() -> None:
    path = GOLDEN / "format-0.zarr.zip"
    assert verify(path) == []
    bundle = Bundle.open(path)
    assert bundle.identity.digest == "10fc0541f3b0cf535017c7783a49871593995b15208604f72c26fbd4e9a09d3c"
    assert bundle.space.sizes == (4, 5, 6)
    assert bundle.sid("i3") == "<s_a_2><s_b_1><s_c_4>"
    assert bundle.item_ids("<s_a_2><s_b_1><s_c_4>") == ["i3"]
    assert bundle.items.title(bundle.items.row("i3")) == "film 3"
    assert bundle.codebook is not None
    np.testing.assert_array_equal(bundle.encode(bundle.codebook.levels[0])[:, 0], np.arange(4))
