"""The codebook: centroids level by level, and how a vector becomes codes and codes become a vector
again.

Knows vectors and codes; knows nothing of items, of how the centroids were found, or of collisions.
Needs numpy only, so a bundle encodes without a deep-learning stack."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.errors import DataError
from sidtool.quantize.fusion import Fusion, fuse
from sidtool.quantize.mlp import BLOCK, by_blocks, forward, has, padded, unit
from sidtool.sid import Codes, Vectors


@dataclass(frozen=True)
class Codebook:
    """Centroids of a residual codebook; a SID is the nearest centroid at each level, of what
    earlier levels leave.

    `levels[l]` is (K_l, width) float32. `encoder` holds the arrays of the networks that turn an
    embedding into the space of the centroids and back (empty where that is the embedding space
    itself), `parameters` the JSON facts of the fit. Every method is this one machine: product
    quantization has centroids that are zero outside their part of the space, and a grid is a set of
    centroids."""

    method: str
    levels: tuple[Vectors, ...]
    encoder: Mapping[str, NDArray[Any]]
    parameters: Mapping[str, Any]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Codes per level."""
        return tuple(len(level) for level in self.levels)

    @property
    def width(self) -> int:
        """Width of the space of the centroids."""
        return int(self.levels[0].shape[1])

    @property
    def dims(self) -> tuple[int, ...]:
        """Width of each source of vectors that `encode` takes side by side; one, unless several
        were fused."""
        fusion = self.parameters.get("fusion")
        return tuple(source["dim"] for source in fusion["sources"]) if fusion else (self._inner,)

    @property
    def dim(self) -> int:
        """Width of the vectors that `encode` takes."""
        return sum(self.dims)

    @property
    def _inner(self) -> int:
        """Width of the vectors that it was fitted to."""
        return int(self.parameters.get("dim", self.width))

    def behind(self, fusion: Fusion) -> "Codebook":
        """This codebook of fused vectors as one of their sources, which it fuses itself."""
        parameters = {**self.parameters, "dim": self._inner, "fusion": fusion.facts}
        return Codebook(self.method, self.levels, {**self.encoder, **fusion.arrays}, parameters)

    def transform(self, vectors: Vectors) -> Vectors:
        """(n, dim) embeddings -> (n, width) float32 in the space of the centroids.

        In this order, as far as `parameters` and `encoder` have them: sources fused (`fusion`),
        scaled to length 1 (`normalize`), through the network "in", added to what went into it
        (`skip`), bounded (`bound`: "tanh"), zeros appended up to `width`. Raises DataError if the
        width is another or a value is not finite."""
        vectors = self.prepare(vectors)
        if self.width == self._inner and not has(self.encoder, "in"):
            return vectors

        def inward(block: Vectors) -> Vectors:
            inner = forward(self.encoder, "in", block)
            inner = inner + block if self.parameters.get("skip") else inner
            return np.tanh(inner) if self.parameters.get("bound") == "tanh" else inner

        return by_blocks(inward, vectors, self.width)

    def prepare(self, vectors: Vectors) -> Vectors:
        """(n, dim) embeddings as `reconstruct` gives them back: checked, fused, and of length 1, as
        far as wanted."""
        vectors = checked(vectors, self.dim)
        if fusion := self.parameters.get("fusion"):
            vectors = fuse(self.encoder, fusion, vectors)
        return unit(vectors) if self.parameters.get("normalize") else vectors

    def reconstruct(self, codes: Codes) -> Vectors:
        """(n, depth) codes, or prefixes -> float32 embeddings as `prepare` gives them, through the
        network "out"."""
        latent = self.decode(codes)
        if not has(self.encoder, "out"):
            return latent[:, : self._inner]
        latent = latent[:, : len(self.encoder["out_0_weight"])]
        found = forward(self.encoder, "out", latent)
        return found + latent if self.parameters.get("skip") else found

    def encode(self, vectors: Vectors) -> Codes:
        """(n, dim) embeddings -> (n, levels) uint16 raw codes: at each level the centroid nearest
        to the residual.

        The codes of a row do not depend on the rows beside it. Of equally near centroids the lowest
        code wins. Raises DataError if the width is another or a value is not finite."""
        codes = np.empty((len(vectors), len(self.levels)), dtype=np.uint16)
        for start in range(0, len(vectors), BLOCK):
            rows = checked(vectors[start : start + BLOCK], self.dim)
            codes[start : start + BLOCK] = self._fused.codes(self.transform(padded(rows)))[
                : len(rows)
            ]
        return codes

    def decode(self, codes: Codes) -> Vectors:
        """(n, depth) codes -> (n, width) float32: the sum of their centroids; `depth` may be that
        of a prefix."""
        total = np.zeros((len(codes), self.width), dtype=np.float32)
        for level, column in zip(self.levels, codes.T, strict=False):
            total += level[column]
        return total

    @cached_property
    def _fused(self) -> "_Fused":
        return _Fused.of(self.levels)


@dataclass(frozen=True)
class _Fused:
    """Sequential residual codes from one matrix product.

    The residual of a row x at level l is x - sum_j C_j[c_j], so its nearest centroid maximizes
    x.C_l[k] - |C_l[k]|^2 / 2 - sum_j C_j[c_j].C_l[k]: the first term is one product with all levels
    stacked, the last one comes from small tables. The first level is centerd before, since an
    offset common to all vectors would eat the digits that separate them."""

    center: NDArray[np.float32]
    """(width,) float32: the mean of the first level's centroids."""
    stacked: NDArray[np.float32]
    """(width, sum K_l) float32."""
    bias: NDArray[np.float32]
    """(sum K_l,) float32: half the squared norms."""
    starts: tuple[int, ...]
    """Where each level's columns start, and their end."""

    @classmethod
    def of(cls, levels: tuple[Vectors, ...]) -> "_Fused":
        center = levels[0].mean(axis=0, dtype=np.float64)
        stacked = np.concatenate([levels[0] - center, *levels[1:]]).astype(np.float32)
        bias = 0.5 * np.square(stacked, dtype=np.float64).sum(axis=1)
        starts = np.cumsum([0, *(len(level) for level in levels)]).tolist()
        return cls(
            center.astype(np.float32),
            np.ascontiguousarray(stacked.T),
            bias.astype(np.float32),
            tuple(starts),
        )

    @cached_property
    def crossed(self) -> NDArray[np.float32]:
        """(sum K_l, sum K_l) float32: products of all centroids with each other."""
        return self.stacked.T @ self.stacked

    def codes(self, block: Vectors) -> Codes:
        """(n, width) -> (n, levels) uint16."""
        scores = (block - self.center) @ self.stacked - self.bias  # (n, sum K_l)
        codes = np.empty((len(block), len(self.starts) - 1), dtype=np.uint16)
        for level, (start, stop) in enumerate(zip(self.starts[:-1], self.starts[1:], strict=True)):
            own = scores[:, start:stop]
            for earlier in range(level):
                own -= self.crossed[
                    self.starts[earlier] + codes[:, earlier].astype(np.intp), start:stop
                ]
            codes[:, level] = own.argmax(axis=1)
        return codes


def checked(vectors: Vectors, dim: int | None = None) -> Vectors:
    """The vectors as (n, dim) float32. Raises DataError unless they are two-dimensional, `dim` wide
    and finite."""
    vectors = np.asarray(vectors, dtype=np.float32)
    if vectors.ndim != 2 or (dim is not None and vectors.shape[1] != dim):
        raise DataError(
            f"vectors have shape {vectors.shape}, expected (n, {'dim' if dim is None else dim})"
        )
    finite = np.isfinite(vectors).all(axis=1)
    if not finite.all():
        raise DataError(
            f"{np.count_nonzero(~finite)} of {len(vectors)} vectors hold values that are not "
            "finite, "
            f"first in row {int(finite.argmin())}",
            hint="half-precision encoders overflow: embed in float32 or bfloat16",
        )
    return vectors
