"""Rewrite one bundle in the vocabulary of another, so that a model trained on the other can use it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sidtool.bundle.bundle import Bundle
from sidtool.bundle.item_map import arrange
from sidtool.bundle.lineage import AlignChange
from sidtool.errors import RefusedError
from sidtool.quantize.codebook import Codebook
from sidtool.sid import Codes, Vectors

Permutation = NDArray[np.intp]
"""(K,): the old name of each new code."""


@dataclass(frozen=True)
class Alignment:
    """How many of the `common` items share the first 1, 2 ... levels of their SID with the old
    bundle."""

    common: int
    before: tuple[int, ...]
    after: tuple[int, ...]


def check_alignable(new: Bundle, old: Bundle) -> tuple[Codebook, Codebook]:
    """Both codebooks, new and old, if `new` can be rewritten in the vocabulary of `old`.

    Raises RefusedError, naming what is in the way, if it cannot.
    """
    if new.codebook is None or old.codebook is None:
        bare = (old if old.codebook is None else new).manifest.name
        raise RefusedError(
            f"bundle {bare!r} is a map without a codebook: there is nothing to align"
        )
    if new.space.sizes != old.space.sizes or new.codebook.sizes != old.codebook.sizes:
        raise RefusedError(
            f"the new bundle's levels are {new.space.spelled_sizes}, the old one's "
            f"{old.space.spelled_sizes}",
            hint="build the new codebook with the old one's levels and collision policy",
        )
    if new.identity.codebook == old.identity.codebook and new.space == old.space:
        raise RefusedError(
            f"both bundles have codebook {old.identity.codebook[:12]}: there is nothing to align",
            hint="sidtool diff tells what else differs",
        )
    if not (new.items.rows(list(old.items.ids)) >= 0).any():
        raise RefusedError(
            f"none of the {len(old.items)} items of the old bundle is in the new one"
        )
    return new.codebook, old.codebook


def align(new: Bundle, old: Bundle) -> tuple[Bundle, Alignment]:
    """`new` with its codes renamed so that as many common items as possible keep the codes that
    they have in `old`.

    Each level's codes are renamed by one permutation: the one that most common items agree with,
    those first that agree at all earlier levels (the Hungarian method on co-assignment counts);
    codes that share no item are matched by the distance of their centroids. Residuals do not depend
    on names, so encoding and decoding stay what they were. The result has the spelling of `old`, is
    its next major version, and names its codebook in `compatible_with`. Raises RefusedError as
    `check_alignable` does."""
    codebook, meant = check_alignable(new, old)
    ours, theirs = _common_codes(old, new)
    names = _permutations(ours, theirs, meant.levels, codebook.levels)
    codes = _renamed(new.items.codes, names)
    levels = tuple(
        level[np.argsort(name)] for level, name in zip(codebook.levels, names, strict=True)
    )
    told = Alignment(len(ours), _agreeing(ours, theirs), _agreeing(ours, _renamed(theirs, names)))
    titles = list(new.items.titles) if new.items.titles is not None else None
    change = AlignChange(new.identity.digest, told.common, told.before, told.after)
    aligned = Bundle.of(
        arrange(old.space, list(new.items.ids), codes, titles, new.items.retired),
        replace(codebook, levels=levels),
        new.manifest.collisions.policy,
        name=old.manifest.name,
        capacity=new.manifest.collisions.capacity,
        **old.manifest.next_version(change, new_codebook=True),
        compatible_with=tuple(
            dict.fromkeys((old.identity.codebook, *old.manifest.compatible_with))
        ),
        recipe=new.manifest.recipe,
        source=new.manifest.source,
        report=new.manifest.report,
        libraries=new.manifest.libraries,
    )
    return aligned, told


def _common_codes(old: Bundle, new: Bundle) -> tuple[Codes, Codes]:
    """(n, levels) each: the codes of the common items in both."""
    rows = new.items.rows(list(old.items.ids))
    return old.items.codes[rows >= 0], new.items.codes[rows[rows >= 0]]


def _permutations(
    ours: Codes, theirs: Codes, old_levels: Sequence[Vectors], new_levels: Sequence[Vectors]
) -> list[Permutation]:
    """One permutation for each level of the codebook; an appended level only counts, and keeps its
    names.

    An item whose earlier levels agree outweighs all that differ already: only its SID can still be
    preserved."""
    names: list[Permutation] = []
    agree = np.ones(len(ours), dtype=np.bool_)
    for level, (old_level, new_level) in enumerate(zip(old_levels, new_levels, strict=True)):
        counts = np.zeros((len(new_level), len(old_level)), dtype=np.int64)
        np.add.at(counts, (theirs[:, level], ours[:, level]), np.where(agree, len(ours), 1))
        names.append(_match(counts, old_level, new_level))
        agree &= names[-1][theirs[:, level]] == ours[:, level]
    return names


def _match(counts: NDArray[np.int64], old_level: Vectors, new_level: Vectors) -> Permutation:
    """(K, K) items that a new and an old code share -> the old name of each new code."""
    from scipy.optimize import linear_sum_assignment

    name = np.full(len(counts), -1, dtype=np.intp)
    rows, columns = linear_sum_assignment(counts, maximize=True)
    met = counts[rows, columns] > 0
    name[rows[met]] = columns[met]
    left = np.flatnonzero(name < 0)
    free = np.setdiff1d(np.arange(len(counts)), name[name >= 0])
    if new_level.shape[1] == old_level.shape[1]:
        rows, columns = linear_sum_assignment(_distances(new_level[left], old_level[free]))
        left, free = left[rows], free[columns]
    name[left] = free
    return name


def _distances(left: Vectors, right: Vectors) -> NDArray[np.float64]:
    """(m, width), (k, width) -> (m, k) float64 squared distances."""
    a, b = left.astype(np.float64), right.astype(np.float64)
    return np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * a @ b.T


def _renamed(codes: Codes, names: Sequence[Permutation]) -> Codes:
    renamed = codes.copy()
    for level, name in enumerate(names):
        renamed[:, level] = name[codes[:, level]]
    return renamed


def _agreeing(ours: Codes, theirs: Codes) -> tuple[int, ...]:
    return tuple(
        int(count) for count in np.logical_and.accumulate(ours == theirs, axis=1).sum(axis=0)
    )
