"""Checkpoints: where they lie, how they load, and the digests of their weights.

Knows hub ids, folders, safetensors and GGUF files; knows nothing of semantic IDs. Two rules hold
for every load: code that a checkpoint carries never runs, and pickled weights never load, unless
`trust_remote_code` is given."""

import contextlib
import hashlib
import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidtool.errors import DataError, RefusedError, UsageError

DTYPES = ("float32", "bfloat16", "float16")
TRUST = "--trust-remote-code allows it, and lets the checkpoint run any code on this machine"

_SAFETENSORS = ("model.safetensors", "model.safetensors.index.json")
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_FETCHED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken"]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on this machine: a folder, the GGUF file in it where the weights are that, and
    the hub's commit."""

    folder: Path
    gguf: str | None = None
    revision: str | None = None


def locate(
    model: str, *, revision: str | None = None, trust_remote_code: bool = False
) -> Checkpoint:
    """Find a model by folder, by .gguf file or by hub id; what the hub has is fetched into its own
    cache.

    Raises DataError if it is not here and cannot be fetched, UsageError on several GGUF files or an
    adapter, RefusedError on pickled weights without `trust_remote_code`."""
    path = Path(model)
    if path.is_file() and path.suffix == ".gguf":
        return Checkpoint(path.parent, gguf=path.name)
    if path.is_dir():
        return _in_folder(path, None, trust_remote_code)
    folder = _fetch(model, revision, trust_remote_code)
    return _in_folder(folder, folder.name, trust_remote_code)


def load_model(
    checkpoint: Checkpoint, *, dtype: str | None = None, trust_remote_code: bool = False
) -> Any:
    """The model: on the CPU, in eval mode, in the checkpoint's dtype unless told.

    A GGUF file is dequantized to an ordinary model that saves as safetensors. Raises DataError if
    something is missing or damaged, RefusedError if the checkpoint would run its own code."""
    from transformers import AutoModelForCausalLM

    kwargs: dict[str, Any] = {"gguf_file": checkpoint.gguf} if checkpoint.gguf else {}
    with _told_in_one_line(checkpoint), _no_bars(gguf=checkpoint.gguf is not None):
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
            f"{checkpoint.folder} lacks weights that its configuration asks for: "
            f"{_few(report['missing_keys'])}"
        )
    if checkpoint.gguf:
        _forget_quantization(model)
    return model.eval()


def load_tokenizer(checkpoint: Checkpoint, *, trust_remote_code: bool = False) -> Any:
    """The tokenizer. Raises as `load_model` does."""
    from transformers import AutoTokenizer

    kwargs: dict[str, Any] = {"gguf_file": checkpoint.gguf} if checkpoint.gguf else {}
    with _told_in_one_line(checkpoint):
        return AutoTokenizer.from_pretrained(
            checkpoint.folder, trust_remote_code=trust_remote_code, **kwargs
        )


def save_pretrained(folder: Path, model: Any, tokenizer: Any) -> None:
    """Write a model (safetensors) and its tokenizer into a folder."""
    with _no_bars():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def weight_digests(checkpoint: Checkpoint) -> dict[str, str]:
    """SHA-256 (hex) of each weight file, by name."""
    patterns = (checkpoint.gguf,) if checkpoint.gguf else ("*.safetensors", "*.bin")
    files = [path for pattern in patterns for path in sorted(checkpoint.folder.glob(pattern))]
    return {path.name: _sha256(path) for path in files}


def check_dtype(name: str | None) -> None:
    """Raise UsageError unless a dtype is one that models are kept in, or None."""
    if name is not None and name not in DTYPES:
        raise UsageError(f"dtype is one of {', '.join(DTYPES)}, not {name!r}")


def check_device(name: str | None) -> None:
    """Raise UsageError unless models can run there, or the name is None."""
    import torch

    if name is None:
        return
    try:
        torch.zeros(1, device=name)
    except (
        RuntimeError,
        AssertionError,
    ) as error:  # no such kind of device; none of them in this machine
        reason = str(error).splitlines()[0].partition(" device type at start")[0]
        raise UsageError(f"no model can run on device {name!r}: {reason}") from error


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
            f"{folder} holds {len(gguf)} GGUF files: {_few(gguf)}", hint="name the file itself"
        )
    if gguf:
        return Checkpoint(folder, gguf=gguf[0], revision=revision)
    if not any((folder / name).is_file() for name in _PICKLES):
        raise DataError(f"{folder} holds no model: neither {_SAFETENSORS[0]} nor a GGUF file")
    if not trust_remote_code:
        raise RefusedError(f"{folder} holds only pickled weights ({_PICKLES[0]})", hint=TRUST)
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
    except (OSError, ValueError) as error:  # every error of the hub's client is one of the two
        reason = str(error).splitlines()[0].rstrip(".")
        raise DataError(
            f"no model at {model!r}: not a folder or .gguf file here, and not fetched from the "
            f"hub ({reason})"
        ) from error
    return Path(folder)


@contextlib.contextmanager
def _told_in_one_line(checkpoint: Checkpoint) -> Iterator[None]:
    """Whatever transformers raises on a checkpoint that it cannot load, as one line."""
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
                f"{checkpoint.folder} needs code of its own to load", hint=TRUST
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"{checkpoint.folder} does not load as a causal language model: {reason}"
        ) from error


@contextlib.contextmanager
def _no_bars(*, gguf: bool = False) -> Iterator[None]:
    """Silence the progress bars of transformers where there is no terminal to draw them on."""
    from transformers.utils import logging

    if sys.stderr.isatty():
        yield
        return
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        # the GGUF reader calls tqdm itself and asks no setting
        with contextlib.redirect_stderr(io.StringIO()) if gguf else contextlib.nullcontext():
            yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _forget_quantization(model: Any) -> None:
    """Make a dequantized model an ordinary one: else `save_pretrained` asks the GGUF quantizer,
    which cannot save."""
    model.hf_quantizer = None
    model.is_quantized = False
    for owner, name in (
        (model.config, "quantization_config"),
        (model.config, "_pre_quantization_dtype"),
    ):
        if hasattr(owner, name):
            delattr(owner, name)


def _few(names: Any) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (f" and {len(ordered) - 3} more" if len(ordered) > 3 else "")


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
