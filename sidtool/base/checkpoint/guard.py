"""The one place where foreign libraries load a checkpoint: without network, with sizes bounded by
what is stored, and with every failure as one line."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sidtool.base.checkpoint.files import (
    CONFIG,
    EMBEDDED,
    INDEX,
    TRUST,
    WEIGHTS,
    StoredWeights,
    read_object,
)
from sidtool.base.checkpoint.hub import offline
from sidtool.base.errors import DataError, RefusedError, SidtoolError

REGISTRATIONS = 3
"""How often a layer may register a stored weight: without memory, loaded, and tied."""
SPARE_WEIGHTS = 1 << 24
"""Numbers that a model may have beyond its files, like masks and tables of positions."""
SPARE_PARAMETERS = 10_000
MAX_SETTING = 1 << 40
"""Largest integer of a configuration."""
MAX_LABELS = 1 << 16
_COUNTS = ("layer", "block_count", "depth", "attention_types")
"""Words in the keys of numbers by which a configuration makes lists of layers."""


@contextmanager
def loading(
    path: object, purpose: str = "as a model", stored: StoredWeights | None = None
) -> Iterator[None]:
    """Load what is at `path` in this block: offline, and any failure is one line.

    With `stored`, no layer may be larger than the stored weights. Raises RefusedError if the
    checkpoint needs its own code, DataError for anything else."""
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


def first_line(error: BaseException) -> str:
    """What an error says, on one line without control characters."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    text = next((line for line in lines if line), type(error).__name__)
    if isinstance(error, KeyError):
        text = f"there is no {text}"
    if isinstance(error, MemoryError | RecursionError):
        text = "it is too large or too deeply nested"
    return "".join(character if character.isprintable() else " " for character in text)[:300]


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
    for key, value in _numbers(settings):
        limit = MAX_SETTING
        if any(word in key for word in _COUNTS):
            limit = max(stored.tensors, 64)
        elif "label" in key:
            limit = MAX_LABELS
        if abs(value) > limit:
            raise DataError(f"{path} has {key} = {value:.6g}, the limit for its weights is {limit}")
    for key, text in _texts(settings):
        if "attn_implementation" in key and "/" in text:
            raise RefusedError(f"{path} names the hub kernel {text!r}", hint=TRUST)
        # an index of such a name is not checked, and may lead out of the folder
        if key == "transformers_weights" and text not in (WEIGHTS, INDEX):
            raise RefusedError(f"{path} names the weights {text!r}, not {WEIGHTS}", hint=TRUST)


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, int]]:
    """The integers of a JSON value, each by the nearest key."""
    for name, member in _walk(value, key):
        if isinstance(member, int) and not isinstance(member, bool):
            yield name, member


def _texts(value: Any) -> Iterator[tuple[str, str]]:
    for name, member in _walk(value, ""):
        if isinstance(member, str):
            yield name, member


def _walk(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, member in value.items():
            yield from _walk(member, str(name))
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
