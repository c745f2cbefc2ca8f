import dataclasses
from typing import Any

import pytest
from transformers import TrainingArguments
from trl import GRPOConfig

from sidtool.base.errors import UsageError
from sidtool.training import read_settings
from sidtool.training.reinforcement import ALGORITHM_DEFAULTS, RL_DEFAULTS, RL_SETTINGS, RlOptions
from sidtool.training.reinforcement.rl_run import complete_fields
from sidtool.training.reinforcement.settings import CHOICES, DECIDED, SETTABLE
from sidtool.training.settings_file import typed_fields

FIELDS = {field.name for field in dataclasses.fields(GRPOConfig)}


def test_all_named_fields_exist() -> None:
    algorithm_fields = {name for fields in ALGORITHM_DEFAULTS.values() for name in fields}
    assert {*DECIDED, *RL_DEFAULTS, *CHOICES, *algorithm_fields, *SETTABLE} <= FIELDS
    assert not {*DECIDED} & {*RL_DEFAULTS, *CHOICES, *SETTABLE}


@pytest.mark.parametrize(
    "pair", ["loss_type=dr_grpo", "beta=0", "scale_rewards=none", "entropy_coef=0.01", "delta=2.0"]
)
def test_fields_of_grpo_config_can_be_set(pair: str) -> None:
    name = pair.partition("=")[0]
    options, fields = read_settings(RL_SETTINGS, None, [pair])
    assert options == RlOptions()
    assert list(fields) == [name]
    assert name in complete_fields(options, fields)


@pytest.mark.parametrize("name", ["scale_rewards", "entropy_coef", "sapo_temperature_neg"])
def test_fields_of_policy_gradients_are_refused_with_preferences(name: str) -> None:
    default = getattr(GRPOConfig, name)
    with pytest.raises(UsageError, match=f"{name} has no effect with algorithm=ipa"):
        complete_fields(RlOptions(algorithm="ipa"), {name: default})


def test_an_algorithm_sets_fields_that_can_be_overridden() -> None:
    gspo = complete_fields(RlOptions(algorithm="gspo"), {})
    assert (gspo["loss_type"], gspo["epsilon_high"], gspo["beta"]) == ("grpo", 4e-4, 0.04)
    changed = complete_fields(RlOptions(algorithm="gspo"), {"epsilon_high": 0.4})
    assert changed["epsilon_high"] == 0.4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"algorithm": "ppo"}, "algorithm must be one of grpo, gspo, ecpo, ipa, not 'ppo'"),
        ({"sft_weight": -0.1}, "sft_weight must be at least 0, not -0.1"),
        ({"eval_num_beams": 0}, "eval_num_beams must be at least 1, not 0"),
        ({"metric_for_best_model": "mrr@5"}, "must be hr@K or ndcg@K, not 'mrr@5'"),
        ({"candidate_lists": 4}, "candidate_lists has no effect with algorithm=grpo"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as error:
        RlOptions(**options)
    assert message in str(error.value)


def test_an_unknown_setting_has_the_command_that_lists_all() -> None:
    with pytest.raises(UsageError) as error:
        typed_fields(RL_SETTINGS, {"zzz": 1})
    assert error.value.shell_hint == "`sidtool settings rl` lists all settings"


def test_fields_that_cannot_be_set_say_why() -> None:
    """A field that a later TRL adds to its own is refused, too."""
    inherited = {field.name for field in dataclasses.fields(TrainingArguments)}
    refused = {*DECIDED, *(FIELDS - inherited - SETTABLE)}
    assert {name for name in FIELDS if "vllm" in name} <= refused
    # those that the sampler and the loss of groups do not read
    assert {"data_seed", "label_smoothing_factor", "train_sampling_strategy"} <= refused
    for name in refused:
        with pytest.raises(UsageError, match=f"{name} cannot be set") as error:
            typed_fields(RL_SETTINGS, {name: 1})
        assert error.value.shell_hint
