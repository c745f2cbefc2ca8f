"""Whatever `verify` accepts, every reader accepts: each value of a manifest, replaced by values of
other types and signed again, is reported or can be used."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest

from sidtool.base.errors import CompatibilityError
from sidtool.cli.codebook import say_report
from sidtool.cli.reports.bundle_page import bundle_page
from sidtool.cli.reports.bundle_tables import bundle_facts
from sidtool.memory.build import build_memory
from sidtool.memory.content import ItemContent
from sidtool.memory.manifest import MemoryManifest
from sidtool.memory.memory import Memory, _digest
from sidtool.memory.mixture.index import MemoryIndex
from sidtool.model.contract.contract import CONTRACT
from sidtool.model.contract.folder import open_bundle_copy, read_contract
from sidtool.registry.kinds import published_card, read_manifest
from sidtool.registry.transfer import broken_parts
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.bundle.card import bundle_card
from sidtool.tokenizer.bundle.zarr_group import spell_root
from sidtool.tokenizer.make.compare import compare_bundles
from sidtool.tokenizer.make.diff import diff
from sidtool.tokenizer.make.explain import explain
from tests.golden.make import golden_split
from tests.memory.cases import random_histories, split_of
from tests.recommendation.serve.disk import save_model
from tests.tokenizer.bundle.drafts import ROOT, Draft

A = "a" * 64
LOCATION = "memory://verified/shop.zarr"
STORE = fsspec.filesystem("memory")
VALUES = (None, True, -1, -1.5, "?", [], [[]], {"?": []})
SOME = pytest.mark.parametrize(
    "values", [(None, -1.5, [[]]), pytest.param(VALUES, marks=pytest.mark.slow)]
)
IDS = [f"i{row}" for row in range(30)]
BUNDLE = Bundle.from_vectors(
    IDS,
    np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32),
    titles=[f"film {row}" for row in range(30)],
    levels=(4, 4, 4),
    seed=0,
)
CONTENT = ItemContent.of(BUNDLE)
MEMORY = build_memory(split_of(random_histories(0, 40, 30)), BUNDLE, content=CONTENT, tuned_on=3)
MORE: dict[str, Any] = {
    "version": "1.1",
    "parent": A,
    "lineage": [
        {"version": "1.0", "digest": A, "name": "old", "created": "", "change": {"kind": "items"}}
    ],
    "compatible_with": [A],
    "source": {
        "catalog": A,
        "items": 30,
        "columns": {"id": "asin", "title": "name"},
        "split": golden_split().reference.to_json(),
    },
}
RECIPE = {
    "encoder": {
        "model": "x",
        "dim": 8,
        "probes": [{"text": text, "vector": [0.5, 1]} for text in "xy"],
        "weights": {"w": A},
    },
    "text_template": "{title}",
    "collaborative": {"mode": "fused", "protocol": "temporal", "train_events": 3},
}


def draft() -> Draft:
    """A bundle with every key that a manifest may have."""
    made = Draft.of(BUNDLE)
    made.manifest |= MORE
    made.manifest["recipe"] |= RECIPE
    made.identify()
    return made


def changes(value: Any, values: tuple[Any, ...]) -> Iterator[Any]:
    """A JSON value with one member, at any depth, replaced by one of these; of a list, the first
    one."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(min(len(value), 1)):
            for new in changes(value[key], values):
                copy = value.copy()
                copy[key] = new
                yield copy
    yield from values


def use_bundle() -> None:
    """Read a bundle as the commands do."""
    bundle = Bundle.open(LOCATION)
    manifest = bundle.manifest
    str(bundle_facts(bundle))
    if manifest.codebook_report is not None:
        say_report(manifest.codebook_report)
    explain(bundle, [0])
    compare_bundles([bundle])
    diff(bundle, bundle)
    bundle_page({"x": bundle})
    manifest.made_by.encoder.encoder("folder")
    str((manifest.made_from.event_columns, manifest.made_from.columns))
    manifest.next_version(manifest.change)
    bundle_card(manifest, "shop@1.0", "MIT")
    if bundle.codebook is not None:
        bundle.encode(np.ones((1, bundle.codebook.dim), dtype=np.float32))


def use_memory() -> None:
    """Read a memory as the commands do."""
    memory = Memory.open_verified(LOCATION)
    _ = memory.content
    memory.card("shop@1.0", "MIT")
    if memory.manifest.bundle == BUNDLE.identity:
        index = MemoryIndex.of(memory, BUNDLE)
        assert np.isfinite(index.distributions([np.arange(3)], 1.0)[0].log_probs).all()


def signed_bundle(made: Draft, manifest: dict[str, Any]) -> dict[str, Any]:
    changed = made.copy()
    changed.manifest = manifest
    try:
        changed.identify()
    except (AttributeError, KeyError, TypeError):
        return manifest
    return changed.manifest


def signed_memory(manifest: dict[str, Any]) -> dict[str, Any]:
    try:
        return manifest | {"digest": _digest(MemoryManifest.from_json(manifest), MEMORY.arrays)}
    except Exception:  # it is malformed
        return manifest


def check(objects: dict[str, bytes], manifest: Any, use: Callable[[], None]) -> bool:
    """Whether `verify` accepts a stored artifact with a manifest; it can be used then."""
    STORE.store.clear()
    root = spell_root(manifest)
    STORE.pipe({f"/verified/shop.zarr/{name}": data for name, data in objects.items()})
    STORE.pipe(f"/verified/shop.zarr/{ROOT}", root)
    if broken_parts(LOCATION):
        return False
    read_manifest(LOCATION)
    use()
    return True


@SOME
def test_what_verify_accepts_of_a_bundle_can_be_used(values: tuple[Any, ...]) -> None:
    made = draft()
    objects, listed = made.parts(), {"objects": made.digests()}
    assert check(objects, made.manifest | listed, use_bundle)
    more = [made.manifest | {key: value} for key in ("kind", "else") for value in values]
    documents = [
        value for value in (*changes(made.manifest, values), *more) if isinstance(value, dict)
    ]
    signed = [signed_bundle(made, document) | listed for document in documents]
    accepted = [check(objects, manifest, use_bundle) for manifest in signed]
    assert 0 < sum(accepted) < len(accepted) / 2


@SOME
def test_what_verify_accepts_of_a_memory_is_usable(tmp_path: Path, values: tuple[Any, ...]) -> None:
    MEMORY.save(tmp_path / "memory.zarr")
    stored = Memory.open(tmp_path / "memory.zarr").manifest.to_json()
    listed = {"objects": stored.pop("objects")}
    objects = {name: (tmp_path / "memory.zarr" / name).read_bytes() for name in listed["objects"]}
    assert check(objects, stored | listed, use_memory)
    more = [stored | {"else": value} for value in values]
    documents = [value for value in (*changes(stored, values), *more) if isinstance(value, dict)]
    accepted = [
        check(objects, signed_memory(document | listed), use_memory) for document in documents
    ]
    assert 0 < sum(accepted) < len(accepted) / 2


@SOME
def test_what_verify_accepts_of_a_model_is_usable(tmp_path: Path, values: tuple[Any, ...]) -> None:
    folder = save_model(tmp_path)
    stored = json.loads((folder / CONTRACT).read_text())
    files = {"files": stored.pop("files")}

    def is_accepted(value: dict[str, Any]) -> bool:
        (folder / CONTRACT).write_text(json.dumps(value | files))
        try:
            broken = broken_parts(str(folder))
        except CompatibilityError:  # of another version of sidtool
            return False
        if not broken:
            contract = read_contract(folder)
            contract.event_columns(open_bundle_copy(folder, contract))
            published_card(str(folder), read_manifest(str(folder)), "shop@1.0", "MIT")
        return not broken

    assert is_accepted(stored)
    accepted = [is_accepted(value) for value in changes(stored, values) if isinstance(value, dict)]
    assert 0 < sum(accepted) < len(accepted) / 2
