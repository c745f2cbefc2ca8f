"""`sidtool settings`: what commands take by `--set key=value`, with type, default and meaning.

Nothing is listed by hand here: everything is read from the code that uses a setting, its
annotations, defaults, and the text below a field or in the documentation of a library."""

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sidtool.base.errors import UsageError
from sidtool.base.extras import require
from sidtool.base.options import meanings
from sidtool.base.records import JsonRecord
from sidtool.model import DEFAULT_PRESET, Preset, preset_fields
from sidtool.tokenizer.quantize import METHODS, FusionOptions
from sidtool.training import DEFAULTS, MACHINE_DEFAULTS, TRAINING, Vocabulary, type_name
from sidtool.training.reinforcement import ALGORITHM_DEFAULTS, RL_DEFAULTS, RL_SETTINGS

Configurable = Literal["build-codebook", "init-model", "train", "rl"]
"""The commands with `--set`."""

AUTO = "auto"
"""The default of a setting that is chosen for the machine."""


@dataclass(frozen=True)
class Setting(JsonRecord):
    """One key of `--set`."""

    key: str
    type: str
    """annotation, or the choices separated by commas"""
    default: Any
    meaning: str
    """one or two sentences"""
    group: str
    """what the setting belongs to: a method, the fusion, a model type, sidtool or a configuration
    of TRL"""
    library_default: Any = None
    """default of the library, where sidtool's differs"""

    @property
    def spelled_default(self) -> str:
        """The default as `--set` takes it; empty for none."""
        if isinstance(self.default, bool):
            return str(self.default).lower()
        return "" if self.default is None else str(self.default)


def list_settings(command: Configurable, *, preset: Preset = DEFAULT_PRESET) -> list[Setting]:
    """The settings of a command, in the order of the code; `preset` is that of init-model.

    Raises MissingPackageError if the settings are those of a library that is not installed,
    UsageError for a command without settings.

    Examples:
        >>> defaults = {entry.key: entry.default for entry in sidtool.list_settings("train")}
        >>> defaults["optimizer"]
        'adamw'
    """
    if preset != DEFAULT_PRESET and command != "init-model":
        raise UsageError(f"a preset is one of init-model: the settings of {command} have none")
    if command == "build-codebook":
        methods = [
            Setting(name, _spell_type(entry.type), entry.default, entry.meaning, f"method {method}")
            for method, quantizer in METHODS.items()
            for name, entry in quantizer.options.items()
        ]
        return [*methods, *dataclass_settings(FusionOptions, "fusion of vectors")]
    if command == "init-model":
        return list(_model_settings(preset))
    if command == "train":
        return list(_training_settings(TRAINING, DEFAULTS))
    if command == "rl":
        return list(_training_settings(RL_SETTINGS, {**RL_DEFAULTS, **ALGORITHM_DEFAULTS["grpo"]}))
    raise UsageError(
        f"{command!r} has no settings", hint=f"commands are {', '.join(get_args(Configurable))}"
    )


def setting_keys(command: str) -> list[str]:
    """The keys of a command's settings that are known without loading a library, sorted; of the
    fields of libraries, those for which sidtool has its own default."""
    keys: set[str] = set()
    if command == "build-codebook":
        keys |= {name for method in METHODS.values() for name in method.options}
        keys |= {field.name for field in dataclasses.fields(FusionOptions)}
    elif command == "init-model":
        keys |= preset_fields(DEFAULT_PRESET).keys() - {"model_type"}
    elif command == "train":
        keys |= TRAINING.option_types.keys() | DEFAULTS.keys()
    elif command == "rl":
        keys |= RL_SETTINGS.option_types.keys() | RL_DEFAULTS.keys()
    return sorted(keys)


def dataclass_settings(kind: type, group: str) -> list[Setting]:
    """A setting per field of a dataclass, whose meaning is the docstring below the field."""
    return [
        Setting(
            field.name,
            _spell_type(field.type),
            field.default,
            meanings(kind).get(field.name, ""),
            group,
        )
        for field in dataclasses.fields(kind)
    ]


def _model_settings(preset: Preset) -> Iterator[Setting]:
    require("models")
    from transformers import AutoConfig

    fields = preset_fields(preset)
    model_type = fields["model_type"]
    config = AutoConfig.for_model(model_type)
    # the arguments in a docstring of transformers: name, type and meaning
    documented = r"^    (\w+) \(`([^`]+)`[^\n]*\):\n((?:        .*\n?|\s*\n)+)"
    text = inspect.cleandoc(type(config).__doc__ or "")
    for name, kind, meaning in re.findall(documented, text, flags=re.MULTILINE):
        # both follow from the tokenizer
        if name != "vocab_size" and not name.endswith("_token_id"):
            default = getattr(config, name, None)
            value = fields.get(name, default)
            differs = None if value == default else default
            group = f"{model_type} configuration"
            yield Setting(name, kind, value, first_sentence(meaning), group, differs)


def _training_settings(vocabulary: Vocabulary, defaults: Mapping[str, Any]) -> Iterator[Setting]:
    require("train")
    import trl

    yield from dataclass_settings(vocabulary.options, "sidtool")
    for field in dataclasses.fields(getattr(trl, vocabulary.config)):
        if not field.init or field.name in vocabulary.option_types:
            continue
        if vocabulary.refusal(field.name) is not None:
            continue
        if field.default_factory is not dataclasses.MISSING:
            library_default = field.default_factory()
        else:
            library_default = getattr(field.default, "value", field.default)  # of an enumeration
        default = defaults.get(field.name, library_default)
        if field.name in MACHINE_DEFAULTS:
            default = AUTO
        yield Setting(
            field.name,
            _spell_type(field.type),
            default,
            first_sentence(field.metadata.get("help", "")),
            vocabulary.config,
            None if default == library_default else library_default,
        )


def _spell_type(annotation: Any) -> str:
    choices = get_args(annotation)
    if choices and all(isinstance(choice, str) for choice in choices):
        return ", ".join(choices)
    # without the modules of classes
    name = re.sub(r"\b(?:\w+\.)+(?=\w)", "", type_name(annotation))
    return name.replace(" | None", " or none")


def first_sentence(text: str) -> str:
    """The first sentence of a text, on one line."""
    line = " ".join(str(text).split())
    end = re.search(r"(?<!e\.g)(?<!i\.e)\.(?=\s+[A-Z`])", line)
    return line[: end.end()] if end else line
