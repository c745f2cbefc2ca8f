"""Texts -> vectors by a sentence-transformers model, and the record that identifies the model."""

import hashlib
import importlib.metadata
import json
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from sidtool.checkpoint.encoder_modules import check_encoder, module_folders
from sidtool.checkpoint.files import check_file, settings_digests
from sidtool.checkpoint.guard import loading
from sidtool.checkpoint.hub import PREFIX, download, is_hub_url
from sidtool.data.digests import digest_strings, file_digest
from sidtool.data.vectors import check_finite
from sidtool.errors import (
    CompatibilityError,
    DataError,
    IntegrityError,
    SidtoolWarning,
    UsageError,
)
from sidtool.extras import require
from sidtool.output import cache_array, cached_array
from sidtool.sid import Vectors

BATCH = 32
"""Texts per forward pass: larger is slower on a CPU."""
BLOCK = 256
"""Texts per block file: the work that an interruption can lose."""
PROBES = (
    "Stainless steel water bottle, 750 ml",
    "Toy Story (1995): Animation, Comedy",
    "Feuchtigkeitscrème für Hände",
)
"""Texts whose vectors identify an encoder."""
AGREEMENT = 0.999
"""Least cosine of two vectors of one probe by the same encoder (bf16 against fp32 gives .9998)."""
Dtype = Literal["float32", "float16", "bfloat16"]
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".gguf")
PURPOSE = "as an encoder"
_NOT_FETCHED = ("onnx/*", "openvino/*", "*.onnx", "*.h5", "*.msgpack", "*.ot")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Encoder:
    """A sentence-transformers model and its settings; None: the model's own setting."""

    model: str
    """Folder, or `hf://ORG/NAME` for a model of the Hugging Face hub."""
    revision: str | None = None
    pooling: str | None = None
    """cls, max, mean, mean_sqrt_len_tokens, weightedmean or lasttoken."""
    prompt: str | None = None
    """Text put before every text."""
    max_length: int | None = None
    """Most tokens read of a text."""
    dtype: Dtype | None = None
    normalize: bool = False
    """Scale vectors to length 1, even if the model does not."""
    trust_remote_code: bool = False
    """Allow the model's own Python code and pickled weights."""

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any]) -> "Encoder":
        """The encoder that a recipe records. Raises IntegrityError for a value of another type."""
        recorded = {f.name: recipe[f.name] for f in fields(cls) if f.name in recipe}
        for name, value in recorded.items():
            flag = name in ("normalize", "trust_remote_code")
            kind = bool if flag else int if name == "max_length" else str
            # type: a bool is an int, too
            if type(value) is not kind and (value is not None or name == "model" or flag):
                raise IntegrityError(f"the recipe's encoder has {name} = {value!r}")
        return cls(**recorded)

    @classmethod
    def of(
        cls, model: str | None, *, trust_remote_code: bool = False, **settings: Any
    ) -> "Encoder | None":
        """An encoder, or None without a model.

        Raises UsageError if one of the `settings` has a value but there is no model.
        """
        if model is not None:
            return cls(model, **settings, trust_remote_code=trust_remote_code)
        for name, value in settings.items():
            if value is not None:
                raise UsageError(f"--{name.replace('_', '-')} applies only with --encoder")
        return None


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
            vectors[rows] = _encode(self.model, self.settings, [texts[row] for row in rows])
        _check_finite(vectors, self.settings, texts)
        return vectors


def load_encoder(encoder: Encoder) -> LoadedEncoder:
    """Load an encoder for texts that come in several calls. Raises as `embed`."""
    folder = _folder(encoder)
    model, settings = _load(encoder, folder)
    return LoadedEncoder(model, settings, _record(model, settings, folder))


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
    _check_finite(vectors, encoder, texts)
    return vectors, record


def _check_finite(vectors: Vectors, encoder: Encoder, texts: Sequence[str]) -> None:
    check_finite(
        vectors, f"the encoder {encoder.model!r}", lambda row: f"text {row} ({texts[row][:40]!r})"
    )


def record_encoder(encoder: Encoder) -> dict[str, Any]:
    """The JSON record of an encoder for a recipe, as `embed` returns it. Raises as `embed`."""
    folder = _folder(encoder)
    model, settings = _load(encoder, folder)
    return _record(model, settings, folder)


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
    made = _encode(model, settings, [text for _, span in missing for text in texts[span]], pool)
    start = 0
    for path, span in missing:
        size = len(texts[span])
        vectors[span] = made[start : start + size]
        cache_array(path, vectors[span])
        start += size
    return vectors


def check_location(encoder: Encoder) -> None:
    """Raise MissingPackageError unless encoders can be loaded, DataError if this one is neither a
    folder nor a model of the hub; loads and downloads nothing."""
    require("embed")
    if not is_hub_url(encoder.model) and not Path(encoder.model).is_dir():
        raise DataError(
            f"the encoder {encoder.model} is not a folder",
            hint=f"{PREFIX}ORG/NAME names a model of the Hugging Face hub",
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
    model, settings = _load(encoder, _folder(encoder))
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
    texts, stored = _recorded_probes(recipe)
    now = _encode(model, encoder, texts).astype(np.float64)
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


def _recorded_probes(recipe: Mapping[str, Any]) -> tuple[list[str], NDArray[np.float64]]:
    """The probe texts of a recipe, and their (n, dim) float64 vectors."""
    try:
        texts = [probe["text"] for probe in recipe["probes"]]
        vectors = np.array([probe["vector"] for probe in recipe["probes"]], dtype=np.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(f"the recipe's probes are malformed: {error!r}") from error
    if vectors.ndim != 2 or not all(isinstance(text, str) for text in texts):
        raise IntegrityError(f"the recipe's probes are malformed: vectors {vectors.shape}")
    return texts, vectors


# The model


def _load(encoder: Encoder, folder: Path) -> tuple[Any, Encoder]:
    """The model in a folder, and the encoder with the model's own settings filled in."""
    if encoder.dtype not in (None, *get_args(Dtype)):
        raise UsageError(
            f"the precision of an encoder is {', '.join(get_args(Dtype))}, not {encoder.dtype!r}"
        )
    stored = check_encoder(folder, trust_remote_code=encoder.trust_remote_code)
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    settings: dict[str, Any] = {} if encoder.trust_remote_code else {"use_safetensors": True}
    if encoder.dtype is not None:
        settings["dtype"] = encoder.dtype
    with loading(folder, PURPOSE, None if encoder.trust_remote_code else stored):
        model = SentenceTransformer(
            str(folder),
            trust_remote_code=encoder.trust_remote_code,
            local_files_only=True,
            model_kwargs=settings,
        )
        weight = next(model.parameters(), None)
        if weight is None:
            raise DataError(f"the encoder {encoder.model} has no weights")
        if encoder.max_length is not None:
            model.max_seq_length = encoder.max_length
        prompt = encoder.prompt
        if prompt is None:
            prompt = model.prompts.get(model.default_prompt_name)
        return model.eval(), replace(
            encoder,
            revision=folder.name if is_hub_url(encoder.model) else encoder.revision,
            pooling=_set_pooling(model, encoder),
            prompt=prompt,
            max_length=model.max_seq_length,
            dtype=cast(Dtype, str(weight.dtype).removeprefix("torch.")),
        )


def _set_pooling(model: Any, encoder: Encoder) -> str | None:
    """Replace the model's pooling by the encoder's, if given -> the pooling in use, None if
    none."""
    position = next((n for n, part in enumerate(model) if type(part).__name__ == "Pooling"), None)
    current = None if position is None else str(model[position].pooling_mode)
    # the model's own pooling is not replaced: it may combine several, or leave out the prompt
    if encoder.pooling in (None, current):
        return current
    if position is None:
        raise UsageError(
            f"the encoder {encoder.model!r} has no token pooling, so it cannot be "
            f"{encoder.pooling!r}"
        )
    kind = type(model[position])
    try:
        model[position] = kind(model[position].embedding_dimension, pooling_mode=encoder.pooling)
    except ValueError as error:
        raise UsageError(
            f"there is no pooling {encoder.pooling!r}",
            hint=f"choose from {', '.join(kind.POOLING_MODES)}",
        ) from error
    return encoder.pooling


def _encode(model: Any, encoder: Encoder, texts: list[str], pool: Any = None) -> Vectors:
    """(n, dim) vectors; with a pool, a block on each of its devices."""
    shared = {} if pool is None else {"pool": pool, "chunk_size": BLOCK}
    with loading(encoder.model, PURPOSE):
        vectors = model.encode(
            texts,
            prompt=encoder.prompt,
            batch_size=BATCH,
            show_progress_bar=False,
            normalize_embeddings=encoder.normalize,
            **shared,
        )
    return np.ascontiguousarray(vectors, dtype=np.float32)


def _record(model: Any, encoder: Encoder, folder: Path) -> dict[str, Any]:
    probes = _encode(model, encoder, list(PROBES))
    check_finite(probes, f"the encoder {encoder.model!r}", lambda row: f"probe {PROBES[row]!r}")
    libraries = ("torch", "transformers", "sentence-transformers")
    return {
        **asdict(encoder),
        "weights": _weight_digests(folder, encoder.trust_remote_code),
        "files": settings_digests(folder, module_folders(folder)),
        "dim": probes.shape[1],
        "probes": [
            {"text": text, "vector": vector.tolist()}
            for text, vector in zip(PROBES, probes, strict=True)
        ],
        "libraries": {name: importlib.metadata.version(name) for name in libraries},
    }


def _folder(encoder: Encoder) -> Path:
    """The model's folder; a model of the hub is downloaded, into a folder named by the commit."""
    check_location(encoder)
    if is_hub_url(encoder.model):
        return download(
            encoder.model,
            revision=encoder.revision,
            ignore=_NOT_FETCHED,
            trust_remote_code=encoder.trust_remote_code,
        )
    return Path(encoder.model)


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


# Blocks


def _digest(texts: Sequence[str], record: Mapping[str, Any]) -> str:
    determined_by = json.dumps([record, BATCH, BLOCK, digest_strings(texts)], sort_keys=True)
    return hashlib.sha256(determined_by.encode()).hexdigest()[:16]
