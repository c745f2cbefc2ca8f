"""The one place where foreign libraries load a checkpoint: without network, with sizes bounded by
what is stored, and with every failure as one line.

sentence-transformers imports classes by the names in modules.json and in the modules'
configurations, so these are checked before it reads them."""

import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sidtool.base.checkpoint.files import (
    CONFIG,
    EMBEDDED,
    INDEX,
    TOKENIZER,
    TRUST,
    WEIGHTS,
    StoredWeights,
    check_folder,
    read_gguf_size,
    read_json,
    read_object,
)
from sidtool.base.errors import DataError, RefusedError, SidtoolError, first_line
from sidtool.base.extras import offline
from sidtool.base.records import is_number, shortened

REGISTRATIONS = 3
"""How often a layer may register a stored weight: without memory, loaded, and tied."""
SPARE_WEIGHTS = 1 << 24
"""Numbers that a model may have beyond its files, like masks and tables of positions."""
SPARE_PARAMETERS = 10_000
MAX_SETTING = 1 << 40
"""Largest integer of a configuration."""
MAX_LABELS = 1 << 16
_ATTENTION = "attn_implementation"
_COUNTS = ("layer", "block_count", "depth", "attention_types")
"""Words in the keys of numbers by which a configuration makes lists of layers."""


@contextmanager
def loading(
    path: object, purpose: str = "as a model", stored: StoredWeights | None = None
) -> Iterator[None]:
    """Load what is at `path` in this block: offline, and any failure is one line. With `stored`, no
    layer may be larger than the stored weights. Raises RefusedError if the checkpoint needs its own
    code, DataError for anything else."""
    try:
        with offline(), _bounded_layers(path, stored):
            yield
    except SidtoolError:
        raise
    except BaseException as error:
        # a Rust library panics with a BaseException of this name
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        if "trust_remote_code" in str(error):
            raise RefusedError(f"{path} needs custom code to load", hint=TRUST) from error
        reason = first_line(error)
        raise DataError(f"{path} does not load {purpose}: {reason}") from error


def check_model(
    folder: Path, gguf: str | None, *, trust_remote_code: bool = False
) -> StoredWeights | None:
    """Check the files of a language model, whose weights may be in a GGUF file of this name.
    Returns what its weights have, None for a trusted one. Raises as `check_folder` does, and
    `check_config`."""
    stored = check_folder(folder, trust_remote_code=trust_remote_code)
    if trust_remote_code:
        return None
    if gguf is not None:
        stored = read_gguf_size(folder / gguf)
    check_config(folder, stored)
    return stored


def check_config(folder: Path, stored: StoredWeights) -> None:
    """Raise DataError if a config.json claims more layers than there are stored tensors, or numbers
    that no model has: libraries allocate by them before they read weights. RefusedError if it names
    kernels of the hub."""
    path = folder / CONFIG
    if path.is_file():
        settings = read_object(path)
        # no library allocates by the contract, whose numbers have other limits
        settings.pop(EMBEDDED, None)
        check_settings(path, settings, stored)


def check_settings(path: Path, settings: Mapping[str, Any], stored: StoredWeights) -> None:
    """As `check_config`, for settings that were read already; `path` is named in errors."""
    for key, value in _walk(settings, ""):
        if isinstance(value, str):
            if _ATTENTION in key and "/" in value:
                raise RefusedError(f"{path} names the hub kernel {value!r}", hint=TRUST)
            # an index of such a name is not checked, and may lead out of the folder
            if key == "transformers_weights" and value not in (WEIGHTS, INDEX):
                raise RefusedError(f"{path} names the weights {value!r}, not {WEIGHTS}", hint=TRUST)
        if not isinstance(value, int) or isinstance(value, bool):
            continue
        limit = MAX_SETTING
        # sizes of what each layer has, as the rows of Gemma's tables, make no list of layers
        if any(word in key for word in _COUNTS) and "per_layer" not in key:
            limit = max(stored.tensors, 64)
        elif "label" in key:
            limit = MAX_LABELS
        if abs(value) > limit:
            # a whole number of JSON may be beyond the numbers that have an exponent
            size = f"{value:.6g}" if is_number(value) else shortened(value)
            raise DataError(f"{path} has {key} = {size}, the limit for its weights is {limit}")


def _walk(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """The numbers and texts of a JSON value, each by the nearest key."""
    if isinstance(value, Mapping):
        for name, member in value.items():
            # such an object has a key for each part of the model, "" for the whole
            yield from _walk(member, key if _ATTENTION in key else str(name))
    elif isinstance(value, list):
        # numbers alone in a list are ids, beside other values they are counts
        name = "" if all(isinstance(member, int) for member in value) else key
        for member in value:
            yield from _walk(member, name)
    else:
        yield key, value


@contextmanager
def _bounded_layers(path: object, stored: StoredWeights | None) -> Iterator[None]:
    """Stop when this thread makes layers that the stored weights cannot fill."""
    if stored is None:
        yield
        return
    from torch.nn.modules import module as torch_module

    thread = threading.get_ident()
    parameters_left = REGISTRATIONS * stored.tensors + SPARE_PARAMETERS
    weights_left = REGISTRATIONS * stored.weights + SPARE_WEIGHTS

    def check(layer: Any, name: str, tensor: Any) -> None:
        nonlocal parameters_left, weights_left
        if threading.get_ident() != thread or tensor is None:
            return
        parameters_left -= 1
        weights_left -= tensor.numel()
        if parameters_left < 0 or weights_left < 0:
            raise DataError(
                f"{path} claims more weights than it stores, at {type(layer).__name__}.{name} "
                f"{tuple(tensor.shape)}"
            )

    hooks = [
        torch_module.register_module_parameter_registration_hook(check),
        torch_module.register_module_buffer_registration_hook(check),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


MODULES = "modules.json"
CLASSES = (
    "Transformer",
    "Pooling",
    "Normalize",
    "Dense",
    "LayerNorm",
    "Dropout",
    "WeightedLayerPooling",
    "StaticEmbedding",
    "CNN",
    "LSTM",
)
"""Modules that are configured by numbers and names of torch's activations only."""
WITHOUT_FILES = (".Normalize",)
"""Modules that read nothing."""
_TYPE = re.compile(
    r"sentence_transformers\.(models|base\.modules|sentence_transformer\.modules)(\.\w+)?"
    rf"\.({'|'.join(CLASSES)})",
    re.ASCII,
)
_ACTIVATION = re.compile(r"torch\.nn\.modules\.(activation|linear)\.\w+", re.ASCII)
_METHOD = re.compile(r"forward|get_[a-z]+_features")
_TRANSFORMER_KEYS = (
    "max_seq_length",
    "do_lower_case",
    "transformer_task",
    "modality_config",
    "module_output_name",
    "unpad_inputs",
    "processing_kwargs",
)
_TRANSFORMER_ARGUMENTS = (
    "dtype",
    "torch_dtype",
    "attn_implementation",
    "padding_side",
    "model_max_length",
    "max_length",
    "add_pooling_layer",
)
"""Arguments that a module may pass to transformers: none that names another file, model or code."""


def check_encoder(folder: Path, *, trust_remote_code: bool = False) -> StoredWeights:
    """Check the files and modules of a sentence-transformers model or a plain encoder. Returns what
    its weight files have. Raises RefusedError for a module that may run code or reads outside of
    the folder, DataError for damaged files."""
    parts = module_folders(folder)
    path = folder / MODULES
    for module in read_json(path) if path.is_file() and not trust_remote_code else []:
        if not _TYPE.fullmatch(module["type"]):
            raise RefusedError(f"{path} has the module {module['type']!r}", hint=TRUST)
    stored = check_folder(folder, parts, trust_remote_code=trust_remote_code)
    if trust_remote_code:
        return stored
    for module in (folder / part for part in parts):
        if (module / "adapter_config.json").exists():
            raise RefusedError(
                f"{module} has a PEFT adapter, whose base may be anywhere",
                hint="merge it into its base first",
            )
        check_config(module, stored)
        config = module / CONFIG
        # a Dense module names its activation by an import path, a Transformer by a word
        values = read_object(config) if config.is_file() else {}
        for key in ("activation_function", "tokenizer_class"):
            value = values.get(key, "")
            if isinstance(value, str) and "." in value and not _ACTIVATION.fullmatch(value):
                raise RefusedError(f"{config} has {key} {value!r}", hint=TRUST)
        for path in sorted(module.glob("sentence_*_config.json")):
            settings = read_object(path)
            check_settings(path, settings, stored)
            _check_transformer(path, settings)
    return stored


def check_tokenizer(folder: Path, tokenizer: Any) -> None:
    """Raise DataError if a model's folder has no vocabulary: transformers makes an empty tokenizer
    of the model's class then."""
    names = getattr(tokenizer, "vocab_files_names", None) or {}  # none of one that reads bytes
    files = {*names.values(), TOKENIZER, "tokenizer.model", "tekken.json"}
    files.discard("tokenizer_config.json")
    # modules may have folders of their own modules
    paths = folder.rglob("*") if (folder / MODULES).is_file() else folder.iterdir()
    if names and not any(path.name in files for path in paths):
        raise DataError(f"{folder} has no tokenizer", hint="tokenizer.save_pretrained writes it")


def module_folders(folder: Path) -> tuple[str, ...]:
    """The folders of a model's modules, relative to it; the model's own, "", is the first."""
    path = folder / MODULES
    if not path.is_file():
        return ("",)
    modules = read_json(path)
    if not isinstance(modules, list) or not modules:
        raise DataError(f"{path} has no list of modules")
    parts = [_module_folder(path, module) for module in modules]
    return tuple(dict.fromkeys(["", *(part for part in parts if part is not None)]))


def _module_folder(path: Path, module: Any) -> str | None:
    """The folder of a module; None for a module without files whose folder is missing."""
    texts = ("name", "path", "type")
    if not isinstance(module, dict) or not all(isinstance(module.get(key), str) for key in texts):
        raise DataError(f"{path} has a module without name, path and type: {str(module)[:80]}")
    part: str = module["path"]
    root = path.parent
    if "\\" in part or "\0" in part or Path(part).is_absolute() or ".." in Path(part).parts:
        raise RefusedError(f"{path} has a module at {part!r}, outside of its folder")
    if not os.path.lexists(root / part) and module["type"].endswith(WITHOUT_FILES):
        return None  # archives and wheels have no empty folders
    if not os.path.isdir(root / part):  # noqa: PTH112 (Path.is_dir raises for a long name)
        raise DataError(f"{path} has a module at {part!r}, which is not a folder")
    if not (root / part).resolve().is_relative_to(root.resolve()):
        raise RefusedError(f"{path} has a module at {part!r}, a link outside of its folder")
    return part


def _check_transformer(path: Path, settings: Mapping[str, Any]) -> None:
    modalities = settings.get("modality_config")
    for value in modalities.values() if isinstance(modalities, dict) else ():
        # the method of the network that is called for a kind of input
        method = value.get("method", "forward") if isinstance(value, dict) else "forward"
        if not _METHOD.fullmatch(str(method)):
            raise RefusedError(f"{path} calls the method {method!r}", hint=TRUST)
    for key, value in settings.items():
        if key in _TRANSFORMER_KEYS:
            continue
        arguments = value if isinstance(value, dict) else {key: value}
        unknown = [name for name in arguments if name not in _TRANSFORMER_ARGUMENTS]
        if unknown or not key.endswith(("_args", "_kwargs")):
            name = unknown[0] if unknown else key
            raise RefusedError(f"{path} has the setting {name!r}", hint=TRUST)
