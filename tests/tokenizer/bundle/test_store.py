import shutil
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import fsspec
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.base.errors import (
    DataError,
    IntegrityError,
    MissingPackageError,
    SidtoolError,
    UsageError,
)
from sidtool.base.storage.storage import Storage
from sidtool.registry.publish import push
from sidtool.tokenizer.bundle import Bundle, zarr_group
from sidtool.tokenizer.bundle.contents import identify
from sidtool.tokenizer.bundle.item_map import ItemMap
from sidtool.tokenizer.bundle.manifest import Identity
from tests.bundles import small_bundle
from tests.sealed import reseal_group


def rewritten(folder: Path, target: Path, rows: int) -> Path:
    """The bundle in a folder with other chunks, as another program might write it."""
    bundle = Bundle.open(folder)
    manifest = bundle.manifest
    arrays = bundle.arrays
    shutil.copytree(folder, target)
    for name, array in arrays.items():
        shutil.rmtree(target / name)
        chunks = (min(rows, max(len(array), 1)), *array.shape[1:])
        zarr.create_array(
            zarr.storage.LocalStore(target),
            name=name,
            data=array,
            chunks=chunks,
            compressors=None,
            config={"write_empty_chunks": True},
        )
    reseal_group(target, manifest)
    return target


def uploaded(path: Path, url: str) -> str:
    """The folder or file at a path, copied to a URL."""
    filesystem, root = fsspec.core.url_to_fs(url)
    if path.is_file():
        filesystem.pipe_file(root, path.read_bytes())
    else:
        filesystem.pipe({f"{root}/{name}": data for name, data in Storage(path).read_all()})
    return url


@settings(max_examples=5)
@given(st.data())
def test_order_chunks_container_and_place_change_neither_values_nor_identity(
    data: st.DataObject,
) -> None:
    n = data.draw(st.integers(0, 30))
    made = small_bundle(n, duplicates=data.draw(st.booleans()), codebook=data.draw(st.booleans()))
    order = data.draw(st.permutations(range(n)))
    titles = [made.items.title(row) for row in order] if data.draw(st.booleans()) else None
    codes = made.items.codes[np.array(order, dtype=np.int64)]
    items = ItemMap.of(made.space, [made.items.ids[row] for row in order], codes, titles)
    retired = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)), dtype=np.bool_)
    sids = {items.ids[row]: made.space.spell(items.codes[row]) for row in np.flatnonzero(~retired)}
    policy = made.manifest.collisions.policy
    bundle = Bundle.of(replace(items, retired=retired), made.codebook, policy, name="drawn")
    with TemporaryDirectory() as temporary:
        folder, packed = Path(temporary) / "shop.zarr", Path(temporary) / "shop.zarr.zip"
        bundle.save(folder)
        other = rewritten(folder, Path(temporary) / "other.zarr", data.draw(st.integers(1, 40)))
        Bundle.open(other).save(packed)
        name = uuid4().hex
        places = [folder, other, packed, folder.as_uri(), packed.as_uri()]
        for path in (folder, other, packed):
            places.append(uploaded(path, f"memory://{name}/{path.name}"))
        for place in places:
            opened = Bundle.open(place)
            assert (opened.identity, opened.sids()) == (bundle.identity, sids)
            np.testing.assert_equal(dict(opened.arrays), dict(bundle.arrays))
            assert Bundle.broken(place) == []
    assert Bundle.open(f"memory://{name}/shop.zarr").manifest.format == 1


@pytest.mark.parametrize("name", ["shop.zarr", "shop.zarr.zip"])
def test_one_flipped_byte_at_a_url_is_detected(tmp_path: Path, name: str) -> None:
    small_bundle(items=5).save(tmp_path / name)
    url = uploaded(tmp_path / name, f"memory://{uuid4().hex}/{name}")
    filesystem, root = fsspec.core.url_to_fs(url)
    assert Bundle.broken(url) == []
    rng = np.random.default_rng(0)
    for path in filesystem.find(root):
        original = filesystem.cat_file(path)
        count = 40 if name.endswith(".zip") else 3
        for place in rng.integers(0, len(original), size=count).tolist():
            damaged = bytearray(original)
            damaged[place] ^= 1 << int(rng.integers(8))
            filesystem.pipe_file(path, bytes(damaged))
            broken = [object_name for object_name, _ in Bundle.broken(url)]
            assert broken, f"byte {place} of {path}"
            assert name.endswith(".zip") or broken == [path.removeprefix(root).lstrip("/")]
        filesystem.pipe_file(path, original)
    assert Bundle.broken(url) == []


def test_an_object_that_is_missing_or_short_is_named_when_it_is_read(tmp_path: Path) -> None:
    small_bundle().save(tmp_path / "shop.zarr")
    bundle, chunk = Bundle.open(tmp_path / "shop.zarr"), tmp_path / "shop.zarr/items/sid/c/0/0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    message = "items/sid cannot be read: an object ends 1 bytes early"
    with pytest.raises(IntegrityError, match=message):
        _ = bundle.items
    chunk.unlink()
    with pytest.raises(IntegrityError, match="items/sid cannot be read: an object is missing"):
        _ = bundle.items


def test_a_bundle_that_was_replaced_says_so(tmp_path: Path) -> None:
    for name in ("shop.zarr", "shop.zarr.zip"):
        small_bundle().save(tmp_path / name)
        bundle = Bundle.open(tmp_path / name)
        small_bundle(30, seed=1).save(tmp_path / name, force=True)
        with pytest.raises(IntegrityError, match=f"{name} was replaced after it was") as caught:
            _ = bundle.items
        assert caught.value.hint == "open it again"


def test_retired_items_are_counted_by_their_marks_alone(tmp_path: Path) -> None:
    bundle = small_bundle()
    bundle.items.retired[3] = True
    bundle.save(tmp_path / "shop.zarr")
    for array in ("sid", "id_bytes", "id_offset", "title_bytes"):
        shutil.rmtree(tmp_path / "shop.zarr" / "items" / array)
    assert Bundle.open(tmp_path / "shop.zarr").n_retired == 1


def test_a_bundle_without_its_index_opens(tmp_path: Path) -> None:
    folder = tmp_path / "shop.zarr"
    made = small_bundle(items=5000, sizes=(20, 20, 20))
    made.save(folder)
    shutil.rmtree(folder / "index")
    reseal_group(folder, Bundle.open(folder).manifest)
    assert Bundle.broken(folder) == []
    assert Bundle.open(folder).sid("i7") == made.sid("i7")
    Bundle.open(folder).save(tmp_path / "again.zarr")
    assert "index/sid_first" in Bundle.open(tmp_path / "again.zarr").arrays


@pytest.mark.parametrize(
    ("url", "error", "match"),
    [
        ("nowhere://shop.zarr", UsageError, "{} cannot be opened: Protocol not known"),
        ("memory://nothing/shop.zarr", DataError, "no bundle at {}"),
        ("memory://nothing/shop.zarr.zip", DataError, "no bundle at {}"),
        ("http://127.0.0.1:9/shop.zarr", SidtoolError, "{} cannot be"),
    ],
)
def test_an_unreadable_url_is_a_data_error(url: str, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match.format(url)) as caught:
        Bundle.open(url)
    assert "\n" not in str(caught.value)


def test_a_client_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingPackageError, match=r"s3fs .* pip install 'sidtool\[s3\]'"):
        Bundle.open("s3://bucket/shop.zarr")


def test_a_zip_that_another_program_packed_is_refused(tmp_path: Path) -> None:
    small_bundle().save(tmp_path / "shop.zarr")
    shutil.make_archive(str(tmp_path / "shop.zarr"), "zip", tmp_path / "shop.zarr")  # deflated
    with pytest.raises(IntegrityError, match="its layout is not that of a zip that sidtool writes"):
        Bundle.open(tmp_path / "shop.zarr.zip")
    (tmp_path / "shop.zarr.zip").write_bytes(b"PK no zip at all")
    with pytest.raises(IntegrityError, match="damaged"):
        Bundle.open(tmp_path / "shop.zarr.zip")


UNSAFE_NAMES = ("../escape", "/escape", "a/../../escape", "a//b", "a/./b", "", "C:escape", "a\\b")
UNSAFE_NAMES += ("a\0b",)


@pytest.mark.parametrize("name", UNSAFE_NAMES)
def test_an_object_named_outside_of_the_bundle_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "shop.zarr"
    small_bundle().save(folder)
    manifest = Bundle.open(folder).manifest.to_json()
    manifest["objects"] = {**manifest["objects"], name: "0" * 64}
    # signed as the format asks: only the name is wrong
    (folder / zarr_group.ROOT).write_bytes(zarr_group.spell_root(manifest))
    with pytest.raises(IntegrityError, match="outside of the folder"):
        Bundle.open(folder)
    assert "outside of the folder" in Bundle.broken(folder)[0][1]
    with pytest.raises(IntegrityError, match="outside of the folder"):
        push(str(folder), str(tmp_path / "registry" / "shop"))
    assert not (tmp_path / "registry").exists()


BUNDLE = small_bundle(8)
PLACE = {"model": "org/a", "revision": "1", "trust_remote_code": False, "probes": [0.5]}


def identity(**changed: Any) -> Identity:
    encoder = {"weights": {"model.safetensors": "ab"}, "prompt": "x", **PLACE, **changed}
    return identify(BUNDLE.items, None, {"encoder": encoder}, "allow")


@pytest.mark.parametrize("key", PLACE)
def test_the_place_of_the_weights_changes_nothing(key: str) -> None:
    assert identity(**{key: "other"}) == identity()


def test_weights_and_prompt_change_the_codebook() -> None:
    assert identity(weights={}) != identity()
    assert identity(prompt="y") != identity()
