"""docs/format.md is enough: a reader written from that page, without sidtool, reads bundles and
their identity."""

import hashlib
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from sidtool.bundle import Bundle
from tests.bundles import small_bundle

GOLDEN = Path(__file__).resolve().parent.parent / "golden"


def read_by_the_page(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest, and all arrays by name."""
    group = zarr.open_group(
        zarr.storage.ZipStore(path, mode="r") if path.suffix == ".zip" else path, mode="r"
    )
    attributes = dict(group.attrs)
    manifest = attributes["sidtool"]
    assert hashlib.sha256(canonical(manifest)).hexdigest() == attributes["sidtool_sha256"]
    assert manifest["format"] == 1
    arrays = {
        name: node[...]
        for name, node in group.members(max_depth=None)
        if isinstance(node, zarr.Array)
    }
    return manifest, arrays


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def array(name: str, values: Any) -> bytes:
    values = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"))
    return canonical([name, values.dtype.str, list(values.shape)]) + values.tobytes()


def identity_by_the_page(manifest: dict[str, Any], arrays: dict[str, Any]) -> dict[str, str]:
    recipe = json.loads(json.dumps(manifest["recipe"]))
    if "weights" in (recipe or {}).get("encoder", {}):
        for key in ("model", "revision", "trust_remote_code", "probes"):
            recipe["encoder"].pop(key, None)
    book = [
        array(name, values)
        for name, values in sorted(arrays.items())
        if name.startswith("codebook/")
    ]
    columns = ["id_bytes", "id_offset", "sid", "retired", "title_bytes", "title_offset"]
    items = [array(name, arrays[f"items/{name}"]) for name in columns if f"items/{name}" in arrays]
    parts = {
        "space": [canonical(manifest["space"])],
        "codebook": [
            canonical({"recipe": recipe, "policy": manifest["collisions"]["policy"]}),
            *book,
        ],
        "items": items,
    }
    found = {part: hashlib.sha256(b"".join(pieces)).hexdigest() for part, pieces in parts.items()}
    return found | {"digest": hashlib.sha256(":".join(found.values()).encode()).hexdigest()}


def strings_by_the_page(arrays: dict[str, Any], name: str) -> list[str]:
    data, offsets = arrays[f"items/{name}_bytes"].tobytes(), arrays[f"items/{name}_offset"].tolist()
    return [data[start:stop].decode() for start, stop in pairwise(offsets)]


def hash_by_the_page(text: str) -> int:
    multiplier = 0x9E3779B97F4A7C15
    value = sum(
        (byte + 1) * pow(multiplier, place, 1 << 64) for place, byte in enumerate(text.encode(), 1)
    ) % (1 << 64)
    return (value ^ (value >> 32)) * multiplier % (1 << 64)


@pytest.mark.parametrize("name", ["bundle.zarr.zip", "fresh", "bare"])
def test_the_page_is_enough_to_read_a_bundle(tmp_path: Path, name: str) -> None:
    path = GOLDEN / name
    if not path.exists():
        path = tmp_path / "fresh.zarr"
        small_bundle(
            items=5000, sizes=(20, 20, 20), codebook=name == "fresh", markers=name == "fresh"
        ).save(path)
    manifest, arrays = read_by_the_page(path)
    assert identity_by_the_page(manifest, arrays) == manifest["identity"]
    bundle = Bundle.open(path)
    assert bundle.identity.digest == manifest["identity"]["digest"]
    ids = strings_by_the_page(arrays, "id")
    assert ids == list(bundle.items.ids)
    assert strings_by_the_page(arrays, "title") == list(bundle.items.titles or [])
    order = sorted(
        range(len(ids)), key=lambda row: (arrays["items/sid"][row].tolist(), ids[row].encode())
    )
    assert order == list(range(len(ids)))
    by_hash = sorted((hash_by_the_page(text), row) for row, text in enumerate(ids))
    stored = zip(arrays["index/id_hash"].tolist(), arrays["index/id_row"].tolist(), strict=True)
    assert list(stored) == by_hash
    assert arrays["index/id_hash_first"].tolist() == arrays["index/id_hash"][::4096].tolist()
    assert arrays["index/sid_first"].tolist() == arrays["items/sid"][::4096].tolist()


def test_the_objects_are_those_that_the_page_tells_of(tmp_path: Path) -> None:
    small_bundle(items=5000, sizes=(20, 20, 20)).save(tmp_path / "shop.zarr")
    files = {
        path.relative_to(tmp_path / "shop.zarr").as_posix(): path.read_bytes()
        for path in _files(tmp_path)
    }
    root = files.pop("zarr.json")
    value = json.loads(root)
    assert root == json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"
    objects = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    assert value["attributes"]["sidtool"]["objects"] == objects
    assert np.frombuffer(files["items/sid/c/0/0"], dtype="<u2").reshape(-1, 3).shape == (5000, 3)
    page = (Path(__file__).resolve().parents[2] / "docs/format.md").read_text(encoding="utf-8")
    told = {
        name
        for name in files
        if name.endswith("/zarr.json") and json.loads(files[name])["node_type"] == "array"
    }
    for name in told:
        assert (
            name.removesuffix("/zarr.json")
            .replace("level_1", "level_0")
            .replace("level_2", "level_0")
            in page
        )


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
