import json
from collections.abc import Callable
from typing import Any

import fsspec
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sidtool.tokenizer import decode
from sidtool.tokenizer.bundle import Bundle
from tests.bundles import small_bundle
from tests.hostile.documents import changed
from tests.hostile.harness import call, cases
from tests.tokenizer.bundle.drafts import ROOT, Draft, metadata_of, root_document, zipped

A = "a" * 64
STORE = fsspec.filesystem("memory")
FOLDER = "memory://hostile/shop.zarr"
ZIP = "memory://hostile/shop.zarr.zip"
ENCODER = {"model": "x", "dim": 2, "probes": [{"text": "x", "vector": [0.5]}], "weights": {"w": A}}
LINEAGE = {"version": "1.0", "digest": A, "name": "old", "created": "", "change": {"kind": "items"}}

numbers = st.integers(0, 1 << 16)


def draft(codebook: bool, items: int) -> Draft:
    """A valid bundle with every part that a bundle may have."""
    made = Draft.of(small_bundle(items=items, codebook=codebook, duplicates=items > 20))
    made.manifest |= {"version": "1.1", "parent": A, "lineage": [LINEAGE]}
    made.manifest |= {"compatible_with": [A], "source": {"catalog": A}, "libraries": {"x": "1"}}
    if codebook:
        made.manifest["recipe"] |= {"encoder": ENCODER, "text_template": "{title}"}
        made.arrays["codebook/encoder/in_0_weight"] = np.ones((8, 8), dtype=np.float32)
        made.arrays["codebook/encoder/in_0_bias"] = np.ones(8, dtype=np.float32)
    made.identify()
    made.manifest["objects"] = made.digests()
    return made


BASES = tuple(draft(codebook, items) for codebook in (True, False) for items in (0, 1, 6, 40))


def change_manifest(made: Draft, choose: Callable[[Any], Any]) -> None:
    made.manifest = changed(made.manifest, choose)


def change_metadata(made: Draft, choose: Callable[[Any], Any]) -> None:
    name = a_name(made, choose)
    made.metadata[name] = changed(metadata_of(made.arrays[name]), choose)


def flip_bytes(array: np.ndarray, choose: Callable[[Any], Any]) -> np.ndarray:
    """Replace some bytes of an array, in place."""
    raw = array.reshape(-1).view(np.uint8)
    for _ in range(1 + choose(numbers) % 4):
        if len(raw):
            raw[choose(numbers) % len(raw)] = choose(numbers) % 256
    return array


def change_values(made: Draft, choose: Callable[[Any], Any]) -> None:
    name = a_name(made, choose)
    made.arrays[name] = flip_bytes(made.arrays[name].copy(), choose)


def change_type(made: Draft, choose: Callable[[Any], Any]) -> None:
    name = a_name(made, choose)
    dtypes = ("uint8", "uint16", "int32", "int64", "uint64", "float32", "float64", "bool")
    with np.errstate(all="ignore"):
        made.arrays[name] = made.arrays[name].astype(dtypes[choose(numbers) % len(dtypes)])


def change_shape(made: Draft, choose: Callable[[Any], Any]) -> None:
    name = a_name(made, choose)
    array = made.arrays[name]
    change = choose(numbers) % 4
    shapes = (array[:-1], array[::-1], np.concatenate([array, array[:1]]), array.reshape(-1))
    made.arrays[name] = shapes[change].copy()


def change_chunk(made: Draft, choose: Callable[[Any], Any]) -> None:
    name = a_name(made, choose)
    data = made.arrays[name].tobytes()
    change = choose(numbers) % 4
    made.chunks[name] = (data[:-1], data + data, choose(st.binary(max_size=40)), b"")[change]


def change_strings(made: Draft, choose: Callable[[Any], Any]) -> None:
    name = ("id", "title")[choose(numbers) % 2]
    size = len(made.arrays.get("items/sid", ()))
    strings = st.lists(st.binary(max_size=6), min_size=size, max_size=size)
    made.set_strings(name, choose(strings))


def change_objects(made: Draft, choose: Callable[[Any], Any]) -> None:
    names = sorted(made.parts())
    name = names[choose(numbers) % len(names)]
    changes = {name: None, "items/more": b"x", "zarr/zarr.json": b"{}", "README.md": b"x"}
    key = sorted(changes)[choose(numbers) % len(changes)]
    made.objects[key] = changes[key]
    if choose(numbers) % 2:
        made.objects[name] = choose(st.binary(max_size=60))


def drop_array(made: Draft, choose: Callable[[Any], Any]) -> None:
    del made.arrays[a_name(made, choose)]


CHANGES = (change_manifest, change_metadata, change_values, change_type, change_shape)
CHANGES += (change_chunk, change_strings, change_objects, drop_array)


def a_name(made: Draft, choose: Callable[[Any], Any]) -> str:
    names = sorted(made.arrays)
    return names[choose(numbers) % len(names)]


def signed(made: Draft, *, restore: bool) -> dict[str, bytes]:
    """The objects of a draft, signed as far as its values allow it."""
    if restore and isinstance(made.manifest, dict):
        for step in (made.reindex, made.identify):
            try:
                step()
            except Exception:  # the values have no index or identity
                continue
        made.manifest["objects"] = made.digests()
    return made.parts() | {ROOT: root_document(made.manifest)}


def use(location: str) -> tuple[list[str], list[str], list[list[int]], list[bool], bool]:
    """The values of a bundle, and whether every kind of look-up agrees with them."""
    bundle = Bundle.open(location)
    items = bundle.items
    ids = list(items.ids)
    titles = [items.title(row) for row in range(len(items))]
    items.rows([*ids[:3], "none"])
    agree = True
    for row in bundle.active[:2].tolist():
        text = bundle.sid(ids[row])
        decoded = decode(bundle, text)
        agree &= ids[row] in bundle.item_ids(text) and ids[row] in decoded[0].items
    if len(bundle.active):
        bundle.trie()
    if bundle.codebook is not None:
        codes = bundle.encode(np.ones((1, bundle.codebook.dim), dtype=np.float32))
        bundle.codebook.reconstruct(codes)
    str(bundle.manifest.history[-1].change)
    return ids, titles, items.codes.tolist(), items.retired.tolist(), agree


def check(location: str, made: Draft, objects: dict[str, bytes]) -> None:
    n_bytes = sum(map(len, objects.values()))
    broken = call(Bundle.broken, location, input_bytes=n_bytes)
    read = call(use, location, input_bytes=n_bytes)
    if broken != []:
        return
    # what verify calls good is read, and exactly as it is stored
    assert read is not None
    ids, titles, codes, retired, agree = read
    assert agree
    assert codes == made.arrays["items/sid"].tolist()
    assert retired == made.arrays["items/retired"].tolist()
    assert b"".join(text.encode() for text in ids) == made.arrays["items/id_bytes"].tobytes()
    assert len(set(ids)) == len(ids) == len(titles)
    assert all(ids)


@cases(400)
@given(st.data())
def test_a_bundle_changed_and_signed_is_found_or_read_as_it_is(data: st.DataObject) -> None:
    made = BASES[data.draw(numbers) % len(BASES)].copy()
    for _ in range(1 + data.draw(numbers) % 2):
        change = CHANGES[data.draw(numbers) % len(CHANGES)]
        if not isinstance(made.manifest, dict) or not made.arrays:
            break
        change(made, data.draw)
    objects = signed(made, restore=bool(data.draw(numbers) % 4))
    STORE.store.clear()
    if data.draw(st.booleans()):
        STORE.pipe({f"/hostile/shop.zarr/{name}": content for name, content in objects.items()})
        check(FOLDER, made, objects)
    else:
        STORE.pipe("/hostile/shop.zarr.zip", zipped(objects))
        check(ZIP, made, objects)


@cases(150)
@given(st.data())
def test_a_byte_that_was_changed_in_a_zip_is_found(data: st.DataObject) -> None:
    made = BASES[data.draw(numbers) % len(BASES)]
    packed = bytearray(zipped(made.stored()))
    before = bytes(packed)
    for _ in range(1 + data.draw(numbers) % 3):
        place = data.draw(st.integers(0, len(packed) - 1))
        packed[place] ^= 1 << data.draw(st.integers(0, 7))
    if data.draw(st.booleans()):
        del packed[data.draw(st.integers(0, len(packed) - 1)) :]
    STORE.store.clear()
    STORE.pipe("/hostile/shop.zarr.zip", bytes(packed))
    broken = call(Bundle.broken, ZIP, input_bytes=len(packed))
    assert (broken == []) == (bytes(packed) == before)
    call(use, ZIP, input_bytes=len(packed))


@cases(200)
@given(st.data())
def test_a_changed_root_document_is_refused_or_says_the_same(data: st.DataObject) -> None:
    made = BASES[data.draw(numbers) % len(BASES)]
    value = json.loads(made.stored()[ROOT])
    new = changed(value, data.draw)
    text = json.dumps(new, indent=data.draw(st.sampled_from([None, 1])), sort_keys=True)
    STORE.store.clear()
    objects = made.parts() | {ROOT: text.encode("utf-8", "surrogatepass")}
    STORE.pipe({f"/hostile/shop.zarr/{name}": content for name, content in objects.items()})
    assert call(Bundle.broken, FOLDER) or objects[ROOT] == made.stored()[ROOT]
