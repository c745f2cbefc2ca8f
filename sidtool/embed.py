"""From texts to vectors, by any sentence-transformers model.

Knows encoders and what must be recorded to meet the same vectors again; knows nothing of what the
texts mean."""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from sidtool.data.digests import digest_strings
from sidtool.data.vectors import check_finite
from sidtool.errors import CompatibilityError, DataError, UsageError
from sidtool.output import cache_array, cached_array
from sidtool.sid import Vectors

BATCH = 32
"""Texts a forward pass: larger is slower on a CPU."""
BLOCK = 256
"""Texts a block file: how much an interruption can cost."""
PROBES = (
    "Stainless steel water bottle, 750 ml",
    "Toy Story (1995): Animation, Comedy",
    "Feuchtigkeitscrème für Hände",
)
"""Texts whose vectors tell one encoder from another."""
AGREEMENT = 0.999
"""Least cosine at which two vectors of one probe count as the same encoder's (bf16 against fp32
gives .9998)."""
Dtype = Literal["float32", "float16", "bfloat16"]
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".gguf")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Encoder:
    """A sentence-transformers model and how it is used; None leaves a setting to the model."""

    model: str
    """Id on the hub, or a folder."""
    revision: str | None = None
    pooling: str | None = None
    """cls, max, mean, mean_sqrt_len_tokens, weightedmean or lasttoken."""
    prompt: str | None = None
    """Text put before every text."""
    max_length: int | None = None
    """Tokens that are read of a text."""
    dtype: Dtype | None = None
    normalize: bool = False
    """Whether vectors are brought to length 1, also where the model itself does not."""
    trust_remote_code: bool = False
    """Whether the model's own Python code and pickled weights may be loaded."""

    @classmethod
    def of(
        cls, model: str | None, *, trust_remote_code: bool = False, **settings: Any
    ) -> "Encoder | None":
        """An encoder, or None without a model.

        Raises UsageError if settings are given without a model.
        """
        chosen = {name: value for name, value in settings.items() if value is not None}
        if model is not None:
            return cls(model, trust_remote_code=trust_remote_code, **chosen)
        if chosen:
            flag = next(iter(chosen)).replace("_", "-")
            raise UsageError(f"--{flag} applies only with --encoder")
        return None


def embed(
    texts: Sequence[str], encoder: Encoder, *, cache: Path, progress: Progress | None = None
) -> tuple[Vectors, dict[str, Any]]:
    """n texts -> (n, dim) float32 vectors, and the facts that a recipe records.

    The facts are the encoder with every setting that the model decided filled in, the SHA-256 of
    its weight files, the dimension, library versions and the probe texts with their vectors.

    Texts are read longest first in blocks of fixed size. Finished blocks are kept in `cache`, so an
    interrupted run goes on where it was and gives the same bits as one that was not; removing
    `cache` is the caller's part.

    Raises DataError if the model cannot be loaded or a vector is not finite, UsageError if it lacks
    what was asked."""
    model, used = _load(encoder)
    facts = _facts(model, used)
    order = np.argsort([-len(text) for text in texts], kind="stable")
    blocks = cache / _digest(texts, facts)
    blocks.mkdir(parents=True, exist_ok=True)
    vectors = np.empty((len(texts), facts["dim"]), dtype=np.float32)
    for start in range(0, len(texts), BLOCK):
        rows = order[start : start + BLOCK]
        path = blocks / f"{start // BLOCK:06d}.npy"
        block = cached_array(path, (len(rows), facts["dim"]), np.float32)
        if block is None:
            block = _encode(model, used, [texts[row] for row in rows])
            cache_array(path, block)
        vectors[rows] = block
        if progress is not None:
            progress(start + len(rows), len(texts))
    check_finite(
        vectors, f"the encoder {encoder.model!r}", lambda row: f"text {row} ({texts[row][:40]!r})"
    )
    return vectors, facts


def check_probes(encoder: Encoder, recipe: Mapping[str, Any]) -> float:
    """The least cosine between a recipe's probe vectors and this encoder's.

    Raises CompatibilityError if it is below 0.999: another model, pooling or prompt, or damaged
    weights."""
    model, used = _load(encoder)
    now = _encode(model, used, [probe["text"] for probe in recipe["probes"]]).astype(np.float64)
    stored = np.array([probe["vector"] for probe in recipe["probes"]], dtype=np.float64)
    if now.shape != stored.shape:
        raise CompatibilityError(
            f"the encoder {encoder.model!r} gives {now.shape[1]} dimensions, the recipe has "
            f"{recipe['dim']}",
            hint=f"the recipe's encoder is {recipe['model']!r}",
        )
    lengths = np.linalg.norm(now, axis=1) * np.linalg.norm(stored, axis=1)
    least = float(np.min(np.sum(now * stored, axis=1) / lengths))
    if not least >= AGREEMENT:  # NaN disagrees too
        raise CompatibilityError(
            f"the encoder {encoder.model!r} is not the one that made the codebook: a probe's "
            f"cosine is {least:.4f}, "
            f"{AGREEMENT} is needed",
            hint=f"the recipe's encoder is {recipe['model']!r}",
        )
    return least


# The model


def _load(encoder: Encoder) -> tuple[Any, Encoder]:
    """The model, and the encoder with every setting that the model decided filled in."""
    if encoder.dtype not in (None, *get_args(Dtype)):
        raise UsageError(
            f"the precision of an encoder is {', '.join(get_args(Dtype))}, not {encoder.dtype!r}"
        )
    if encoder.model.startswith((".", "/")) and not Path(encoder.model).is_dir():
        raise DataError(f"the encoder {encoder.model} is no folder")
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()
    settings: dict[str, Any] = {} if encoder.trust_remote_code else {"use_safetensors": True}
    if encoder.dtype is not None:
        settings["dtype"] = encoder.dtype
    try:
        model = SentenceTransformer(
            encoder.model,
            revision=encoder.revision,
            trust_remote_code=encoder.trust_remote_code,
            model_kwargs=settings,
        )
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        raise DataError(
            f"the encoder {encoder.model!r} cannot be loaded: {str(error).strip().splitlines()[0]}",
            hint="its own code and pickled weights load with --trust-remote-code only",
        ) from error
    if encoder.max_length is not None:
        model.max_seq_length = encoder.max_length
    prompt = (
        encoder.prompt
        if encoder.prompt is not None
        else model.prompts.get(model.default_prompt_name)
    )
    return model.eval(), replace(
        encoder,
        revision=encoder.revision if Path(encoder.model).is_dir() else _folder(encoder).name,
        pooling=_set_pooling(model, encoder),
        prompt=prompt,
        max_length=model.max_seq_length,
        dtype=cast(Dtype, str(next(model.parameters()).dtype).removeprefix("torch.")),
    )


def _set_pooling(model: Any, encoder: Encoder) -> str | None:
    """Put the asked pooling in the place of the model's own; the pooling that is used then, None if
    it has none."""
    place = next(
        (at for at, module in enumerate(model) if type(module).__name__ == "Pooling"), None
    )
    own = None if place is None else str(model[place].pooling_mode)
    if encoder.pooling in (
        None,
        own,
    ):  # its own stays as it is: it may be several, or leave out the prompt
        return own
    if place is None:
        raise UsageError(
            f"the encoder {encoder.model!r} pools no tokens, so its pooling cannot be "
            f"{encoder.pooling!r}"
        )
    kind = type(model[place])
    try:
        model[place] = kind(model[place].embedding_dimension, pooling_mode=encoder.pooling)
    except ValueError as error:
        raise UsageError(
            f"pooling {encoder.pooling!r} is unknown",
            hint=f"known are {', '.join(kind.POOLING_MODES)}",
        ) from error
    return encoder.pooling


def _encode(model: Any, encoder: Encoder, texts: list[str]) -> Vectors:
    vectors = model.encode(
        texts,
        prompt=encoder.prompt,
        batch_size=BATCH,
        show_progress_bar=False,
        normalize_embeddings=encoder.normalize,
    )
    return np.ascontiguousarray(vectors, dtype=np.float32)


def _facts(model: Any, encoder: Encoder) -> dict[str, Any]:
    probes = _encode(model, encoder, list(PROBES))
    check_finite(probes, f"the encoder {encoder.model!r}", lambda row: f"probe {PROBES[row]!r}")
    libraries = ("torch", "transformers", "sentence-transformers")
    return {
        **asdict(encoder),
        "weights": _weight_digests(encoder),
        "dim": probes.shape[1],
        "probes": [
            {"text": text, "vector": vector.tolist()}
            for text, vector in zip(PROBES, probes, strict=True)
        ],
        "libraries": {name: importlib.metadata.version(name) for name in libraries},
    }


def _folder(encoder: Encoder) -> Path:
    """Where the loaded model lies; for one from the hub the folder's name is the commit."""
    if Path(encoder.model).is_dir():
        return Path(encoder.model)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(encoder.model, revision=encoder.revision, local_files_only=True))


def _weight_digests(encoder: Encoder) -> dict[str, str]:
    """SHA-256 of each weight file, by its path in the model's folder."""
    folder = _folder(encoder)
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in WEIGHT_SUFFIXES
        and not {"onnx", "openvino"} & set(path.relative_to(folder).parts)
    )
    digests = {}
    for path in files:
        with path.open("rb") as stream:
            digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(
                stream, "sha256"
            ).hexdigest()
    return digests


# Blocks


def _digest(texts: Sequence[str], facts: Mapping[str, Any]) -> str:
    known = json.dumps([facts, BATCH, BLOCK, digest_strings(texts)], sort_keys=True)
    return hashlib.sha256(known.encode()).hexdigest()[:16]
