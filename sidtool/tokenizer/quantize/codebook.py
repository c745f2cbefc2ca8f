"""The codebook: centroids of every level, and the conversion of vectors to codes and back.

Needs numpy only, so a bundle encodes without a deep-learning stack."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, Literal, Self

import numpy as np

from sidtool.base.errors import DataError
from sidtool.base.records import JsonRecord
from sidtool.data import Vectors, VectorSource
from sidtool.tokenizer.quantize.fusion import Fusion, check_fusion, fuse
from sidtool.tokenizer.quantize.mlp import Arrays, by_blocks, check_network, forward, has, unit
from sidtool.tokenizer.sid import Codes

MAX_STACKED = 12_288
"""Codes of all levels together up to which a table of their inner products is made: 600 MB. Three
levels of 8,192 codes would take 2.4 GB."""


@dataclass(frozen=True)
class QuantizerParams(JsonRecord):
    """What encoding and decoding need beside the arrays, and a record of the fit."""

    OMITTED = ("dim", "normalize", "normalize_residuals", "first_code", "skip", "bound", "fusion")
    dim: int | None = None
    """Width of the (fused) vectors that the codebook was fitted to; None: that of the centroids."""
    normalize: bool = False
    """Vectors are scaled to length 1."""
    normalize_residuals: bool = False
    """What is left for a level is scaled to length 1 first, as GRID does it."""
    first_code: int = 0
    """Codes below are never given: their centroids are placeholders, for maps that count from
    1."""
    skip: bool = False
    """Each network's input is added to its output."""
    bound: Literal["tanh"] | None = None
    """Function applied to the output of the network "in"."""
    fusion: Fusion | None = None
    """How several sources of vectors are fused."""
    fit: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the fit (seed, sample size, epochs ...): recorded, never read by encoding."""

    def to_json(self) -> dict[str, Any]:
        """One JSON object; parameters that are not used are left out."""
        value = super().to_json()
        return {**value.pop("fit"), **value}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The parameters that `to_json` stored; other keys are kept in `fit`. Raises TypeError that
        names a key if its value is malformed."""
        if not isinstance(value, Mapping):
            raise TypeError("expected an object")
        field_names = {field.name for field in fields(cls)} - {"fit"}
        params = super().from_json({key: value[key] for key in field_names & value.keys()})
        return replace(params, fit={key: value[key] for key in value if key not in field_names})


@dataclass(frozen=True)
class Codebook:
    """A residual codebook: the code of a level is the centroid nearest to what earlier levels
    leave.

    `levels[l]` is (K_l, width) float32. `encoder` holds the networks that map an embedding to the
    space of the centroids and back; it is empty if that is the embedding space. Every method fits
    this class: product quantization has centroids that are zero outside their part of the space,
    and a grid is a set of centroids."""

    method: str
    levels: tuple[Vectors, ...]
    encoder: Arrays
    params: QuantizerParams = field(default_factory=QuantizerParams)

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
        """Width of each source of vectors that `encode` takes side by side."""
        fusion = self.params.fusion
        if fusion is None:
            return (self._fitted_dim,)
        return tuple(source.dim for source in fusion.sources)

    @property
    def dim(self) -> int:
        """Width of the vectors that `encode` takes."""
        return sum(self.dims)

    @property
    def _fitted_dim(self) -> int:
        return self.width if self.params.dim is None else self.params.dim

    def check(self) -> None:
        """Raise ValueError or KeyError unless `encode` and `reconstruct` can compute with the
        arrays: finite float32 values, and widths that fit each other and the parameters."""
        width = self.width
        for number, level in enumerate(self.levels):
            if level.shape[1] != width or not width:
                raise ValueError(f"level {number} has width {level.shape[1]}, level 0 {width}")
            if not np.isfinite(level).all():
                raise ValueError(f"level {number} has a centroid that is not finite")
        for name, array in self.encoder.items():
            if array.dtype != np.float32 or not np.isfinite(array).all():
                raise ValueError(f"{name} is not finite float32")
        if self._fitted_dim < 1:
            raise ValueError(f"dim is {self._fitted_dim}, not a whole number from 1")
        if self.params.fusion is not None:
            check_fusion(self.encoder, self.params.fusion, self._fitted_dim)
        if not 0 <= self.params.first_code < min(self.sizes):
            raise ValueError(f"first_code is {self.params.first_code}, a level has fewer codes")
        if "scale" in self.encoder or "shift" in self.encoder:
            for name in ("scale", "shift"):
                array = self.encoder[name]
                if array.shape != (self._fitted_dim,) or self.params.fusion is not None:
                    raise ValueError(f"{name} has shape {array.shape} for vectors of {self.dims}")
        latent = check_network(self.encoder, "in", self._fitted_dim)
        widths = {"in": (self._fitted_dim, latent)}  # of what each network reads and gives
        if has(self.encoder, "out"):
            source = len(self.encoder["out_0_weight"])
            target = check_network(self.encoder, "out", source)
            if target != self._fitted_dim:
                raise ValueError(f"network 'out' gives {target}, dim is {self._fitted_dim}")
            widths["out"] = (source, target)
            latent = max(latent, source)
        if latent > width:
            raise ValueError(f"the centroids have width {width}, the networks need {latent}")
        for name, (source, target) in widths.items():
            if self.params.skip and has(self.encoder, name) and source != target:
                raise ValueError(
                    f"network {name!r} maps {source} to {target}, skip needs one width"
                )

    @property
    def min_format(self) -> int:
        """The oldest format of bundles whose readers encode as this codebook does."""
        params = self.params
        is_new = params.normalize_residuals or params.first_code > 0 or "scale" in self.encoder
        return 2 if is_new else 1

    def with_fusion(self, fusion: Fusion, arrays: Arrays) -> "Codebook":
        """This codebook of fused vectors as one that fuses their sources itself."""
        params = replace(self.params, dim=self._fitted_dim, fusion=fusion)
        return replace(self, encoder={**self.encoder, **arrays}, params=params)

    def transform(self, vectors: Vectors) -> Vectors:
        """(n, dim) embeddings -> (n, width) float32 in the space of the centroids. The steps, as
        far as `params` and `encoder` have them: fuse the sources, multiply by "scale" and add
        "shift", scale to length 1, apply the network "in", add its input (`skip`), bound it, append
        zeros up to `width`. Raises DataError if the width is wrong or a value is not finite."""
        vectors = self.prepare(vectors)
        if self.width == self._fitted_dim and not has(self.encoder, "in"):
            return vectors

        def to_latent(block: Vectors) -> Vectors:
            latent = forward(self.encoder, "in", block)
            if self.params.skip:
                latent = latent + block
            return np.tanh(latent) if self.params.bound == "tanh" else latent

        return by_blocks(to_latent, vectors, self.width)

    def prepare(self, vectors: Vectors) -> Vectors:
        """(n, dim) embeddings -> the vectors that `reconstruct` approximates: checked, fused and
        scaled as far as `params` and `encoder` say so."""
        vectors = VectorSource.as_array(vectors).astype(np.float32, copy=False)
        _check(vectors, self.dim)
        if self.params.fusion is not None:
            vectors = fuse(self.encoder, self.params.fusion, vectors)
        if "scale" in self.encoder:
            vectors = vectors * self.encoder["scale"] + self.encoder["shift"]
        return unit(vectors) if self.params.normalize else vectors

    def reconstruct(self, codes: Codes) -> Vectors:
        """(n, depth) codes, or prefixes -> float32 approximations of `prepare`d embeddings. With
        `normalize_residuals` the lengths of residuals are not known, and the sum of the centroids
        is the approximation, as in GRID."""
        latent = self.decode(codes)
        if not has(self.encoder, "out"):
            return latent[:, : self._fitted_dim]
        latent = latent[:, : len(self.encoder["out_0_weight"])]
        vectors = forward(self.encoder, "out", latent)
        return vectors + latent if self.params.skip else vectors

    def encode(self, vectors: Vectors) -> Codes:
        """(n, dim) embeddings -> (n, levels) uint16 codes: per level the centroid nearest to the
        residual. The codes of a row do not depend on other rows. Of equally near centroids the
        lowest code wins. Raises DataError if the width is wrong or a value is not finite."""

        def to_codes(block: Vectors) -> Codes:
            return self._codes(self.transform(block))

        # those of a mapped file are read and converted in blocks
        vectors = VectorSource.as_array(vectors)
        _check(vectors, self.dim)
        return by_blocks(to_codes, vectors, len(self.levels), np.uint16)

    def _codes(self, block: Vectors) -> Codes:
        """(n, width) rows in the space of the centroids -> (n, levels) uint16. An offset common to
        all vectors is taken away: it would cost the digits that separate them."""
        codes = np.empty((len(block), len(self.levels)), dtype=np.uint16)
        is_unit = self.params.normalize_residuals
        center = self.levels[0].mean(axis=0, dtype=np.float64).astype(np.float32)
        if not is_unit and sum(self.sizes) <= MAX_STACKED:
            stacked, bias, products = self._stacked
            scores = (block - center) @ stacked - bias  # (n, sum K_l)
            starts = [0, *accumulate(self.sizes)]
            for level, (start, stop) in enumerate(pairwise(starts)):
                level_scores = scores[:, start:stop]  # (n, K_l), a view
                for earlier in range(level):
                    product_rows = starts[earlier] + codes[:, earlier].astype(np.intp)
                    level_scores -= products[product_rows, start:stop]
                level_scores[:, : self.params.first_code] = -np.inf
                codes[:, level] = level_scores.argmax(axis=1)
            return codes
        residual = block if is_unit else block - center
        for number, level_centroids in enumerate(self.levels):
            centroids = level_centroids
            if is_unit:
                residual = unit(residual)
            elif number == 0:
                centroids = centroids - center
            half_norms = 0.5 * np.square(centroids, dtype=np.float64).sum(axis=1)
            row_scores = residual @ centroids.T - half_norms.astype(np.float32)  # (n, K)
            row_scores[:, : self.params.first_code] = -np.inf
            codes[:, number] = row_scores.argmax(axis=1)
            residual = residual - centroids[codes[:, number]]
        return codes

    @cached_property
    def _stacked(self) -> tuple[Vectors, Vectors, Vectors]:
        """What gives sequential residual codes from one matrix product: the (width, sum K_l)
        centroids of all levels, those of the first one centered; half their squared norms; and
        their (sum K_l, sum K_l) inner products, all float32. The residual of a row x at level l is
        x - sum_j C_j[c_j], so its nearest centroid maximizes x.C_l[k] - |C_l[k]|^2 / 2 - sum_j
        C_j[c_j].C_l[k]. The first term is one product with all levels stacked, the last one comes
        from the table."""
        first, *later = self.levels
        center = first.mean(axis=0, dtype=np.float64)
        rows = np.concatenate([first - center, *later]).astype(np.float32)
        half_norms = 0.5 * np.square(rows, dtype=np.float64).sum(axis=1)
        stacked = np.ascontiguousarray(rows.T)
        return stacked, half_norms.astype(np.float32), stacked.T @ stacked

    def decode(self, codes: Codes) -> Vectors:
        """(n, depth) codes, or prefixes -> (n, width) float32: the sum of their centroids."""
        total = np.zeros((len(codes), self.width), dtype=np.float32)
        for level, column in zip(self.levels, codes.T, strict=False):
            total += level[column]
        return total

    def latent_vectors(self, codes: Codes) -> Vectors:
        """As `decode`, without the columns behind those of the vectors, which have the prices of
        `balanced` levels."""
        return self.decode(codes)[:, : self._latent_width]

    @property
    def centroids(self) -> tuple[Vectors, ...]:
        """The levels without these columns: where the centroids are."""
        return tuple(level[:, : self._latent_width] for level in self.levels)

    @property
    def _latent_width(self) -> int:
        return check_network(self.encoder, "in", self._fitted_dim)


def _check(vectors: Vectors, dim: int) -> None:
    """Raise DataError unless vectors are (n, dim) and, as float32, finite."""
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise DataError(f"vectors have shape {vectors.shape}, expected (n, {dim})")

    def are_finite(block: Vectors) -> Any:
        return np.isfinite(block).all(axis=1, keepdims=True)

    finite = by_blocks(are_finite, vectors, 1, np.bool_)[:, 0]
    if not finite.all():
        raise DataError(
            f"{np.count_nonzero(~finite)} of {len(vectors)} vectors hold values that are not "
            f"finite, first in row {int(finite.argmin())}",
            hint="half-precision encoders overflow: embed in float32 or bfloat16",
        )
