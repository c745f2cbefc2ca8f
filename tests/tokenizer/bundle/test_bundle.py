import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.errors import DataError, IntegrityError, UsageError
from sidtool.data.items import make_items
from sidtool.data.vectors import Vectors
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.bundle.item_map import ItemMap
from sidtool.tokenizer.codes.measure import prefix_similarity
from sidtool.tokenizer.make.build import BuildOptions, build_codebook
from sidtool.tokenizer.make.encode import decode
from sidtool.tokenizer.make.explain import explain
from sidtool.tokenizer.sid import Levels, SidSpace
from tests.bundles import reopened, small_bundle


def test_identity_changes_with_each_part() -> None:
    bundle = small_bundle()
    other_items, other_book = small_bundle(items=39), small_bundle(codebook=False)
    assert other_items.identity.items != bundle.identity.items
    assert other_items.identity.space == bundle.identity.space
    assert other_book.identity.codebook != bundle.identity.codebook
    assert other_book.identity.items == bundle.identity.items
    assert small_bundle(sizes=(4, 5, 7)).identity.space != bundle.identity.space


def test_every_byte_of_the_root_document_is_verified(tmp_path: Path) -> None:
    bundle = tmp_path / "shop.zarr"
    small_bundle(items=3).save(bundle)
    root = bundle / "zarr.json"
    original = root.read_bytes()
    for place in range(0, len(original), 7):
        damaged = bytearray(original)
        damaged[place] ^= 0x20  # the flip that most often leaves JSON readable
        root.write_bytes(damaged)
        assert [name for name, _ in Bundle.broken(bundle)] == ["zarr.json"]


def test_missing_and_foreign_objects_are_named(tmp_path: Path) -> None:
    bundle = tmp_path / "shop.zarr"
    small_bundle().save(bundle)
    (bundle / "items/sid/c/0/0").unlink()
    (bundle / "NOTES.txt").write_text("hello")
    assert Bundle.broken(bundle) == [
        ("items/sid/c/0/0", "missing"),
        ("NOTES.txt", "not in the manifest"),
    ]


def test_a_manifest_that_contradicts_the_values_is_detected(tmp_path: Path) -> None:
    honest, other = small_bundle(seed=0), small_bundle(seed=1)
    # every object digest is right
    Bundle(honest.manifest, other.arrays).save(tmp_path / "shop.zarr")
    assert {name for name, _ in Bundle.broken(tmp_path / "shop.zarr")} == {"codebook", "items"}


def test_an_unfinished_bundle_is_refused(tmp_path: Path) -> None:
    small_bundle().save(tmp_path / "shop.zarr")
    root = tmp_path / "shop.zarr/zarr.json"
    root.write_text(json.dumps({**json.loads(root.read_text()), "attributes": {}}))
    with pytest.raises(IntegrityError, match="no manifest"):
        Bundle.open(tmp_path / "shop.zarr")
    with pytest.raises(DataError, match="no bundle"):
        Bundle.open(tmp_path / "none.zarr")


@given(
    st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=30, unique=True),
    st.integers(0, 99),
)
def test_lookup_agrees_with_a_dict(ids: list[str], seed: int) -> None:
    ids = [text for text in ids if text.encode("utf-8", "ignore").decode() == text] or ["x"]
    rng = np.random.default_rng(seed)
    space = SidSpace((3, 3))
    codes = rng.integers(0, 3, (len(ids), 2)).astype(np.uint16)
    items = ItemMap.of(space, ids, codes)
    oracle = {text: row for row, text in enumerate(items.ids)}
    requested = [*ids, "", "absent", ids[0] + "x"]
    assert items.rows(requested).tolist() == [oracle.get(text, -1) for text in requested]
    for text, code in zip(ids, codes.tolist(), strict=True):
        assert items.codes[oracle[text]].tolist() == code
    for prefix in ([], [1], [1, 2]):
        first, stop = items.rows_under(prefix)
        is_under = (items.codes[:, : len(prefix)] == prefix).all(axis=1)
        assert list(range(first, stop)) == np.flatnonzero(is_under).tolist()
    with pytest.raises(DataError, match="1 item ids are repeated"):
        ItemMap.of(space, [*ids, ids[0]], np.concatenate([codes, codes[:1]]))


def test_a_bundle_opens_without_a_deep_learning_stack(tmp_path: Path) -> None:
    small_bundle().save(tmp_path / "shop.zarr")
    program = (
        "import sys; from sidtool import Bundle\n"
        f"bundle = Bundle.open({str(tmp_path / 'shop.zarr')!r})\n"
        "assert bundle.item_ids(bundle.sid('i7')) == ['i7']\n"
        "assert bundle.encode(bundle.codebook.levels[0][:2]).shape == (2, 3)\n"
        "bundle.trie()\n"
        "print({'torch', 'transformers', 'sklearn', 'pyarrow'} & sys.modules.keys())"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "set()\n"


def test_length_and_repr_read_no_array(tmp_path: Path) -> None:
    small_bundle(12).save(tmp_path / "shop.zarr")
    shutil.rmtree(tmp_path / "shop.zarr" / "items")
    opened = Bundle.open(tmp_path / "shop.zarr")
    assert len(opened) == 12
    sizes, digest = opened.space.spelled_sizes, opened.digest[:12]
    assert repr(opened) == f"<Bundle {opened.manifest.name!r}: 12 items, {sizes}, {digest}>"


def test_sids_are_those_of_the_active_items_and_decode_to_them() -> None:
    bundle = small_bundle(40, (2, 3, 4), duplicates=True)
    bundle.items.retired[3] = True
    by_item = bundle.sids()
    assert list(by_item) == [bundle.items.ids[row] for row in bundle.active]
    assert by_item == {item: bundle.sid(item) for item in by_item}
    sids = [bundle.space.spell(codes) for codes in np.ndindex(*bundle.space.sizes)]
    expected = [[item for item in by_item if by_item[item] == sid] for sid in sids]
    assert bundle.decode(sids) == expected
    assert [bundle.item_ids(sid) for sid in sids] == expected
    marked = [bundle.sid(item, begin_end_tokens=True) for item in by_item]
    assert bundle.decode(marked) == bundle.decode(list(by_item.values()))
    assert [] in expected
    assert bundle.decode([]) == []
    with pytest.raises(UsageError):
        bundle.decode([sids[0], "<s_a_1>"])


def test_title_of_an_item(tmp_path: Path) -> None:
    bundle = small_bundle(40)
    opened = reopened(bundle, tmp_path / "shop.zarr")
    for row in (0, 17, 39):
        assert opened.title(bundle.items.ids[row]) == bundle.items.title(row) != ""
    for look_up in (opened.sid, opened.title, opened.similar):
        with pytest.raises(DataError, match="no item 'gone' in this bundle"):
            look_up("gone")  # type: ignore[operator]
        with pytest.raises(DataError, match="an item id is a string, like '1', not 1"):
            look_up(1)  # type: ignore[operator]


def test_a_bundle_is_a_collection_of_its_active_items() -> None:
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
            similar_ids = bundle.similar(bundle.items.ids[row], k)
            rows = [bundle.items.row(item) for item in similar_ids]
            assert len(set(rows)) == min(k, len(others))
            assert row not in rows
            assert 5 not in rows
            np.testing.assert_array_equal(levels[rows], levels[nearest[:k]])
    assert bundle.similar(bundle.items.ids[0], 100)[0] == bundle.similar(bundle.items.ids[0], 1)[0]
    with pytest.raises(UsageError, match="k must be at least 1, not 0"):
        bundle.similar(bundle.items.ids[0], 0)


@pytest.fixture
def bundle() -> Bundle:
    made = small_bundle(items=20, sizes=(3, 4, 5))
    made.items.retired[4] = True
    return made


def test_every_status_is_reported(bundle: Bundle) -> None:
    codes = bundle.items.codes
    free = min({*np.ndindex(3, 4, 5)} - {*map(tuple, codes.tolist())})
    spelled = bundle.space.spell
    text = (
        f"first {spelled(codes[0], begin_end_tokens=True)}, "
        f"then {spelled(codes[4])} and {spelled(free)}; "
        f"{spelled(codes[1][:2])} {spelled([2, 3])}<s_c_9> {spelled(codes[7])}{spelled(codes[8])}"
    )
    decoded = decode(bundle, text)
    expected = ["item", "retired", "unknown", "malformed", "malformed", "item", "item"]
    assert [piece.status for piece in decoded] == expected
    assert (decoded[0].items, decoded[1].items) == ((bundle.items.ids[0],), (bundle.items.ids[4],))
    assert decoded[2].items == ()


def test_a_text_without_sids_gives_nothing(bundle: Bundle) -> None:
    assert decode(bundle, "a film like Alien, <s_a_> <b> <s_q_1") == []


def test_explain_lists_the_words_of_a_group() -> None:
    made = small_bundle(items=30, sizes=(2, 5, 6))
    first_codes = made.items.codes[:, 0].tolist()
    titles = ["space odyssey" if code else "love story" for code in first_codes]
    items = ItemMap.of(made.space, list(made.items.ids), made.items.codes, titles)
    bundle = Bundle.of(items, made.codebook, "reassign", name="films")
    group = explain(bundle, [1], examples=3)
    assert group.items == int((made.items.codes[:, 0] == 1).sum())
    assert {term.word for term in group.terms} == {"space", "odyssey"}
    assert all(term.share == 1.0 for term in group.terms)
    assert len(group.examples) == 3
    for codes in ([0, 5], [-1], [0, 0, 0, 0]):
        with pytest.raises(UsageError, match="no SID of 2x5x6 starts with the codes"):
            explain(bundle, codes)
    assert (explain(bundle, [1], examples=0).examples, explain(bundle, [1], terms=0).terms) == (
        (),
        (),
    )
    for number in ("examples", "terms"):
        with pytest.raises(UsageError, match=f"{number} must be at least 0, not -1"):
            explain(bundle, [1], **{number: -1})


IDS = [f"i{n}" for n in range(60)]
TITLES = [f"film {n}" for n in range(60)]
SIZES = (4, 4, 8)


def vectors() -> Vectors:
    return np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)


def test_the_codes_are_those_of_the_command(tmp_path: Path) -> None:
    bundle = Bundle.from_vectors(IDS, vectors(), titles=TITLES, levels=SIZES, seed=3, name="shop")
    items = make_items(tuple(IDS), tuple(TITLES), tuple(TITLES), fields={}, template="{title}")
    options = BuildOptions(sizes=SIZES, seed=3)
    built = build_codebook(items, tmp_path / "shop.zarr", options, embeddings=vectors())
    assert bundle.sids() == built.sids()
    assert bundle.identity.codebook != ""
    assert bundle.manifest.codebook_report is not None
    np.testing.assert_array_equal(bundle.encode(vectors()), built.encode(vectors()))
    assert reopened(bundle, tmp_path / "again.zarr").digest == bundle.digest
    assert Bundle.from_vectors(IDS, vectors()).space.sizes == Levels.for_items(60).sizes


def test_a_level_is_appended() -> None:
    doubled = np.repeat(vectors()[:30], 2, axis=0)
    bundle = Bundle.from_vectors(IDS, doubled, levels=(4, 8), collisions="append")
    assert (bundle.space.levels, bundle.manifest.collisions.capacity) == (3, bundle.space.sizes[-1])
    assert len(set(bundle.sids().values())) == 60


MANY = {"ids": [f"i{row}" for row in range(16_385)], "vectors": np.ones((16_385, 2))}


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"ids": ["a", "a"]}, DataError, "repeated"),
        ({"ids": ["a"]}, DataError, "60 vectors for 1 items"),
        ({"titles": ["a"]}, DataError, "1 titles for 60 items"),
        ({"vectors": np.zeros(60)}, DataError, "array"),
        ({"vectors": vectors() + 0j}, DataError, "not 'complex'"),
        ({"vectors": torch.zeros(60, 8, dtype=torch.bfloat16)}, DataError, "no numbers that NumPy"),
        ({"vectors": scipy.sparse.eye_array(60).tocsr()}, DataError, "no numbers that NumPy"),
        ({"levels": 4}, UsageError, r"level sizes are like \(256, 256, 256\), not 4"),
        ({"levels": (4.0, 4)}, UsageError, "level sizes are like"),
        ({"seed": -1}, UsageError, "seed must be at least 0, not -1"),
        ({"method": "x"}, UsageError, "no method 'x'"),
        ({"depth": 3}, UsageError, "no option 'depth'"),
        ({"sizes": (4, 4)}, UsageError, "no option sizes"),
        ({"ids": ["", *IDS[1:]]}, DataError, "item 0 has an empty id"),
        ({**MANY, "levels": (1,), "collisions": "append"}, UsageError, "16385 items share one SID"),
        ({"levels": (64,)}, DataError, "distinct"),
        ({"collisions": "drop"}, UsageError, "collisions must be one of reassign, append"),
        ({"spelling": "x"}, UsageError, "no spelling 'x'"),
        ({"ids": list(range(60))}, DataError, "an item id is a string, like '0', not 0"),
        ({"titles": [None, *TITLES[1:]]}, DataError, "a title is a text, not None"),
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


def test_a_series_is_read_by_place_and_not_by_label() -> None:
    order = np.random.default_rng(1).permutation(60)
    table = pd.DataFrame({"item_id": IDS, "title": TITLES}).iloc[order]
    inputs = {"vectors": vectors()[order], "levels": SIZES}
    shuffled = Bundle.from_vectors(table["item_id"], titles=table["title"], **inputs)
    listed = Bundle.from_vectors(list(table["item_id"]), titles=list(table["title"]), **inputs)
    assert shuffled.digest == listed.digest
    column = pd.Series(list(inputs["vectors"]), index=table.index)
    levels = np.array(SIZES)
    frame = pd.DataFrame(inputs["vectors"]).astype("Float32")
    from_column = Bundle.from_vectors(IDS, column, levels=levels)
    assert from_column.sids() == Bundle.from_vectors(IDS, frame, levels=SIZES).sids()
    rows = listed.items.rows(list(table["item_id"]))
    assert listed.items.rows(table["item_id"]).tolist() == rows.tolist()


def test_an_id_that_no_bundle_can_hold_is_not_in_one(tmp_path: Path) -> None:
    large = reopened(small_bundle(5000, (20, 20, 20)), tmp_path / "large.zarr")
    for bundle in (small_bundle(), large):
        with pytest.raises(DataError, match="lone surrogate"):
            bundle.sid("\ud800")


def test_a_table_has_the_active_items() -> None:
    bundle = small_bundle(40)
    bundle.items.retired[3] = True
    table = bundle.to_arrow()
    assert table.schema.field("codes").type == pa.list_(pa.uint16(), 3)
    columns = table.to_pydict()
    assert dict(zip(columns["item_id"], columns["sid"], strict=True)) == bundle.sids()
    assert [bundle.space.spell(codes) for codes in columns["codes"]] == columns["sid"]
    rows = bundle.items.rows(columns["item_id"]).tolist()
    assert columns["title"] == [bundle.items.title(row) for row in rows]
    assert "title" not in Bundle.from_vectors(IDS, vectors(), levels=SIZES).to_arrow().column_names
