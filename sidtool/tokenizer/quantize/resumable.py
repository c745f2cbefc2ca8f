"""Fitting and encoding that an interrupted run can resume.

Stored work is named by a fingerprint of everything that determines it, so that other vectors,
options or memory limits never reuse it.
"""

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sidtool.base.output import cache_array, cached_array, whole_file
from sidtool.base.progress import Progress
from sidtool.data import VectorSource
from sidtool.tokenizer.quantize.codebook import Codebook, QuantizerParams
from sidtool.tokenizer.sid import Codes


def fit_once(
    make: Callable[[], Codebook], inputs: Mapping[str, Any], folder: Path | None
) -> Codebook:
    """The codebook that `make` returns, or the one stored in `folder` for the same JSON
    `inputs`."""
    if folder is None:
        return make()
    path = folder / f"codebook-{_digest(inputs)}.npz"
    codebook = _load(path)
    if codebook is None:
        codebook = make()
        folder.mkdir(parents=True, exist_ok=True)
        _save(path, codebook)
    return codebook


def encode_all(
    codebook: Codebook,
    source: VectorSource,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Codes:
    """n vectors -> (n, levels) uint16 codes, in parts. Finished parts are stored in `folder`."""
    codes = np.empty((len(source), len(codebook.levels)), dtype=np.uint16)
    parts = None if folder is None else folder / f"codes-{_fingerprint(codebook, source)}"
    if parts is not None:
        parts.mkdir(parents=True, exist_ok=True)
    done = 0
    for number, span in enumerate(source.spans):
        rows = source.rows(span)
        path = None if parts is None else parts / f"{number:06d}.npy"
        shape = (len(rows), codes.shape[1])
        block = None if path is None else cached_array(path, shape, codes.dtype)
        if block is None:
            block = codebook.encode(source.read(span))
            if path is not None:
                cache_array(path, block)
        codes[rows] = block
        done += len(rows)
        if progress is not None:
            progress(done, len(source))
    return codes


def _fingerprint(codebook: Codebook, source: VectorSource) -> str:
    params = json.dumps(codebook.params.to_json(), sort_keys=True)
    digest = hashlib.sha256(f"{codebook.method} {params} {source.fingerprint}".encode())
    networks = (codebook.encoder[name] for name in sorted(codebook.encoder))
    for array in (*codebook.levels, *networks):
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def _digest(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def _save(path: Path, codebook: Codebook) -> None:
    header = json.dumps(
        {
            "method": codebook.method,
            "levels": len(codebook.levels),
            "params": codebook.params.to_json(),
        }
    )
    arrays = {f"level_{level}": centroids for level, centroids in enumerate(codebook.levels)}
    arrays |= {f"encoder_{name}": array for name, array in codebook.encoder.items()}
    with whole_file(path) as partial, partial.open("wb") as stream:
        np.savez(stream, header=np.array(header), **arrays)  # type: ignore[arg-type]


def _load(path: Path) -> Codebook | None:
    """A stored codebook; None if the file is missing or damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        header = json.loads(str(arrays.pop("header")))
        levels = tuple(arrays.pop(f"level_{level}") for level in range(header["levels"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    encoder = {name.removeprefix("encoder_"): array for name, array in arrays.items()}
    params = QuantizerParams.from_json(header["params"])
    return Codebook(header["method"], levels, encoder, params)
