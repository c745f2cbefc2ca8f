"""Verifies a stored memory."""

from pathlib import Path

import numpy as np

from sidtool.memory.memory import Memory
from sidtool.memory.similarity import CountedPairs, content_similarity, similar_items

ROUNDING = 1e-6
"""Relative difference of two equal similarities."""


def verify_memory(location: str | Path) -> list[tuple[str, str]]:
    """Everything that is wrong with a stored memory: (object, reason); empty if it is intact.

    Raises DataError if there is no memory."""
    return Memory.broken(location) or broken_derived(Memory.open(location))


def broken_derived(memory: Memory) -> list[tuple[str, str]]:
    """What contradicts other values of a memory whose arrays are each intact."""
    broken = []
    if len(set(memory.ids)) < len(memory.ids):
        broken.append(("items/id", "an id is repeated"))
    pairs = memory.pairs
    rows = pairs.rows
    if (pairs.items == rows).any():
        return [*broken, ("pairs/item", "an item has a pair with itself")]
    if memory.content is not None and (memory.content.items <= memory.content.rows).any():
        return [*broken, ("content/item", "an item does not come after that of its row")]
    if (memory.events[rows] == 0).any() or (memory.events[pairs.items] == 0).any():
        return [*broken, ("items/events", "an item of a pair has no events")]
    settings = memory.manifest.settings
    content = None
    if memory.content is not None and memory.manifest.content is not None:
        weight = memory.manifest.content.weight
        content = content_similarity(memory.content.to_scipy(), weight, memory.events)
    expected = similar_items(CountedPairs.of(pairs), memory.events, settings, content)
    stored = memory.neighbors
    same_items = np.array_equal(expected.offsets, stored.offsets)
    same_items = same_items and np.array_equal(expected.items, stored.items)
    # powers differ by a last digit between machines
    if not same_items or not np.allclose(expected.weights, stored.weights, rtol=ROUNDING, atol=0):
        return [*broken, ("neighbors", "are not the similarities that pairs and events imply")]
    return broken
