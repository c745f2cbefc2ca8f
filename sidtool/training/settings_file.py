"""Reads training settings from a YAML file and from `key=value` pairs, and checks their types."""

import dataclasses
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from sidtool.documents import parse_yaml
from sidtool.errors import DataError, UsageError
from sidtool.training.settings import DECIDED, StageSettings, TrainOptions

_YAML_TYPES: Mapping[str, tuple[type, ...]] = {
    "int": (int,),
    "bool": (bool,),
    "str": (str,),
    "float": (int, float),
}


_COUNTS = ("per_device_train_batch_size", "gradient_accumulation_steps")
"""Fields of SFTConfig that divide by zero when they are 0."""


def read_stages(
    config: Path | None, pairs: Sequence[str] = (), stage: str | None = None
) -> list[StageSettings]:
    """The stages that the file lists under `stages`; without that list one stage, named `stage`.

    Settings outside the list apply to every stage. A stage's own settings override them, and
    `pairs` override both. Raises UsageError for an unknown key or a value of the wrong type,
    DataError for an unreadable file."""
    shared = _read_yaml(config) if config else {}
    listed = shared.pop("stages", None)
    overrides = _parse_pairs(pairs)
    if stage:
        overrides["stage"] = stage
    if listed is None:
        return [_stage_settings(shared | overrides)]
    if not isinstance(listed, list) or not listed:
        raise _stages_error(listed)
    if not all(isinstance(entry, dict) for entry in listed):
        raise _stages_error(listed)
    if "stage" in overrides or "stage" in shared:
        raise UsageError("stage cannot be set for a configuration that lists stages")
    stages = []
    for entry in listed:
        settings = {key: value for key, value in entry.items() if key != "examples"}
        stages.append(_stage_settings(shared | settings | overrides, entry.get("examples")))
    return stages


def typed_sft_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of SFTConfig with numbers given as text converted; `bf16` may also be "auto".

    Raises UsageError for an unknown field, a wrong type, and a field that sidtool decides."""
    if not fields:
        return {}
    types = sft_field_types()
    typed = {}
    for key, value in fields.items():
        if key in _option_types():
            raise UsageError(f"{key} belongs to TrainOptions")
        if key in DECIDED:
            raise UsageError(f"{key} cannot be set", hint=DECIDED[key])
        if key not in types:
            names = [*types, *_option_types()]
            close = get_close_matches(key, names, n=1)
            hint = f"did you mean {close[0]}?" if close else "docs/settings.md lists all settings"
            raise UsageError(f"no setting {key!r}", hint=hint)
        if key.endswith("_strategy") and value is False:
            value = "no"  # YAML reads an unquoted no as false
        if key in _COUNTS and type(value) is int and value < 1:
            raise UsageError(f"{key} must be at least 1, not {value}")
        is_auto = key == "bf16" and value == "auto"
        typed[key] = value if is_auto else _typed(key, value, types[key])
    return typed


def sft_field_types() -> dict[str, str]:
    """The type of every field of SFTConfig, as text."""
    from trl import SFTConfig

    fields = dataclasses.fields(SFTConfig)
    return {field.name: type_name(field.type) for field in fields if field.init}


def type_name(annotation: Any) -> str:
    """An annotation as text: `float | None`, `int`."""
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _option_types() -> dict[str, str]:
    return {field.name: type_name(field.type) for field in dataclasses.fields(TrainOptions)}


def _stage_settings(settings: Mapping[str, Any], examples: str | None = None) -> StageSettings:
    types = _option_types()
    options = {}
    fields = {}
    for key, value in settings.items():
        if key in types:
            options[key] = _typed(key, value, types[key])
        else:
            fields[key] = value
    path = Path(examples) if examples else None
    return StageSettings(TrainOptions(**options), typed_sft_fields(fields), path)


def _typed(key: str, value: Any, annotation: str) -> Any:
    """The value in the type of its field: YAML reads 2e-3 as text and 1 as an integer.

    A text for a field that also takes text stays text."""
    if isinstance(value, str) and "float" in annotation:
        try:
            return float(value)
        except ValueError as error:
            if "str" not in annotation and "Literal" not in annotation:
                raise UsageError(f"{key} must be a number, not {value!r}") from error
    expected = annotation.removesuffix(" | None")
    optional = expected != annotation
    if optional and value is None:
        return None
    types = _YAML_TYPES.get(expected)
    # `type` and not isinstance: a bool is an int for Python
    if types and type(value) not in types:
        raise UsageError(f"{key} must be {expected}, not {value!r}")
    return float(value) if expected == "float" else value


def _parse_pairs(pairs: Sequence[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--set takes key=value, not {pair!r}")
        try:
            settings[key.strip()] = parse_yaml(value)
        except ValueError as error:
            raise UsageError(f"--set {key}: {value!r} is not a YAML value") from error
    return settings


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        value = parse_yaml(path.read_text(encoding="utf-8-sig")) or {}
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read configuration {path}: {error}") from error
    if not isinstance(value, dict):
        raise UsageError(f"configuration {path} must be a mapping of settings")
    return value


def _stages_error(listed: Any) -> UsageError:
    example = "{stage: embeddings, learning_rate: 0.01}"
    return UsageError(f"stages must be a list of mappings like {example}, not {listed!r}")
