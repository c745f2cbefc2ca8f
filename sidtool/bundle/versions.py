"""How one version of a bundle stands to another: what changed, what came before, and how to rewrite one in the
vocabulary of the other.

Knows two bundles; knows nothing of models: what a change means for them is model/rebind.py's.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.bundle.bundle import Bundle
from sidtool.bundle.items import ItemMap
from sidtool.bundle.manifest import Manifest
from sidtool.errors import RefusedError
from sidtool.quantize.codebook import Codebook
from sidtool.sid import Codes, SidSpace, Vectors

Permutation = NDArray[np.intp]
"""(K,): the old name of each new code."""

_NOT_COMPARED = ("objects", "identity", "items", "report", "created", "lineage", "change", "parent")
"""Keys of a manifest that differ between any two versions, or that `diff` tells in another way."""


def history(manifest: Manifest) -> tuple[dict[str, Any], ...]:
    """The versions up to this one, oldest first: version, digest, name, created and change of each."""
    own = {
        "version": manifest.version,
        "digest": manifest.identity.digest,
        "name": manifest.name,
        "created": manifest.created,
        "change": dict(manifest.change) or {"kind": "build", "items": manifest.items},
    }
    return (*map(dict, manifest.lineage), own)


def spell_change(change: Mapping[str, Any]) -> str:
    """What a version changed, in words."""
    if change.get("kind") == "build":
        return f"built with {change['items']} items"
    if change.get("kind") == "align":
        return f"aligned {change['of'][:12]}: {change['after'][-1]} of {change['common']} SIDs preserved"
    names = ("added", "restored", "retitled", "retired")
    return ", ".join(f"{change[name]} {name}" for name in names if change.get(name))


def successor(parent: Manifest, change: Mapping[str, Any], *, new_codebook: bool = False) -> dict[str, Any]:
    """The fields of a manifest that a version after `parent` gets from it.

    Another codebook counts the major version up ("1.4" -> "2.0"), other items the minor one ("1.4" -> "1.5").
    """
    major, _, minor = parent.version.partition(".")
    return {
        "name": parent.name,
        "version": f"{int(major) + 1}.0" if new_codebook else f"{major}.{int(minor or 0) + 1}",
        "parent": parent.identity.digest,
        "lineage": history(parent),
        "change": change,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def arrange(
    space: SidSpace, ids: Sequence[str], codes: Codes, titles: Sequence[str] | None, retired: NDArray[np.bool_]
) -> ItemMap:
    """An item map of n items in any order, (n,) `retired` among them. Raises as ItemMap.of does."""
    items = ItemMap.of(space, ids, codes, titles)
    flags = np.zeros(len(ids), dtype=np.bool_)
    flags[items.rows(ids)] = retired
    return replace(items, retired=flags, stored_index=items.index)


# What changed


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
    """each level of the old codebook: mean distance of a centroid from its namesake, in units of the old centroids'
    RMS norm; None where the new one has no level of that shape"""
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
        moved=tuple(_move(old, new, int(here[at]), int(there[at]), int(depths[at])) for at in places),
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
    """(n, levels), (n, levels) -> (n,) int64: the first level that differs, from 1; 0 where none does."""
    shared = min(old.shape[1], new.shape[1])
    unlike = old[:, :shared] != new[:, :shared]
    end = np.full((len(old), 1), old.shape[1] != new.shape[1])  # the deeper SID differs where the other one ends
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
    before, after = (_flat({k: v for k, v in m.to_json().items() if k not in _NOT_COMPARED}) for m in (old, new))
    keys = sorted(before.keys() | after.keys())
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(item, Mapping):
            found |= _flat(item, f"{prefix}{key}.")
        elif key != "probes":  # vectors: the weights' digests tell encoders apart
            found[prefix + key] = item
    return found


# One bundle in the vocabulary of another


@dataclass(frozen=True)
class Alignment:
    """How many of the `common` items share the first 1, 2 ... levels of their SID with the old bundle."""

    common: int
    before: tuple[int, ...]
    after: tuple[int, ...]


def check_alignable(new: Bundle, old: Bundle) -> tuple[Codebook, Codebook]:
    """Both codebooks, new and old, if `new` can be rewritten in the vocabulary of `old`.

    Raises RefusedError, naming what is in the way, if it cannot.
    """
    if new.codebook is None or old.codebook is None:
        bare = (old if old.codebook is None else new).manifest.name
        raise RefusedError(f"bundle {bare!r} is a map without a codebook: there is nothing to align")
    if new.space.sizes != old.space.sizes or new.codebook.sizes != old.codebook.sizes:
        raise RefusedError(
            f"the new bundle's levels are {new.space.spelled_sizes}, the old one's {old.space.spelled_sizes}",
            hint="build the new codebook with the old one's levels and collision policy",
        )
    if new.identity.codebook == old.identity.codebook and new.space == old.space:
        raise RefusedError(
            f"both bundles have codebook {old.identity.codebook[:12]}: there is nothing to align",
            hint="sidtool diff tells what else differs",
        )
    if not (new.items.rows(list(old.items.ids)) >= 0).any():
        raise RefusedError(f"none of the {len(old.items)} items of the old bundle is in the new one")
    return new.codebook, old.codebook


def align(new: Bundle, old: Bundle) -> tuple[Bundle, Alignment]:
    """`new` with its codes renamed so that as many common items as possible keep the codes that they have in `old`.

    Each level's codes are renamed by one permutation: the one that most common items agree with, those first that agree
    at all earlier levels (the Hungarian method on co-assignment counts); codes that share no item are matched by the
    distance of their centroids. Residuals do not depend on names, so encoding and decoding stay what they were. The
    result has the spelling of `old`, is its next major version, and names its codebook in `compatible_with`. Raises
    RefusedError as `check_alignable` does.
    """
    codebook, meant = check_alignable(new, old)
    ours, theirs = _common_codes(old, new)
    names = _permutations(ours, theirs, meant.levels, codebook.levels)
    codes = _renamed(new.items.codes, names)
    levels = tuple(level[np.argsort(name)] for level, name in zip(codebook.levels, names, strict=True))
    told = Alignment(len(ours), _agreeing(ours, theirs), _agreeing(ours, _renamed(theirs, names)))
    titles = list(new.items.titles) if new.items.titles is not None else None
    change = {"kind": "align", "of": new.identity.digest, **asdict(told)}
    aligned = Bundle.of(
        arrange(old.space, list(new.items.ids), codes, titles, new.items.retired),
        replace(codebook, levels=levels),
        new.manifest.collisions["policy"],
        **successor(old.manifest, _plain(change), new_codebook=True),
        collisions=new.manifest.collisions,
        compatible_with=tuple(dict.fromkeys((old.identity.codebook, *old.manifest.compatible_with))),
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
    """One permutation for each level of the codebook; an appended level only counts, and keeps its names.

    An item whose earlier levels agree outweighs all that differ already: only its SID can still be preserved.
    """
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
    return tuple(int(count) for count in np.logical_and.accumulate(ours == theirs, axis=1).sum(axis=0))


def _plain(change: Mapping[str, Any]) -> dict[str, Any]:
    """Tuples as lists, as JSON gives them back."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in change.items()}
