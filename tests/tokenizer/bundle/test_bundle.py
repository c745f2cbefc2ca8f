import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.base.errors import (
    CompatibilityError,
    DataError,
    IntegrityError,
    RefusedError,
    UsageError,
)
from sidtool.tokenizer.bundle import Bundle, verify
from sidtool.tokenizer.bundle.item_map import ItemMap
from sidtool.tokenizer.bundle.manifest import Manifest
from sidtool.tokenizer.codes.measure import prefix_similarity
from sidtool.tokenizer.sid import SidSpace
from tests.bundles import small_bundle


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ["shop.zarr", "shop.zarr.zip"])
def test_a_saved_bundle_opens_with_equal_values(tmp_path: Path, name: str) -> None:
    bundle = small_bundle()
    bundle.save(tmp_path / name)
    opened = Bundle.open(tmp_path / name)
    assert opened.identity == bundle.identity
    assert opened.items.ids.offsets.tolist() == bundle.items.ids.offsets.tolist()
    np.testing.assert_array_equal(opened.items.codes, bundle.items.codes)
    assert opened.codebook is not None
    for stored, made in zip(opened.codebook.levels, bundle.codebook.levels, strict=True):
        np.testing.assert_array_equal(stored, made)
    assert verify(tmp_path / name) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == [name], "nothing else is left behind"


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_identity_depends_on_values_and_not_on_order(data: st.DataObject) -> None:
    items = data.draw(st.integers(1, 30))
    bundle = small_bundle(items, duplicates=data.draw(st.booleans()))
    order = data.draw(st.permutations(range(items)))
    shuffled = ItemMap.of(
        bundle.space,
        [bundle.items.ids[row] for row in order],
        bundle.items.codes[list(order)],
        [bundle.items.title(row) for row in order],
    )
    again = Bundle.of(
        shuffled,
        bundle.codebook,
        bundle.manifest.collisions.policy,
        name="another name",
        version="7.0",
    )
    assert again.identity == bundle.identity


def test_identity_changes_with_each_part() -> None:
    bundle = small_bundle()
    other_items, other_book = small_bundle(items=39), small_bundle(codebook=False)
    assert other_items.identity.items != bundle.identity.items
    assert other_items.identity.space == bundle.identity.space
    assert other_book.identity.codebook != bundle.identity.codebook
    assert other_book.identity.items == bundle.identity.items
    assert small_bundle(sizes=(4, 5, 7)).identity.space != bundle.identity.space


def test_one_flipped_byte_in_any_file_is_detected_and_named(tmp_path: Path) -> None:
    bundle = tmp_path / "shop.zarr"
    small_bundle(items=12).save(bundle)
    rng = np.random.default_rng(0)
    for path in files(bundle):
        original = path.read_bytes()
        for place in {0, len(original) - 1, *rng.integers(0, len(original), size=6).tolist()}:
            damaged = bytearray(original)
            damaged[place] ^= 1 << int(rng.integers(8))
            path.write_bytes(damaged)
            broken = verify(bundle)
            assert [name for name, _ in broken] == [path.relative_to(bundle).as_posix()], (
                f"byte {place} of {path.name}"
            )
        path.write_bytes(original)
    assert verify(bundle) == []


def test_every_byte_of_the_root_document_is_verified(tmp_path: Path) -> None:
    bundle = tmp_path / "shop.zarr"
    small_bundle(items=3).save(bundle)
    root = bundle / "zarr.json"
    original = root.read_bytes()
    for place in range(0, len(original), 3):
        damaged = bytearray(original)
        damaged[place] ^= 0x20  # the flip that most often leaves JSON readable
        root.write_bytes(damaged)
        assert [name for name, _ in verify(bundle)] == ["zarr.json"]


def test_one_flipped_byte_in_a_zip_is_detected(tmp_path: Path) -> None:
    bundle = tmp_path / "shop.zarr.zip"
    small_bundle(items=5).save(bundle)
    original = bundle.read_bytes()
    for place in range(0, len(original), 101):
        damaged = bytearray(original)
        damaged[place] ^= 0x01
        bundle.write_bytes(damaged)
        assert verify(bundle), f"byte {place} of {len(original)}"


def test_missing_and_foreign_objects_are_named(tmp_path: Path) -> None:
    bundle = tmp_path / "shop.zarr"
    small_bundle().save(bundle)
    (bundle / "items/sid/c/0/0").unlink()
    (bundle / "NOTES.txt").write_text("hello")
    assert verify(bundle) == [("items/sid/c/0/0", "missing"), ("NOTES.txt", "not in the manifest")]


def test_a_manifest_that_contradicts_the_values_is_detected(tmp_path: Path) -> None:
    honest, other = small_bundle(seed=0), small_bundle(seed=1)
    Bundle(honest.manifest, other.arrays).save(
        tmp_path / "shop.zarr"
    )  # every object digest is right
    assert {name for name, _ in verify(tmp_path / "shop.zarr")} == {"codebook", "items"}


def test_an_unfinished_bundle_is_refused(tmp_path: Path) -> None:
    small_bundle().save(tmp_path / "shop.zarr")
    root = tmp_path / "shop.zarr/zarr.json"
    document = json.loads(root.read_text())
    document["attributes"] = {}
    root.write_text(json.dumps(document))
    with pytest.raises(IntegrityError, match="no manifest"):
        Bundle.open(tmp_path / "shop.zarr")
    with pytest.raises(DataError, match="no bundle"):
        Bundle.open(tmp_path / "none.zarr")


def test_a_newer_format_is_refused_and_an_unknown_key_is_not() -> None:
    value = small_bundle().manifest.to_json()
    assert Manifest.from_json(value | {"invented": 1}) == Manifest.from_json(value)
    with pytest.raises(CompatibilityError, match="format 99"):
        Manifest.from_json(value | {"format": 99})


def test_an_existing_output_is_replaced_only_with_force(tmp_path: Path) -> None:
    first, second = small_bundle(seed=0), small_bundle(seed=1)
    for name in ("shop.zarr", "shop.zarr.zip"):
        first.save(tmp_path / name)
        with pytest.raises(UsageError, match="exists already"):
            second.save(tmp_path / name)
        assert Bundle.open(tmp_path / name).identity == first.identity
        second.save(tmp_path / name, force=True)
        assert Bundle.open(tmp_path / name).identity == second.identity


def test_a_zip_is_deterministic_and_contains_uncompressed_objects(tmp_path: Path) -> None:
    bundle = small_bundle()
    for name in ("a.zarr.zip", "b.zarr.zip"):
        bundle.save(tmp_path / name)
    assert (tmp_path / "a.zarr.zip").read_bytes() == (tmp_path / "b.zarr.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zarr.zip") as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.namelist()[-1] == "zarr.json"


def test_items_and_sids_map_both_ways() -> None:
    bundle = small_bundle(duplicates=True, items=60, sizes=(2, 3, 4))
    for item_id in bundle.items.ids:
        assert item_id in bundle.item_ids(bundle.sid(item_id))
        assert bundle.item_ids(bundle.sid(item_id, begin_end_tokens=True)) == bundle.item_ids(
            bundle.sid(item_id)
        )
    with pytest.raises(DataError, match="no item 'absent'"):
        bundle.sid("absent")


def test_a_map_without_a_codebook_cannot_encode() -> None:
    with pytest.raises(RefusedError, match="without a codebook"):
        small_bundle(codebook=False).encode(np.zeros((1, 8), dtype=np.float32))


@settings(max_examples=40)
@given(
    st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=30, unique=True),
    st.integers(0, 99),
)
def test_lookup_agrees_with_a_dict(ids: list[str], seed: int) -> None:
    ids = [text for text in ids if text.encode("utf-8", "ignore").decode() == text] or ["x"]
    rng = np.random.default_rng(seed)
    space = SidSpace((3, 3))
    codes = np.stack([rng.integers(0, 3, len(ids)), rng.integers(0, 3, len(ids))], axis=1).astype(
        np.uint16
    )
    items = ItemMap.of(space, ids, codes)
    oracle = {text: row for row, text in enumerate(items.ids)}
    requested = [*ids, "", "absent", ids[0] + "x"]
    assert items.rows(requested).tolist() == [oracle.get(text, -1) for text in requested]
    for text, code in zip(ids, codes.tolist(), strict=True):
        assert items.codes[oracle[text]].tolist() == code
    for prefix in ([], [1], [1, 2]):
        first, stop = items.rows_under(prefix)
        under = [
            row for row, code in enumerate(items.codes.tolist()) if code[: len(prefix)] == prefix
        ]
        assert list(range(first, stop)) == under


def test_a_bundle_opens_without_a_deep_learning_stack(tmp_path: Path) -> None:
    small_bundle().save(tmp_path / "shop.zarr")
    program = (
        "import sys; from sidtool import Bundle\n"
        f"bundle = Bundle.open({str(tmp_path / 'shop.zarr')!r})\n"
        "assert bundle.item_ids(bundle.sid('i7')) == ['i7']\n"
        "assert bundle.encode(bundle.codebook.levels[0][:2]).shape == (2, 3)\n"
        "bundle.trie()\n"
        "print([name for name in ('torch', 'transformers', 'sklearn', 'pyarrow') if name in "
        "sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env=dict(os.environ),
    )
    assert done.stdout.strip() == "[]"


def test_a_save_that_fails_leaves_the_old_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = small_bundle(seed=0)
    old.save(tmp_path / "shop.zarr")
    monkeypatch.setattr("sidtool.tokenizer.bundle.zarr_group.spell_root", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        small_bundle(seed=1).save(tmp_path / "shop.zarr", force=True)
    monkeypatch.undo()
    assert Bundle.open(tmp_path / "shop.zarr").identity == old.identity
    assert verify(tmp_path / "shop.zarr") == []
    shutil.rmtree(tmp_path / "shop.zarr")
    assert list(tmp_path.iterdir()) == []


def test_length_and_repr_read_no_array(tmp_path: Path) -> None:
    small_bundle(12).save(tmp_path / "shop.zarr")
    shutil.rmtree(tmp_path / "shop.zarr" / "items")
    opened = Bundle.open(tmp_path / "shop.zarr")
    assert len(opened) == 12
    sizes, digest = opened.space.spelled_sizes, opened.digest[:12]
    assert repr(opened) == f"<Bundle {opened.manifest.name!r}: 12 items, {sizes}, {digest}>"


def test_sids_are_those_of_the_active_items() -> None:
    bundle = small_bundle(12)
    sids = bundle.sids()
    assert list(sids) == [bundle.items.ids[row] for row in bundle.active]
    assert sids == {item: bundle.sid(item) for item in sids}
    assert all(item in bundle.item_ids(sid) for item, sid in sids.items())


def test_title_of_an_item(tmp_path: Path) -> None:
    bundle = small_bundle(40)
    bundle.save(tmp_path / "shop.zarr")
    opened = Bundle.open(tmp_path / "shop.zarr")
    for row in (0, 17, 39):
        assert opened.title(bundle.items.ids[row]) == bundle.items.title(row) != ""
    with pytest.raises(DataError, match="no item 'gone' in this bundle"):
        opened.title("gone")
    for look_up in (opened.sid, opened.title, opened.similar):
        with pytest.raises(DataError, match="an item id is a string, like '1', not 1"):
            look_up(1)  # type: ignore[operator]


def test_a_bundle_is_a_collection_of_its_active_items() -> None:
    pytest.importorskip("pandas")
    bundle = small_bundle(40)
    gone = bundle.items.ids[3]
    bundle.items.retired[3] = True
    assert gone not in bundle
    assert bundle.items.ids[4] in bundle
    assert "none" not in bundle
    assert list(bundle) == list(bundle.sids()) == bundle.to_pandas()["item_id"].tolist()
    assert repr(bundle.items) == f"<ItemMap of 40 items, {bundle.space.spelled_sizes}>"


@pytest.mark.parametrize("duplicates", [False, True])
def test_similar_items_are_the_nearest_by_prefix(duplicates: bool) -> None:
    bundle = small_bundle(60, duplicates=duplicates)
    bundle.items.retired[5] = True
    everyone = np.arange(60)
    similarity = prefix_similarity(bundle.items.codes, everyone, bundle.codebook)
    for row in (0, 5, 31):
        others = [other for other in bundle.active.tolist() if other != row]
        nearest = sorted(others, key=lambda other: -round(similarity[row, other], 9))
        levels = np.floor(similarity[row])
        for k in (1, 7, 100):
            found = bundle.similar(bundle.items.ids[row], k)
            rows = [bundle.items.row(item) for item in found]
            assert len(set(rows)) == min(k, len(others))
            assert row not in rows
            assert 5 not in rows
            np.testing.assert_array_equal(levels[rows], levels[nearest[:k]])
    assert bundle.similar(bundle.items.ids[0], 100)[0] == bundle.similar(bundle.items.ids[0], 1)[0]


def test_similar_items_of_nothing_are_refused() -> None:
    bundle = small_bundle(60)
    with pytest.raises(UsageError, match="k must be at least 1, not 0"):
        bundle.similar(bundle.items.ids[0], 0)
    with pytest.raises(DataError, match="no item 'gone' in this bundle"):
        bundle.similar("gone")
