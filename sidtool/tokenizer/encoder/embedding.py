"""Embed the texts of a catalog in blocks, which an interruption does not lose."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sidtool.base.digests import digest_strings
from sidtool.base.output import cache_array, cached_array
from sidtool.base.progress import Progress
from sidtool.data import Vectors
from sidtool.tokenizer.encoder.loaded import check_vectors, load_encoder
from sidtool.tokenizer.encoder.model import BATCH, BLOCK, encode_texts
from sidtool.tokenizer.encoder.settings import Encoder


def embed(
    texts: Sequence[str],
    encoder: Encoder,
    *,
    cache: Path,
    devices: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> tuple[Vectors, dict[str, Any]]:
    """n texts -> (n, dim) float32 vectors, and the JSON record of the encoder for a recipe.

    The record has every setting of the encoder (the model's own filled in), the SHA-256 of its
    weight files and of the other files that it reads, the dimension, library versions and probe
    texts with their vectors. Texts are embedded longest first in blocks of fixed size. Finished
    blocks are stored in the folder `cache`, so that an interrupted run resumes and gives the same
    bits; the caller removes it. With several `devices`, by default every GPU, each has a process of
    its own.

    Raises DataError if the model cannot be loaded or a vector is not finite, UsageError if the
    model does not support a setting.
    """
    loaded = load_encoder(encoder)
    record = dict(loaded.record)
    order = np.argsort([-len(text) for text in texts], kind="stable")
    blocks = cache / _digest(texts, record)
    blocks.mkdir(parents=True, exist_ok=True)
    vectors = np.empty((len(texts), record["dim"]), dtype=np.float32)
    dim = record["dim"]
    with _pool(loaded.model, devices, len(texts)) as pool:
        width = BLOCK * (1 if pool is None else len(pool["processes"]))
        for start in range(0, len(texts), width):
            done = order[start : start + width]
            paths = [
                blocks / f"{at // BLOCK:06d}.npy" for at in range(start, start + len(done), BLOCK)
            ]
            vectors[done] = _blocks(
                loaded.model, loaded.settings, [texts[row] for row in done], paths, dim, pool
            )
            if progress is not None:
                progress(start + len(done), len(texts))
    check_vectors(vectors, encoder, texts)
    return vectors, record


@contextmanager
def _pool(model: Any, devices: Sequence[str] | None, n_texts: int) -> Iterator[Any]:
    """A process for each device, if there are several and as many blocks; else None."""
    if devices is None:
        import torch

        devices = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    if len(devices) < 2 or n_texts <= BLOCK:
        yield None
        return
    pool = model.start_multi_process_pool(list(devices))
    try:
        yield pool
    finally:
        model.stop_multi_process_pool(pool)


def _blocks(
    model: Any, settings: Encoder, texts: list[str], paths: list[Path], dim: int, pool: Any
) -> Vectors:
    """(n, dim) vectors of n texts in blocks, each with its path: stored ones are read, the others
    are made together and stored."""
    spans = [slice(start, start + BLOCK) for start in range(0, len(texts), BLOCK)]
    vectors = np.empty((len(texts), dim), dtype=np.float32)
    missing = []
    for path, span in zip(paths, spans, strict=True):
        block = cached_array(path, (len(texts[span]), dim), np.float32)
        if block is None:
            missing.append((path, span))
        else:
            vectors[span] = block
    if not missing:
        return vectors
    encoded = encode_texts(
        model, settings, [text for _, span in missing for text in texts[span]], pool
    )
    start = 0
    for path, span in missing:
        size = len(texts[span])
        vectors[span] = encoded[start : start + size]
        cache_array(path, vectors[span])
        start += size
    return vectors


def _digest(texts: Sequence[str], record: Mapping[str, Any]) -> str:
    determined_by = json.dumps([record, BATCH, BLOCK, digest_strings(texts)], sort_keys=True)
    return hashlib.sha256(determined_by.encode()).hexdigest()[:16]
