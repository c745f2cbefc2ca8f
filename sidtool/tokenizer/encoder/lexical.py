"""The encoder `lexical`: words and character n-grams of a catalog, weighted by tf-idf and reduced
by a truncated SVD.

It is fitted to the catalog that a codebook is built from and stored in the bundle, so texts get the
same vectors later. docs/format.md specifies how a text becomes a vector."""

import hashlib
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.digests import hash_array
from sidtool.base.errors import DataError, SidtoolWarning
from sidtool.base.progress import Progress
from sidtool.base.ranges import run_starts
from sidtool.data import Vectors
from sidtool.tokenizer.quantize.fusion import fix_signs
from sidtool.tokenizer.quantize.mlp import unit

LEXICAL = "lexical"
"""The name of the encoder, for `--encoder` and in a recipe."""
DIM = 256
"""Width of the vectors, where the catalog has as many independent features."""
MAX_FEATURES = 1 << 15
"""Features of an encoder: those of the most items. A feature takes 524 bytes in a bundle."""
MAX_FITTED = 1 << 15
"""Items that an encoder is fitted to: of a larger catalog a sample of this size."""
MAX_CHARACTERS = 2000
"""Characters of a text that are read, once normalized."""
BLOCK = 1024
"""Texts that are embedded at once."""
ARRAYS = ("encoder/components", "encoder/feature_hash", "encoder/idf")
"""The arrays of the encoder in a bundle."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_SPACE = ord(" ")
_WORD_MARK = np.uint64(ord("#") + 1)
_FIRST_WITHOUT_SPACES = 0x0E00
"""From Thai on, most scripts write words without spaces."""
_OVERSAMPLING, _ITERATIONS = 16, 4
_MIN_SHARE = 1e-6
"""Singular values below this share of the largest are rounding errors."""


@dataclass(frozen=True, eq=False)
class LexicalEncoder:
    """A fitted encoder of F features and `dim` components."""

    feature_hash: NDArray[np.uint64]
    """(F,), ascending"""
    idf: NDArray[np.float32]
    """(F,)"""
    components: NDArray[np.float16]
    """(F, dim)"""

    @classmethod
    def fit(cls, texts: Sequence[str]) -> "LexicalEncoder":
        """Fit an encoder to the texts of a catalog; the same texts give the same encoder. A feature
        counts if at least two items have it, or one in a catalog of up to 256. The SVD is
        randomized with a fixed seed (Halko, Martinsson and Tropp 2011, algorithm 4.4). Raises
        DataError if no text has a letter or a number."""
        if len(texts) > MAX_FITTED:
            sample = np.random.default_rng(0).choice(len(texts), MAX_FITTED, replace=False)
            texts = [texts[row] for row in np.sort(sample).tolist()]
        blocks = list(_feature_blocks(texts))
        all_hashes = [kind.hashes for block in blocks for kind in block]  # words, n-grams
        if not any(map(len, all_hashes)):
            raise DataError("no text has a letter or a number: the lexical encoder needs words")
        hashes, n_items = np.unique(np.concatenate(all_hashes), return_counts=True)
        min_items = 2 if len(texts) > DIM and n_items.max() > 1 else 1
        candidates = np.flatnonzero(n_items >= min_items)
        by_n_items = np.argsort(-n_items[candidates], kind="stable")
        features = np.sort(candidates[by_n_items[:MAX_FEATURES]])
        idf = (np.log((1 + len(texts)) / (1 + n_items[features])) + 1).astype(np.float32)
        unfitted = cls(hashes[features], idf, np.empty((len(features), 0), np.float16))
        components = _right_singular_vectors(unfitted._matrix(blocks), DIM)
        return replace(unfitted, components=components.astype(np.float16))

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return int(self.components.shape[1])

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by the names under which a bundle stores them."""
        return dict(zip(ARRAYS, (self.components, self.feature_hash, self.idf), strict=True))

    @cached_property
    def record(self) -> Mapping[str, Any]:
        """The JSON record for a recipe: the SHA-256 of each array stands for the encoder."""
        weights = {}
        for name, array in self.arrays.items():
            digest = hashlib.sha256()
            hash_array(digest, name, array)
            weights[name] = digest.hexdigest()
        return {"model": LEXICAL, "dim": self.dim, "weights": weights}

    def check(self) -> None:
        """Raise ValueError unless the arrays fit each other and are finite."""
        if not len(self.feature_hash) == len(self.idf) == len(self.components):
            raise ValueError("the arrays of the encoder have different lengths")
        if not len(self.feature_hash):
            raise ValueError("the encoder has no features")
        if (self.feature_hash[1:] <= self.feature_hash[:-1]).any():
            raise ValueError("encoder/feature_hash does not ascend")
        if not (np.isfinite(self.idf).all() and np.isfinite(self.components).all()):
            raise ValueError("a value of the encoder is not finite")

    def vectors(
        self,
        texts: Sequence[str],
        *,
        cache: Path | None = None,
        devices: Sequence[str] | None = (),
        progress: Progress | None = None,
    ) -> Vectors:
        """n texts -> (n, dim) float32 of length 1. `cache` and `devices` are those of
        `LoadedEncoder.vectors`; seconds of work need neither. The vector of a text without any
        feature is zero; a SidtoolWarning counts them."""
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        components = self.components.astype(np.float32)
        for start in range(0, len(texts), BLOCK):
            block = texts[start : start + BLOCK]
            projected = self._matrix(list(_feature_blocks(block))) @ components
            vectors[start : start + BLOCK] = unit(projected)
            if progress is not None:
                progress(min(start + BLOCK, len(texts)), len(texts))
        unknown = int((~vectors.any(axis=1)).sum())
        if unknown:
            warnings.warn(
                f"{unknown} of {len(texts)} texts have no word or character sequence that the "
                "lexical encoder knows: their vectors are zero",
                SidtoolWarning,
                stacklevel=2,
            )
        return vectors

    def _matrix(self, blocks: Sequence[tuple["_Features", "_Features"]]) -> Any:
        """(n, F) CSR float32: words and character n-grams by (1 + ln tf) idf, the part of either
        kind scaled to length √½."""
        from scipy import sparse

        rows = []
        for block in blocks:
            matrices = []
            for features in block:
                shape = (features.n_texts, len(self.feature_hash))
                columns = np.searchsorted(self.feature_hash, features.hashes)
                columns = np.minimum(columns, shape[1] - 1)
                is_feature = self.feature_hash[columns] == features.hashes
                columns, texts = columns[is_feature], features.texts[is_feature]
                weights = (1 + np.log(features.counts[is_feature])) * self.idf[columns]
                squares = np.bincount(texts, weights=np.square(weights), minlength=features.n_texts)
                weights = (weights / np.sqrt(2 * squares[texts])).astype(np.float32)
                matrices.append(sparse.csr_matrix((weights, (texts, columns)), shape=shape))
            rows.append(matrices[0] + matrices[1])
        return sparse.vstack(rows, format="csr")


@dataclass(frozen=True)
class _Features:
    """The distinct features of one kind in a block of texts."""

    n_texts: int
    texts: NDArray[np.int64]
    """(m,): the text of each"""
    hashes: NDArray[np.uint64]
    """(m,)"""
    counts: NDArray[np.int64]
    """(m,): how often the text has it"""

    @classmethod
    def of(cls, n_texts: int, texts: Any, hashes: Any) -> "_Features":
        """Mix the polynomial hashes, and count equal ones of one text."""
        hashes = (hashes ^ (hashes >> np.uint64(32))) * _MULTIPLIER
        order = np.lexsort((hashes, texts))
        texts, hashes = texts[order], hashes[order]
        firsts = np.flatnonzero(run_starts(texts, hashes))
        counts = np.diff(firsts, append=len(texts))
        return cls(n_texts, texts[firsts], hashes[firsts], counts)


class _Letters(dict[int, str]):
    """What becomes of a character: letters and marks stay, digits become those of ASCII, and all
    else a space."""

    def __missing__(self, code: int) -> str:
        category = unicodedata.category(chr(code))
        if category == "Nd":
            self[code] = str(unicodedata.digit(chr(code)))
        else:
            self[code] = chr(code) if category[0] in "LMN" else " "
        return self[code]


_LETTERS = _Letters()


def normalized(text: str) -> str:
    """The words of a text in lower case, with a space before and behind each.

    Examples:
        >>> normalized("Ｃrème №５, 1.7-oz")
        ' crème no5 1 7 oz '
    """
    letters = unicodedata.normalize("NFKC", text).casefold().translate(_LETTERS)
    words = " ".join(letters[:MAX_CHARACTERS].split())
    return f" {words} "


def _feature_blocks(texts: Sequence[str]) -> Iterator[tuple[_Features, _Features]]:
    """The words and the character n-grams of each block of texts."""
    for start in range(0, len(texts), BLOCK):
        pieces = [normalized(text) for text in texts[start : start + BLOCK]]
        letters = np.frombuffer("".join(pieces).encode("utf-32-le"), dtype=np.uint32)
        letter_texts = np.repeat(np.arange(len(pieces)), [len(piece) for piece in pieces])
        yield (
            _words(len(pieces), letters, letter_texts),
            _n_grams(len(pieces), letters, letter_texts),
        )


def _words(n_texts: int, letters: NDArray[np.uint32], letter_texts: NDArray[np.int64]) -> _Features:
    """The words. Their hashes are those of words with a "#" in front, unlike any n-gram's."""
    is_space = letters == _SPACE
    starts = np.flatnonzero(is_space[:-1] & ~is_space[1:]) + 1
    stops = np.flatnonzero(~is_space[:-1] & is_space[1:]) + 1
    lengths = stops - starts
    word_letters = letters[~is_space]
    firsts = np.cumsum(lengths) - lengths  # of each word in `word_letters`
    positions = np.arange(len(word_letters)) - np.repeat(firsts, lengths)  # within the word
    longest = int(lengths.max(initial=0))
    powers = np.cumprod(np.full(1 + longest, _MULTIPLIER, dtype=np.uint64))  # M, M^2, M^3 ...
    terms = (word_letters.astype(np.uint64) + np.uint64(1)) * powers[1 + positions]
    # powers[:1] is an array: the product of two scalars warns of overflow
    hashes = np.add.reduceat(terms, firsts) + _WORD_MARK * powers[:1]
    return _Features.of(n_texts, letter_texts[starts], hashes)


def _n_grams(
    n_texts: int, letters: NDArray[np.uint32], letter_texts: NDArray[np.int64]
) -> _Features:
    """Three characters without a space in the middle, and two of a script without spaces."""
    is_space = letters == _SPACE
    is_unspaced = letters >= _FIRST_WITHOUT_SPACES
    powers = np.cumprod(np.full(3, _MULTIPLIER, dtype=np.uint64))  # M, M^2, M^3
    values = letters.astype(np.uint64) + np.uint64(1)
    first, second, third = (values * power for power in powers)  # terms of each place in an n-gram
    pair_hashes = first[:-1] + second[1:]
    triples = np.flatnonzero(~is_space[1:-1])  # their first letters
    pairs = np.flatnonzero(is_unspaced[:-1] & is_unspaced[1:])
    triple_hashes = pair_hashes[triples] + third[triples + 2]
    hashes = np.concatenate([triple_hashes, pair_hashes[pairs]])
    return _Features.of(n_texts, letter_texts[np.concatenate([triples, pairs])], hashes)


def _right_singular_vectors(matrix: Any, n_components: int) -> Vectors:
    """(n, F) CSR -> (F, k) of the k <= `n_components` largest singular values that are not rounding
    errors, largest first."""
    width = min(n_components + _OVERSAMPLING, *matrix.shape)
    start = np.random.default_rng(0).standard_normal((matrix.shape[1], width), dtype=np.float32)
    basis = matrix @ start
    for _ in range(_ITERATIONS):
        orthogonal, _ = np.linalg.qr(basis)
        basis = matrix @ (matrix.T @ orthogonal)
    basis, _ = np.linalg.qr(basis)  # (n, width)
    reduced = (matrix.T @ basis).astype(np.float64)  # (F, width)
    # the eigenvalues are the squares of the singular values
    eigenvalues, eigenvectors = np.linalg.eigh(reduced.T @ reduced)
    largest = np.argsort(-eigenvalues, kind="stable")[:n_components]
    least = _MIN_SHARE**2 * eigenvalues.max(initial=0)
    largest = largest[eigenvalues[largest] > least]
    singular_values = np.sqrt(eigenvalues[largest])
    components = reduced @ (eigenvectors[:, largest] / singular_values)  # (F, k), of length 1
    return fix_signs(components).astype(np.float32)
