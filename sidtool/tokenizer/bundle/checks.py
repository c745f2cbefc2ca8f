"""What is checked of a bundle: objects, root document, values, row order and index."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import IntegrityError, SidtoolError
from sidtool.base.storage import Storage
from sidtool.tokenizer.bundle.identity import identify, index_arrays
from sidtool.tokenizer.bundle.item_map import ItemMap
from sidtool.tokenizer.bundle.manifest import Manifest
from sidtool.tokenizer.bundle.stored import stored_lexical
from sidtool.tokenizer.bundle.zarr_group import broken_objects
from sidtool.tokenizer.quantize.codebook import Codebook


class StoredBundle(Protocol):
    """What a check reads of a bundle."""

    manifest: Manifest
    arrays: Mapping[str, NDArray[Any]]

    @property
    def items(self) -> ItemMap:
        """The item map."""

    @property
    def codebook(self) -> Codebook | None:
        """The codebook."""


def broken_parts(
    bundle: StoredBundle, storage: Storage, *, alone: bool = True
) -> list[tuple[str, str]]:
    """Everything that is wrong with a bundle that was opened there: (object, reason). Unless it is
    `alone`, other files may be there."""
    return broken_objects(storage, bundle.manifest, alone=alone) or _broken_values(bundle)


def check_intact(bundle: StoredBundle, storage: Storage, *, alone: bool = True) -> None:
    """Raise IntegrityError if anything is wrong with a bundle that was opened there."""
    for name, reason in broken_parts(bundle, storage, alone=alone):
        raise IntegrityError(
            f"{storage.location}: {name}: {reason}", hint="sidtool verify lists every broken object"
        )


def _broken_values(bundle: StoredBundle) -> list[tuple[str, str]]:
    manifest = bundle.manifest
    try:
        items = bundle.items
        identity = identify(
            manifest.space, items, bundle.codebook, manifest.recipe, manifest.collisions.policy
        )
        stored_lexical(manifest, bundle.arrays)  # raises unless it is that of the recipe
        expected = replace(items, stored_index=None)
        broken = _placeholders(bundle) + _broken_order(items) + _repeated_ids(expected)
        broken += _broken_index(bundle, expected)
    except SidtoolError as error:
        return [("values", str(error))]
    for part in ("space", "codebook", "items"):
        digest, stored = getattr(identity, part), getattr(manifest.identity, part)
        if digest != stored:
            reason = f"{part} digest is {digest[:12]}…, the manifest says {stored[:12]}…"
            broken.append((part, reason))
    return broken


def _placeholders(bundle: StoredBundle) -> list[tuple[str, str]]:
    """What is wrong if items have codes that the codebook never gives."""
    codebook = bundle.codebook
    if codebook is None:
        return []
    first_code = codebook.params.first_code
    codes = bundle.items.codes[:, : len(codebook.levels)]  # an appended level counts from 0
    n_items = int((codes < first_code).any(axis=1).sum())
    if not n_items:
        return []
    return [("items/sid", f"{n_items} items have a code below the first one, {first_code}")]


def _broken_order(items: ItemMap) -> list[tuple[str, str]]:
    broken = []
    if (items.keys[1:] < items.keys[:-1]).any():
        broken.append(("items/sid", "rows are not in lexicographic SID order"))
    ties = np.flatnonzero(items.keys[1:] == items.keys[:-1]).tolist()
    if any(items.ids[row] >= items.ids[row + 1] for row in ties):
        broken.append(("items/id", "rows with equal SIDs are not in the order of their ids"))
    return broken


def _repeated_ids(items: ItemMap) -> list[tuple[str, str]]:
    hashes = items.index.hashes
    seen: set[str] = set()
    ties = np.flatnonzero(hashes[1:] == hashes[:-1])
    for row in items.index.rows[np.union1d(ties, ties + 1)].tolist():
        text = items.ids[row]
        if text in seen:
            return [("items/id", f"the id {text[:80]!r} is repeated")]
        seen.add(text)
    return []


def _broken_index(bundle: StoredBundle, items: ItemMap) -> list[tuple[str, str]]:
    return [
        (name, "does not agree with the items")
        for name, array in index_arrays(items).items()
        if name in bundle.arrays and not np.array_equal(array, bundle.arrays[name])
    ]
