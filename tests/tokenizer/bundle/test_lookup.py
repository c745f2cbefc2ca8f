from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import example, given
from hypothesis import strategies as st

from sidtool.base.errors import IntegrityError
from sidtool.base.output import new_dir
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.bundle import item_map as module
from sidtool.tokenizer.bundle.contents import MAX_LOOKUPS
from sidtool.tokenizer.bundle.item_map import BLOCK, ItemMap, StringArray
from sidtool.tokenizer.bundle.zarr_group import write_group
from sidtool.tokenizer.make.encode import decode
from sidtool.tokenizer.sid import SidSpace
from tests.bundles import reopened


class Counted(LocalFileSystem):
    """Local files at counted:///path; counts the bytes that are read."""

    protocol = "counted"
    bytes = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix("counted://").rstrip("/")

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        stream = super()._open(path, mode, **options)
        read = stream.f.read

        def counted(size: int = -1) -> Any:
            data = read(size)
            Counted.bytes += len(data)
            return data

        stream.read = counted
        return stream


@pytest.fixture
def counted() -> type[Counted]:
    fsspec.register_implementation("counted", Counted, clobber=True)
    Counted.bytes = 0
    return Counted


def large_bundle(
    n: int, sizes: tuple[int, ...] = (64, 64, 64), *, distinct: bool = True, titles: bool = True
) -> Bundle:
    """n items on random SIDs, every ninth retired; sizes are powers of two, so that every key is a
    SID."""
    rng, space = np.random.default_rng(n), SidSpace(sizes)
    keys = np.sort(rng.choice(space.capacity, n, replace=not distinct)).astype(np.uint64)
    names = [f"item-{row:07d}" for row in (rng.permutation(n) if distinct else range(n))]
    titles = StringArray.of([f"film {row} é" for row in range(n)]) if titles else None
    ids, retired = StringArray.of(names), np.arange(n) % 9 == 0
    items = ItemMap(space, ids, space.unpack(keys), retired, titles)
    return Bundle.of(items, None, "reassign" if distinct else "allow", name="large")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Bundle, Path]]:
    """Bundles of a little more than two blocks: one item a SID, many, and no titles; in a folder
    and in a zip."""
    made = {
        "distinct.zarr": large_bundle(2 * BLOCK + 77),
        "shared.zarr.zip": large_bundle(2 * BLOCK + 77, (2, 2, 4), distinct=False),
        "bare.zarr.zip": large_bundle(BLOCK + 1, titles=False),
    }
    folder = tmp_path_factory.mktemp("stored")
    for name, bundle in made.items():
        bundle.save(folder / name)
    return {name: (bundle, folder / name) for name, bundle in made.items()}


@given(st.data())
def test_look_ups_in_parts_equal_look_ups_in_the_whole(
    stored: dict[str, tuple[Bundle, Path]], data: st.DataObject
) -> None:
    whole, path = stored[data.draw(st.sampled_from(sorted(stored)))]
    opened, n, space = Bundle.open(path), len(whole.items), whole.space
    edges = st.sampled_from([0, 1, BLOCK - 1, BLOCK, BLOCK + 1, n - 1]).filter(lambda row: row < n)
    rows = data.draw(st.lists(edges | st.integers(0, n - 1), max_size=4))
    any_sid = st.tuples(*(st.integers(0, size - 1) for size in space.sizes))
    sids = [*whole.items.codes[rows], data.draw(any_sid), data.draw(any_sid)]
    text = " and ".join(space.spell(codes) for codes in sids)
    assert decode(opened, text) == decode(whole, text)
    for row in rows:
        item = whole.items.ids[row]
        assert opened.sid(item) == whole.sid(item)
        assert opened.item_ids(whole.sid(item)) == whole.item_ids(whole.sid(item))
    requested = ["absent", "", *(whole.items.ids[row] for row in rows)]
    part = opened.items_for(len(requested))
    requested_rows = part.rows(requested).tolist()
    assert requested_rows == whole.items.rows(requested).tolist()
    for row in (row for row in requested_rows if row >= 0):
        values = part.codes[row].tolist(), bool(part.retired[row]), part.title(row)
        expected = whole.items.codes[row].tolist(), bool(whole.items.retired[row])
        assert values == (*expected, whole.items.title(row))
    assert "items" not in vars(opened), "the whole map was not read"


@pytest.mark.parametrize("name", ["shop.zarr", "shop.zarr.zip"])
def test_ten_look_ups_read_a_twentieth_at_most(
    tmp_path: Path, counted: type[Counted], name: str
) -> None:
    n = 200_000
    made = large_bundle(n)
    made.save(tmp_path / name)
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    rows = np.linspace(0, n - 1, 10).astype(int).tolist()
    for ask in (
        lambda bundle, row: decode(bundle, made.space.spell(made.items.codes[row])),
        lambda bundle, row: bundle.sid(made.items.ids[row]),
    ):
        counted.bytes = 0
        bundle = Bundle.open(f"counted://{tmp_path / name}")
        opening = counted.bytes
        assert 0 < opening < 20_000, "the manifest and the directory of a zip"
        assert all(ask(bundle, row) == ask(made, row) for row in rows)
        assert counted.bytes <= 0.05 * size
    counted.bytes = 0
    assert len(bundle.items) == n
    assert counted.bytes > 0.8 * size, "the counter sees what is read"


def test_many_look_ups_read_the_whole_once(tmp_path: Path) -> None:
    made = large_bundle(BLOCK + 1)
    bundle = reopened(made, tmp_path / "shop.zarr")
    for row in range(MAX_LOOKUPS):
        bundle.sid(made.items.ids[row])
    assert "items" not in vars(bundle)
    assert bundle.sid(made.items.ids[MAX_LOOKUPS]) == made.sid(made.items.ids[MAX_LOOKUPS])
    assert "items" in vars(bundle)
    assert bundle.items_for(1) is bundle.items


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bundles of more than a block are large: their ids, titles and index are read in parts."""
    for name in ("item_map", "contents"):
        monkeypatch.setattr(f"sidtool.tokenizer.bundle.{name}.LARGE", BLOCK)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("name", ["distinct.zarr", "shared.zarr.zip", "bare.zarr.zip"])
def test_a_large_map_equals_one_that_is_held_in_memory(
    stored: dict[str, tuple[Bundle, Path]], tmp_path: Path, name: str
) -> None:
    whole, path = stored[name]
    opened = Bundle.open(path)
    items, expected = opened.items, whole.items
    drawn = np.random.default_rng(0).integers(0, len(expected), 40).tolist()
    rows = [0, 1, BLOCK - 1, BLOCK, len(expected) - 1, *drawn]
    for row in rows:
        item = expected.ids[row]
        assert (items.ids[row], items.title(row)) == (item, expected.title(row))
        assert items.row(item) == row
        assert opened.item_ids(whole.sid(item)) == whole.item_ids(whole.sid(item))
        for depth in range(whole.space.levels):
            prefix = expected.codes[row, :depth].tolist()
            assert items.rows_under(prefix) == expected.rows_under(prefix)
    sizes = np.array(whole.space.sizes)
    drawn_codes = np.random.default_rng(1).integers(0, sizes, (200, len(sizes))).astype(np.uint16)
    for one, other in zip(items.rows_at(drawn_codes), expected.rows_at(drawn_codes), strict=True):
        assert one.tolist() == other.tolist()
    names = list(expected.ids)
    assert list(items.ids) == names
    assert [items.ids[row] for row in range(len(names))] == names
    assert items.rows([*names[::-1], "absent"]).tolist() == [*range(len(names))[::-1], -1]
    assert opened.trie().rows.tolist() == whole.trie().rows.tolist()
    assert reopened(opened, tmp_path / "copy.zarr").digest == whole.digest


@pytest.mark.usefixtures("large")
def test_look_ups_in_a_large_map_read_little(tmp_path: Path, counted: type[Counted]) -> None:
    n = 200_000
    made = large_bundle(n)
    made.save(tmp_path / "shop.zarr")
    bundle = Bundle.open(f"counted://{tmp_path / 'shop.zarr'}")
    for row in np.linspace(0, n - 1, MAX_LOOKUPS + 10).astype(int).tolist():
        item = made.items.ids[row]
        assert made.items.retired[row] or bundle.item_ids(bundle.sid(item)) == [item]
    codes = made.items.codes.nbytes + made.items.retired.nbytes
    assert "items" in vars(bundle)
    reads = MAX_LOOKUPS + 10
    assert codes < counted.bytes < codes + reads * 60 * BLOCK


@pytest.mark.usefixtures("large")
def test_a_damaged_large_map_is_refused(tmp_path: Path) -> None:
    made = large_bundle(BLOCK + 1)
    ids = made.items.ids
    broken = StringArray(np.where(np.arange(len(ids.data)) == 3, 0xFF, ids.data), ids.offsets)
    arrays = {**made.arrays, "items/id_bytes": broken.data.astype(np.uint8)}
    arrays["index/id_row"] = made.arrays["index/id_row"] + np.uint32(len(ids))
    with new_dir(tmp_path / "broken.zarr") as folder:
        write_group(folder, arrays, made.manifest)
    items = Bundle.open(tmp_path / "broken.zarr").items
    with pytest.raises(IntegrityError, match="string 0 is missing or not"):
        items.ids[0]
    with pytest.raises(IntegrityError, match="string 0 is not UTF-8"):
        list(items.ids)
    with pytest.raises(IntegrityError, match="a string is not UTF-8"):
        items.whole_ids()
    with pytest.raises(IntegrityError, match="string 4102 is missing"):
        items.row(ids[5])


def test_codes_outside_of_their_level_are_refused_by_look_ups_in_parts(tmp_path: Path) -> None:
    made = large_bundle(BLOCK + 1)
    codes = made.items.codes.copy()
    codes[21, 2] = 64
    with new_dir(tmp_path / "broken.zarr") as folder:
        write_group(folder, {**made.arrays, "items/sid": codes}, made.manifest)
    for look_up in (
        lambda bundle: bundle.sid(made.items.ids[21]),
        lambda bundle: bundle.item_ids(made.space.spell(made.items.codes[21])),
    ):
        bundle = Bundle.open(tmp_path / "broken.zarr")
        with pytest.raises(IntegrityError, match="items/sid"):
            look_up(bundle)
        assert "items" not in vars(bundle)


def test_an_array_is_cut_into_even_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidtool.tokenizer.bundle.zarr_arrays.CHUNK_BYTES", 1000)
    made = large_bundle(BLOCK + 1)
    made = Bundle.of(replace(made.items, titles=None), None, "reassign", name="cut")
    opened = reopened(made, tmp_path / "cut.zarr")
    chunks = (tmp_path / "cut.zarr/items/sid/c").rglob("*")
    sizes = {path.stat().st_size for path in chunks if path.is_file()}
    assert len(sizes) == 1
    assert max(sizes) <= 1000
    assert opened.sid(made.items.ids[4000]) == made.sid(made.items.ids[4000])
    np.testing.assert_array_equal(opened.items.codes, made.items.codes)
    assert list(opened.items.ids) == list(made.items.ids)


@given(st.lists(st.text(min_size=1, max_size=9), max_size=30), st.integers(1, 7))
def test_hashes_do_not_depend_on_neighbors(texts: list[str], chunk: int) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        together = StringArray.of(texts).hashes()
    assert together.tolist() == [int(StringArray.of([text]).hashes()[0]) for text in texts]


@example("aé", [2], 4)
@given(st.text("aé日", max_size=9), st.lists(st.integers(0, 27), max_size=9), st.integers(1, 4))
def test_a_string_that_is_not_utf8_is_refused_in_any_chunk(
    text: str, cuts: list[int], chunk: int
) -> None:
    data = text.encode()
    offsets = np.array([0, *sorted(min(cut, len(data)) for cut in cuts), len(data)])
    strings = [data[start:stop] for start, stop in pairwise(offsets.tolist())]
    are_valid = all(string.decode("utf-8", "ignore").encode() == string for string in strings)
    refusal = nullcontext() if are_valid else pytest.raises(IntegrityError)
    with pytest.MonkeyPatch.context() as patch, refusal:
        patch.setattr(module, "CHUNK", chunk)
        StringArray.stored("items/title", np.frombuffer(data, dtype=np.uint8), offsets)
