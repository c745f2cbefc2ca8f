"""Verification of a stored bundle: objects, root document, values, row order and index."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from sidtool.base.errors import IntegrityError, SidtoolError
from sidtool.base.storage import Storage
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.bundle.identity import identify, index_arrays
from sidtool.tokenizer.bundle.item_map import ItemMap
from sidtool.tokenizer.bundle.zarr_group import ROOT, broken_objects


def verify(location: str | Path) -> list[tuple[str, str]]:
    """Everything that is wrong with a stored bundle: (object, reason); empty if it is intact.

    Checks every stored object against its SHA-256, the manifest against its own, the values against
    the identity, the order of the rows, and the index. Raises DataError if there is no bundle.

    Examples:
        >>> sidtool.verify("shop.zarr")
        []
    """
    try:
        return _broken(Bundle.open(location), Storage(location))
    except IntegrityError as error:
        return [(ROOT, str(error))]


def open_verified_bundle(location: str | Path) -> Bundle:
    """Open a bundle with everything checked that `verify` checks: what a command publishes is made
    of such ones. Raises IntegrityError if it is damaged, else as `Bundle.open`."""
    bundle = Bundle.open(location)
    for name, reason in _broken(bundle, Storage(location)):
        raise IntegrityError(
            f"{location}: {name}: {reason}", hint="sidtool verify lists every broken object"
        )
    return bundle


def _broken(bundle: Bundle, storage: Storage) -> list[tuple[str, str]]:
    return broken_objects(storage, bundle.manifest) or _broken_values(bundle)


def _broken_values(bundle: Bundle) -> list[tuple[str, str]]:
    manifest = bundle.manifest
    try:
        items = bundle.items
        identity = identify(
            bundle.space, items, bundle.codebook, manifest.recipe, manifest.collisions.policy
        )
        bundle.lexical  # noqa: B018 raises unless it is the encoder of the recipe
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


def _placeholders(bundle: Bundle) -> list[tuple[str, str]]:
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


def _broken_index(bundle: Bundle, items: ItemMap) -> list[tuple[str, str]]:
    return [
        (name, "does not agree with the items")
        for name, array in index_arrays(items).items()
        if name in bundle.arrays and not np.array_equal(array, bundle.arrays[name])
    ]
