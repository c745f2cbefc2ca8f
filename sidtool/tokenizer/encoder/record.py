"""The record that identifies an encoder in a recipe: its settings, its files, and the vectors of
probe texts."""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sidtool.base.checkpoint.encoder_modules import module_folders
from sidtool.base.checkpoint.files import check_file, settings_digests
from sidtool.base.digests import file_digest
from sidtool.base.errors import IntegrityError
from sidtool.data.vectors import check_finite
from sidtool.tokenizer.encoder.model import encode_texts
from sidtool.tokenizer.encoder.settings import Encoder

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
