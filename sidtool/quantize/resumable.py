"""Quantizing in parts: codes block by block, and going on where a killed run stopped.

Knows sources of vectors, codebooks and the folder that keeps unfinished work; knows nothing of
items. What is kept bears a fingerprint of everything that decides it, so other vectors, plans or
budgets never meet it."""

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sidtool.data.vectors import VectorSource
from sidtool.output import keep_array, kept_array
from sidtool.quantize.codebook import Codebook
from sidtool.quantize.kmeans import Progress
from sidtool.sid import Codes


def fitted(make: Callable[[], Codebook], facts: Mapping[str, Any], folder: Path | None) -> Codebook:
    """The codebook that `make` gives, or the one that a run under the same `facts` (JSON values)
    kept in `folder`."""
    if folder is None:
        return make()
    path = folder / f"codebook-{_digest(facts)}.npz"
    found = _load(path)
    if found is None:
        found = make()
        folder.mkdir(parents=True, exist_ok=True)
        _keep(path, found)
    return found


def encode_all(
    codebook: Codebook,
    source: VectorSource,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Codes:
    """n vectors -> (n, levels) uint16 raw codes, read in parts. Finished parts are kept in
    `folder`."""
    codes = np.empty((len(source), len(codebook.levels)), dtype=np.uint16)
    parts = None if folder is None else folder / f"codes-{_fingerprint(codebook, source)}"
    if parts is not None:
        parts.mkdir(parents=True, exist_ok=True)
    done = 0
    for number, span in enumerate(source.spans):
        rows = source.rows(span)
        path = None if parts is None else parts / f"{number:06d}.npy"
        block = None if path is None else kept_array(path, (len(rows), codes.shape[1]), codes.dtype)
        if block is None:
            block = codebook.encode(source.read(span))
            if path is not None:
                keep_array(path, block)
        codes[rows] = block
        done += len(rows)
        if progress is not None:
            progress(done, len(source))
    return codes


def _fingerprint(codebook: Codebook, source: VectorSource) -> str:
    state = hashlib.sha256(
        f"{codebook.method} {sorted(codebook.parameters.items())} {source.fingerprint}".encode()
    )
    for array in (*codebook.levels, *(codebook.encoder[name] for name in sorted(codebook.encoder))):
        state.update(np.ascontiguousarray(array).data)
    return state.hexdigest()[:16]


def _digest(facts: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _keep(path: Path, codebook: Codebook) -> None:
    told = {
        "method": codebook.method,
        "levels": len(codebook.levels),
        "parameters": dict(codebook.parameters),
    }
    arrays = {f"level_{level}": centroids for level, centroids in enumerate(codebook.levels)}
    arrays |= {f"encoder_{name}": array for name, array in codebook.encoder.items()}
    partial = path.with_suffix(".partial")
    with partial.open("wb") as stream:
        np.savez(stream, told=np.array(json.dumps(told)), **arrays)  # type: ignore[arg-type]
    partial.replace(path)


def _load(path: Path) -> Codebook | None:
    """A kept codebook, if it is whole."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        told = json.loads(str(arrays.pop("told")))
        levels = tuple(arrays.pop(f"level_{level}") for level in range(told["levels"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    encoder = {name.removeprefix("encoder_"): array for name, array in arrays.items()}
    return Codebook(told["method"], levels, encoder, told["parameters"])
