"""Which modules of a sentence-transformers model may load without running code that it brings.

The library imports classes by the names in modules.json and in the modules' configurations, so
these are checked before it reads them."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidtool.base.checkpoint.files import (
    TRUST,
    StoredWeights,
    check_folder,
    read_json,
    read_object,
)
from sidtool.base.checkpoint.guard import check_config, check_settings
from sidtool.base.errors import DataError, RefusedError

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
    """Check the files and modules of a sentence-transformers model or a plain encoder.

    Returns what its weight files have. Raises RefusedError for a module that may run code or reads
    outside of the folder, DataError for damaged files."""
    parts = module_folders(folder)
    if not trust_remote_code:
        _check_types(folder)
    stored = check_folder(folder, parts, trust_remote_code=trust_remote_code)
    if trust_remote_code:
        return stored
    for part in parts:
        _check_part(folder / part, stored)
    return stored


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


def _check_types(folder: Path) -> None:
    path = folder / MODULES
    for module in read_json(path) if path.is_file() else []:
        if not _TYPE.fullmatch(module["type"]):
            raise RefusedError(f"{path} has the module {module['type']!r}", hint=TRUST)


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


def _check_part(folder: Path, stored: StoredWeights) -> None:
    """Check the configurations of one module."""
    if (folder / "adapter_config.json").exists():
        raise RefusedError(
            f"{folder} has a PEFT adapter, whose base may be anywhere",
            hint="merge it into its base first",
        )
    check_config(folder, stored)
    config = folder / "config.json"
    if config.is_file():
        _check_activation(config, read_object(config))
    for path in sorted(folder.glob("sentence_*_config.json")):
        settings = read_object(path)
        check_settings(path, settings, stored)
        _check_transformer(path, settings)


def _check_activation(path: Path, config: Mapping[str, Any]) -> None:
    # a Dense module names its activation by an import path, a Transformer by a word
    for key in ("activation_function", "tokenizer_class"):
        value = config.get(key, "")
        if isinstance(value, str) and "." in value and not _ACTIVATION.fullmatch(value):
            raise RefusedError(f"{path} has {key} {value!r}", hint=TRUST)


def _methods(modalities: Mapping[str, Any]) -> list[Any]:
    """The methods of the network that are called for a kind of input."""
    return [
        value["method"]
        for value in modalities.values()
        if isinstance(value, dict) and "method" in value
    ]


def _check_transformer(path: Path, settings: Mapping[str, Any]) -> None:
    modalities = settings.get("modality_config")
    for method in _methods(modalities if isinstance(modalities, dict) else {}):
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
