"""From vectors to the final codes of items: fit, encode, resolve collisions, measure.

An interrupted run resumes: stored work is named by a fingerprint of everything that determines it,
so that other vectors, options or memory limits never reuse it."""

import hashlib
import json
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from sidtool.base.errors import DataError, SidtoolWarning
from sidtool.base.output import cache_array, cached_array, whole_file
from sidtool.base.progress import Progress
from sidtool.data import VectorSource
from sidtool.tokenizer.codes.assign import assign
from sidtool.tokenizer.codes.measure import codebook_report
from sidtool.tokenizer.codes.report import Assigned, CodebookReport, Policy
from sidtool.tokenizer.quantize.codebook import Codebook, QuantizerParams
from sidtool.tokenizer.sid import LETTERS, Codes, SidSpace


def make_codes(
    vectors: VectorSource,
    ids: Sequence[str],
    fit_codebook: Callable[[], Codebook],
    policy: Policy,
    *,
    seed: int = 0,
    work: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Codebook, Assigned, CodebookReport]:
    """The codebook that `fit_codebook` returns, the codes of items by their (n, dim) vectors, and a
    report.

    Finished codes are stored in the folder `work`. `progress` is called with the encoded vectors
    and their number; the seed draws the items that are measured. Warns of a level of the codebook
    whose codes are hardly used (SidtoolWarning). Raises DataError if the numbers of vectors and ids
    differ, and as `assign`."""
    if len(vectors) != len(ids):
        raise DataError(f"{len(vectors)} vectors for {len(ids)} items")
    seconds: dict[str, float] = {}
    with _timed(seconds, "fit"):
        codebook = fit_codebook()
    with _timed(seconds, "encode"):
        raw = encode_all(codebook, vectors, folder=work, progress=progress)
    with _timed(seconds, "collisions"):
        assigned = assign(raw, vectors, codebook, ids, policy)
    report = codebook_report(vectors, codebook, raw, assigned, seed=seed)
    # an appended level is no part of the codebook, and most items have its first code
    for letter, level, _ in zip(LETTERS, report.levels, codebook.levels, strict=False):
        if level.is_collapsed(report.items):
            warnings.warn(
                f"level {letter} is collapsed: its {level.size} codes have a perplexity of "
                f"{level.perplexity:.0f}; use smaller levels, or rq-kmeans with --balanced",
                SidtoolWarning,
                stacklevel=3,
            )
    return codebook, assigned, replace(report, seconds=seconds)


@contextmanager
def _timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Record under the name `step` how long the block takes."""
    start = time.perf_counter()
    yield
    seconds[step] = round(time.perf_counter() - start, 3)


def fit_once(
    make: Callable[[], Codebook], inputs: Mapping[str, Any], folder: Path | None
) -> Codebook:
    """The codebook that `make` returns, or the one stored in `folder` for the same JSON
    `inputs`."""
    if folder is None:
        return make()
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
    path = folder / f"codebook-{digest[:16]}.npz"
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = dict(stored)
        header = json.loads(str(arrays.pop("header")))
        levels = tuple(arrays.pop(f"level_{level}") for level in range(header["levels"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # missing or damaged
        codebook = make()
        folder.mkdir(parents=True, exist_ok=True)
        params = codebook.params.to_json()
        header = {"method": codebook.method, "levels": len(codebook.levels), "params": params}
        arrays = {f"level_{level}": centroids for level, centroids in enumerate(codebook.levels)}
        arrays |= {f"encoder_{name}": array for name, array in codebook.encoder.items()}
        with whole_file(path) as partial, partial.open("wb") as stream:
            np.savez(stream, header=np.array(json.dumps(header)), **arrays)
        return codebook
    encoder = {name.removeprefix("encoder_"): array for name, array in arrays.items()}
    return Codebook(header["method"], levels, encoder, QuantizerParams.from_json(header["params"]))


def encode_all(
    codebook: Codebook,
    source: VectorSource,
    *,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Codes:
    """n vectors -> (n, levels) uint16 codes, in parts, by the workers of the source. Finished parts
    are stored in `folder`."""
    codes = np.empty((len(source), len(codebook.levels)), dtype=np.uint16)
    parts = None
    if folder is not None:
        params = json.dumps(codebook.params.to_json(), sort_keys=True)
        digest = hashlib.sha256(f"{codebook.method} {params} {source.fingerprint}".encode())
        networks = (codebook.encoder[name] for name in sorted(codebook.encoder))
        for array in (*codebook.levels, *networks):
            digest.update(np.ascontiguousarray(array).data)
        parts = folder / f"codes-{digest.hexdigest()[:16]}"
        parts.mkdir(parents=True, exist_ok=True)
    done = 0
    missing: list[tuple[Path, tuple[int, int]]] = []
    for number, span in enumerate(source.spans):
        path = (parts or Path()) / f"{number:06d}.npy"
        rows = source.rows(span)
        shape = (len(rows), codes.shape[1])
        block = None if parts is None else cached_array(path, shape, codes.dtype)
        if block is None:
            missing.append((path, span))
        else:
            codes[rows] = block
            done += len(rows)
    job = partial(_open_encoding, codebook, source)
    for index, block in source.run(job, [span for _, span in missing]):
        path, span = missing[index]
        if parts is not None:
            cache_array(path, block)
        codes[source.rows(span)] = block
        done += len(block)
        if progress is not None:
            progress(done, len(source))
    return codes


def _open_encoding(codebook: Codebook, source: VectorSource) -> Callable[[tuple[int, int]], Codes]:
    """Encodes the vectors of a span."""
    return lambda span: codebook.encode(source.read(span))


def code_table(
    space: SidSpace, ids: Sequence[str], codes: Codes, titles: Sequence[str] | None
) -> Any:
    """The columns `item_id`, `title` (if there are titles), `codes` (a list of `levels` uint16 per
    item) and `sid` (the spelled SID) of n items, by their (n, levels) codes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = {"item_id": pa.array(ids, type=pa.string())}
    if titles is not None:
        columns["title"] = pa.array(titles, type=pa.string())
    flat = pa.array(codes.ravel(), type=pa.uint16())
    columns["codes"] = pa.FixedSizeListArray.from_arrays(flat, space.levels)
    spelled = []
    for level, size in enumerate(space.sizes):
        tokens = pa.array([space.token(level, code) for code in range(size)], type=pa.string())
        spelled.append(tokens.take(pa.array(codes[:, level])))
    columns["sid"] = pc.binary_join_element_wise(*spelled, "")
    return pa.table(columns)
