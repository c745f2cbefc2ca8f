"""An encoder in memory, and whether it is the one that a recipe records."""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sidtool.base.checkpoint.encoder_modules import check_encoder
from sidtool.base.errors import CompatibilityError, SidtoolWarning
from sidtool.data.vectors import Vectors, check_finite
from sidtool.tokenizer.encoder.model import BLOCK, encode_texts, encoder_folder, load_model
from sidtool.tokenizer.encoder.record import file_digests, make_record, recorded_probes
from sidtool.tokenizer.encoder.settings import Encoder

AGREEMENT = 0.999
"""Least cosine of two vectors of one probe by the same encoder (bf16 against fp32 gives .9998)."""


@dataclass(frozen=True, eq=False)
class LoadedEncoder:
    """An encoder in memory."""

    model: Any
    """a SentenceTransformer"""
    settings: Encoder
    """with the model's own settings filled in"""
    record: Mapping[str, Any]
    """the JSON record for a recipe"""

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """n texts -> (n, dim) float32, longest first in blocks of fixed size. Raises DataError for
        a vector that is not finite."""
        order = np.argsort([-len(text) for text in texts], kind="stable")
        vectors = np.empty((len(texts), self.record["dim"]), dtype=np.float32)
        for start in range(0, len(texts), BLOCK):
            rows = order[start : start + BLOCK]
            vectors[rows] = encode_texts(self.model, self.settings, [texts[row] for row in rows])
        check_vectors(vectors, self.settings, texts)
        return vectors


def load_encoder(encoder: Encoder) -> LoadedEncoder:
    """Load an encoder for texts that come in several calls. Raises as `embed`."""
    folder = encoder_folder(encoder)
    model, settings = load_model(encoder, folder)
    return LoadedEncoder(model, settings, make_record(model, settings, folder))


def record_encoder(encoder: Encoder) -> dict[str, Any]:
    """The JSON record of an encoder for a recipe, as `embed` returns it. Raises as `embed`."""
    folder = encoder_folder(encoder)
    model, settings = load_model(encoder, folder)
    return make_record(model, settings, folder)


def encoder_digests(encoder: Encoder) -> dict[str, dict[str, str]]:
    """SHA-256 of each file of an encoder, as its record has them; the weights are not loaded. A
    model of the hub is downloaded. Raises as `embed`."""
    folder = encoder_folder(encoder)
    check_encoder(folder, trust_remote_code=encoder.trust_remote_code)
    return file_digests(folder, encoder.trust_remote_code)


def check_vectors(vectors: Vectors, encoder: Encoder, texts: Sequence[str]) -> None:
    """Raise DataError for a vector that is not finite; it names the text."""
    check_finite(
        vectors, f"the encoder {encoder.model!r}", lambda row: f"text {row} ({texts[row][:40]!r})"
    )


def check_probes(encoder: Encoder, recipe: Mapping[str, Any]) -> float:
    """The least cosine between a recipe's probe vectors and those of this encoder.

    Raises CompatibilityError if it is below 0.999: another model, pooling or prompt, or damaged
    weights. IntegrityError if the recipe has no vectors of probes. A recipe that only names its
    encoder, which was not at hand when a codebook was imported, cannot be checked: a SidtoolWarning
    says so, and the answer is NaN.
    """
    if _names_only(encoder, recipe):
        return math.nan
    model, settings = load_model(encoder, encoder_folder(encoder))
    return _check_probes(model, settings, recipe)


def check_recipe(loaded: LoadedEncoder, recipe: Mapping[str, Any]) -> float:
    """As `check_probes`, of an encoder in memory."""
    if _names_only(loaded.settings, recipe):
        return math.nan
    return _check_probes(loaded.model, loaded.settings, recipe)


def _names_only(encoder: Encoder, recipe: Mapping[str, Any]) -> bool:
    """Whether a recipe names its encoder without vectors to recognize it, with a SidtoolWarning."""
    if "probes" in recipe or "weights" in recipe:
        return False
    warnings.warn(
        f"the recipe names its encoder {recipe['model']!r} without vectors to recognize it: "
        f"whether {encoder.model!r} is the same is not checked",
        SidtoolWarning,
        stacklevel=4,
    )
    return True


def _check_probes(model: Any, encoder: Encoder, recipe: Mapping[str, Any]) -> float:
    texts, stored = recorded_probes(recipe)
    now = encode_texts(model, encoder, texts).astype(np.float64)
    if now.shape != stored.shape:
        raise CompatibilityError(
            f"the encoder {encoder.model!r} gives {now.shape[1]} dimensions, the recipe has "
            f"{stored.shape[1]}",
            hint=f"the recipe's encoder is {recipe['model']!r}",
        )
    lengths = np.linalg.norm(now, axis=1) * np.linalg.norm(stored, axis=1)
    least = float(np.min(np.sum(now * stored, axis=1) / lengths))
    if not least >= AGREEMENT:  # NaN disagrees too
        raise CompatibilityError(
            f"the encoder {encoder.model!r} is not the one of the codebook: the cosine of a probe "
            f"is {least:.4f}, below {AGREEMENT}",
            hint=f"the recipe's encoder is {recipe['model']!r}",
        )
    return least
