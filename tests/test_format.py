"""docs/format.md is sufficient: readers written from that page, without sidtool, read each
artifact, recompute its digests and encode items."""

import ast
import hashlib
import json
import re
import unicodedata
import zlib
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr

import sidtool
from sidtool.data.items import make_items
from sidtool.data.split.make import SplitOptions
from sidtool.data.vectors import Vectors
from sidtool.tokenizer.bundle import Bundle, ItemMap
from sidtool.tokenizer.codes import Policy
from sidtool.tokenizer.quantize import Codebook, QuantizerParams
from sidtool.tokenizer.quantize.fusion import FusedSource, Fusion
from sidtool.tokenizer.sid import SidSpace
from tests.bundles import small_bundle
from tests.golden.make import EVENTS, split_of
from tests.tokenizer.quantize.material import QUICK, codebook_of, mixture, vectors_of

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
    by_hash = sorted((hash_of(text.encode()), row) for row, text in enumerate(ids))
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


def pieces_of(field: str) -> list[str] | None:
    """The pieces of a field that spells a list, None if it is a text."""

    def flat(members: list[Any]) -> list[str]:
        lists = [flat(one) if isinstance(one, list) else [str(one)] for one in members]
        return [piece for pieces in lists for piece in pieces]

    for read in (json.loads, ast.literal_eval):
        try:
            members = read(field.strip())
        except (ValueError, SyntaxError):
            continue
        if isinstance(members, list):
            return flat(members) if all(isinstance(one, str | list) for one in members) else None
    if len(field) > 3 and field[:2] in ("['", '["') and field[-2:] in ("']", '"]'):
        return re.split("['\"], ['\"]", field[2:-2].replace("\\n", " "))
    return None


def field_text(value: Any) -> str:
    """The trimmed text of a field of JSON."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = "" if value is None else text
    pieces = pieces_of(text) if text.startswith("[") and text.rstrip().endswith("]") else None
    if pieces is not None:
        text = ""
        for piece in filter(None, (" ".join(piece.split()) for piece in pieces)):
            text += ("" if not text else " " if text[-1] in ".!?:;," else ", ") + piece
    return " ".join(text.split())


def item_text(manifest: dict[str, Any], item: dict[str, Any]) -> str:
    """The text of an item with the fields `item`."""
    columns = manifest["source"]["columns"]
    template = manifest["recipe"]["text_template"]
    literals = re.split(r"(?<!{){(?!{)(.+?)}", "{title}" if template is None else template)
    names = [columns["title"] or "title" if name == "title" else name for name in literals[1::2]]
    fields = [field_text(item.get(name)) for name in names]
    text = ""
    for place, literal in enumerate(literals[::2]):
        literal = literal.replace("{{", "{").replace("}}", "}")
        behind = literal.lstrip(")]}>»”’")
        if place > 0 and fields[place - 1]:
            text += literal[: len(literal) - len(behind)]
        is_last = place == len(fields)
        if not fields or not fields[place - is_last]:
            continue
        if text.endswith((".", "!", "?")):
            behind = behind.removeprefix(".")
        elif not text and place > 0:
            behind = behind.lstrip(" .,;:|/-–—")
        text += behind + ("" if is_last else fields[place])
    return " ".join(text.split()) or item[columns["id"]]


def unit(vector: Any) -> Any:
    return vector / (np.linalg.norm(vector) or 1.0)


def network(arrays: dict[str, Any], name: str, vector: Any) -> Any:
    layer = 0
    while (weight := arrays.get(f"codebook/encoder/{name}_{layer}_weight")) is not None:
        vector = (np.maximum(vector, 0) if layer else vector) @ weight.astype(np.float64)
        vector = vector + arrays[f"codebook/encoder/{name}_{layer}_bias"]
        layer += 1
    return vector


def fused(fusion: dict[str, Any], arrays: dict[str, Any], vector: Any) -> Any:
    parts = []
    start = 0
    for number, source in enumerate(fusion["sources"]):
        part = unit(vector[start : start + source["dim"]])
        part = unit(network(arrays, f"source{number}", part)) * np.sqrt(source["weight"])
        assert len(part) == source["width"]
        parts.append(part)
        start += source["dim"]
    assert start == len(vector)
    together = np.concatenate(parts)
    if "codebook/encoder/collaborative_0_weight" not in arrays:
        return together
    return np.concatenate([together, network(arrays, "collaborative", together)])


def prepared(manifest: dict[str, Any], arrays: dict[str, Any], vector: Any) -> Any:
    """Steps 1 to 4."""
    parameters = manifest["recipe"]["quantizer"]["parameters"]
    width = arrays["codebook/level_0"].shape[1]
    x = vector.astype(np.float64)
    if parameters.get("fusion"):
        x = fused(parameters["fusion"], arrays, x)
    assert len(x) == (parameters.get("dim") or width)
    if "codebook/encoder/scale" in arrays:
        x = x * arrays["codebook/encoder/scale"] + arrays["codebook/encoder/shift"]
    return unit(x) if parameters.get("normalize") else x


def in_centroid_space(manifest: dict[str, Any], arrays: dict[str, Any], vector: Any) -> Any:
    """Steps 1 to 6."""
    parameters = manifest["recipe"]["quantizer"]["parameters"]
    width = arrays["codebook/level_0"].shape[1]
    x = prepared(manifest, arrays, vector)
    z = network(arrays, "in", x)
    z = z + x if parameters.get("skip") else z
    z = np.tanh(z) if parameters.get("bound") == "tanh" else z
    return np.concatenate([z, np.zeros(width - len(z))])


def given_back(manifest: dict[str, Any], arrays: dict[str, Any], codes: Any) -> Any:
    """From codes back to a vector."""
    parameters = manifest["recipe"]["quantizer"]["parameters"]
    levels = [arrays[f"codebook/level_{level}"] for level in range(len(codes))]
    v = sum(level[code].astype(np.float64) for level, code in zip(levels, codes, strict=True))
    first = arrays.get("codebook/encoder/out_0_weight")
    if first is None:
        return v[: parameters.get("dim")]
    v = v[: len(first)]
    return network(arrays, "out", v) + (v if parameters.get("skip") else 0)


def check_codes(
    manifest: dict[str, Any], arrays: dict[str, Any], vectors: Any, expected: Any
) -> None:
    """Steps 1 to 7 give the expected codes of (n, dim) vectors, within the tolerance of the page;
    98 of 100 exactly."""
    parameters = manifest["recipe"]["quantizer"]["parameters"]
    first = parameters.get("first_code") or 0
    n_equal = 0
    for vector, codes in zip(vectors, expected, strict=True):
        residual = in_centroid_space(manifest, arrays, vector)
        squared = float(residual @ residual)
        for level, code in enumerate(codes):
            centroids = arrays[f"codebook/level_{level}"].astype(np.float64)
            residual = unit(residual) if parameters.get("normalize_residuals") else residual
            distances = np.square(residual - centroids).sum(axis=1)
            distances[:first] = np.inf
            nearest = int(distances.argmin())
            if nearest != code:
                excess = distances[code] - distances[nearest]
                assert excess <= 1e-5 * (squared + np.square(centroids).sum(axis=1).max())
                break
            residual = residual - centroids[nearest]
        else:
            assert len(codes) == len([name for name in arrays if "codebook/level_" in name])
            n_equal += 1
    assert n_equal >= 0.98 * len(vectors) > 0


def check_encoding(bundle: Bundle, path: Path, vectors: Vectors) -> None:
    bundle.save(path)
    manifest, arrays = read_bundle(path)
    encodings = sidtool.encode(Bundle.open(path), vectors=vectors)
    check_codes(manifest, arrays, vectors, [encoding.codes for encoding in encodings])


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("rq-kmeans", {"balanced": False}),
        ("rq-kmeans", {"balanced": True, "collisions": "append"}),
        ("rq-kmeans+", QUICK["rq-kmeans+"]),
        ("rq-vae", {**QUICK["rq-vae"], "normalize": True}),
        ("pq", {"normalize": True, "collisions": "allow"}),
        ("opq", {}),
    ],
)
def test_the_page_suffices_to_encode_by_each_method(
    tmp_path: Path, method: str, options: dict[str, Any]
) -> None:
    vectors = 1 + mixture(0, 200, 12)
    ids = [str(row) for row in range(200)]
    bundle = Bundle.from_vectors(ids, vectors, levels="8x8x12", method=method, **options)
    new = np.concatenate([1 + mixture(1, 200, 12), np.zeros((1, 12), dtype=np.float32)])
    check_encoding(bundle, tmp_path / "shop.zarr", new)


def test_the_page_suffices_to_encode_with_fused_co_occurrence(tmp_path: Path) -> None:
    sources = [mixture(0, 60, 9), mixture(1, 60, 4)]
    ids = tuple(f"i{row}" for row in range(60))
    lines = ["user_id,item_id,timestamp"]
    lines += [f"u{at % 30},i{at * at % 59},{at}" for at in range(600)]
    bundle = sidtool.build_codebook(
        make_items(ids, ids, ids, fields={}, template="{title}"),
        tmp_path / "fused.zarr",
        embeddings=sources,
        interactions=split_of(lines, SplitOptions()),
        levels="8x8x12",
        weights=(2, 1),
    )
    assert bundle.codebook is not None
    assert "collaborative_0_weight" in bundle.codebook.encoder
    check_encoding(bundle, tmp_path / "again.zarr", np.concatenate(sources, axis=1))


NETWORK = {"in_0_weight": vectors_of(5, 6, 9), "in_0_bias": vectors_of(6, 1, 9)[0]} | {
    "in_1_weight": vectors_of(7, 9, 6) / 4,
    "in_1_bias": vectors_of(8, 1, 6)[0],
}
SOURCE = {"source0_0_weight": vectors_of(9, 5, 4), "source0_0_bias": vectors_of(10, 1, 4)[0]}
SCALE = {"scale": vectors_of(11, 1, 6)[0], "shift": vectors_of(12, 1, 6)[0]}
FUSION = Fusion((FusedSource(5, 4, 0.3), FusedSource(2, 2, 0.7)))


@pytest.mark.parametrize(
    ("parameters", "networks"),
    [
        (QuantizerParams(dim=6, skip=True, bound="tanh", first_code=2), NETWORK),
        (QuantizerParams(normalize=True, normalize_residuals=True, first_code=1), SCALE),
        (QuantizerParams(normalize_residuals=True), NETWORK | SCALE),
        (QuantizerParams(dim=6, normalize=True, fusion=FUSION), SOURCE | NETWORK),
    ],
)
@pytest.mark.parametrize("columns", [0, 2])  # beyond those that the networks give
def test_the_page_suffices_to_encode_with_each_parameter(
    tmp_path: Path, parameters: QuantizerParams, networks: dict[str, Any], columns: int
) -> None:
    levels = codebook_of(0, (7, 8, 9), 6 + columns).levels
    parameters = replace(parameters, dim=6)
    book = Codebook("of another system", levels, networks, parameters)
    book.check()
    items = ItemMap.of(SidSpace((7, 8, 9)), ["a"], np.array([[2, 2, 2]], dtype=np.uint16), None)
    bundle = Bundle.of(items, book, "reassign", name="shop")
    check_encoding(bundle, tmp_path / "shop.zarr", vectors_of(1, 300, book.dim))


CATALOG: list[dict[str, Any]] = [
    {"title": "Red  lamp", "brand": "Lux", "year": 1999},
    {"title": "", "brand": "Lux", "year": None},
    {"title": "Wow!", "brand": ["Lux", "Lamps & Co.", [" of ", "Ulm"]], "year": "[1999]"},
    {"title": "['Blue', 'lamp.', \"it's\"]", "brand": '["a", 1]', "year": True},
    {"title": "['the rack's feet.\\\\n', 'a 5\" knob']", "brand": "[Live] at Leeds", "year": 1.5},
    {"title": "[]", "brand": "", "year": ""},
    {"title": ".NET (2nd)", "brand": {"name": "漢字 と"}, "year": "\u2003 two\nlines "},
    {"title": None, "brand": "«Lux»", "year": "?"},
]


@pytest.mark.filterwarnings("ignore:.* have no text")
@pytest.mark.parametrize(
    "template", [None, "{title}. {brand} ({year}).", "<{brand}> {{x}}: {title}"]
)
def test_the_page_suffices_to_encode_the_texts_of_items(
    tmp_path: Path, template: str | None
) -> None:
    path = tmp_path / "items.jsonl"
    lines = [json.dumps({"sku": f"lamp {row}", **item}) for row, item in enumerate(CATALOG)]
    path.write_text("\n".join(lines).replace("1.5", "1.50"))
    names = sidtool.TextNames(text_template=template)
    bundle = sidtool.build_codebook(
        path, tmp_path / "shop.zarr", catalog=names, encoder="lexical", levels="3x4"
    )
    manifest, arrays = read_bundle(tmp_path / "shop.zarr")
    catalog = [json.loads(line, parse_float=str) for line in path.read_bytes().splitlines()]
    texts = [item_text(manifest, item) for item in catalog]
    assert texts == list(sidtool.read_items(path, text_template=template).texts)
    vectors = [lexical_vector(arrays, text) for text in texts]
    encodings = sidtool.encode(bundle, texts)
    check_codes(manifest, arrays, vectors, [encoding.codes for encoding in encodings])


@pytest.mark.parametrize("policy", ["reassign", "append", "allow"])
def test_the_page_suffices_to_place_new_items(policy: Policy) -> None:
    old = mixture(0, 30, 6)
    old_ids = [f"old{row}" for row in range(30)]
    bundle = Bundle.from_vectors(old_ids, old, levels="6x8", collisions=policy)
    new = np.concatenate([old[:3], mixture(1, 5, 6), old[:3], mixture(1, 5, 6)])
    new_ids = [f"new{row:02d}" for row in range(16)]
    items = make_items(new_ids, new_ids, new_ids, fields={}, template="{title}")
    newer = sidtool.add_items(bundle, items, new)

    sids = dict(zip(newer.items.ids, map(tuple, newer.items.codes.tolist()), strict=True))
    of_old = dict(zip(bundle.items.ids, map(tuple, bundle.items.codes.tolist()), strict=True))
    assert {item: sids[item] for item in old_ids} == of_old
    taken = set(of_old.values())
    n_nearest = 0
    for item, encoding in zip(new_ids, sidtool.encode(bundle, vectors=new), strict=True):
        if policy == "append":
            last = 0
            while (*encoding.codes, last) in taken:
                last += 1
            assert sids[item] == (*encoding.codes, last)
        elif policy == "allow" or encoding.codes not in taken:
            assert sids[item] == encoding.codes
            n_nearest += 1
        assert policy == "allow" or sids[item] not in taken
        taken.add(sids[item])
    assert n_nearest > 0 or policy == "append"


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


@pytest.mark.parametrize("source", ["vectors", "codes"])
@pytest.mark.parametrize(
    ("method", "options"),
    [("rq-kmeans", {"balanced": True}), ("rq-vae", {**QUICK["rq-vae"], "normalize": True})],
)
def test_the_page_suffices_to_compare_items_by_content(
    tmp_path: Path, method: str, options: dict[str, Any], source: str
) -> None:
    ids = [f"i{row:02d}" for row in range(40)]
    vectors = 1 + mixture(0, 40, 12)
    bundle = Bundle.from_vectors(ids, vectors, levels="4x4x4", method=method, **options)
    bundle.save(tmp_path / "shop.zarr")
    shop, codebook = read_bundle(tmp_path / "shop.zarr")
    vectors = vectors[[ids.index(item) for item in strings_of(codebook, "id")]]
    lines = ["user_id,item_id,timestamp"]
    lines += [f"u{at % 9},i{at * at % 37:02d},{at}" for at in range(90)]
    content = sidtool.ItemContent.of(bundle, vectors if source == "vectors" else None)
    memory = sidtool.build_memory(split_of(lines, SplitOptions()), bundle, content=content)
    memory.save(tmp_path / "memory.zarr")
    manifest, arrays = read_bundle(tmp_path / "memory.zarr")
    check_keys("Memory", manifest["content"])

    if source == "vectors":
        assert manifest["content"]["vectors"] == sha256(vectors.astype("<f4").tobytes())
        rows = np.array([prepared(shop, codebook, vector) for vector in vectors])
    else:
        rows = np.array([given_back(shop, codebook, codes) for codes in codebook["items/sid"]])
    directions = np.array([unit(row) for row in rows - rows.mean(axis=0)])
    cosines = np.triu(directions @ directions.T, k=1)
    expected = np.where(cosines >= 0.1, cosines**2, 0)
    np.testing.assert_allclose(dense(arrays, "content"), expected, atol=1e-4)
