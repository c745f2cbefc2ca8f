"""Arrays that break a rule of docs/format.md are found by verify, however they are signed.
tests/hostile shows that no reader ends with anything but an error of one line."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sidtool.base.errors import IntegrityError, SidtoolError
from sidtool.tokenizer.bundle import Bundle, StringArray
from sidtool.tokenizer.quantize.codebook import Codebook, QuantizerParams
from tests.bundles import small_bundle
from tests.tokenizer.bundle.drafts import Draft

SHAPES = {"in_0_weight": (3, 8), "in_0_bias": (8,), "out_0_weight": (8, 3), "out_0_bias": (3,)}
NETWORK = {f"codebook/encoder/{name}": np.ones(SHAPES[name], np.float32) for name in SHAPES}


def draft(items: int = 6) -> Draft:
    made = Draft.of(small_bundle(items=items, sizes=(9, 9, 99) if items > 200 else (4, 5, 6)))
    made.arrays |= {name: array.copy() for name, array in NETWORK.items()}
    parameters(dim=3)(made)
    made.identify()
    return made


def test_the_bundle_that_the_others_change_is_valid(tmp_path: Path) -> None:
    path = draft().write(tmp_path / "shop.zarr")
    assert Bundle.broken(path) == []
    assert Bundle.open(path).encode(np.ones((2, 3), dtype=np.float32)).shape == (2, 3)


def strings(name: str, first: bytes, second: bytes = b"i1") -> Callable[[Draft], object]:
    """Change two of the ids or titles."""
    return lambda made: made.set_strings(name, [first, second, b"i2", b"i3", b"i4", b"i5"])


def values(name: str, index: object, value: object) -> Callable[[Draft], object]:
    return lambda made: made.arrays[name].__setitem__(index, value)


def retyped(name: str, dtype: str) -> Callable[[Draft], object]:
    """Store an array as another type."""
    return lambda made: made.arrays.update({name: made.arrays[name].astype(dtype)})


def dropped(*names: str) -> Callable[[Draft], object]:
    """Leave arrays out."""
    return lambda made: [made.arrays.pop(name) for name in names]


def reshaped(shapes: dict[str, tuple[int, ...]]) -> Callable[[Draft], object]:
    """Give arrays of the codebook other shapes."""
    ones = {f"codebook/{name}": np.ones(shape, np.float32) for name, shape in shapes.items()}
    return lambda made: made.arrays.update(ones)


def parameters(**values: object) -> Callable[[Draft], object]:
    return lambda made: made.manifest["recipe"]["quantizer"]["parameters"].update(values)


def swap_characters(made: Draft) -> None:
    """Let an id end within a character: together the bytes are UTF-8."""
    made.set_strings("id", [b"a\xc3", b"\xa4", b"i2", b"i3", b"i4", b"i5"])


def reverse_rows(made: Draft) -> None:
    for name in ("items/sid", "items/retired"):
        made.arrays[name] = made.arrays[name][::-1].copy()


def reverse_ids_of_one_sid(made: Draft) -> None:
    made.arrays["items/sid"][:] = 1
    made.set_strings("id", [b"f", b"e", b"d", b"c", b"b", b"a"])


def count_from_one(made: Draft) -> None:
    made.manifest["format"] = 2
    parameters(first_code=1)(made)


CHANGES: dict[str, Callable[[Draft], object]] = {
    "a code below the first one": count_from_one,
    "an id that is not UTF-8": strings("id", b"\xff\xfe"),
    "a surrogate in an id": strings("id", b"\xed\xa0\x80"),
    "an id that ends within a character": swap_characters,
    "an empty id": strings("id", b""),
    "equal ids": strings("id", b"i1"),
    "a title that is not UTF-8": strings("title", b"\xc3("),
    "offsets that descend": values("items/id_offset", 2, 0),
    "an offset beyond the bytes": values("items/id_offset", 2, 1 << 40),
    "a negative offset": values("items/id_offset", 1, -1),
    "offsets that do not start at 0": values("items/id_offset", 0, 1),
    "offsets that do not cover the bytes": values("items/id_offset", -1, 11),
    "title offsets that descend": values("items/title_offset", 3, 0),
    "titles without offsets": dropped("items/title_offset"),
    "title offsets without bytes": dropped("items/title_bytes"),
    "ids as int32 offsets": retyped("items/id_offset", "int32"),
    "codes as int64": retyped("items/sid", "int64"),
    "codes as bytes": retyped("items/sid", "uint8"),
    "retired as numbers": retyped("items/retired", "uint8"),
    "centroids as float64": retyped("codebook/level_0", "float64"),
    "a code that its level does not have": values("items/sid", (5, 2), 6),
    "a code of the first level that it does not have": values("items/sid", (5, 0), 4),
    "rows in another order": reverse_rows,
    "ids of one SID in another order": reverse_ids_of_one_sid,
    "no codes": dropped("items/sid"),
    "no ids": dropped("items/id_bytes", "items/id_offset"),
    "nothing about retired items": dropped("items/retired"),
    "a missing level": dropped("codebook/level_1"),
    "a missing last level": dropped("codebook/level_2"),
    "a level with more codes than the space": reshaped({"level_1": (6, 8)}),
    "levels of two widths": reshaped({"level_1": (5, 7)}),
    "levels without a width": reshaped({"level_0": (4, 0), "level_1": (5, 0), "level_2": (6, 0)}),
    "a centroid that is NaN": values("codebook/level_1", (2, 3), np.nan),
    "a centroid that is infinite": values("codebook/level_0", (0, 0), np.inf),
    "an encoder weight that is NaN": values("codebook/encoder/in_0_weight", (0, 0), np.nan),
    "an encoder without a bias": dropped("codebook/encoder/in_0_bias"),
    "an encoder of another type": retyped("codebook/encoder/out_0_weight", "float64"),
    "an encoder of another width": reshaped({"encoder/in_0_weight": (4, 8)}),
    "an encoder wider than the centroids": reshaped(
        {"encoder/in_0_weight": (3, 9), "encoder/in_0_bias": (9,)}
    ),
    "a decoder of another width": reshaped(
        {"encoder/out_0_weight": (8, 4), "encoder/out_0_bias": (4,)}
    ),
    "skip between two widths": parameters(skip=True),
    "a width of 0": parameters(dim=0),
    "a fusion of no sources": parameters(fusion={"sources": []}),
    "a fusion of another width": parameters(
        fusion={"sources": [{"dim": 2, "width": 2, "weight": 1}]}
    ),
    "a codebook without a recipe": lambda made: made.manifest.update({"recipe": None}),
    "fewer items than the manifest says": lambda made: made.manifest.update({"items": 7}),
    "more items than the manifest says": lambda made: made.manifest.update({"items": 5}),
}
INDEX_CHANGES: dict[str, Callable[[Draft], object]] = {
    "a row beyond the items": values("index/id_row", 2, 6),
    "a row far beyond the items": values("index/id_row", 0, (1 << 32) - 1),
    "a row twice": values("index/id_row", 0, 3),
    "another hash": values("index/id_hash", 5, 1),
    "another first hash": values("index/id_hash_first", 0, 1),
    "another first SID": values("index/sid_first", (0, 0), 3),
    "hashes as signed numbers": retyped("index/id_hash", "int64"),
    "no rows of the hashes": dropped("index/id_row"),
}


LARGE = ("an offset beyond the bytes", "title offsets that descend", "an empty id")
"""Changes that are found in bundles that are read in parts, too."""


@pytest.mark.parametrize(
    ("change", "is_large"),
    [
        *(
            pytest.param(name, False, marks=pytest.mark.slow if place % 4 else ())
            for place, name in enumerate(CHANGES)
        ),
        *((name, True) for name in LARGE),
    ],
)
def test_a_broken_rule_is_found_though_every_digest_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, is_large: bool
) -> None:
    if is_large:
        monkeypatch.setattr("sidtool.tokenizer.bundle.item_map.LARGE", 1)
        monkeypatch.setattr("sidtool.tokenizer.bundle.contents.LARGE", 1)
    made = draft()
    CHANGES[change](made)
    for step in (made.reindex, made.identify):
        with suppress(KeyError, ValueError, IndexError):  # values without an index or identity
            step()
    found(made.write(tmp_path / "shop.zarr"))


@pytest.mark.parametrize("change", INDEX_CHANGES)
@pytest.mark.parametrize("items", [6, pytest.param(5000, marks=pytest.mark.slow)])
def test_an_index_that_disagrees_is_found(tmp_path: Path, change: str, items: int) -> None:
    made = draft(items)
    INDEX_CHANGES[change](made)
    if change == "a row beyond the items":
        made.arrays["index/id_row"][:] = items
    found(made.write(tmp_path / "shop.zarr"))


def found(path: Path) -> None:
    """What is wrong is found by a rule, and not because the identity differs."""
    broken = dict(Bundle.broken(path))
    assert broken
    assert not broken.keys() & {"space", "codebook", "items"}
    assert all("\n" not in reason for reason in broken.values())


@pytest.mark.parametrize("rows", [1, 3])
def test_look_ups_in_parts_check_what_they_read(tmp_path: Path, rows: int) -> None:
    made = draft(5000)
    made.arrays["items/id_offset"][10:-1:rows] = -5
    path = made.write(tmp_path / "shop.zarr")
    with pytest.raises(SidtoolError, match=r"does not divide|no item"):
        Bundle.open(path).sid("i3")


def test_rows_in_another_order_have_no_trie(tmp_path: Path) -> None:
    made = draft()
    reverse_rows(made)
    with pytest.raises(IntegrityError, match=r"^items/sid: .*lexicographic order"):
        Bundle.open(made.write(tmp_path / "shop.zarr")).trie()


def test_a_codebook_that_every_method_fits_is_accepted() -> None:
    level = np.ones((4, 6), dtype=np.float32)
    Codebook("x", (level, level), {}).check()
    Codebook("x", (level,), {}, QuantizerParams(dim=4)).check()
    with pytest.raises(ValueError, match="the networks need 7"):
        Codebook("x", (level,), {}, QuantizerParams(dim=7)).check()


def test_items_of_one_sid_are_in_the_order_of_their_ids(tmp_path: Path) -> None:
    made = small_bundle(items=60, sizes=(2, 2, 2), duplicates=True)
    turned = replace(made.items, ids=StringArray.of(list(made.items.ids)[::-1]), stored_index=None)
    Bundle.of(turned, None, "allow", name="turned").save(tmp_path / "shop.zarr")
    message = "rows with equal SIDs are not in the order of their ids"
    assert ("items/id", message) in Bundle.broken(tmp_path / "shop.zarr")
