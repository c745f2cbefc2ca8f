"""docs/format.md is sufficient: readers written from that page, without sidtool, read each artifact
and recompute its digests."""

import hashlib
import json
import unicodedata
import zlib
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

from sidtool.tokenizer.bundle import Bundle
from tests.bundles import small_bundle
from tests.golden.make import EVENTS

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests/golden"
PAGE = (ROOT / "docs/format.md").read_text(encoding="utf-8")


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def json_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def check_files(folder: Path, files: dict[str, str]) -> None:
    for name, digest in files.items():
        assert sha256((folder / name).read_bytes()) == digest


def check_keys(section: str, value: dict[str, Any]) -> None:
    """Every stored key is on the page, under the section's heading."""
    text = PAGE.partition(f"\n## {section}")[2].partition("\n## ")[0]
    assert [key for key in value if f"`{key}`" not in text] == []


# Bundle


def read_bundle(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The manifest, and all arrays by name."""
    group = zarr.open_group(
        zarr.storage.ZipStore(path, mode="r") if path.suffix == ".zip" else path, mode="r"
    )
    attributes = dict(group.attrs)
    manifest = attributes["sidtool"]
    assert sha256(canonical(manifest)) == attributes["sidtool_sha256"]
    assert manifest["format"] in (1, 2)
    nodes = group.members(max_depth=None)
    return manifest, {name: node[...] for name, node in nodes if isinstance(node, zarr.Array)}


def array(name: str, values: Any) -> bytes:
    values = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"))
    return canonical([name, values.dtype.str, list(values.shape)]) + values.tobytes()


def identity_of(manifest: dict[str, Any], arrays: dict[str, Any]) -> dict[str, str]:
    recipe = json.loads(json.dumps(manifest["recipe"]))
    if "weights" in (recipe or {}).get("encoder", {}):
        for key in ("model", "revision", "trust_remote_code", "probes"):
            recipe["encoder"].pop(key, None)
    codebook = [
        array(name, values)
        for name, values in sorted(arrays.items())
        if name.startswith("codebook/")
    ]
    columns = ["id_bytes", "id_offset", "sid", "retired", "title_bytes", "title_offset"]
    items = [array(name, arrays[f"items/{name}"]) for name in columns if f"items/{name}" in arrays]
    made = canonical({"recipe": recipe, "policy": manifest["collisions"]["policy"]})
    parts = {
        "space": sha256(canonical(manifest["space"])),
        "codebook": sha256(b"".join([made, *codebook])),
        "items": sha256(b"".join(items)),
    }
    return parts | {"digest": sha256(":".join(parts.values()).encode())}


def strings_of(arrays: dict[str, Any], name: str) -> list[str]:
    data = arrays[f"items/{name}_bytes"].tobytes()
    offsets = arrays[f"items/{name}_offset"].tolist()
    return [data[start:stop].decode() for start, stop in pairwise(offsets)]


def id_hash(text: str) -> int:
    return hash_of(text.encode())


def hash_of(numbers: Iterable[int]) -> int:
    """Of the bytes of an id, or of the letters of a feature."""
    multiplier = 0x9E3779B97F4A7C15
    powers = ((n + 1) * pow(multiplier, place, 1 << 64) for place, n in enumerate(numbers, 1))
    value = sum(powers) % (1 << 64)
    return (value ^ (value >> 32)) * multiplier % (1 << 64)


@pytest.mark.parametrize(
    "name", ["bundle.zarr.zip", "bundle-2.zarr.zip", "bundle-lexical.zarr.zip", "fresh", "bare"]
)
def test_the_page_suffices_to_read_a_bundle(tmp_path: Path, name: str) -> None:
    path = GOLDEN / name
    if not path.exists():
        path = tmp_path / "fresh.zarr"
        small_bundle(
            items=5000,
            sizes=(20, 20, 20),
            codebook=name == "fresh",
            begin_end_tokens=name == "fresh",
        ).save(path)
    manifest, arrays = read_bundle(path)
    check_keys("Bundle", manifest)
    assert identity_of(manifest, arrays) == manifest["identity"]
    bundle = Bundle.open(path)
    assert bundle.identity.digest == manifest["identity"]["digest"]
    ids = strings_of(arrays, "id")
    assert ids == list(bundle.items.ids)
    assert strings_of(arrays, "title") == list(bundle.items.titles or [])
    rows = range(len(ids))
    assert list(rows) == sorted(
        rows, key=lambda row: (arrays["items/sid"][row].tolist(), ids[row].encode())
    )
    by_hash = sorted((id_hash(text), row) for row, text in enumerate(ids))
    stored = zip(arrays["index/id_hash"].tolist(), arrays["index/id_row"].tolist(), strict=True)
    assert list(stored) == by_hash
    assert arrays["index/id_hash_first"].tolist() == arrays["index/id_hash"][::4096].tolist()
    assert arrays["index/sid_first"].tolist() == arrays["items/sid"][::4096].tolist()


def lexical_features(text: str) -> tuple[dict[str, int], dict[str, int]]:
    """How often a text has each word, and each character n-gram."""
    words: dict[str, int] = {}
    n_grams: dict[str, int] = {}
    folded = ""
    for letter in unicodedata.normalize("NFKC", text).casefold():
        kind = unicodedata.category(letter)
        number = str(unicodedata.digit(letter)) if kind == "Nd" else letter
        folded += number if kind[0] in "LMN" else " "
    for word in folded[:2000].split():
        words["#" + word] = words.get("#" + word, 0) + 1
        padded = f" {word} "
        threes = [padded[at : at + 3] for at in range(len(padded) - 2)]
        twos = [pair for pair in map("".join, pairwise(word)) if min(pair) >= "\u0e00"]
        for n_gram in threes + twos:
            n_grams[n_gram] = n_grams.get(n_gram, 0) + 1
    return words, n_grams


def lexical_vector(arrays: dict[str, Any], text: str) -> Any:
    rows = {value: row for row, value in enumerate(arrays["encoder/feature_hash"].tolist())}
    components = arrays["encoder/components"].astype(np.float64)
    vector = np.zeros(components.shape[1])
    for kind in lexical_features(text):
        weights = {
            rows[key]: (1 + np.log(times)) * float(arrays["encoder/idf"][rows[key]])
            for feature, times in kind.items()
            if (key := hash_of(map(ord, feature))) in rows
        }
        length = np.sqrt(2 * sum(weight**2 for weight in weights.values()))
        for row, weight in weights.items():
            vector += weight / length * components[row]
    return vector / np.linalg.norm(vector)


def test_the_page_suffices_to_embed_with_a_lexical_encoder() -> None:
    path = GOLDEN / "bundle-lexical.zarr.zip"
    manifest, arrays = read_bundle(path)
    recorded = manifest["recipe"]["encoder"]
    assert recorded["dim"] == arrays["encoder/components"].shape[1]
    assert recorded["weights"] == {
        name: sha256(array(name, values))
        for name, values in arrays.items()
        if name.startswith("encoder/")
    }
    lexical = Bundle.open(path).lexical
    texts = [
        "NAIL polish, 3.5g!",
        "漢字とかな ٣.٥",
        "Crème crème creme",
        "file no5 " + "red " * 900,
    ]
    expected = [lexical_vector(arrays, text) for text in texts]
    np.testing.assert_allclose(lexical.vectors(texts), expected, atol=2e-6)


def test_the_objects_of_a_bundle_are_those_of_the_page(tmp_path: Path) -> None:
    folder = tmp_path / "shop.zarr"
    small_bundle(items=5000, sizes=(20, 20, 20)).save(folder)
    files = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
    root = files.pop("zarr.json")
    value = json.loads(root)
    assert root == json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"
    objects = {name: sha256(data) for name, data in files.items()}
    assert value["attributes"]["sidtool"]["objects"] == objects
    assert np.frombuffer(files["items/sid/c/0/0"], dtype="<u2").reshape(-1, 3).shape == (5000, 3)
    metadata = (name for name in files if name.endswith("/zarr.json"))
    for name in metadata:
        if json.loads(files[name])["node_type"] == "array":
            array_name = name.removesuffix("/zarr.json")
            first_level = array_name.replace("level_1", "level_0").replace("level_2", "level_0")
            assert f"`{first_level}`" in PAGE


# Split


def strings_digest(*columns: list[str]) -> str:
    data = b""
    for column in columns:
        assert len(column) <= 65536, "one block"
        encoded = [text.encode() for text in column]
        if encoded:
            data += ",".join(str(len(text)) for text in encoded).encode() + b":" + b"".join(encoded)
        data += b"|"
    return sha256(data)


def test_the_page_suffices_to_read_a_split() -> None:
    folder = GOLDEN / "split"
    manifest = json.loads((folder / "split.json").read_bytes())
    assert manifest["format"] == 1
    check_keys("Split", manifest)
    check_files(folder, manifest["files"])
    train = sorted(json_lines(folder / "train.jsonl"), key=lambda line: line["user"])
    users = [line["user"] for line in train for _ in line["items"]]
    items = [item for line in train for item in line["items"]]
    positions = [str(position) for line in train for position in line["positions"]]
    assert strings_digest(users, items, positions) == manifest["train_digest"]
    columns: list[list[str]] = []
    for part in ("valid", "test"):
        lines = json_lines(folder / f"{part}.jsonl")
        lines.sort(key=lambda line: (line["user"], line["position"], line["item"]))
        columns += [[str(line[key]) for line in lines] for key in ("user", "item", "position")]
    assert strings_digest(*columns) == manifest["held_out_digest"]
    both = f"{manifest['train_digest']}:{manifest['held_out_digest']}"
    assert sha256(both.encode()) == manifest["digest"]


def events_digest(rows: list[tuple[str, list[str], list[int]]]) -> str:
    """The `part` of the page: rows of a user, the items and the positions of the events."""
    buckets: list[list[tuple[bytes, list[bytes], list[int]]]] = [[] for _ in range(1024)]
    for user, items, positions in rows:
        encoded = user.encode()
        buckets[zlib.crc32(encoded) % 1024].append(
            (encoded, [item.encode() for item in items], positions)
        )
    digests = b""
    for bucket in buckets:
        bucket.sort()
        users = [user for user, _, _ in bucket]
        items = [item for _, user_items, _ in bucket for item in user_items]
        data = texts(users) + numbers([len(user_items) for _, user_items, _ in bucket])
        data += texts(items) + numbers([at for _, _, places in bucket for at in places])
        digests += hashlib.sha256(data).digest()
    return sha256(digests)


def texts(values: list[bytes]) -> bytes:
    lengths = numbers([len(value) for value in values])
    return len(values).to_bytes(8, "little") + lengths + b"".join(values)


def numbers(values: list[int]) -> bytes:
    return b"".join(value.to_bytes(4, "little") for value in values)


def test_the_page_suffices_to_read_a_split_in_columns() -> None:
    parts = read_columns_of(GOLDEN / "split-4", [""])
    fields = {"event_rating", "event_device", "event_target"}
    columns = {"user", "items", "positions", "times"} | fields
    assert set(parts["train"][0]) == columns | {"sessions"}
    assert set(parts["test"][0]) == columns | {"targets", "history"}


def test_the_page_suffices_to_read_a_split_in_parts() -> None:
    folder = GOLDEN / "split-parts"
    for number in range(2):
        rows = pq.read_table(folder / f"part-000{number}/train.parquet").to_pylist()
        buckets = {zlib.crc32(row["user"].encode()) % 1024 for row in rows}
        assert {bucket * 3 // 1024 for bucket in buckets} == {number}
    read_columns_of(folder, ["part-0000/", "part-0001/"])


def read_columns_of(folder: Path, places: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The rows of a split of format 4, whose digests are those of its manifest."""
    manifest = json.loads((folder / "split.json").read_bytes())
    seal = manifest.pop("sha256")
    assert manifest["format"] == 4
    assert seal == sha256(canonical(manifest))
    check_keys("Split", manifest)
    check_files(folder, manifest["files"])
    names = ("train", "valid", "test")
    assert set(manifest["files"]) == {
        f"{place}{name}.parquet" for place in places for name in names
    }
    parts = {
        name: [
            row
            for place in places
            for row in pq.read_table(folder / f"{place}{name}.parquet").to_pylist()
        ]
        for name in names
    }
    train = [(row["user"], row["items"], row["positions"]) for row in parts["train"]]
    assert events_digest(train) == manifest["train_digest"]
    digests = []
    for part in ("valid", "test"):
        targets = []
        for row in parts[part]:
            item_at = dict(zip(row["positions"], row["items"], strict=True))
            targets.append((row["user"], [item_at[at] for at in row["targets"]], row["targets"]))
        digests.append(events_digest(targets))
    assert sha256(":".join(digests).encode()) == manifest["held_out_digest"]
    both = f"{manifest['train_digest']}:{manifest['held_out_digest']}"
    assert sha256(both.encode()) == manifest["digest"]
    return parts


# Training examples


def test_the_page_suffices_to_read_training_examples() -> None:
    folder = GOLDEN / "examples"
    lineage = json.loads((folder / "train.jsonl.meta.json").read_bytes())
    assert lineage["format"] == 1
    check_keys("Training examples", lineage)
    check_files(folder, lineage["files"])
    manifest, _ = read_bundle(GOLDEN / "bundle.zarr.zip")
    assert all(lineage["bundle"][part] == manifest["identity"][part] for part in lineage["bundle"])
    examples = json_lines(folder / "train.jsonl")
    counts = {task: sum(line["task"] == task for line in examples) for task in lineage["tasks"]}
    assert counts == {task: numbers["examples"] for task, numbers in lineage["tasks"].items()}
    spans = 0
    for example in examples:
        assert ("text" in example) != ("prompt" in example and "completion" in example)
        for side, parts in example.get("catalog", {}).items():
            for start, stop in parts:
                spans += 1
                assert 0 <= start < stop <= len(example[side])
    assert spans > 0


# Model contract


def test_the_page_suffices_to_read_a_contract() -> None:
    contract = json.loads((GOLDEN / "model/sid.json").read_bytes())
    assert contract["format"] == 1
    check_keys("Model contract", contract)
    manifest, _ = read_bundle(GOLDEN / "bundle.zarr.zip")
    parts = contract["identity"]
    assert all(parts[part] == manifest["identity"][part] for part in ("space", "codebook", "items"))
    space = contract["space"]
    assert space == manifest["space"]
    n_tokens = sum(space["sizes"]) + (2 if space["begin"] else 0)
    assert contract["token_stop"] == contract["token_start"] + n_tokens
    assert "{history}" in contract["history_prompt"]["template"]
    assert "{item}" in contract["text_prompt"]["template"]
    check_keys("Model contract", contract["history_prompt"] | contract["text_prompt"])


def test_the_page_suffices_to_read_a_token_table() -> None:
    contract = json.loads((GOLDEN / "model-3/sid.json").read_bytes())
    assert contract["format"] == 3
    check_keys("Model contract", contract)
    table = contract["token_table"]
    assert [len(level) for level in table["codes"]] == contract["space"]["sizes"]
    ids = [*(token for level in table["codes"] for token in level), table["begin"], table["end"]]
    used = [token for token in ids if token != -1]
    assert len(set(used)) == len(used) < len(ids)
    assert (contract["token_start"], contract["token_stop"]) == (min(used), max(used) + 1)


# Memory


def dense(arrays: dict[str, Any], name: str) -> np.ndarray:
    offsets = arrays[f"{name}/offset"]
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    matrix = np.zeros((len(offsets) - 1, len(offsets) - 1))
    matrix[rows, arrays[f"{name}/item"]] = arrays[f"{name}/weight"]
    return matrix


def test_the_page_suffices_to_read_a_memory() -> None:
    manifest, arrays = read_bundle(GOLDEN / "memory.zarr.zip")
    check_keys("Memory", manifest)
    assert all(f"`{name}`" in PAGE for name in arrays)
    settings = manifest["settings"]
    check_keys("Memory", settings)
    source = ("bundle", "split", "train_digest", "train_events", "window", "settings", "items")
    data = canonical({key: manifest[key] for key in source})
    data += b"".join(array(name, values) for name, values in sorted(arrays.items()))
    assert sha256(data) == manifest["digest"]
    ids = strings_of(arrays, "id")
    n = manifest["items"]
    pairs = np.zeros((n, n))
    for _, items in EVENTS:
        rows = [ids.index(item) for item in items]
        for first, one in enumerate(rows):
            for gap, other in enumerate(rows[first + 1 :], 1):
                if one != other and gap <= manifest["window"]:
                    weight = round(settings["distance"] ** (gap - 1) * 2**40)
                    pairs[one, other] += weight
    assert dense(arrays, "pairs").tolist() == pairs.tolist()
    events = [sum(items.count(item) for _, items in EVENTS) for item in ids]
    assert arrays["items/events"].tolist() == events
    similar = (pairs + settings["reverse"] * pairs.T) / 2**40
    products = np.outer(events, events) ** settings["normalization"]
    similar /= products + settings["shrinkage"]
    nearest = np.zeros_like(similar)
    for row, best in enumerate(np.argsort(-similar, kind="stable")[:, : settings["neighbors"]]):
        nearest[row, best] = similar[row, best]
    np.testing.assert_allclose(dense(arrays, "neighbors"), nearest, rtol=1e-6)
