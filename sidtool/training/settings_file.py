"""Reads training settings from a YAML file and from `key=value` pairs, and checks their types."""

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sidtool.base.documents import parse_yaml, read_document
from sidtool.base.errors import DataError, UsageError
from sidtool.base.extras import require
from sidtool.base.options import MAX_TRAINING_SEED, assignments
from sidtool.training.settings import DECIDED, SETTABLE, StageSettings, TrainOptions

_YAML_TYPES: Mapping[str, tuple[type, ...]] = {
    "int": (int,),
    "bool": (bool,),
    "str": (str,),
    "float": (int, float),
}

_RANGES: Mapping[str, tuple[int, float]] = {
    "per_device_train_batch_size": (1, math.inf),
    "gradient_accumulation_steps": (1, math.inf),
    "num_iterations": (1, math.inf),
    "steps_per_generation": (1, math.inf),
    "learning_rate": (0, math.inf),
    "weight_decay": (0, math.inf),
    "max_grad_norm": (0, math.inf),
    "adam_beta1": (0, 1),
    "adam_beta2": (0, 1),
    "adam_epsilon": (0, math.inf),
    "label_smoothing_factor": (0, 1),
    "dataloader_num_workers": (0, math.inf),
    "seed": (0, 1 + MAX_TRAINING_SEED),
    "data_seed": (0, math.inf),
}
"""The smallest value of fields that the trainers of TRL do not check, or check too late, and what
is above the largest."""


def read_stages(config: Path | None, pairs: Sequence[str] = ()) -> list[StageSettings]:
    """The stages that the file lists under `stages`; without that list one stage.

    Settings outside the list apply to every stage. A stage's own settings override them, and
    `pairs` override both. Raises UsageError for an unknown key or a value of the wrong type,
    DataError for an unreadable file."""
    defaults = _read_yaml(config) if config else {}
    entries = defaults.pop("stages", None)
    overrides = assignments(list(pairs))
    if entries is None:
        return [_stage_settings(defaults | overrides)]
    is_list = isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)
    if not is_list or not entries:
        example = "{stage: embeddings, learning_rate: 0.01}"
        raise UsageError(f"stages must be a list of mappings like {example}, not {entries!r}")
    if "stage" in overrides or "stage" in defaults:
        raise UsageError("stage cannot be set for a configuration that lists stages")
    stages = []
    for entry in entries:
        settings = {key: value for key, value in entry.items() if key != "examples"}
        stages.append(_stage_settings(defaults | settings | overrides, entry.get("examples")))
    return stages


@dataclass(frozen=True)
class Vocabulary:
    """The names of the settings of a command: sidtool's own, and the fields of a configuration of
    TRL."""

    command: str
    options: type[Any]
    """the dataclass of sidtool's own settings"""
    config: str
    """name of the configuration class of TRL"""
    decided: Mapping[str, str]
    """fields of the configuration that sidtool decides, and what to do instead of setting them"""
    settable: frozenset[str]
    """of the fields that the configuration adds to TrainingArguments, those that can be set"""

    @property
    def option_types(self) -> dict[str, str]:
        """The type of each of sidtool's own settings, as text."""
        return {field.name: type_name(field.type) for field in dataclasses.fields(self.options)}

    @property
    def field_types(self) -> dict[str, str]:
        """The type of every field of the configuration, as text."""
        require("train")
        import trl

        fields = dataclasses.fields(getattr(trl, self.config))
        return {field.name: type_name(field.type) for field in fields if field.init}

    def refusal(self, key: str) -> str | None:
        """What to do instead of setting a field of the configuration; None if it can be set."""
        if key in self.decided or key in self.settable:
            return self.decided.get(key)
        from transformers import TrainingArguments

        names = {field.name for field in dataclasses.fields(TrainingArguments)}
        return None if key in names else f"sidtool has no use for this field of {self.config}"


TRAINING = Vocabulary("train", TrainOptions, "SFTConfig", DECIDED, SETTABLE)


def read_settings(
    vocabulary: Vocabulary, config: Path | None, pairs: Sequence[str]
) -> tuple[Any, dict[str, Any]]:
    """sidtool's own settings and the fields of the configuration, from a file and from `key=value`
    pairs, which override it.

    Raises UsageError for an unknown key or a value of the wrong type, DataError for an unreadable
    file."""
    settings = _read_yaml(config) if config else {}
    return _options_and_fields(vocabulary, settings | assignments(list(pairs)))


def typed_fields(vocabulary: Vocabulary, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the configuration with numbers given as text converted; `bf16` may also be "auto",
    and `fsdp` true.

    Raises UsageError for an unknown field, a wrong type, and a field that sidtool decides."""
    if not fields:
        return {}
    types = vocabulary.field_types
    option_types = vocabulary.option_types
    typed = {}
    for key, value in fields.items():
        if key in option_types:
            raise UsageError(f"{key} belongs to {vocabulary.options.__name__}")
        if key not in types:
            names = [*types, *option_types]
            close = get_close_matches(str(key), names, n=1)  # a key of YAML may be a number
            all_settings = f"`sidtool settings {vocabulary.command}` lists all settings"
            hint = f"did you mean {close[0]}?" if close else all_settings
            raise UsageError(f"no setting {key!r}", hint=hint)
        if (instead := vocabulary.refusal(key)) is not None:
            raise UsageError(f"{key} cannot be set", hint=instead)
        if key.endswith("_strategy") and value is False:
            value = "no"  # YAML reads an unquoted no as false
        if key == "report_to":
            _check_report_to(value)
        # what transformers takes beside the annotated type
        is_special = (key, value) in (("bf16", "auto"), ("fsdp", True))
        typed[key] = value if is_special else _typed(key, value, types[key])
        _check_range(key, typed[key])
    return typed


def _check_range(key: str, value: Any) -> None:
    if key == "num_train_epochs" and value <= 0:
        raise UsageError(
            f"num_train_epochs must be above 0, not {value:g}: nothing would be trained"
        )
    if key == "max_steps" and value < 1 and value != -1:
        raise UsageError(
            f"max_steps must be at least 1, not {value}",
            hint="-1 is the default: num_train_epochs decides",
        )
    smallest, above = _RANGES.get(key, (-math.inf, math.inf))
    if isinstance(value, int | float) and not smallest <= value < above:
        less = "" if above == math.inf else f" and less than {above}"
        raise UsageError(f"{key} must be at least {smallest}{less}, not {value}")


def _check_report_to(value: Any) -> None:
    """Raise UsageError for no tracker, MissingPackageError for an extra that is not installed."""
    from transformers.integrations import INTEGRATION_TO_CALLBACK

    for name in value if isinstance(value, list) else [value]:
        if name not in (*INTEGRATION_TO_CALLBACK, "none", "all"):
            raise UsageError(
                f"report_to cannot be {name!r}",
                hint=f"trackers are {', '.join(INTEGRATION_TO_CALLBACK)}",
            )
        if name in ("tensorboard", "wandb"):
            require(name)


def type_name(annotation: Any) -> str:
    """An annotation as text: `float | None`, `int`."""
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _stage_settings(settings: Mapping[str, Any], examples: str | None = None) -> StageSettings:
    if examples is not None and (not isinstance(examples, str) or not examples):
        raise UsageError(f"examples must be a path, not {examples!r}")
    options, fields = _options_and_fields(TRAINING, settings)
    return StageSettings(options, fields, None if examples is None else Path(examples))


def _options_and_fields(
    vocabulary: Vocabulary, settings: Mapping[str, Any]
) -> tuple[Any, dict[str, Any]]:
    types = vocabulary.option_types
    options = {}
    fields = {}
    for key, value in settings.items():
        if key in types:
            options[key] = _typed(key, value, types[key])
        else:
            fields[key] = value
    return vocabulary.options(**options), typed_fields(vocabulary, fields)


def _typed(key: str, value: Any, annotation: str) -> Any:
    """The value in the type of its field: YAML reads 2e-3 as text and 1 as an integer."""
    if isinstance(value, str) and "float" in annotation:
        try:
            value = float(value)
        except ValueError as error:
            if "str" not in annotation and "Literal" not in annotation:  # else it stays text
                raise UsageError(f"{key} must be a number, not {value!r}") from error
    expected = annotation.removesuffix(" | None")
    if value is None and expected != annotation:
        return None
    types = _YAML_TYPES.get(expected)
    # `type` and not isinstance: a bool is an int for Python
    if types and type(value) not in types:
        raise UsageError(f"{key} must be {expected}, not {value!r}")
    if expected != "float":
        return value
    if not abs(value) <= sys.float_info.max:  # infinity, NaN, or an int beyond all floats
        raise UsageError(f"{key} must be a finite number, not {value!r:.40}")
    return float(value)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        value = parse_yaml(read_document(path).decode("utf-8-sig")) or {}
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read configuration {path}: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"configuration {path} must be a mapping of settings")
    return value
