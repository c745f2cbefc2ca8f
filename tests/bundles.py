"""Small bundles for tests, made in memory."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from sidtool.tokenizer.bundle import Bundle, ItemMap
from sidtool.tokenizer.quantize import Codebook, QuantizerParams
from sidtool.tokenizer.sid import SidSpace


def small_bundle(
    items: int = 40,
    sizes: tuple[int, ...] = (4, 5, 6),
    *,
    dim: int = 8,
    seed: int = 0,
    codebook: bool = True,
    duplicates: bool = False,
    begin_end_tokens: bool = True,
    name: str = "small",
) -> Bundle:
    """`items` items "i0", "i1" ... with titles "film 0" ... on random SIDs, different ones unless
    `duplicates`."""
    rng = np.random.default_rng(seed)
    space = SidSpace(sizes) if begin_end_tokens else SidSpace(sizes, begin=None, end=None)
    keys = rng.choice(space.capacity, size=items, replace=duplicates)
    codes = np.stack(np.unravel_index(keys, sizes), axis=1).astype(np.uint16)
    levels = tuple(rng.normal(size=(size, dim)).astype(np.float32) for size in sizes)
    params = QuantizerParams(fit={"seed": seed})
    book = Codebook("rq-kmeans", levels, {}, params) if codebook else None
    ids, titles = ([f"{word}{row}" for row in range(items)] for word in ("i", "film "))
    policy = "allow" if duplicates else "reassign"
    return Bundle.of(ItemMap.of(space, ids, codes, titles), book, policy, name=name)


def reopened(bundle: Bundle, path: Path) -> Bundle:
    """The bundle as it is read from a path, where it is saved."""
    bundle.save(path)
    assert Bundle.broken(path) == []
    return Bundle.open(path)


def renamed(bundle: Bundle, name: str) -> Bundle:
    """The same bundle under another name."""
    return Bundle(replace(bundle.manifest, name=name), bundle.arrays)
