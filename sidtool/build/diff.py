"""What changed between two versions of a bundle, item by item."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.bundle.bundle import Bundle
from sidtool.bundle.item_map import ItemMap
from sidtool.bundle.manifest import Manifest
from sidtool.sid import Codes

_NOT_COMPARED = ("objects", "identity", "items", "report", "created", "lineage", "change", "parent")
"""Keys of a manifest that differ between any two versions, or that `diff` tells in another way."""


@dataclass(frozen=True)
class Move:
    """An item whose SID is another one now; `depth` is the first level that differs, from 1."""

    item: str
    old: str
    new: str
    depth: int


@dataclass(frozen=True)
class Diff:
    """What differs between two bundles, item by item; items come in the order of their SIDs."""

    same: bool
    """whether the identities are equal"""
    added: tuple[str, ...]
    retired: tuple[str, ...]
    """in both, and off the trie in the new one only"""
    gone: tuple[str, ...]
    """alive in the old one, and not in the new one at all"""
    restored: tuple[str, ...]
    moved: tuple[Move, ...]
    retitled: tuple[str, ...]
    kept: int
    """items in both, retired ones included, with one SID"""
    drift: tuple[float | None, ...]
    """each level of the old codebook: mean distance of a centroid from its namesake, in units of
    the old centroids' RMS norm; None where the new one has no level of that shape"""
    manifest: Mapping[str, tuple[Any, Any]]
    """dotted key -> old and new value"""

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return asdict(self) | {"manifest": {key: list(pair) for key, pair in self.manifest.items()}}


def diff(old: Bundle, new: Bundle) -> Diff:
    """Compare two bundles item by item. Codes are compared level by level, whatever the spaces."""
    rows = new.items.rows(list(old.items.ids))
    here = np.flatnonzero(rows >= 0)
    there = rows[here]
    fresh = np.ones(len(new.items), dtype=np.bool_)
    fresh[there] = False
    was, now = old.items.retired[here], new.items.retired[there]
    depths = _first_difference(old.items.codes[here], new.items.codes[there])
    places = np.flatnonzero(depths)
    retitled = [
        row
        for row, other in zip(here.tolist(), there.tolist(), strict=True)
        if old.items.title(row) != new.items.title(other)
    ]
    return Diff(
        same=old.identity == new.identity,
        added=_ids(new.items, np.flatnonzero(fresh & ~new.items.retired)),
        retired=_ids(old.items, here[~was & now]),
        gone=_ids(old.items, np.flatnonzero((rows < 0) & ~old.items.retired)),
        restored=_ids(old.items, here[was & ~now]),
        moved=tuple(
            _move(old, new, int(here[at]), int(there[at]), int(depths[at])) for at in places
        ),
        retitled=_ids(old.items, retitled),
        kept=len(here) - len(places),
        drift=_drift(old, new),
        manifest=_changed(old.manifest, new.manifest),
    )


def _ids(items: ItemMap, rows: Any) -> tuple[str, ...]:
    return tuple(items.ids[int(row)] for row in rows)


def _move(old: Bundle, new: Bundle, row: int, other: int, depth: int) -> Move:
    before, after = old.space.spell(old.items.codes[row]), new.space.spell(new.items.codes[other])
    return Move(old.items.ids[row], before, after, depth)


def _first_difference(old: Codes, new: Codes) -> NDArray[np.int64]:
    """(n, levels), (n, levels) -> (n,) int64: the first level that differs, from 1; 0 where none
    does."""
    shared = min(old.shape[1], new.shape[1])
    unlike = old[:, :shared] != new[:, :shared]
    end = np.full(
        (len(old), 1), old.shape[1] != new.shape[1]
    )  # the deeper SID differs where the other one ends
    unlike = np.concatenate([unlike, end], axis=1)
    return np.where(unlike.any(axis=1), unlike.argmax(axis=1) + 1, 0).astype(np.int64)


def _drift(old: Bundle, new: Bundle) -> tuple[float | None, ...]:
    ours = old.codebook.levels if old.codebook else ()
    theirs = new.codebook.levels if new.codebook else ()
    drift: list[float | None] = []
    for level, centroids in enumerate(ours):
        if level >= len(theirs) or theirs[level].shape != centroids.shape:
            drift.append(None)
            continue
        far = np.linalg.norm(theirs[level].astype(np.float64) - centroids, axis=1).mean()
        norm = np.sqrt(np.square(centroids, dtype=np.float64).sum(axis=1).mean())
        drift.append(float(far / norm) if norm else float(far))
    return tuple(drift)


def _changed(old: Manifest, new: Manifest) -> dict[str, tuple[Any, Any]]:
    before, after = (
        _flat({k: v for k, v in m.to_json().items() if k not in _NOT_COMPARED}) for m in (old, new)
    )
    keys = sorted(before.keys() | after.keys())
    return {
        key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)
    }


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            found |= _flat(item, f"{prefix}{key}.")
        elif key != "probes":  # vectors: the weights' digests tell encoders apart
            found[prefix + key] = item
    return found
