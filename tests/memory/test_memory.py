import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidtool.base.errors import CompatibilityError, DataError, IntegrityError, UsageError
from sidtool.memory import KnnSettings, Memory, verify_memory
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.bundle.zarr_group import spell_root
from tests.bundles import small_bundle
from tests.memory.cases import forged, small_memory


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest and sign it again, as an attacker would."""
    root = folder / "zarr.json"
    manifest = json.loads(root.read_text())["attributes"]["sidtool"]
    change(manifest)
    root.write_bytes(spell_root(manifest))


@pytest.mark.parametrize("name", ["memory.zarr", "memory.zarr.zip"])
def test_a_memory_is_read_as_it_was_written(tmp_path: Path, name: str) -> None:
    memory = small_memory()
    memory.save(tmp_path / name)
    assert verify_memory(tmp_path / name) == []
    stored = Memory.open_verified(tmp_path / name)
    assert (stored.digest, stored.manifest.settings) == (memory.digest, memory.manifest.settings)
    assert (stored.manifest.split, list(stored.ids)) == (memory.manifest.split, list(memory.ids))
    for rows in ("pairs", "neighbors"):
        expected = getattr(memory, rows).to_scipy().toarray()
        np.testing.assert_array_equal(getattr(stored, rows).to_scipy().toarray(), expected)
    with pytest.raises(UsageError, match="exists already"):
        small_memory(seed=1).save(tmp_path / name)


@pytest.mark.parametrize("array", ["items/events", "pairs/weight", "neighbors/item"])
def test_a_flipped_byte_is_reported(tmp_path: Path, array: str) -> None:
    small_memory().save(tmp_path / "m.zarr")
    path = tmp_path / "m.zarr" / array / "c/0"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    ((name, reason),) = verify_memory(tmp_path / "m.zarr")
    assert (name, reason) == (f"{array}/c/0", "its SHA-256 differs from the manifest's")
    with pytest.raises(IntegrityError, match=f"{array}/c/0"):
        Memory.open_verified(tmp_path / "m.zarr")


def test_a_bundle_is_no_memory_and_a_memory_no_bundle(tmp_path: Path) -> None:
    small_bundle().save(tmp_path / "b.zarr")
    small_memory().save(tmp_path / "m.zarr")
    with pytest.raises(DataError, match=r"b\.zarr is a bundle, not a memory"):
        Memory.open(tmp_path / "b.zarr")
    with pytest.raises(DataError, match=r"m\.zarr is a memory, not a bundle"):
        Bundle.open(tmp_path / "m.zarr")
    with pytest.raises(DataError, match="no memory at"):
        Memory.open(tmp_path / "nothing.zarr")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, None) for key in ("format", "settings")),
        *((key, -1) for key in ("items", "train_events")),
        ("format", 0),
        ("settings", {"recency": 7}),
        ("bundle", {}),
        ("split", 3),
        ("digest", "00" * 32),
        ("train_events", 7),
        ("window", 0),
        ("train_digest", "x"),
        ("bundle", {"space": "0" * 64, "codebook": "0" * 64, "items": "0" * 64, "digest": "1"}),
        ("bundle", {"space": "a", "codebook": "b", "items": "c", "digest": "d"}),
        ("split", {"protocol": "temporal", "digest": "\x1b[2J"}),
        ("objects", {"../x": "0" * 64}),
        ("objects", {"x": "0"}),
        *(
            ("content", value)
            for value in (3, {"source": "text"}, {"source": "codes", "weight": 0})
        ),
        ("content", {"source": "vectors", "vectors": "x"}),
    ],
)
def test_a_changed_manifest_is_refused(tmp_path: Path, key: str, value: object) -> None:
    small_memory().save(tmp_path / "m.zarr")
    rewrite(tmp_path / "m.zarr", lambda manifest: manifest.update({key: value}))
    with pytest.raises(IntegrityError):
        Memory.open_verified(tmp_path / "m.zarr")


@pytest.mark.parametrize("manifest", ["text", 7, None, [], True])
def test_a_manifest_that_is_no_object_is_refused(tmp_path: Path, manifest: Any) -> None:
    small_memory().save(tmp_path / "m.zarr")
    (tmp_path / "m.zarr/zarr.json").write_bytes(spell_root(manifest))
    with pytest.raises(IntegrityError, match="expected an object"):
        Memory.open_verified(tmp_path / "m.zarr")


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    small_memory().save(tmp_path / "m.zarr")
    rewrite(tmp_path / "m.zarr", lambda manifest: manifest.update(format=2))
    with pytest.raises(CompatibilityError, match="has format 2, this version of sidtool reads up"):
        Memory.open(tmp_path / "m.zarr")


def swap_first_items(arrays: dict[str, np.ndarray], name: str) -> None:
    """Swap the first two entries of the first row that has two."""
    row = int(np.flatnonzero(np.diff(arrays[f"{name}/offset"]) > 1)[0])
    first = int(arrays[f"{name}/offset"][row])
    arrays[f"{name}/item"][[first, first + 1]] = arrays[f"{name}/item"][[first + 1, first]]


FORGERIES: dict[str, Callable[[dict[str, np.ndarray]], object]] = {
    "ids that are not UTF-8": lambda a: a["items/id_bytes"].__setitem__(0, 0xFF),
    "ids that overlap": lambda a: a["items/id_offset"].__setitem__(1, 1 << 40),
    "an empty id": lambda a: a["items/id_offset"].__setitem__(1, 0),
    "negative events": lambda a: a["items/events"].__setitem__(0, -1),
    "more events than the split": lambda a: a["items/events"].__setitem__(0, 1 << 40),
    "events that overflow": lambda a: a["items/events"].__setitem__(slice(0, 4), 1 << 62),
    "fewer events": lambda a: a.update({"items/events": a["items/events"][:-1]}),
    "no events": lambda a: a.pop("items/events"),
    "item out of range": lambda a: a["neighbors/item"].__setitem__(0, 40),
    "nan": lambda a: a["neighbors/weight"].__setitem__(0, np.nan),
    "infinity": lambda a: a["neighbors/weight"].__setitem__(0, np.inf),
    "negative weight": lambda a: a["neighbors/weight"].__setitem__(0, -1),
    "negative count": lambda a: a["pairs/weight"].__setitem__(0, -1),
    "another type": lambda a: a.update({"pairs/weight": a["pairs/weight"].astype(np.int32)}),
    "missing weights": lambda a: a.update({"pairs/weight": a["pairs/weight"][:-1]}),
    "offsets that fall": lambda a: a["neighbors/offset"].__setitem__(1, 1 << 40),
    "offsets below zero": lambda a: a["pairs/offset"].__setitem__(0, -1),
    "pairs that do not ascend": lambda a: swap_first_items(a, "pairs"),
    "neighbors that do not ascend": lambda a: swap_first_items(a, "neighbors"),
    "a neighbor twice": lambda a: a["neighbors/item"].__setitem__(1, a["neighbors/item"][0]),
}


CONTRADICTIONS: dict[str, Callable[[dict[str, np.ndarray]], object]] = {
    "another similarity": lambda a: a["neighbors/weight"].__setitem__(0, 0.123),
    "another count": lambda a: a["pairs/weight"].__setitem__(0, 1),
    "a pair of an item with itself": lambda a: a["pairs/item"].__setitem__(0, 0),
    "no events of a pair": lambda a: a["items/events"].__setitem__(slice(0, 40), 0),
    "ids twice": lambda a: a["items/id_bytes"].__setitem__(slice(None), 105),
}


@pytest.mark.parametrize("name", [*FORGERIES, *CONTRADICTIONS])
def test_signed_values_that_break_a_rule_are_refused_or_reported(tmp_path: Path, name: str) -> None:
    forged(small_memory(), (FORGERIES | CONTRADICTIONS)[name]).save(tmp_path / "m.zarr")
    with pytest.raises(IntegrityError) if name in FORGERIES else nullcontext():
        Memory.open_verified(tmp_path / "m.zarr")
    assert verify_memory(tmp_path / "m.zarr")


def test_a_memory_with_other_items_than_its_bundle_is_refused(tmp_path: Path) -> None:
    bundle = small_bundle()
    other = small_memory(small_bundle(items=39))
    manifest = replace(other.manifest, bundle=bundle.identity)
    memory = Memory.of(manifest, other.ids, other.events, other.pairs, other.neighbors)
    memory.save(tmp_path / "m.zarr")
    with pytest.raises(CompatibilityError, match="has other items than its bundle"):
        Memory.open_verified(tmp_path / "m.zarr").check_bundle(bundle)


def test_similarities_too_small_for_their_type_are_left_out(tmp_path: Path) -> None:
    small_memory(settings=KnnSettings(shrinkage=1e300)).save(tmp_path / "m.zarr")
    assert verify_memory(tmp_path / "m.zarr") == []
    assert not len(Memory.open_verified(tmp_path / "m.zarr").neighbors.items)
