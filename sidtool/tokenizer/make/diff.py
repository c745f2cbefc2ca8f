"""Differences between two bundles, item by item."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.locations import opened
from sidtool.base.records import JsonRecord
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.bundle.item_map import ItemMap
from sidtool.tokenizer.bundle.manifest import flat_record
from sidtool.tokenizer.sid import Codes

_NOT_COMPARED = ("objects", "identity", "items", "report", "created", "lineage", "change", "parent")
"""Keys of a manifest that differ between any two versions, or that `Diff` shows in another
field."""


@dataclass(frozen=True)
class Move(JsonRecord):
    """An item whose SID changed; `depth` is the first level that differs, from 1."""

    item: str
    old: str
    new: str
    depth: int


@dataclass(frozen=True)
class Diff(JsonRecord):
    """Differences between two bundles; items are listed in the order of their SIDs."""

    same: bool
    """The identities are equal."""
    added: tuple[str, ...]
    retired: tuple[str, ...]
    """Items of both bundles that are retired in the new one only."""
    gone: tuple[str, ...]
    """Active items of the old bundle that the new one does not contain."""
    restored: tuple[str, ...]
    moved: tuple[Move, ...]
    retitled: tuple[str, ...]
    kept: int
    """Items of both bundles with the same SID, retired ones included."""
    same_prefix: tuple[float, ...]
    """Per level of both: the share of the items of both bundles with the same prefix, retired ones
    included."""
    drift: tuple[float | None, ...]
    """Per level of the old codebook: the mean distance of a centroid from that of the same code, in
    units of the old centroids' RMS norm; None if the new bundle has no level of that shape."""
    manifest: Mapping[str, tuple[Any, Any]]
    """Dotted key -> old and new value."""

    def __repr__(self) -> str:
        """The number of items of each kind."""
        kinds = ("added", "retired", "gone", "restored", "moved", "retitled")
        counts = ", ".join(f"{len(getattr(self, kind))} {kind}" for kind in kinds)
        return f"<Diff: {self.kept} with the same SID, {counts}>"


def diff(old: Bundle | str | Path, new: Bundle | str | Path) -> Diff:
    """Compare two bundles item by item; codes are compared level by level, whatever the sizes.

    Examples:
        >>> old = sidtool.open_bundle("shop.zarr")
        >>> sidtool.diff(old, sidtool.add_items(old, remove=["b007"])).retired
        ('b007',)
    """
    old, new = opened(old, "open_bundle"), opened(new, "open_bundle")
    before, after = (
        flat_record({key: value for key, value in record.items() if key not in _NOT_COMPARED})
        for record in (old.manifest.to_json(), new.manifest.to_json())
    )
    row_in_new = new.items.rows(list(old.items.ids))  # (old items,), -1 for those that are gone
    # (n,) each, from here to `depths`: of the n items of both bundles
    old_rows = np.flatnonzero(row_in_new >= 0)
    new_rows = row_in_new[old_rows]
    was_retired = old.items.retired[old_rows]
    is_retired = new.items.retired[new_rows]
    depths = _first_difference(old.items.codes[old_rows], new.items.codes[new_rows])
    moved = np.flatnonzero(depths)  # indexes into those arrays
    pairs = zip(old_rows.tolist(), new_rows.tolist(), strict=True)
    retitled = [row for row, new_row in pairs if old.items.title(row) != new.items.title(new_row)]
    return Diff(
        same=old.identity == new.identity,
        added=_ids(new.items, np.setdiff1d(new.active, new_rows)),
        retired=_ids(old.items, old_rows[~was_retired & is_retired]),
        gone=_ids(old.items, np.flatnonzero((row_in_new < 0) & ~old.items.retired)),
        restored=_ids(old.items, old_rows[was_retired & ~is_retired]),
        moved=tuple(
            Move(
                old.items.ids[int(old_rows[index])],
                old.space.spell(old.items.codes[old_rows[index]]),
                new.space.spell(new.items.codes[new_rows[index]]),
                int(depths[index]),
            )
            for index in moved
        ),
        retitled=_ids(old.items, retitled),
        kept=len(old_rows) - len(moved),
        same_prefix=tuple(
            float(((depths == 0) | (depths > depth)).mean()) if len(depths) else 0.0
            for depth in range(1, min(old.space.levels, new.space.levels) + 1)
        ),
        drift=_drift(old, new),
        manifest={
            key: (before.get(key), after.get(key))
            for key in sorted(before.keys() | after.keys())
            if before.get(key) != after.get(key)
        },
    )


def _ids(items: ItemMap, rows: Iterable[Any]) -> tuple[str, ...]:
    return tuple(items.ids[int(row)] for row in rows)


def _first_difference(old: Codes, new: Codes) -> NDArray[np.int64]:
    """(n, levels), (n, levels) -> (n,) int64: the first level that differs, from 1; 0 if none."""
    common_depth = min(old.shape[1], new.shape[1])
    differs = old[:, :common_depth] != new[:, :common_depth]
    # SIDs of another depth differ where the shorter one ends
    longer = np.full((len(old), 1), old.shape[1] != new.shape[1])
    differs = np.concatenate([differs, longer], axis=1)
    first = differs.argmax(axis=1) + 1  # argmax gives the first True
    return np.where(differs.any(axis=1), first, 0).astype(np.int64)


def _drift(old: Bundle, new: Bundle) -> tuple[float | None, ...]:
    old_levels = old.codebook.centroids if old.codebook else ()
    new_levels = new.codebook.centroids if new.codebook else ()
    drift: list[float | None] = []
    for level, centroids in enumerate(old_levels):
        if level >= len(new_levels) or new_levels[level].shape != centroids.shape:
            drift.append(None)
            continue
        moves = new_levels[level].astype(np.float64) - centroids
        distance = np.linalg.norm(moves, axis=1).mean()
        norm = np.sqrt(np.square(centroids, dtype=np.float64).sum(axis=1).mean())
        drift.append(float(distance / norm) if norm else float(distance))
    return tuple(drift)
