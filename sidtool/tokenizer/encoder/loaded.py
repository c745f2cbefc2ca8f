"""An encoder in memory, and whether it is the one that a recipe records."""

import importlib.metadata
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.checkpoint.encoder_modules import check_encoder, module_folders
from sidtool.base.checkpoint.files import check_file, settings_digests
from sidtool.base.digests import file_digest
from sidtool.base.errors import CompatibilityError, IntegrityError, SidtoolWarning
from sidtool.data.vectors import Vectors, check_finite
from sidtool.tokenizer.encoder.model import BLOCK, encode_texts, encoder_folder, load_model
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


PROBES = (
    "Stainless steel water bottle, 750 ml",
    "Toy Story (1995): Animation, Comedy",
    "Feuchtigkeitscrème für Hände",
)
"""Texts whose vectors identify an encoder."""
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".gguf")


def make_record(model: Any, encoder: Encoder, folder: Path) -> dict[str, Any]:
    """The JSON record of a loaded model, for a recipe."""
    probes = encode_texts(model, encoder, list(PROBES))
    check_finite(probes, f"the encoder {encoder.model!r}", lambda row: f"probe {PROBES[row]!r}")
    libraries = ("torch", "transformers", "sentence-transformers")
    return {
        **asdict(encoder),
        **file_digests(folder, encoder.trust_remote_code),
        "dim": probes.shape[1],
        "probes": [
            {"text": text, "vector": vector.tolist()}
            for text, vector in zip(PROBES, probes, strict=True)
        ],
        "libraries": {name: importlib.metadata.version(name) for name in libraries},
    }


def file_digests(folder: Path, trust_remote_code: bool) -> dict[str, dict[str, str]]:
    """SHA-256 of each file of an encoder's folder, by its path there: `weights`, and the `files` of
    its settings. Raises as `check_file`."""
    return {
        "weights": _weight_digests(folder, trust_remote_code),
        "files": settings_digests(folder, module_folders(folder)),
    }


def recorded_probes(recipe: Mapping[str, Any]) -> tuple[list[str], NDArray[np.float64]]:
    """The probe texts of a recipe, and their (n, dim) float64 vectors."""
    try:
        texts = [probe["text"] for probe in recipe["probes"]]
        vectors = np.array([probe["vector"] for probe in recipe["probes"]], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"the recipe's probes are malformed: {error!r}") from error
    if vectors.ndim != 2 or not all(isinstance(text, str) for text in texts):
        raise IntegrityError(f"the recipe's probes are malformed: vectors {vectors.shape}")
    return texts, vectors


def _weight_digests(folder: Path, trust_remote_code: bool) -> dict[str, str]:
    """SHA-256 of each weight file, by its path in the model's folder. Raises as `check_file`."""
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in WEIGHT_SUFFIXES
        and not {"onnx", "openvino"} & set(path.relative_to(folder).parts)
    )
    for path in files:
        # those of folders that no module reads were not checked before
        check_file(path, folder, trust_remote_code=trust_remote_code)
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in files}
