"""The identity of a bundle: three SHA-256 digests over values.

Storage order, chunks, compressors and container do not change them; name, version, dates, report
and index are not part of them. docs/format.md specifies the digests."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from numpy.typing import NDArray

from sidtool.base.digests import hash_array
from sidtool.base.documents import canonical
from sidtool.base.records import Digest, JsonRecord
from sidtool.tokenizer.bundle.item_map import BLOCK, ItemMap
from sidtool.tokenizer.encoder.lexical import LexicalEncoder
from sidtool.tokenizer.quantize.codebook import Codebook
from sidtool.tokenizer.sid import SidSpace

_LOCATION_KEYS = ("model", "revision", "trust_remote_code", "probes")
"""Keys of an encoder's recipe that its weights' digests make redundant."""


@dataclass(frozen=True)
class Identity(JsonRecord):
    """SHA-256 (hex) of the three parts of a bundle."""

    space: Digest
    codebook: Digest
    items: Digest

    @property
    def digest(self) -> str:
        """One SHA-256 over the three."""
        return hashlib.sha256(f"{self.space}:{self.codebook}:{self.items}".encode()).hexdigest()

    def to_json(self) -> dict[str, str]:
        """The JSON object that is stored."""
        return super().to_json() | {"digest": self.digest}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The identity that `to_json` wrote. Raises TypeError for a missing or malformed key,
        ValueError if the digest is not that of the three parts."""
        identity = super().from_json(value)
        if value.get("digest") != identity.digest:
            raise ValueError(f"digest is not {identity.digest[:12]}…, that of the three parts")
        return identity

    @classmethod
    def from_parts(cls, value: Mapping[str, Any]) -> Self:
        """The identity of a JSON object with the three parts alone. Raises TypeError for a missing
        or malformed key."""
        return super().from_json(value)


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
        "items/id_bytes": items.ids.data,
        "items/id_offset": items.ids.offsets,
        "items/sid": items.codes,
        "items/retired": items.retired,
    }
    if items.titles is not None:
        arrays["items/title_bytes"] = items.titles.data
        arrays["items/title_offset"] = items.titles.offsets
    return arrays


def index_arrays(items: ItemMap) -> dict[str, NDArray[Any]]:
    """The arrays for look-ups, which follow from the items: sorted id hashes with the row of each,
    and the first entry of each block of rows."""
    return {
        "index/id_hash": items.index.hashes,
        "index/id_row": items.index.rows,
        "index/id_hash_first": items.index.hashes[::BLOCK],
        "index/sid_first": items.codes[::BLOCK],
    }


def all_arrays(
    items: ItemMap, codebook: Codebook | None, lexical: LexicalEncoder | None
) -> dict[str, NDArray[Any]]:
    """Every array of a bundle by name."""
    codebook_part = codebook_arrays(codebook) if codebook is not None else {}
    encoder_part = lexical.arrays if lexical is not None else {}
    return codebook_part | encoder_part | item_arrays(items) | index_arrays(items)
