from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sidtool.memory import ItemContent, Memory, MemoryManifest, build_memory, verify_memory
from sidtool.memory.memory import _digest, _layout
from sidtool.memory.mixture import MemoryIndex
from sidtool.memory.verification import broken_derived
from tests.bundles import small_bundle
from tests.hostile.documents import changed
from tests.hostile.harness import call, cases
from tests.hostile.test_bundles import flip_bytes, numbers
from tests.memory.cases import random_histories, small_memory, split_of

BUNDLE = small_bundle()
PLAIN = small_memory(BUNDLE)
SPLIT = split_of(random_histories(0, 40, len(BUNDLE.items)))
MEMORIES = (PLAIN, build_memory(SPLIT, BUNDLE, content=ItemContent.of(BUNDLE)))
HISTORIES = [np.array([row, 3, -1, 7], dtype=np.int64) for row in range(0, 40, 8)]
ROWS = ("pairs", "neighbors", "content")

Arrays = dict[str, np.ndarray]
Choose = Callable[[Any], Any]


def replace_value(array: np.ndarray, choose: Choose) -> np.ndarray:
    if len(array):
        value = (0, 1, -1, 39, 40, 1 << 31, 1 << 40, np.nan, np.inf, 1e-40)[choose(numbers) % 10]
        with np.errstate(all="ignore"):
            array[choose(numbers) % len(array)] = np.array(value).astype(array.dtype)
    return array


def swap_values(array: np.ndarray, choose: Choose) -> np.ndarray:
    if len(array):
        one, other = choose(numbers) % len(array), choose(numbers) % len(array)
        array[[one, other]] = array[[other, one]]
    return array


def shorten(array: np.ndarray, choose: Choose) -> np.ndarray:
    return (array[:-1], array[1:], array[:0], np.append(array, array[-1:]))[choose(numbers) % 4]


CHANGES = (flip_bytes, replace_value, swap_values, shorten)


def read(memory: Memory) -> bool:
    """Read everything as `open_verified` does; whether `verify` has nothing to report."""
    for name, (dtype, shape) in _layout(memory.manifest).items():
        array = memory.arrays[name]
        if array.dtype != dtype or (shape[0] is not None and shape != array.shape):
            return False  # refused by the storage
    for name in ("ids", "events", *ROWS):
        getattr(memory, name)
    return not broken_derived(memory)


@cases(300)
@given(data=st.data())
def test_a_memory_with_other_arrays_is_refused_or_follows_from_its_pairs(data: Any) -> None:
    original = MEMORIES[data.draw(numbers) % 2]
    arrays = {name: array.copy() for name, array in original.arrays.items()}
    for _ in range(1 + data.draw(numbers) % 2):
        name = sorted(arrays)[data.draw(numbers) % len(arrays)]
        arrays[name] = CHANGES[data.draw(numbers) % len(CHANGES)](arrays[name], data.draw)
    manifest = replace(original.manifest, digest=_digest(original.manifest, arrays))
    memory = Memory(manifest, arrays)
    if not call(read, memory):
        return
    # whatever is accepted gives distributions
    index = call(MemoryIndex.of, memory, BUNDLE)
    if index is None:
        return  # other ids than those of the bundle
    for distribution in index.distributions(HISTORIES, 2.0):
        assert ((distribution.positions >= 0) & (distribution.positions < 40)).all()
        assert np.isfinite(distribution.log_probs).all()
        if len(distribution):
            np.testing.assert_allclose(np.exp(distribution.log_probs).sum(), 1)
    if any(not np.array_equal(arrays[name], original.arrays[name]) for name in arrays):
        assert memory.digest != original.digest


def agrees(one: Any, other: Any) -> bool:
    """Whether two JSON values have the same members, as far as both have them."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(agrees(one[key], other[key]) for key in one.keys() & other.keys())
    return bool(one == other)


@cases(300)
@given(data=st.data())
def test_a_changed_manifest_is_refused_or_read_as_it_is(data: Any) -> None:
    stored = MEMORIES[data.draw(numbers) % 2].manifest.to_json()
    mutated = changed(stored, data.draw)
    manifest = call(MemoryManifest.from_json, mutated)
    if manifest is not None:
        assert agrees(manifest.to_json(), mutated)
        assert MemoryManifest.from_json(manifest.to_json()) == manifest


def test_unchanged_memories_are_accepted(tmp_path: Path) -> None:
    for number, memory in enumerate(MEMORIES):
        assert read(memory)
        memory.save(tmp_path / f"{number}.zarr")
        assert verify_memory(tmp_path / f"{number}.zarr") == []
