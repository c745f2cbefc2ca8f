"""Small codebooks, bundles and base models for the tests of `model`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.bundle.item_map import ItemMap
from sidtool.tokenizer.quantize.codebook import Codebook, QuantizerParams
from sidtool.tokenizer.sid import Codes, SidSpace

SIZES = (8, 4, 6)
DIM = 12


def make_codebook(seed: int = 0, sizes: Sequence[int] = SIZES) -> Codebook:
    rng = np.random.default_rng(seed)
    scaled = ((np.float32(number + 1), size) for number, size in enumerate(sizes))
    levels = tuple(rng.normal(size=(size, DIM)).astype(np.float32) / by for by, size in scaled)
    return Codebook("rq-kmeans", levels, {}, QuantizerParams(fit={"seed": seed}))


def make_bundle(
    ids: Sequence[str],
    codes: Codes,
    *,
    codebook: Codebook | None,
    space: SidSpace | None = None,
    **facts: Any,
) -> Bundle:
    items = ItemMap.of(space or SidSpace(SIZES), ids, codes, [f"Title of {item}" for item in ids])
    if codebook is not None:
        quantizer = {"method": codebook.method, "parameters": codebook.params.to_json()}
        facts["recipe"] = {"quantizer": quantizer}
    policy, name = facts.pop("policy", "reassign"), facts.pop("name", "shop")
    return Bundle.of(items, codebook, policy, name=name, **facts)


def distinct_codes(n: int, seed: int = 0, sizes: Sequence[int] = SIZES) -> Codes:
    """n different SIDs in random order."""
    places = np.random.default_rng(seed).choice(int(np.prod(sizes)), size=n, replace=False)
    return np.stack(np.unravel_index(places, tuple(sizes)), axis=1).astype(np.uint16)


def save_base(folder: Path, model: Any, tokenizer: Any) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
