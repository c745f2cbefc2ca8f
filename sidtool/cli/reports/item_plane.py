"""The items in a plane: principal components of the vectors that their codes stand for."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sidtool.cli.reports.blocks import Scatter, Series
from sidtool.cli.reports.render import COLORS, cut
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.sid import ItemRows

DRAWN = 2000
"""Most items that are drawn."""


@dataclass(frozen=True)
class Plane:
    """The drawn items, and how much of the variance of their vectors the plane has."""

    chart: Scatter
    items: int
    variance: float


def item_plane(
    bundle: Bundle, values: Mapping[str, str] | None, title: str, *, seed: int = 0
) -> Plane | None:
    """The two largest principal components of the reconstructed vectors of at most DRAWN active
    items, drawn with the seed; None without a codebook or with fewer than three items.

    The groups are the most frequent values of a field (item id -> value), or else codes of the
    first level."""
    codebook = bundle.codebook
    rows = bundle.active
    if codebook is None or len(rows) < 3:
        return None
    if len(rows) > DRAWN:
        drawn = np.random.default_rng(seed).choice(rows, DRAWN, replace=False)
        rows = ItemRows(np.sort(drawn))
    codes = bundle.items.codes[rows, : len(codebook.levels)]
    points, variance = principal_plane(codebook.reconstruct(codes))
    items = bundle.items
    labels = [cut(f"{items.ids[row]}: {items.title(row)}".rstrip(": ")) for row in rows.tolist()]
    if values is None:
        groups = [bundle.space.spell(items.codes[row, :1].tolist()) for row in rows.tolist()]
    else:
        groups = [values.get(items.ids[row], "") for row in rows.tolist()]
    series = grouped_points(points, labels, groups)
    return Plane(Scatter(title, series), len(rows), variance)


def principal_plane(vectors: NDArray[np.float32]) -> tuple[NDArray[np.float64], float]:
    """(n, dim) vectors -> (n, 2) coordinates on the two largest principal components, and their
    share of the variance."""
    centered = vectors.astype(np.float64)
    centered -= centered.mean(axis=0)
    # (dim, dim): the number of items can be large, the width of a codebook is not
    variances, directions = np.linalg.eigh(centered.T @ centered)
    plane = directions[:, ::-1][:, :2]
    # the sign of an eigenvector is arbitrary: the largest entry is positive
    largest = np.abs(plane).argmax(axis=0)
    plane = plane * np.sign(plane[largest, np.arange(plane.shape[1])])
    points = centered @ plane
    if points.shape[1] < 2:
        points = np.column_stack([points, np.zeros(len(points))])
    total = variances.sum()
    return points, float(variances[::-1][:2].sum() / total) if total > 0 else 1.0


def grouped_points(
    points: NDArray[np.float64], labels: list[str], groups: list[str]
) -> tuple[Series, ...]:
    """The points as one series per frequent group, most frequent first, and one of all others."""
    names, counts = np.unique([group for group in groups if group], return_counts=True)
    frequent = names[np.argsort(-counts, kind="stable")][: COLORS - 1].tolist()
    series = []
    for name in (*frequent, ""):
        inside = [
            at for at, group in enumerate(groups) if (group if group in frequent else "") == name
        ]
        if inside:
            places = tuple((float(points[at, 0]), float(points[at, 1])) for at in inside)
            names_of = tuple(labels[at] for at in inside)
            series.append(Series(name or "all others", places, names_of))
    return tuple(series)
