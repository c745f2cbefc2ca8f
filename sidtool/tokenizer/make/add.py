"""New versions of a bundle with items added or retired; no published SID ever moves.

A retired item keeps its SID reserved, in case it comes back."""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError, RefusedError, SidtoolWarning, UsageError
from sidtool.base.locations import opened, published_beside
from sidtool.base.options import given_ids, options_from
from sidtool.base.progress import Progress
from sidtool.data import CatalogNames, Items, TextNames, Vectors, VectorSource
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.bundle.item_map import ItemMap
from sidtool.tokenizer.bundle.manifest import ItemsChange
from sidtool.tokenizer.codes.overflow import place_new_items, require_free
from sidtool.tokenizer.make import encode
from sidtool.tokenizer.sid import Codes


def unknown(bundle: Bundle, ids: Sequence[str]) -> NDArray[np.int64]:
    """Positions, in order, of the ids that the bundle does not contain, retired items included."""
    return np.flatnonzero(bundle.items.rows(ids) < 0)


def planned_change(
    bundle: Bundle,
    items: Items = encode.NO_ITEMS,
    *,
    embeddings: Sequence[str | Path] = (),
    by_row: bool = False,
    encoder: str | None = None,
    remove: Sequence[str] = (),
) -> ItemsChange:
    """What `add_items` would change. Raises what it raises before it reads or makes vectors."""
    change = item_change(bundle, items, remove)
    if embeddings:
        encode.open_sources(bundle, embeddings, items.ids, by_row=by_row)
    elif change.added:
        texts = [items.texts[row] for row in unknown(bundle, items.ids).tolist()]
        encode.check_texts(bundle, texts, model=encoder)
    return change


def item_change(bundle: Bundle, items: Items, remove: Sequence[str]) -> ItemsChange:
    """What adding and retiring items changes. Raises DataError for a repeated id or an id in
    `remove` that the bundle does not contain, UsageError for an id both added and removed,
    RefusedError for more new items than free SIDs."""
    both = set(items.ids) & set(remove)
    if both:
        raise UsageError(f"item {min(both)!r} is both added and removed")
    repeated = len(items.ids) - len(set(items.ids))
    if repeated:
        raise DataError(f"{repeated} item ids are given twice")
    missing = unknown(bundle, remove)
    if len(missing):
        raise DataError(
            f"{len(missing)} ids to remove are not in the bundle, the first is "
            f"{remove[missing[0]]!r}"
        )
    old = bundle.items
    rows = old.rows(items.ids)  # -1 for a new item
    retitled = sum(
        row >= 0 and title not in ("", old.title(row))
        for row, title in zip(rows.tolist(), items.titles, strict=True)
    )
    added = int((rows < 0).sum())
    policy = bundle.manifest.collisions.policy
    if added and bundle.codebook is not None and policy == "reassign":
        require_free(bundle.codebook, old.codes, added)
    return ItemsChange(
        added=added,
        restored=int(old.retired[rows[rows >= 0]].sum()),
        retitled=retitled,
        retired=int((~old.retired[np.unique(old.rows(remove))]).sum()),
    )


def add_items(
    bundle: Bundle | str | Path,
    items: Items | str | Path = encode.NO_ITEMS,
    vectors: Vectors | None = None,
    *,
    catalog: TextNames | None = None,
    embeddings: encode.Source | Sequence[encode.Source] = (),
    by_row: bool = False,
    encoder: str | None = None,
    trust_remote_code: bool = False,
    remove: Sequence[str] | Path = (),
    published: Sequence[str] | None = None,
    progress: Progress | None = None,
    **given: Any,
) -> Bundle:
    """The next minor version of a bundle, a value or where it is: with these items active, and the
    items `remove`, ids or a file of them, retired. A file of items is read with the columns
    `catalog`, also given as keywords, or those that the bundle records, and with its text template.

    `vectors` is (m, dim), one for each item that the bundle does not contain, in the order of
    `unknown`. Without them they are read from `embeddings` (a file or array per fused source, rows
    of all `items`; with `by_row` also files without ids, in their order), or made from the texts by
    the bundle's encoder, whose present location is `encoder`.
    An item that the bundle contains keeps its SID, takes the given title and, if it was retired,
    comes back. If nothing changes, the result is `bundle`. Its number is past those of the
    `published` versions: by default those of URL/NAME if `bundle` is a reference, else none;
    `sidtool.published_versions` lists them.

    Raises DataError for a repeated id, an id in `remove` that the bundle does not contain and for
    vectors that do not fit, UsageError for an id both added and removed, for columns without a file
    and for a text template, RefusedError without a codebook or without free SIDs.

    Examples:
        >>> bundle = sidtool.open_bundle("shop.zarr")
        >>> newer = sidtool.add_items(bundle, remove=["b007"])
        >>> len(bundle.sids()), len(newer.sids())
        (60, 59)
    """
    names = options_from(CatalogNames, catalog, given)
    names.require_path(items)
    given_sources = encode.source_list(embeddings)
    if (vectors is not None) + bool(given_sources) + (encoder is not None) > 1:
        raise UsageError("give one of vectors, embeddings and encoder")
    if by_row and not given_sources:
        raise UsageError("by_row requires embeddings")
    published = published_beside(bundle, published)
    bundle = opened(bundle, "open_source")
    items = encode.read_new_items(bundle, items, names)
    removed = given_ids(remove)
    change = item_change(bundle, items, removed)
    old = bundle.items
    rows = old.rows(items.ids)  # -1 for a new item
    existing_rows = rows[rows >= 0]
    new_positions = np.flatnonzero(rows < 0)
    n_new = change.added
    if given_sources:
        sources = encode.open_sources(bundle, given_sources, items.ids, by_row=by_row)
        vectors = encode.joined(sources)[new_positions] if n_new else None
    elif vectors is None and n_new:
        texts = [items.texts[position] for position in new_positions.tolist()]
        vectors = encode.embed_texts(
            bundle, texts, model=encoder, trust_remote_code=trust_remote_code, progress=progress
        )
    vectors = None if vectors is None else VectorSource.as_array(vectors)
    n_vectors = 0 if vectors is None else len(vectors)
    if n_vectors != n_new:
        raise DataError(f"{n_vectors} vectors for {n_new} new items")
    codes = old.codes  # published SIDs never move; new items are appended
    if vectors is not None and n_new:
        codes = np.concatenate([codes, _new_codes(bundle, vectors)])
    titles = list(old.titles) if old.titles is not None else [""] * len(old)
    for row, title in zip(rows.tolist(), items.titles, strict=True):
        if row < 0:
            titles.append(title)
        elif title:  # an empty title updates nothing
            titles[row] = title
    retired = np.concatenate([old.retired, np.zeros(n_new, dtype=np.bool_)])
    retired[existing_rows] = False  # an item in the catalog is active again
    retired[old.rows(removed)] = True
    if n_existing := len(existing_rows) - change.restored:
        warnings.warn(
            f"{n_existing} of {len(items.ids)} items are in the bundle already and keep their SID; "
            f"{change.retitled} titles were updated",
            SidtoolWarning,
            stacklevel=2,
        )
    if change == ItemsChange():
        return bundle
    ids = [*old.ids, *(items.ids[position] for position in new_positions.tolist())]
    change = replace(change, catalog=items.digest if items.ids else None)
    return Bundle.of(
        ItemMap.of(bundle.space, ids, codes, titles, retired),
        bundle.codebook,
        bundle.manifest.collisions.policy,
        name=bundle.manifest.name,
        lexical=bundle.lexical,
        **bundle.manifest.next_version(change, published=published),
    )


def _new_codes(bundle: Bundle, vectors: Vectors) -> Codes:
    """(m, dim) vectors -> (m, levels) codes by the bundle's collision policy."""
    codebook = bundle.require_codebook()
    policy = bundle.manifest.collisions.policy
    if policy == "reassign":
        return place_new_items(vectors, codebook, bundle.items.codes)
    raw = bundle.encode(vectors)
    if policy == "allow":
        return raw
    # under `append`, raw codes are followed by the lowest free code of the appended level
    size = bundle.space.sizes[-1]
    in_use: dict[tuple[int, ...], set[int]] = {}
    appended = np.empty((len(raw), 1), dtype=np.uint16)
    for row, prefix in enumerate(map(tuple, raw.tolist())):
        if prefix not in in_use:
            first, stop = bundle.items.rows_under(prefix)
            in_use[prefix] = set(bundle.items.codes[first:stop, -1].tolist())
        code = next((code for code in range(size) if code not in in_use[prefix]), None)
        if code is None:
            raise RefusedError(
                f"all {size} codes of the appended level are taken under "
                f"{bundle.space.spell(prefix)}",
                hint="remove duplicate items, or build a codebook with more or larger levels",
            )
        in_use[prefix].add(code)
        appended[row] = code
    return np.concatenate([raw, appended], axis=1)
