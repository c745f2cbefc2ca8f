"""Write the golden files of the current formats; files of a released format are never written again.

python -m tests.golden.make
"""

from pathlib import Path

import numpy as np

from sidtool.bundle import Bundle, ItemMap
from sidtool.quantize.codebook import Codebook, QuantizerParams
from sidtool.sid import SidSpace
from tests.bundles import small_bundle

ITEMS = {
    "i0": ((2, 1, 4), "film 0"),
    "i1": ((0, 0, 0), ""),
    "i2": ((2, 1, 4), "film 2, of i0's SID"),
    "ü/é 漢字": ((3, 4, 5), "Amélie — <s_a_1>"),
    "i4": ((1, 3, 2), "retired film"),
}


def golden() -> Bundle:
    """What a reader may trip over: letters of all widths, a shared SID, a retired item, an empty
    title, an encoder."""
    ids = list(ITEMS)
    codes, titles = zip(*ITEMS.values(), strict=True)
    retired = np.array([item == "i4" for item in ids])
    items = ItemMap.of(SidSpace((4, 5, 6)), ids, np.array(codes, dtype=np.uint16), titles, retired)
    book = small_bundle(dim=3).codebook
    assert book is not None
    arrays = {
        "in_0_weight": np.eye(3, dtype=np.float32) * 2,
        "in_0_bias": np.zeros(3, dtype=np.float32),
    }
    encoder = {
        "model": "some/where",
        "revision": "main",
        "weights": {"model.bin": "0" * 64},
        "dim": 3,
        "probes": [],
    }
    return Bundle.of(
        items,
        Codebook(
            "rq-kmeans",
            book.levels,
            arrays,
            QuantizerParams(dim=3, fit={"seed": 0, "share": 1e-05}),
        ),
        "allow",
        name="golden",
        recipe={"encoder": encoder, "text_template": "{title} — {id}"},
    )


if __name__ == "__main__":
    golden().save(Path(__file__).with_name("bundle.zarr.zip"))
