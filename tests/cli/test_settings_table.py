import dataclasses
import json

import pytest
import trl

from sidtool.base.errors import UsageError
from sidtool.cli.settings_table import (
    Setting,
    dataclass_settings,
    first_sentence,
    list_settings,
    setting_keys,
)
from sidtool.model.presets import model_shape
from sidtool.tokenizer.quantize.fusion import FusionOptions
from sidtool.tokenizer.quantize.methods import METHODS
from sidtool.training.settings import DEFAULTS, TrainOptions
from sidtool.training.settings_file import TRAINING, read_stages
from tests.cli.road import done


@dataclasses.dataclass
class Options:
    """Two settings."""

    rate: float = 0.5
    """How fast. The second sentence
    is part of it."""
    name: str | None = None


def test_a_dataclass_lists_its_fields_with_the_text_below_them() -> None:
    assert dataclass_settings(Options, "own") == [
        Setting("rate", "float", 0.5, "How fast. The second sentence is part of it.", "own"),
        Setting("name", "str or none", None, "", "own"),
    ]


def test_every_key_of_train_is_listed_and_every_listed_key_is_taken() -> None:
    listed = {setting.key: setting for setting in list_settings("train")}
    fields = {field.name for field in dataclasses.fields(trl.SFTConfig) if field.init}
    ours = {field.name for field in dataclasses.fields(TrainOptions)}
    assert listed.keys() == ours | {name for name in fields if TRAINING.refusal(name) is None}
    assert all(setting.meaning for setting in listed.values())
    rate = listed["learning_rate"]
    assert (rate.default, rate.library_default) == (1e-3, 2e-5)
    assert listed["bf16"].default == "auto"
    for key in DEFAULTS:
        (stage,) = read_stages(None, [f"{key}={listed[key].spelled_default}"])
        assert {**stage.sft_fields}[key] == DEFAULTS[key]


def test_every_key_of_build_codebook_is_listed_with_a_meaning() -> None:
    listed = list_settings("build-codebook")
    options = {name: method.options for name, method in METHODS.items()}
    methods = {(f"method {name}", key) for name, keys in options.items() for key in keys}
    fusion = {("fusion of vectors", field.name) for field in dataclasses.fields(FusionOptions)}
    assert {(setting.group, setting.key) for setting in listed} == methods | fusion
    assert all(setting.meaning for setting in listed)


@pytest.mark.parametrize("preset", ["gpt2-mini", "neox-tiny", "llama-tiny"])
def test_every_listed_key_of_init_model_can_be_set(preset: str) -> None:
    listed = list_settings("init-model", preset=preset)  # type: ignore[arg-type]
    assert len(listed) > 10
    assert all(setting.meaning for setting in listed)
    assert model_shape(preset, {setting.key: setting.default for setting in listed}, 512)  # type: ignore[arg-type]


def test_only_init_model_has_presets() -> None:
    with pytest.raises(UsageError, match="the settings of train have none"):
        list_settings("train", preset="t5-tiger")


@pytest.mark.parametrize("command", ["build-codebook", "init-model", "train", "rl"])
def test_the_keys_that_are_completed_are_listed(command: str) -> None:
    listed = {setting.key for setting in list_settings(command)}  # type: ignore[arg-type]
    keys = set(setting_keys(command))
    assert len(keys) > 5
    # the ids of the special tokens follow from the tokenizer
    assert {key for key in keys if not key.endswith("_token_id")} <= listed


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("One. Two.", "One."),
        ("For example, e.g. GPT-2 or\n  another. Two", "For example, e.g. GPT-2 or another."),
        ("Version 1.5 only", "Version 1.5 only"),
        ("", ""),
    ],
)
def test_the_first_sentence(text: str, sentence: str) -> None:
    assert first_sentence(text) == sentence


def test_the_command_prints_a_table_per_group_or_json_lines() -> None:
    text = done("settings", "build-codebook").out
    assert "method rq-vae\n" in text
    assert "Width of the latent vectors" in text
    lines = done("settings", "build-codebook", "--json").lines
    listed = [setting.to_json() for setting in list_settings("build-codebook")]
    assert lines == json.loads(json.dumps(listed))
    with pytest.raises(UsageError, match="'recommend' has no settings"):
        list_settings("recommend")  # type: ignore[arg-type]
