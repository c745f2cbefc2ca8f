"""The adapters of a model folder in PEFT's format, which are merged into its base."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sidtool.base.checkpoint import (
    ADAPTER,
    check_finite,
    check_folder,
    loading,
    read_object,
    read_weights,
)
from sidtool.base.errors import CompatibilityError, DataError
from sidtool.model.network.structure import is_encoder_decoder

# PEFT's names of the files and of their parameters
ADAPTER_CONFIG = "adapter_config.json"
PREFIX = "base_model.model."
TOKEN_ADAPTER = ".token_adapter.trainable_tokens_delta"


MAX_RANK = 1 << 16
_READ = ("r", "lora_alpha", "target_modules", "trainable_token_indices")
# they do not change what a merged adapter computes
_NOT_READ = (
    "base_model_name_or_path",
    "fan_in_fan_out",  # PEFT sets it again, by the kind of layer
    "inference_mode",
    "lora_dropout",
    "peft_type",
    "peft_version",
    "revision",
    "task_type",
)


def merge_adapter(model: Any, folder: Path, added_ids: range, digests: Mapping[str, str]) -> Any:
    """The float32 model with the adapters of a folder merged into its weights. Raises DataError for
    damaged adapters, IntegrityError unless their file is that of `digests`, SHA-256 (hex) by name.

    PEFT's own loader is not used: it asks the hub for files that are missing in the folder."""
    import torch
    from peft import get_peft_model, set_peft_model_state_dict

    stored = check_folder(folder)
    path = folder / ADAPTER
    config = read_lora_config(folder, added_ids, peft_task(model))
    rows = {f"{PREFIX}{name}{TOKEN_ADAPTER}" for name in config.trainable_token_indices}
    with _stating_tied_head(model), loading(folder, "as an adapter of its base", stored):
        weights = read_weights(path, digests.get(ADAPTER))
        missing = rows - weights.keys()
        with torch.random.fork_rng(devices=[]):  # it draws the first adapters
            adapted = get_peft_model(model, config)
        result = set_peft_model_state_dict(adapted, weights)
    # PEFT also misses base weights, and the rows of a head that is tied to the embeddings
    missing |= {name for name in result.missing_keys if ".lora_" in name}
    for problem, names in (("lacks", missing), ("has unknown", result.unexpected_keys)):
        if names:
            raise DataError(f"{path} {problem} weights: {', '.join(sorted(names)[:3])}")
    with _stating_tied_head(model):
        merged = adapted.merge_and_unload()
    check_finite(merged, folder)
    return merged.requires_grad_(True)  # PEFT froze what it merged into


@contextmanager
def _stating_tied_head(model: Any) -> Iterator[None]:
    """The configuration says whether the head is tied, for PEFT: that of a T5 always says so."""
    if not is_encoder_decoder(model):
        yield
        return
    stated = model.config.tie_word_embeddings
    head = model.get_output_embeddings()
    model.config.tie_word_embeddings = head.weight is model.get_input_embeddings().weight
    try:
        yield
    finally:
        model.config.tie_word_embeddings = stated


def peft_task(model: Any) -> str:
    """PEFT's name of what a model does."""
    return "SEQ_2_SEQ_LM" if is_encoder_decoder(model) else "CAUSAL_LM"


def read_lora_config(folder: Path, added_ids: range, task: str) -> Any:
    """The LoraConfig of a folder that `Lora.save` wrote, with the embedding rows of `added_ids`,
    for a model that does `task` (`peft_task`).

    Raises DataError for a setting that `Lora` does not make: some of PEFT's import modules, fetch
    files or allocate memory. CompatibilityError if the adapter has the rows of other tokens."""
    from peft import LoraConfig

    path = folder / ADAPTER_CONFIG
    settings = read_object(path)
    defaults = {field.name: field.default for field in dataclasses.fields(LoraConfig)}
    for key, value in settings.items():
        # an empty value is a setting's default in any version of PEFT
        if key not in (*_READ, *_NOT_READ) and value and value != defaults.get(key):
            raise DataError(f"{path} has {key} = {value!r:.80}, which sidtool does not support")
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    targets = settings.get("target_modules")
    rows = settings.get("trainable_token_indices")  # name of a layer -> token ids
    if type(rank) is not int or not 0 < rank <= MAX_RANK or type(alpha) not in (int, float):
        raise DataError(f"{path} has r = {rank!r:.80} and lora_alpha = {alpha!r:.80}")
    if not isinstance(targets, list) or not all(isinstance(name, str) for name in targets):
        raise DataError(f"{path} has target_modules = {targets!r:.80}, not a list of names")
    if settings.get("peft_type") != "LORA" or not isinstance(rows, dict) or not rows:
        raise DataError(f"{path} is not a LoRA adapter with the rows of SID tokens")
    if any(ids != list(added_ids) for ids in rows.values()):
        raise CompatibilityError(
            f"{path} has the rows of other tokens than {added_ids.start} to {added_ids.stop - 1}"
        )
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=targets,
        trainable_token_indices=rows,
        task_type=task,
        inference_mode=True,
    )
