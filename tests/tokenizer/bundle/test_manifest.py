"""A manifest that breaks a rule of docs/format.md is refused by every reader, however it is
signed."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidtool.base.errors import CompatibilityError, IntegrityError, UsageError
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.bundle.manifest import FORMAT, ItemsChange, Manifest
from sidtool.tokenizer.quantize.codebook import QuantizerParams
from tests.bundles import small_bundle
from tests.tokenizer.bundle.drafts import ROOT, Draft, root_document

A, B = "a" * 64, "b" * 64
VERSION = {"version": "1.0", "digest": A, "name": "old", "created": "", "change": {"kind": "items"}}
ENCODER = {"model": "some/where", "dim": 2, "probes": [{"text": "x", "vector": [0.5, 1]}]}
COLLABORATIVE = {"mode": "fused", "protocol": "temporal", "train_events": 3}
RECIPE = {"quantizer": {"method": "rq-kmeans", "parameters": {}}, "encoder": ENCODER}
RECIPE |= {"text_template": "{title}", "collaborative": COLLABORATIVE}
VALID: dict[str, Any] = {"version": "1.1", "parent": A, "lineage": [VERSION]}
VALID |= {"compatible_with": [B], "recipe": RECIPE, "source": {"catalog": A}}
VALID |= {"libraries": {"numpy": "2.0"}, "created": "2026-01-02T03:04:05+00:00"}

Path_ = tuple[str | int, ...]


def changed(value: Any, path: Path_, new: Any) -> Any:
    """A JSON value with another member at a path; `new` is a value, or REMOVED."""
    key, *inner_keys = path
    copy = value.copy()
    if inner_keys:
        copy[key] = changed(value[key], tuple(inner_keys), new)
    elif new is REMOVED:
        del copy[key]
    else:
        copy[key] = new
    return copy


REMOVED = object()


@cache
def _draft() -> Draft:
    made = Draft.of(small_bundle(items=6))
    made.manifest |= VALID
    made.identify()
    made.manifest["objects"] = made.digests()
    return made


def draft() -> Draft:
    return _draft().copy()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stored draft, of which tests replace the root document."""
    return draft().write(tmp_path_factory.mktemp("stored") / "shop.zarr")


def test_the_manifest_that_the_others_change_is_valid(tmp_path: Path) -> None:
    path = draft().write(tmp_path / "shop.zarr")
    assert Bundle.broken(path) == []
    manifest = Bundle.open(path).manifest
    assert manifest.lineage[0].change == ItemsChange()
    assert Manifest.from_json(manifest.to_json() | {"invented": 1}) == manifest


WRONG_VALUES: dict[str, list[Any]] = {
    "format": [0, -1],
    "items": [-1, 1 << 32],
    "version": ["1", "1.0.0", "1.-1", "01.0", "1.0\n", "１.０", "١.٠", "1." + "9" * 5000],
    "space sizes": [[], [4, 5, 0], [4, 5, 65537], [65536] * 5, [2] * 27],
    "space template": [
        *("<{code}>", "{level}{code}{code}", "{level}{code}\u001b[31m"),
        "{level}{code}" + "x" * 4000,
    ],
    "space begin": [None, "", "<|sid_end|>", "<s_a_1>"],
    "collisions policy": ["overwrite", "append"],
    "collisions capacity": [6, 6.0],
    "collisions": [{"policy": "append", "capacity": 6}],
    "identity space": [A],
    "identity items": [REMOVED],
    "identity digest": [A, A.upper()],
    "objects items/sid/zarr.json": ["a" * 63, A.upper()],
    "objects items/sid": [A],
    "parent": [B, "abc"],
    "lineage": [[]],
    "lineage 0 version": ["one"],
    "lineage 0 digest": ["abc"],
    "lineage 0 change": [REMOVED],
    "lineage 0 change kind": ["moved"],
    "lineage 0 change added": [-1],
    "compatible_with 0": ["abc"],
    "source catalog": ["abc"],
    "source columns": [{"id": 1}],
    "source split": [{"protocol": "temporal", "digest": digest} for digest in (1, "abc")],
    "recipe encoder": [None],
    "recipe encoder probes 0 vector 0": ["?", True],
    "recipe encoder probes": [[{"text": "x", "vector": [0.5] * width} for width in (2, 3)]],
    "recipe quantizer method": [REMOVED],
    "report": [{"items": 6}],
    "change": [
        {"kind": "align", "of": A, "common": 1, "before": [], "after": []},
        {"kind": "align", "of": A, "common": 1, "before": [1], "after": [1, 1]},
        {"kind": "build", "items": -1},
    ],
    "recipe quantizer parameters dim": ["8"],
    "recipe quantizer parameters bound": ["relu"],
    "recipe quantizer parameters fusion": [[]],
    "recipe quantizer parameters normalize": [1],
}


@pytest.mark.parametrize("text", WRONG_VALUES)
def test_a_value_out_of_range_is_refused(shop: Path, text: str) -> None:
    path = tuple(int(key) if key.isdigit() else key for key in text.split())
    for wrong in WRONG_VALUES[text]:
        refused_root(shop, root_document(changed(draft().manifest, path, wrong)))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "another order of keys": lambda root: root.replace(
        b'"node_type": "group",\n "zarr_format": 3', b'"zarr_format": 3,\n "node_type": "group"'
    ),
    "no line feed": lambda root: root[:-1],
    "two line feeds": lambda root: root + b"\n",
    "a byte order mark": lambda root: b"\xef\xbb\xbf" + root,
    "a key twice": lambda root: root.replace(b'"items": 6', b'"items": 6,\n   "items": 6', 1),
    "an escaped letter": lambda root: root.replace(b'"items": 6', b'"\\u0069tems": 6', 1),
    "a constant": lambda root: root.replace(b'"items": 6', b'"items": NaN', 1),
    "an infinity": lambda root: root.replace(b'"items": 6', b'"items": 1e999', 1),
    "a long number": lambda root: root.replace(b'"items": 6', b'"items": ' + b"6" * 5000, 1),
    "half a pair": lambda root: root.replace(b'"small"', b'"\\ud800"'),
    "a comment": lambda root: root.replace(b'"items": 6', b'"items": 6 /* */', 1),
    "another encoding": lambda root: root.replace(b'"small"', b'"sm\xe4ll"'),
    "deep nesting": lambda root: root.replace(b'"small"', b"[" * 10**5 + b"]" * 10**5),
    "no object": lambda root: b"[]",
    "attributes of another type": lambda root: b'{"attributes": []}',
    "a manifest of another type": lambda root: root_document([]),
    "empty": lambda root: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_root_document_that_is_not_as_specified_is_refused(shop: Path, damage: str) -> None:
    root = root_document(draft().manifest)
    damaged = DAMAGES[damage](root)
    assert damaged != root
    refused_root(shop, damaged)


def test_a_newer_format_is_refused_before_its_keys_are_read(tmp_path: Path) -> None:
    path = tmp_path / "shop.zarr"
    made = draft()
    made.manifest |= {"format": FORMAT + 1, "space": "of another kind"}
    made.write(path)
    message = f"format {FORMAT + 1}, this version of sidtool reads up to {FORMAT}"
    with pytest.raises(CompatibilityError, match=message) as caught:
        Bundle.open(path)
    assert caught.value.shell_hint == "upgrade sidtool"


def test_what_readers_refuse_is_not_written(tmp_path: Path) -> None:
    bundle = small_bundle(items=5)
    for wrong in ({"version": "one"}, {"compatible_with": ("abc",)}):
        bad = Bundle.of(bundle.items, bundle.codebook, "reassign", name="bad", **wrong)
        with pytest.raises(UsageError, match="bundle 'bad' cannot be written"):
            bad.save(tmp_path / "bad.zarr")
        assert list(tmp_path.iterdir()) == []
    unknown: Any = "drop"
    other = Bundle.of(bundle.items, bundle.codebook, unknown, name="other")
    with pytest.raises(UsageError, match=r"'other' cannot be written: .* policy is 'drop'"):
        other.save(tmp_path / "other.zarr")


def test_a_report_of_other_levels_is_refused() -> None:
    vectors = np.random.default_rng(0).normal(size=(9, 2))
    ids = [f"i{row}" for row in range(9)]
    made = Bundle.from_vectors(ids, vectors, levels=(8, 2), collisions="append")
    assert made.space.sizes[0] != made.space.sizes[-1]
    stored = made.manifest.to_json()
    assert Manifest.from_json(stored) == made.manifest
    for path in (("levels",), ("neighbors", "jaccard")):
        with pytest.raises(IntegrityError, match=f"{path[-1]} of the report has 0 entries for 3"):
            Manifest.from_json(changed(stored, ("report", *path), []))


def test_parameters_keep_what_they_do_not_know() -> None:
    stored = {"dim": 3, "seed": 0, "fit": {"x": 1}}
    params = QuantizerParams.from_json(stored)
    assert (params.dim, params.fit, params.to_json()) == (3, {"seed": 0, "fit": {"x": 1}}, stored)


def refused_root(path: Path, root: bytes) -> None:
    """Each reader refuses a bundle with this root document, with one line."""
    (path / ROOT).write_bytes(root)
    broken = Bundle.broken(path)
    assert broken
    assert all("\n" not in reason for _, reason in broken)
    with pytest.raises((IntegrityError, CompatibilityError)) as caught:
        Bundle.open(path)
    assert "\n" not in str(caught.value)
