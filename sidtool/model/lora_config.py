"""The adapter_config.json of a model with LoRA adapters, as PEFT stores it."""

import dataclasses
from pathlib import Path
from typing import Any

from sidtool.base.checkpoint import read_object
from sidtool.base.errors import CompatibilityError, DataError
from sidtool.model.structure import is_encoder_decoder

# PEFT's names of the files and of their parameters
CONFIG = "adapter_config.json"
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


def peft_task(model: Any) -> str:
    """PEFT's name of what a model does."""
    return "SEQ_2_SEQ_LM" if is_encoder_decoder(model) else "CAUSAL_LM"


def read_lora_config(folder: Path, added: range, task: str) -> Any:
    """The LoraConfig of a folder that `Lora.save` wrote, for a model that does `task`.

    Raises DataError for a setting that `Lora` does not make: some of PEFT's import modules, fetch
    files or allocate memory. CompatibilityError if the adapter has the rows of other tokens."""
    from peft import LoraConfig

    path = folder / CONFIG
    settings = read_object(path)
    defaults = {field.name: field.default for field in dataclasses.fields(LoraConfig)}
    for key, value in settings.items():
        # an empty value is a setting's default in any version of PEFT
        if key not in (*_READ, *_NOT_READ) and value and value != defaults.get(key):
            raise DataError(f"{path} has {key} = {value!r:.80}, which sidtool does not support")
    rank, alpha, targets, rows = (settings.get(key) for key in _READ)
    if type(rank) is not int or not 0 < rank <= MAX_RANK or type(alpha) not in (int, float):
        raise DataError(f"{path} has r = {rank!r:.80} and lora_alpha = {alpha!r:.80}")
    if not isinstance(targets, list) or not all(isinstance(name, str) for name in targets):
        raise DataError(f"{path} has target_modules = {targets!r:.80}, not a list of names")
    if settings.get("peft_type") != "LORA" or not isinstance(rows, dict) or not rows:
        raise DataError(f"{path} is not a LoRA adapter with the rows of SID tokens")
    if any(ids != list(added) for ids in rows.values()):
        raise CompatibilityError(
            f"{path} has the rows of other tokens than {added.start} to {added.stop - 1}"
        )
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        target_modules=targets,
        trainable_token_indices=rows,
        task_type=task,
        inference_mode=True,
    )
