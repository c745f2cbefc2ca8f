"""One vector of several: unit-norm sources side by side, each scaled by the root of its share of
the squared norm.

Knows sources (embeddings of texts, of images), shares and arrays; knows nothing of codebooks or
items. A collaborative signal is a source that new items lack: it is predicted from the others by a
stored ridge regression, and a known item has a blend of its own signal and the prediction. Fusing
needs numpy only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from math import sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.errors import UsageError
from sidtool.quantize.mlp import Arrays, by_blocks, forward, has, unit
from sidtool.quantize.ppmi import signed
from sidtool.sid import Vectors

CHUNK = 8192


@dataclass(frozen=True)
class Blend:
    """How sources and a collaborative signal make one vector. Raises UsageError for a value that
    makes no sense."""

    text_dim: int | None = None
    """Principal components that are kept of each source; all of it where None."""
    signal_dim: int = 64
    """Width of the collaborative vectors."""
    signal_weight: float = 0.5
    """Their share of the squared norm; the sources have the rest."""
    window: int = 5
    """Events of a user that co-occur lie at most this far apart."""
    decay: float = 0.85
    """How much less a pair counts for each event between."""
    prior: float = 2.0
    """An item with c training events is c / (c + prior) its own signal, and for the rest what its
    texts predict."""
    ridge: float = 1.0
    """Penalty of the regression, in units of the mean variance of what it predicts from."""

    def __post_init__(self) -> None:
        for name in ("text_dim", "signal_dim", "window"):
            value = getattr(self, name)
            if not (name == "text_dim" and value is None) and (type(value) is not int or value < 1):
                raise UsageError(f"option {name} is a whole number from 1 on, not {value!r}")
        ranges = {
            "signal_weight": (0, 1),
            "decay": (0, 1),
            "prior": (0, np.inf),
            "ridge": (0, np.inf),
        }
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if (
                isinstance(value, bool)
                or not isinstance(value, int | float)
                or not low <= value <= high
            ):
                raise UsageError(f"option {name} is a number from {low} to {high}, not {value!r}")
        if not 0 < self.signal_weight < 1 or not self.decay:
            raise UsageError(
                f"signal_weight {self.signal_weight} and decay {self.decay} must lie above 0, "
                "weight below 1"
            )


BLEND = tuple(field.name for field in fields(Blend))
"""The names of its options."""


@dataclass(frozen=True)
class Fusion:
    """What fuses, as a bundle stores it.

    `sources` says of each its `dim`, its `width` in the fused vector, and its `weight`; `signal`,
    where there is one, what was blended in. Arrays by name: "source0_0_weight" ... projects the
    first source, "signal_0_weight" ... predicts the signal from all sources."""

    sources: tuple[Mapping[str, Any], ...]
    arrays: Arrays
    signal: Mapping[str, Any] | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """JSON facts, from which and from the arrays `fuse` works."""
        facts: dict[str, Any] = {"sources": [dict(source) for source in self.sources]}
        return facts | ({"signal": dict(self.signal)} if self.signal is not None else {})


def fuse(arrays: Arrays, facts: Mapping[str, Any], vectors: Vectors) -> Vectors:
    """(n, sum of dims) sources side by side -> (n, fused width) float32, the signal predicted where
    there is one."""
    sources = facts["sources"]
    width = sum(source["width"] for source in sources)
    width += arrays["signal_0_bias"].shape[0] if has(arrays, "signal") else 0

    def block(rows: Vectors) -> Vectors:
        parts, start = [], 0
        for at, source in enumerate(sources):
            own = unit(rows[:, start : start + source["dim"]])
            parts.append(
                unit(forward(arrays, f"source{at}", own)) * np.float32(sqrt(source["weight"]))
            )
            start += source["dim"]
        known = np.concatenate(parts, axis=1)
        predicted = [forward(arrays, "signal", known)] if has(arrays, "signal") else []
        return np.concatenate([known, *predicted], axis=1)

    return by_blocks(block, vectors, width)


def join_sources(
    sources: Sequence[Vectors], weights: Sequence[float] = (), blend: Blend | None = None
) -> Fusion:
    """The fusion of sources of (n, dim_i) vectors, whose weights (all equal if none are given) are
    made to add up to 1.

    Raises UsageError if the weights are not as many as the sources, or not positive.
    """
    shares = np.array(weights or [1.0] * len(sources), dtype=np.float64)
    if len(shares) != len(sources) or not (shares > 0).all() or not np.isfinite(shares).all():
        raise UsageError(
            f"{len(sources)} sources of vectors take as many positive weights, not {list(weights)}"
        )
    shares = shares / shares.sum()
    arrays: dict[str, NDArray[Any]] = {}
    told = []
    for at, (source, share) in enumerate(zip(sources, shares.tolist(), strict=True)):
        dim = width = int(source.shape[1])
        if blend and blend.text_dim is not None and blend.text_dim < dim:
            width = blend.text_dim
            arrays |= _principal(f"source{at}", source, width)
        told.append({"dim": dim, "width": width, "weight": share})
    return Fusion(tuple(told), arrays)


def join_signal(
    fusion: Fusion, vectors: Vectors, signal: Vectors, events: NDArray[np.int64], blend: Blend
) -> tuple[Fusion, Vectors]:
    """Sources and a collaborative signal -> their fusion, and the (n, fused width) vectors of the
    items that it knows.

    `vectors` is (n, sum of dims), `signal` (n, signal_dim) of any length, zero for an item without
    one, and `events` (n,) says how much each is to be trusted. The ridge regression with intercept
    is fitted in closed form on the items that have a signal. An item's signal part is trust * its
    own + (1 - trust) * the prediction, and is not brought to a length: it is the expected signal,
    and the centroid nearest to an expectation is the one nearest on average."""
    share = blend.signal_weight
    sources = tuple(
        {**source, "weight": source["weight"] * (1 - share)} for source in fusion.sources
    )
    known = fuse(fusion.arrays, {"sources": sources}, vectors)
    own = unit(signal) * np.float32(sqrt(share))
    has_own = signal.any(axis=1)
    trust = np.where(has_own, events / np.maximum(events + blend.prior, 1e-9), 0).astype(
        np.float32
    )[:, None]
    arrays = {**fusion.arrays, **_ridge(known[has_own], own[has_own], blend.ridge)}
    told = {"dim": int(signal.shape[1]), "weight": share, "warm_items": int(has_own.sum())}
    told |= {"prior": float(blend.prior), "ridge": float(blend.ridge)}
    joined = Fusion(sources, arrays, told)
    fused = fuse(arrays, joined.facts, vectors)
    width = known.shape[1]
    fused[:, width:] = trust * own + (1 - trust) * fused[:, width:]
    return joined, fused


def _principal(name: str, vectors: Vectors, width: int) -> dict[str, NDArray[np.float32]]:
    """The projection of unit-norm rows onto their `width` widest principal axes."""
    rows = unit(vectors)
    mean = rows.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(_products(rows, rows) - len(rows) * np.outer(mean, mean))
    kept = signed(axes[:, ::-1][:, :width])
    return {
        f"{name}_0_weight": kept.astype(np.float32),
        f"{name}_0_bias": -(mean @ kept).astype(np.float32),
    }


def _ridge(known: Vectors, wanted: Vectors, penalty: float) -> dict[str, NDArray[np.float32]]:
    """Weights and bias that predict (n, to) from (n, from)."""
    n, width = known.shape
    means = known.mean(axis=0, dtype=np.float64), wanted.mean(axis=0, dtype=np.float64)
    variance = _products(known, known) - n * np.outer(means[0], means[0])
    together = _products(known, wanted) - n * np.outer(means[0], means[1])
    strength = max(penalty, 1e-6) * (
        np.trace(variance) / width or 1.0
    )  # never quite 0: rows may be fewer than columns
    weight = np.linalg.solve(variance + strength * np.eye(width), together)
    bias = means[1] - means[0] @ weight
    return {"signal_0_weight": weight.astype(np.float32), "signal_0_bias": bias.astype(np.float32)}


def _products(left: Vectors, right: Vectors) -> NDArray[np.float64]:
    """(n, a), (n, b) float32 -> (a, b) float64, a chunk of rows at a time."""
    total = np.zeros((left.shape[1], right.shape[1]))
    for start in range(0, len(left), CHUNK):
        rows = slice(start, start + CHUNK)
        total += left[rows].astype(np.float64).T @ right[rows].astype(np.float64)
    return total
