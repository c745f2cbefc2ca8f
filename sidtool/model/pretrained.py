"""Locates and loads pretrained checkpoints: folders, GGUF files and models of the hub.

Without `trust_remote_code`, no code of a checkpoint runs and no pickled weights load."""

import contextlib
import io
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sidtool.base.checkpoint import (
    INDEX,
    PICKLES,
    WEIGHTS,
    StoredWeights,
    check_finite,
    check_folder,
    check_model,
    check_settings,
    check_tokenizer,
    loading,
    private_weights,
    settings_digests,
    weight_digests,
)
from sidtool.base.digests import file_digest
from sidtool.base.errors import (
    CompatibilityError,
    DataError,
    MissingPackageError,
    SidtoolWarning,
    UsageError,
    first_line,
)
from sidtool.base.hub import HUB_PREFIX, HubAccess, download_model, is_hub_url
from sidtool.base.process_setting import errors_only, hidden_bars
from sidtool.model.network.structure import model_kind

Dtype = Literal["float32", "bfloat16", "float16"]
PURPOSE = "as a language model"

_GGUF_ENCODER_DECODERS = ("t5", "umt5")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this machine."""

    folder: Path
    gguf: str | None = None
    """name of the GGUF file in the folder, if the weights are in one"""
    revision: str | None = None
    """commit on the hub, if it comes from there"""

    @property
    def path(self) -> Path:
        """The GGUF file, or the folder: what messages name."""
        return self.folder / (self.gguf or "")

    def weight_digests(self) -> dict[str, str]:
        """SHA-256 (hex) of each weight file, by name."""
        if self.gguf:
            return {self.gguf: file_digest(self.path)}
        return weight_digests(self.folder)

    def file_digests(self) -> dict[str, str]:
        """SHA-256 (hex) of each other file that is read: configuration, tokenizer, chat
        template."""
        return {} if self.gguf else settings_digests(self.folder)


def locate(
    model: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> Checkpoint:
    """Find a model by folder or .gguf file. A model of the hub, `hf://ORG/NAME`, is downloaded into
    the hub's cache; nothing else uses the network.

    Raises DataError if there is no such model, UsageError for a folder with several GGUF files or a
    PEFT adapter, and for a revision of what is not on the hub, RefusedError for pickled weights
    without `trust_remote_code`."""
    folder = Path(model)
    commit = None
    if is_hub_url(model):
        access = HubAccess(revision)
        folder = download_model(model, access, trust_remote_code=trust_remote_code)
        commit = folder.name
    elif revision is not None:
        raise UsageError(
            f"--revision requires a model of the hub, {HUB_PREFIX}ORG/NAME, not {model}"
        )
    elif folder.is_file() and folder.suffix == ".gguf":
        return Checkpoint(folder.parent, gguf=folder.name)
    elif not folder.is_dir():
        raise DataError(
            f"{model!r} is not a folder or .gguf file",
            hint=f"{HUB_PREFIX}ORG/NAME names a model of the Hugging Face hub",
        )
    if (folder / "adapter_config.json").is_file():
        raise UsageError(
            f"{folder} is a PEFT adapter, not a whole model", hint="merge it into its base first"
        )
    check_folder(folder, trust_remote_code=trust_remote_code)
    if any((folder / name).is_file() for name in (WEIGHTS, INDEX)):
        return Checkpoint(folder, revision=commit)
    gguf = sorted(path.name for path in folder.glob("*.gguf"))
    if len(gguf) > 1:
        raise UsageError(
            f"{folder} contains {len(gguf)} GGUF files: {_abbreviated(gguf)}",
            hint="name the file itself",
        )
    if not gguf and not any((folder / name).is_file() for name in PICKLES):
        raise DataError(f"{folder} has neither {WEIGHTS} nor a GGUF file")
    return Checkpoint(folder, gguf=gguf[0] if gguf else None, revision=commit)


def load_model(
    checkpoint: Checkpoint,
    *,
    dtype: Dtype | None = None,
    trust_remote_code: bool = False,
    digests: Mapping[str, str] | None = None,
) -> Any:
    """Load a model on the CPU in eval mode, causal or encoder-decoder as its configuration says;
    `dtype` defaults to the checkpoint's. No file is used after it was loaded.

    A GGUF file is dequantized to an ordinary model that saves as safetensors. Raises DataError if
    weights are missing, damaged or not finite, or the model has no decoder, RefusedError if the
    checkpoint needs custom code, IntegrityError if a safetensors file is not that of `digests`,
    SHA-256 (hex) by name."""
    stored = check_model(checkpoint.folder, checkpoint.gguf, trust_remote_code=trust_remote_code)
    kwargs: dict[str, Any] = {"gguf_file": checkpoint.gguf} if checkpoint.gguf else {}
    quiet = _quiet(gguf=checkpoint.gguf is not None)
    path = checkpoint.path
    with quiet, loading(path, PURPOSE, stored), private_weights(digests):
        if checkpoint.gguf and stored:
            _check_gguf(path, stored)
        model_class = _model_class(checkpoint, trust_remote_code)
        model, report = model_class.from_pretrained(
            checkpoint.folder,
            dtype=dtype or "auto",
            use_safetensors=None if trust_remote_code else True,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, by name
            **kwargs,
        )
    layers = getattr(model.config, "num_hidden_layers", None)
    if type(layers) is int and layers < 1:
        raise DataError(f"{path} has a configuration of {layers} layers")
    for name, stored_shape, shape in sorted(report["mismatched_keys"]):
        raise DataError(
            f"{path} has {name} of shape {tuple(stored_shape)}, its configuration says "
            f"{tuple(shape)}",
            hint="where tokens were added, vocab_size in config.json is the number of rows",
        )
    missing, unexpected = report["missing_keys"], report["unexpected_keys"]
    if missing:
        raise DataError(f"{path} lacks weights of its configuration: {_abbreviated(missing)}")
    if unexpected:
        warnings.warn(
            f"{path} has {len(unexpected)} weights that its configuration does not use: "
            f"{_abbreviated(unexpected)}",
            SidtoolWarning,
            stacklevel=2,
        )
    if checkpoint.gguf:
        # `save_pretrained` would call the GGUF quantizer, which cannot save
        model.hf_quantizer = None
        model.is_quantized = False
        for name in ("quantization_config", "_pre_quantization_dtype"):
            if hasattr(model.config, name):
                delattr(model.config, name)
    check_finite(model, path)
    return model.eval()


def load_tokenizer(checkpoint: Checkpoint, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer. Raises as `load_model` does, DataError if the checkpoint has none, and
    MissingPackageError if it needs packages that read SentencePiece."""
    from transformers import AutoTokenizer
    from transformers.utils import is_protobuf_available, is_sentencepiece_available

    folder = checkpoint.folder
    stored = check_model(folder, checkpoint.gguf, trust_remote_code=trust_remote_code)
    kwargs: dict[str, Any] = {"gguf_file": checkpoint.gguf} if checkpoint.gguf else {}
    try:
        with loading(checkpoint.path, PURPOSE):
            if checkpoint.gguf and stored:
                _check_gguf(checkpoint.path, stored)
            tokenizer = AutoTokenizer.from_pretrained(
                folder, trust_remote_code=trust_remote_code, local_files_only=True, **kwargs
            )
    except DataError as error:
        # transformers then takes the file for one of tiktoken, and says that this is missing
        names = [path.name for path in folder.glob("*.model") if path.stem != "tiktoken"]
        can_read = is_sentencepiece_available() and is_protobuf_available()
        if names and not can_read and not (folder / "tokenizer.json").is_file():
            needed = "pip install sentencepiece protobuf"
            raise MissingPackageError(
                f"{folder} has a tokenizer in {names[0]}: {needed}"
            ) from error
        raise
    if not checkpoint.gguf:
        check_tokenizer(folder, tokenizer)
    return tokenizer


def load_config(checkpoint: Checkpoint, *, trust_remote_code: bool) -> Any:
    """The configuration. Raises as `load_model` does."""
    from transformers import AutoConfig

    check_model(checkpoint.folder, checkpoint.gguf, trust_remote_code=trust_remote_code)
    with loading(checkpoint.folder, PURPOSE):
        return AutoConfig.from_pretrained(
            checkpoint.folder, trust_remote_code=trust_remote_code, local_files_only=True
        )


def save_pretrained(folder: Path, model: Any, tokenizer: Any) -> None:
    """Write a model (safetensors) and its tokenizer into a folder. Raises DataError if its weights
    are not finite, CompatibilityError if transformers cannot write such a model."""
    check_finite(model, "the model")
    try:
        with _quiet():
            model.save_pretrained(folder)
    except RuntimeError as error:
        name = type(model).__name__
        raise CompatibilityError(f"{name} cannot be written: {first_line(error)}") from error
    tokenizer.save_pretrained(folder)


def check_device(name: str | None) -> None:
    """Raise UsageError unless models can run on this device; None passes."""
    import torch

    if name is None:
        return
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError) as error:
        # RuntimeError: no such kind of device; AssertionError: none in this machine
        reason = str(error).splitlines()[0].partition(" device type at start")[0]
        raise UsageError(f"device {name!r} cannot be used: {reason}") from error


def _check_gguf(path: Path, stored: StoredWeights) -> None:
    """Check the configuration inside of a GGUF file."""
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    settings = load_gguf_checkpoint(str(path))["config"]
    if settings.get("model_type") in _GGUF_ENCODER_DECODERS:
        raise DataError(
            f"{path} is an encoder-decoder model ({settings['model_type']}), which is read from "
            "safetensors only, not from GGUF"
        )
    check_settings(path, settings, stored)


def _model_class(checkpoint: Checkpoint, trust_remote_code: bool) -> Any:
    """The class of transformers that loads a checkpoint, by its configuration.

    Raises DataError for a pair of models (EncoderDecoderModel), and for an encoder-only model: some
    of them load as causal models, but attend to later tokens, too."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
    from transformers.models.auto import modeling_auto as names

    if checkpoint.gguf:
        return AutoModelForCausalLM
    config = AutoConfig.from_pretrained(
        checkpoint.folder, trust_remote_code=trust_remote_code, local_files_only=True
    )
    if config.model_type == "encoder-decoder":
        raise DataError(
            f"{checkpoint.folder} is a pair of two models, each with a vocabulary of its own",
            hint="use a model like T5 or BART, whose encoder and decoder share one",
        )
    if model_kind(config) == "encoder-decoder":
        return AutoModelForSeq2SeqLM
    # a T5 without its decoder has the type of a whole one, of which there is no causal class
    has_causal_class = config.model_type in names.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    is_half = config.model_type in names.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES
    is_masked = config.model_type in names.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    is_encoder = is_masked or (is_half and not has_causal_class)
    if is_encoder and not getattr(config, "is_decoder", False):
        raise DataError(
            f"{checkpoint.folder} is an encoder-only model ({config.model_type}), which writes no "
            "text",
            hint="use a causal or an encoder-decoder model",
        )
    return AutoModelForCausalLM


@contextlib.contextmanager
def _quiet(*, gguf: bool = False) -> Iterator[None]:
    """Disable the warnings of transformers, and its progress bars unless stderr is a terminal.

    What is missing in a checkpoint is checked here, and every T5 with an untied head gets a
    warning, since its configuration always says that it is tied."""
    import transformers  # noqa: F401 - which gives its logger a level

    is_terminal = sys.stderr.isatty()
    with errors_only("transformers"), contextlib.ExitStack() as hidden:
        if not is_terminal:
            hidden.enter_context(hidden_bars())
        if gguf and not is_terminal:  # its reader ignores that setting and calls tqdm itself
            hidden.enter_context(contextlib.redirect_stderr(io.StringIO()))
        yield


def _abbreviated(names: Any) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return ", ".join(ordered[:3]) + more
