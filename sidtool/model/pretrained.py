"""Locates and loads pretrained checkpoints: hub ids, folders, safetensors and GGUF files.

Without `trust_remote_code`, no code of a checkpoint runs and no pickled weights load."""

import contextlib
import hashlib
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sidtool.errors import DataError, RefusedError, UsageError

Dtype = Literal["float32", "bfloat16", "float16"]
TRUST = "--trust-remote-code allows it; the checkpoint can then run any code on this machine"

_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_FETCHED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken"]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this machine."""

    folder: Path
    gguf: str | None = None
    """name of the GGUF file in the folder, if the weights are in one"""
    revision: str | None = None
    """commit on the hub, if it comes from there"""


def locate(
    model: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> Checkpoint:
    """Find a model by folder, .gguf file or hub id; a hub model is downloaded into the hub's cache.

    Raises DataError if there is no such model, UsageError for a folder with several GGUF files or a
    PEFT adapter, RefusedError for pickled weights without `trust_remote_code`."""
    path = Path(model)
    if path.is_file() and path.suffix == ".gguf":
        return Checkpoint(path.parent, gguf=path.name)
    if path.is_dir():
        return _in_folder(path, None, trust_remote_code)
    folder = _fetch(model, revision, trust_remote_code)
    return _in_folder(folder, folder.name, trust_remote_code)


def load_model(
    checkpoint: Checkpoint, *, dtype: Dtype | None = None, trust_remote_code: bool = False
) -> Any:
    """Load a model on the CPU in eval mode; `dtype` defaults to the checkpoint's.

    A GGUF file is dequantized to an ordinary model that saves as safetensors. Raises DataError if
    weights are missing or damaged, RefusedError if the checkpoint needs custom code."""
    from transformers import AutoModelForCausalLM

    kwargs: dict[str, Any] = {"gguf_file": checkpoint.gguf} if checkpoint.gguf else {}
    with _one_line_errors(checkpoint), _no_progress_bars(gguf=checkpoint.gguf is not None):
        model, report = AutoModelForCausalLM.from_pretrained(
            checkpoint.folder,
            dtype=dtype or "auto",
            use_safetensors=None if trust_remote_code else True,
            trust_remote_code=trust_remote_code,
            output_loading_info=True,
            **kwargs,
        )
    if report["missing_keys"]:
        raise DataError(
            f"{checkpoint.folder} lacks weights of its configuration: "
            f"{_abbreviated(report['missing_keys'])}"
        )
    if checkpoint.gguf:
        _remove_quantization(model)
    return model.eval()


def load_tokenizer(checkpoint: Checkpoint, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer. Raises as `load_model` does."""
    from transformers import AutoTokenizer

    kwargs: dict[str, Any] = {"gguf_file": checkpoint.gguf} if checkpoint.gguf else {}
    with _one_line_errors(checkpoint):
        return AutoTokenizer.from_pretrained(
            checkpoint.folder, trust_remote_code=trust_remote_code, **kwargs
        )


def save_pretrained(folder: Path, model: Any, tokenizer: Any) -> None:
    """Write a model (safetensors) and its tokenizer into a folder."""
    with _no_progress_bars():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def weight_digests(checkpoint: Checkpoint) -> dict[str, str]:
    """SHA-256 (hex) of each weight file, by name."""
    patterns = (checkpoint.gguf,) if checkpoint.gguf else ("*.safetensors", "*.bin")
    files = [path for pattern in patterns for path in sorted(checkpoint.folder.glob(pattern))]
    return {path.name: _sha256(path) for path in files}


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


def _in_folder(folder: Path, revision: str | None, trust_remote_code: bool) -> Checkpoint:
    if (folder / "adapter_config.json").is_file():
        raise UsageError(
            f"{folder} is a PEFT adapter, not a whole model", hint="merge it into its base first"
        )
    if any((folder / name).is_file() for name in _SAFETENSORS):
        return Checkpoint(folder, revision=revision)
    gguf = sorted(path.name for path in folder.glob("*.gguf"))
    if len(gguf) > 1:
        raise UsageError(
            f"{folder} contains {len(gguf)} GGUF files: {_abbreviated(gguf)}",
            hint="name the file itself",
        )
    if gguf:
        return Checkpoint(folder, gguf=gguf[0], revision=revision)
    if not any((folder / name).is_file() for name in _PICKLES):
        raise DataError(f"{folder} has neither {_SAFETENSORS[0]} nor a GGUF file")
    if not trust_remote_code:
        raise RefusedError(f"{folder} has only pickled weights ({_PICKLES[0]})", hint=TRUST)
    return Checkpoint(folder, revision=revision)


def _fetch(model: str, revision: str | None, trust_remote_code: bool) -> Path:
    from huggingface_hub import snapshot_download

    patterns = [*_FETCHED, "*.py", "*.bin"] if trust_remote_code else _FETCHED
    try:
        folder = snapshot_download(
            model,
            revision=revision,
            allow_patterns=patterns,
            ignore_patterns=["*/*", "consolidated*"],
        )
    except (OSError, ValueError) as error:  # the base classes of the hub client's errors
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(
            f"{model!r} is not a folder or .gguf file, and cannot be downloaded from the hub "
            f"({reason})"
        ) from error
    return Path(folder)


@contextlib.contextmanager
def _one_line_errors(checkpoint: Checkpoint) -> Iterator[None]:
    """Turn what transformers raises for a checkpoint that it cannot load into one line."""
    from safetensors import SafetensorError

    try:
        yield
    except (
        OSError,
        ValueError,
        KeyError,
        RuntimeError,
        ImportError,
        AttributeError,
        SafetensorError,
    ) as error:
        if "trust_remote_code" in str(error):
            raise RefusedError(
                f"{checkpoint.folder} needs custom code to load", hint=TRUST
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{checkpoint.folder} does not load as a causal language model: {reason}"
        ) from error


@contextlib.contextmanager
def _no_progress_bars(*, gguf: bool = False) -> Iterator[None]:
    """Disable the progress bars of transformers unless stderr is a terminal."""
    from transformers.utils import logging

    if sys.stderr.isatty():
        yield
        return
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        # the GGUF reader ignores that setting and calls tqdm itself
        with contextlib.redirect_stderr(io.StringIO()) if gguf else contextlib.nullcontext():
            yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def _remove_quantization(model: Any) -> None:
    """Make a dequantized model an ordinary one: `save_pretrained` would call the GGUF quantizer,
    which cannot save."""
    model.hf_quantizer = None
    model.is_quantized = False
    for name in ("quantization_config", "_pre_quantization_dtype"):
        if hasattr(model.config, name):
            delattr(model.config, name)


def _abbreviated(names: Any) -> str:
    ordered = sorted(names)
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return ", ".join(ordered[:3]) + more


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
