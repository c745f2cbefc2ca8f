"""Alignment: the codes of a retrained codebook renamed to those of an older bundle, so that models
of the older one can use it."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import RefusedError
from sidtool.base.locations import opened, published_beside
from sidtool.data import Vectors
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.tokenizer.bundle.item_map import ItemMap
from sidtool.tokenizer.bundle.manifest import AlignChange
from sidtool.tokenizer.codes.assign import squared_distances
from sidtool.tokenizer.quantize.codebook import Codebook
from sidtool.tokenizer.sid import Codes

Permutation = NDArray[np.intp]
"""(K,): the old code for each new code."""


def check_alignable(new: Bundle, old: Bundle) -> tuple[Codebook, Codebook]:
    """Both codebooks, new and old. Raises RefusedError if `new` cannot be aligned to `old`."""
    if new.codebook is None or old.codebook is None:
        name = (old if old.codebook is None else new).manifest.name
        raise RefusedError(
            f"bundle {name!r} is a map without a codebook: there is nothing to align"
        )
    has_levels = new.codebook.sizes == old.codebook.sizes and new.space.levels == old.space.levels
    # how many codes an appended level has depends on the items, so one may have room for the other
    if not has_levels or (new.items.codes >= np.array(old.space.sizes)).any():
        raise RefusedError(
            f"the new bundle's levels are {new.space.spelled_sizes}, the old one's "
            f"{old.space.spelled_sizes}",
            hint="more items share codes than the appended level of the old bundle has room for"
            if has_levels
            else "build the new codebook with the old one's levels and collision policy",
        )
    first, old_first = new.codebook.params.first_code, old.codebook.params.first_code
    if first != old_first:
        raise RefusedError(
            f"codes of the new bundle's codebook count from {first}, those of the old one from "
            f"{old_first}"
        )
    if new.identity.codebook == old.identity.codebook and new.space == old.space:
        raise RefusedError(
            f"both bundles have codebook {old.identity.codebook[:12]}: there is nothing to align",
            hint="sidtool diff shows what else differs",
        )
    if not (new.items.rows(list(old.items.ids)) >= 0).any():
        raise RefusedError(
            f"none of the {len(old.items)} items of the old bundle is in the new one"
        )
    return new.codebook, old.codebook


def align(
    new: Bundle | str | Path, old: Bundle | str | Path, *, published: Sequence[str] | None = None
) -> Bundle:
    """`new` with its codes renamed so that as many common items as possible keep their codes of
    `old`. The AlignChange of its manifest counts them.

    Each level's codes are renamed by one permutation: the one that most common items agree with,
    first those that agree at all earlier levels (the Hungarian method on co-assignment counts);
    codes without common items are matched by the distance of their centroids. Placeholders (codes
    below `first_code`) keep their names. Residuals do not depend on names, so encoding and decoding
    do not change. The result has the SID space of `old`, is its next major version past the
    `published` ones (as of `add_items`), and names its codebook in `compatible_with`. Raises
    RefusedError as `check_alignable` does.

    Examples:
        >>> new, old = sidtool.open_bundle("other.zarr"), sidtool.open_bundle("shop.zarr")
        >>> aligned = sidtool.align(new, old)
        >>> old.digest == aligned.digest
        False
    """
    published = published_beside(old, published)
    new, old = opened(new, "open_source"), opened(old, "open_source")
    codebook, old_codebook = check_alignable(new, old)
    items = new.items
    old_codes, new_codes = common_codes(old, new)
    names = _permutations(old_codes, new_codes, old_codebook, codebook)
    renamed = items.codes.copy()
    for level, name in enumerate(names):
        renamed[:, level] = name[renamed[:, level]]
    rows = items.rows(list(old.items.ids))
    change = AlignChange(
        of=new.identity.digest,
        common=len(old_codes),
        before=_agreement(old_codes, new_codes),
        after=_agreement(old_codes, renamed[rows[rows >= 0]]),
    )
    levels = tuple(
        level[np.argsort(name)] for level, name in zip(codebook.levels, names, strict=True)
    )
    titles = list(items.titles) if items.titles is not None else None
    compatible_with = dict.fromkeys((old.identity.codebook, *old.manifest.compatible_with))
    provenance = old.manifest.next_version(change, published=published, new_codebook=True)
    provenance["compatible_with"] = tuple(compatible_with)
    provenance["recipe"] = new.manifest.recipe
    provenance["source"] = new.manifest.source
    provenance["report"] = new.manifest.report
    provenance["libraries"] = new.manifest.libraries
    return Bundle.of(
        ItemMap.of(old.space, list(items.ids), renamed, titles, items.retired),
        replace(codebook, levels=levels),
        new.manifest.collisions.policy,
        name=old.manifest.name,
        lexical=new.lexical,
        **provenance,
    )


def common_codes(old: Bundle, new: Bundle) -> tuple[Codes, Codes]:
    """(n, levels) each: the codes of the n items that both bundles have."""
    rows = new.items.rows(list(old.items.ids))
    is_common = rows >= 0
    return old.items.codes[is_common], new.items.codes[rows[is_common]]


def _permutations(
    old_codes: Codes, new_codes: Codes, old: Codebook, new: Codebook
) -> list[Permutation]:
    """One permutation for each level of the codebook; an appended level keeps its names. An item
    whose earlier levels agree outweighs all others: only its SID can still be preserved."""
    first = new.params.first_code  # codes below it are placeholders
    names: list[Permutation] = []
    agrees = np.ones(len(old_codes), dtype=np.bool_)
    for level, (old_level, new_level) in enumerate(zip(old.centroids, new.centroids, strict=True)):
        old_code = old_codes[:, level]
        new_code = new_codes[:, level]
        counts = np.zeros((len(new_level), len(old_level)), dtype=np.int64)
        weights = np.where(agrees, len(old_codes), 1)
        np.add.at(counts, (new_code, old_code), weights)
        name = np.arange(len(new_level))
        name[first:] = first + _match(counts[first:, first:], old_level[first:], new_level[first:])
        agrees &= name[new_code] == old_code
        names.append(name)
    return names


def _match(counts: NDArray[np.int64], old_level: Vectors, new_level: Vectors) -> Permutation:
    """(K, K) common items of each new and old code -> the old code for each new code."""
    from scipy.optimize import linear_sum_assignment

    name = np.full(len(counts), -1, dtype=np.intp)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    shares_items = counts[rows, columns] > 0
    name[rows[shares_items]] = columns[shares_items]
    unnamed = np.flatnonzero(name < 0)
    free = np.setdiff1d(np.arange(len(counts)), name[name >= 0])
    if new_level.shape[1] == old_level.shape[1]:
        distances = squared_distances(new_level[unnamed], old_level[free])
        rows, columns = linear_sum_assignment(distances)
        unnamed = unnamed[rows]
        free = free[columns]
    name[unnamed] = free
    return name


def _agreement(old_codes: Codes, new_codes: Codes) -> tuple[int, ...]:
    """Per depth: how many rows agree in all levels so far."""
    agrees = np.logical_and.accumulate(old_codes == new_codes, axis=1)
    return tuple(int(count) for count in agrees.sum(axis=0))
