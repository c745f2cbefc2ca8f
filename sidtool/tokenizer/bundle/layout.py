"""What a bundle stores: its arrays by name, their types and shapes, and the digests over them.

Storage order, chunks, compressors and container do not change a digest; name, version, dates,
report and index are not part of it. docs/format.md specifies both."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.digests import hash_array
from sidtool.base.documents import canonical
from sidtool.tokenizer.bundle.arrays import Expected
from sidtool.tokenizer.bundle.item_map import BLOCK, ItemMap
from sidtool.tokenizer.bundle.manifest import Identity, Manifest
from sidtool.tokenizer.encoder.lexical import LexicalEncoder
from sidtool.tokenizer.quantize.codebook import Codebook
from sidtool.tokenizer.sid import SidSpace

_LOCATION_KEYS = ("model", "revision", "trust_remote_code", "probes")
"""Keys of an encoder's recipe that its weights' digests make redundant."""


def identify(
    space: SidSpace,
    items: ItemMap,
    codebook: Codebook | None,
    recipe: Mapping[str, Any] | None,
    policy: str,
) -> Identity:
    """Hash the values of a bundle."""
    if recipe is not None and "weights" in recipe.get("encoder", {}):
        encoder = {
            key: value for key, value in recipe["encoder"].items() if key not in _LOCATION_KEYS
        }
        recipe = {**recipe, "encoder": encoder}
    of_codebook = hashlib.sha256(canonical({"recipe": recipe, "policy": policy}))
    if codebook is not None:
        for name, array in sorted(codebook_arrays(codebook).items()):
            hash_array(of_codebook, name, array)
    of_items = hashlib.sha256()
    for name, array in item_arrays(items).items():
        hash_array(of_items, name.removeprefix("items/"), array)
    of_space = hashlib.sha256(canonical(space.to_json()))
    return Identity(of_space.hexdigest(), of_codebook.hexdigest(), of_items.hexdigest())


def codebook_arrays(codebook: Codebook) -> dict[str, NDArray[Any]]:
    """A codebook's arrays by the names under which a bundle stores them."""
    levels = {
        f"codebook/level_{level}": centroids for level, centroids in enumerate(codebook.levels)
    }
    return levels | {f"codebook/encoder/{name}": array for name, array in codebook.encoder.items()}


def item_arrays(items: ItemMap) -> dict[str, NDArray[Any]]:
    """An item map's arrays by the names under which a bundle stores them, without the index."""
    arrays: dict[str, NDArray[Any]] = {
        "items/id_bytes": np.asarray(items.ids.data),
        "items/id_offset": np.asarray(items.ids.offsets),
        "items/sid": items.codes,
        "items/retired": items.retired,
    }
    if items.titles is not None:
        arrays["items/title_bytes"] = np.asarray(items.titles.data)
        arrays["items/title_offset"] = np.asarray(items.titles.offsets)
    return arrays


def index_arrays(items: ItemMap) -> dict[str, NDArray[Any]]:
    """The arrays for look-ups, which follow from the items: sorted id hashes with the row of each,
    and the first entry of each block of rows."""
    hashes = np.asarray(items.index.hashes)
    return {
        "index/id_hash": hashes,
        "index/id_row": np.asarray(items.index.rows),
        "index/id_hash_first": hashes[::BLOCK],
        "index/sid_first": items.codes[::BLOCK],
    }


def all_arrays(
    items: ItemMap, codebook: Codebook | None, lexical: LexicalEncoder | None
) -> dict[str, NDArray[Any]]:
    """Every array of a bundle by name."""
    codebook_part = codebook_arrays(codebook) if codebook is not None else {}
    encoder_part = lexical.arrays if lexical is not None else {}
    return codebook_part | encoder_part | item_arrays(items) | index_arrays(items)


def bundle_layout(manifest: Manifest) -> dict[str, Expected]:
    """Type and shape of the arrays that the format defines."""
    n = manifest.items
    levels = manifest.space.levels
    blocks = -(-n // BLOCK)  # rounded up
    codebook: dict[str, Expected] = {
        f"codebook/level_{level}": ("float32", (size, None))
        for level, size in enumerate(manifest.space.sizes)
    }
    return codebook | {
        "encoder/components": ("float16", (None, manifest.made_by.encoder.dim)),
        "encoder/feature_hash": ("uint64", (None,)),
        "encoder/idf": ("float32", (None,)),
        "items/id_bytes": ("uint8", (None,)),
        "items/id_offset": ("int64", (n + 1,)),
        "items/sid": ("uint16", (n, levels)),
        "items/retired": ("bool", (n,)),
        "items/title_bytes": ("uint8", (None,)),
        "items/title_offset": ("int64", (n + 1,)),
        "index/id_hash": ("uint64", (n,)),
        "index/id_row": ("uint32", (n,)),
        "index/id_hash_first": ("uint64", (blocks,)),
        "index/sid_first": ("uint16", (blocks, levels)),
    }
