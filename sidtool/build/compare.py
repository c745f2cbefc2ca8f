"""Bundles of one catalog side by side: how even, how lossy, how telling their SIDs are.

Knows bundles and what they are judged by: vectors, labels and steps from item to item; knows
nothing of files. What a SID is like is measured by quantize.report; added here is what needs a
catalog or people."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.bundle.bundle import Bundle
from sidtool.data.interactions import Interactions
from sidtool.errors import DataError
from sidtool.quantize.collisions import CollisionCounts
from sidtool.quantize.report import level_use, neighbor_preservation, variance_left
from sidtool.sid import Codes, Levels, Vectors


@dataclass(frozen=True)
class Evidence:
    """What bundles are judged by. All rows are items, in the order of `ids`."""

    ids: tuple[str, ...]
    vectors: Vectors | None = None
    """(n, dim)"""
    labels: tuple[str, ...] | None = None
    """One for each item, "" where it has none."""
    steps: NDArray[np.int64] | None = None
    """(m, 2): rows of an item and of the one that the same person met next."""


def common_ids(bundles: Sequence[Bundle]) -> tuple[str, ...]:
    """The active items of all bundles, by id. Raises DataError if they are not the same everywhere."""
    ids = [{bundle.items.ids[row] for row in bundle.active} for bundle in bundles]
    for bundle, own in zip(bundles, ids, strict=True):
        if strange := sorted(own ^ ids[0]):
            told = f"bundles {bundles[0].manifest.name!r} and {bundle.manifest.name!r} differ in {len(strange)} items"
            raise DataError(
                f"{told} (first: {strange[0]!r})", hint="only bundles of one catalog compare"
            )
    return tuple(sorted(ids[0]))


def steps_between(interactions: Interactions, ids: Sequence[str]) -> NDArray[np.int64]:
    """(m, 2) rows among `ids` of consecutive items of a person; steps from or to an unknown item
    are left out."""
    rows = {item: row for row, item in enumerate(ids)}
    places = np.array([rows.get(item, -1) for item in interactions.items], dtype=np.int64)
    steps = np.stack([places[:-1], places[1:]], axis=1)
    steps = steps[(interactions.users[:-1] == interactions.users[1:]) & (steps >= 0).all(axis=1)]
    if not len(steps):
        raise DataError("no person goes from one item of the bundles to another")
    return steps


def describe(bundle: Bundle, evidence: Evidence, *, seed: int = 0) -> dict[str, Any]:
    """One bundle as a JSON object; what the evidence cannot tell is what was measured at build
    time, or null.

    `levels` has an entry for each level: `level_use` of the final codes; `neighbors`, the Jaccard
    overlap of `neighbor_preservation` at that depth; `purity` (see `prefix_purity`) at that depth,
    beside `purity_by_chance` of the whole catalog; `bits` and `bits_by_chance` (see `information`)
    of that level alone. `variance_left` is what the codebook loses by the final codes: of the
    vectors given, if it takes vectors of their width. `seconds` is what quantizing took when the
    bundle was built, its steps together."""
    codes, sizes, report = (
        bundle.items.codes[bundle.items.rows(evidence.ids)],
        bundle.space.sizes,
        bundle.manifest.report,
    )
    columns: dict[str, Sequence[float | None]] = {
        "neighbors": _neighbors(bundle, codes, evidence.vectors, seed),
        "purity": [None] * len(sizes),
        "bits": [None] * len(sizes),
        "bits_by_chance": [None] * len(sizes),
    }
    chance = None
    if evidence.labels is not None:
        chance, *columns["purity"] = prefix_purity(codes, sizes, evidence.labels)
    if evidence.steps is not None:
        columns["bits"], columns["bits_by_chance"] = information(codes, evidence.steps, seed=seed)
    levels = level_use(codes, sizes)
    before = report.get("collisions", {}).get("before")
    return {
        "name": bundle.manifest.name,
        "digest": bundle.identity.digest,
        "method": bundle.codebook.method if bundle.codebook else None,
        "sizes": list(sizes),
        "items": len(codes),
        "collisions": {
            "policy": bundle.manifest.collisions.policy,
            "before": before,
            "after": asdict(CollisionCounts.of(codes)),
        },
        "moved": report.get("moved"),
        "seconds": sum(report["seconds"].values()) if "seconds" in report else None,
        "variance_left": _variance_left(bundle, codes, evidence.vectors),
        "purity_by_chance": chance,
        "levels": [
            {**use, **{name: column[level] for name, column in columns.items()}}
            for level, use in enumerate(levels)
        ],
    }


def prefix_purity(codes: Codes, sizes: Sequence[int], labels: Sequence[str]) -> list[float | None]:
    """Per depth from 0: how likely another item with the same prefix has the same label, as the
    mean over items.

    Depth 0 is the whole catalog: what chance gives. Items without label are left out, and at each
    depth those that are alone with their prefix: they would be pure by being few. None where all
    are."""
    labelled = np.flatnonzero([bool(label) for label in labels])
    _, label = np.unique(np.array(labels, dtype=object)[labelled].astype(str), return_inverse=True)
    group = np.zeros(len(labelled), dtype=np.int64)
    found = [_purity(group, label)]
    for depth in range(1, len(sizes) + 1):
        keys = Levels(tuple(sizes[:depth])).pack(codes[labelled, :depth])
        _, group = np.unique(keys, return_inverse=True)
        found.append(_purity(group, label))
    return found


def information(
    codes: Codes, steps: NDArray[np.int64], *, seed: int = 0
) -> tuple[list[float], list[float]]:
    """Per level: mutual information, in bits, of an item's code and the next item's; and what
    chance alone gives.

    A finite sample shows information where there is none: the second number is that of the same
    codes with the next items shuffled by the seed, and only what exceeds it counts. A codebook that
    is chosen by this must be shown training events only."""
    shuffled = np.random.default_rng(seed).permutation(steps[:, 1])
    found, chance = [], []
    for column in codes.T:
        now = column[steps[:, 0]]
        found.append(_mutual(now, column[steps[:, 1]]))
        chance.append(_mutual(now, column[shuffled]))
    return found, chance


def _neighbors(
    bundle: Bundle, codes: Codes, vectors: Vectors | None, seed: int
) -> Sequence[float | None]:
    if vectors is not None:
        kept: list[float] = neighbor_preservation(vectors, codes, bundle.codebook, seed=seed)[
            "jaccard"
        ]
        return kept
    return bundle.manifest.report.get("neighbors", {}).get("jaccard", [None] * bundle.space.levels)


def _variance_left(bundle: Bundle, codes: Codes, vectors: Vectors | None) -> float | None:
    if (
        vectors is not None
        and bundle.codebook is not None
        and bundle.codebook.dim == vectors.shape[1]
    ):
        return variance_left(vectors, bundle.codebook, codes)[-1]
    return bundle.manifest.report.get("variance_left_assigned")


def _purity(group: NDArray[np.int64], label: NDArray[np.int64]) -> float | None:
    _, pair, together = np.unique(
        group * (label.max(initial=0) + 1) + label, return_inverse=True, return_counts=True
    )
    others = np.bincount(group)[group] - 1
    company = others > 0
    return (
        float(((together[pair] - 1)[company] / others[company]).mean()) if company.any() else None
    )


def _mutual(one: NDArray[np.uint16], other: NDArray[np.uint16]) -> float:
    _, pair = np.unique(one.astype(np.int64) << 16 | other, return_inverse=True)
    return _entropy(one) + _entropy(other) - _entropy(pair)


def _entropy(values: NDArray[Any]) -> float:
    return level_use(values[:, None], (int(values.max()) + 1,))[0]["entropy"]
