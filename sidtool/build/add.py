"""New items in, old items out, and no published SID ever moves.

Knows a bundle and the vectors of items that it does not know; knows nothing of models. A
retired item keeps its SID, in case it comes back."""

import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sidtool.bundle.bundle import Bundle
from sidtool.bundle.item_map import arrange
from sidtool.bundle.lineage import ItemsChange
from sidtool.data.items import Items
from sidtool.errors import DataError, RefusedError, SidtoolWarning, UsageError
from sidtool.quantize.codebook import Codebook
from sidtool.quantize.overflow import place_new_items
from sidtool.sid import Codes, Vectors


def unknown(bundle: Bundle, ids: Sequence[str]) -> NDArray[np.int64]:
    """Positions, in order, of the ids that the bundle does not know, not even as retired."""
    return np.flatnonzero(bundle.items.rows(ids) < 0)


def add_items(
    bundle: Bundle, items: Items, vectors: Vectors, *, remove: Sequence[str] = ()
) -> Bundle:
    """The next minor version: with these items alive, and the items `remove` retired.

    `vectors` is (m, dim): one for each item that the bundle does not know, in the order of
    `unknown`. An item that it knows keeps its SID, takes the title given and, if it was retired,
    comes back. What changes nothing gives `bundle`.

    Raises DataError for a repeated id, an id in `remove` that the bundle does not know, or vectors
    that do not fit; UsageError for an id both given and removed; RefusedError if there is no
    codebook to place items by or no room."""
    twice = set(items.ids) & set(remove)
    if twice:
        raise UsageError(f"item {min(twice)!r} is to be added and to be removed")
    if len(set(items.ids)) != len(items.ids):
        raise DataError(f"{len(items.ids) - len(set(items.ids))} item ids are given twice")
    rows, old = bundle.items.rows(items.ids), bundle.items
    new = np.flatnonzero(rows < 0)
    if len(vectors) != len(new):
        raise DataError(f"{len(vectors)} vectors for {len(new)} new items")
    ids = [*old.ids, *(items.ids[at] for at in new)]
    codes = np.concatenate([old.codes, _place(bundle, vectors)])
    titles, retitled = _titles(bundle, items, rows)
    again, gone = rows[rows >= 0], _known(bundle, remove)
    retired = np.concatenate([old.retired, np.zeros(len(new), dtype=np.bool_)])
    retired[again], retired[gone] = False, True
    change = ItemsChange(
        added=len(new),
        restored=int(old.retired[again].sum()),
        retitled=retitled,
        retired=int((~old.retired[gone]).sum()),
    )
    _warn(len(again) - change.restored, len(items.ids), retitled)
    if change == ItemsChange():
        return bundle
    change = replace(change, catalog=items.digest if items.ids else None)
    return Bundle.of(
        arrange(bundle.space, ids, codes, titles, retired),
        bundle.codebook,
        bundle.manifest.collisions.policy,
        name=bundle.manifest.name,
        capacity=bundle.manifest.collisions.capacity,
        **bundle.manifest.next_version(change),
        compatible_with=bundle.manifest.compatible_with,
        recipe=bundle.manifest.recipe,
        source=bundle.manifest.source,
        libraries=bundle.manifest.libraries,
    )


def retire(bundle: Bundle, ids: Sequence[str]) -> Bundle:
    """The next minor version, without these items: off the trie, and their SIDs stay reserved.

    Raises DataError for an id that the bundle does not know.
    """
    return add_items(bundle, NOTHING, NO_VECTORS, remove=ids)


NOTHING = Items((), (), (), {}, "", "")
"""No items."""
NO_VECTORS = np.empty((0, 0), dtype=np.float32)
"""The vectors of no items."""


def _known(bundle: Bundle, ids: Sequence[str]) -> NDArray[np.int64]:
    rows = np.unique(bundle.items.rows(ids))  # an id that is given twice is removed once
    if len(rows) and rows[0] < 0:
        missing = unknown(bundle, ids)
        raise DataError(
            f"{len(missing)} ids to remove are not in the bundle, the first is {ids[missing[0]]!r}"
        )
    return rows


def _titles(bundle: Bundle, items: Items, rows: NDArray[np.int64]) -> tuple[list[str], int]:
    """Titles of the old rows, refreshed, then of the new items; and how many were refreshed. ""
    refreshes none."""
    old = bundle.items
    titles = list(old.titles) if old.titles is not None else [""] * len(old)
    retitled = 0
    for row, title in zip(rows.tolist(), items.titles, strict=True):
        if row < 0:
            titles.append(title)
        elif title and title != titles[row]:
            titles[row] = title
            retitled += 1
    return titles, retitled


def _warn(there: int, n: int, retitled: int) -> None:
    if there:
        warnings.warn(
            f"{there} of {n} items are in the bundle already and keep their SID; {retitled} "
            "titles were refreshed",
            SidtoolWarning,
            stacklevel=3,
        )


def _place(bundle: Bundle, vectors: Vectors) -> Codes:
    """(m, dim) -> (m, levels) codes, free ones unless the bundle allows collisions."""
    if not len(vectors):
        return np.empty((0, bundle.space.levels), dtype=np.uint16)
    codebook, policy = _codebook(bundle), bundle.manifest.collisions.policy
    if policy == "reassign":
        return place_new_items(vectors, codebook, bundle.items.codes)
    raw = bundle.encode(vectors)
    return _append(bundle, raw) if policy == "append" else raw


def _codebook(bundle: Bundle) -> Codebook:
    if bundle.codebook is None:
        raise RefusedError(
            f"bundle {bundle.manifest.name!r} is a map without a codebook: it has no SIDs for "
            "new items",
            hint="build-codebook makes a bundle that can grow; --remove works without",
        )
    return bundle.codebook


def _append(bundle: Bundle, raw: Codes) -> Codes:
    """Raw codes with the lowest free code of the appended level behind them."""
    taken: dict[tuple[int, ...], set[int]] = {}
    slots = np.empty((len(raw), 1), dtype=np.uint16)
    for row, prefix in enumerate(map(tuple, raw.tolist())):
        if prefix not in taken:
            first, stop = bundle.items.rows_under(prefix)
            taken[prefix] = set(bundle.items.codes[first:stop, -1].tolist())
        free = (slot for slot in range(bundle.space.sizes[-1]) if slot not in taken[prefix])
        slot = next(free, None)
        if slot is None:
            own = bundle.space.spell(prefix)
            raise RefusedError(
                f"all {bundle.space.sizes[-1]} codes of the appended level are taken under {own}",
                hint="remove duplicate items, or build a codebook with more or larger levels",
            )
        taken[prefix].add(slot)
        slots[row] = slot
    return np.concatenate([raw, slots], axis=1)
