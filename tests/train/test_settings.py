"""Settings: typed, and an unknown one is an error."""

from pathlib import Path

import pytest

from sidtool.errors import DataError, UsageError
from sidtool.train.arguments import sft_config
from sidtool.train.settings import DEFAULTS, OWNED, TrainOptions, read_settings, typed_fields


def test_pairs_win_over_the_file_and_are_typed(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("learning_rate: 1e-3\nema: 0.99\nnum_train_epochs: 2\noptim_args: a=1\n")
    options, fields = read_settings(
        config, ["learning_rate=2e-3", "valid_users=7", "gradient_checkpointing=true"]
    )
    assert options == TrainOptions(ema=0.99, valid_users=7)
    assert fields == {
        "learning_rate": 0.002,
        "num_train_epochs": 2.0,
        "optim_args": "a=1",
        "gradient_checkpointing": True,
    }


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("learning_rat=1", "no setting 'learning_rat'"),
        ("learning_rate=fast", "is a number"),
        ("valid_users=many", "valid_users is int"),
        ("valid_users=0.5", "valid_users is int"),
        ("valid_users=-1", "valid_users is at least 0"),
        ("token_budget=0", "token_budget is at least 1"),
        ("dropout=7", "dropout is a rate"),
        ("metric=10", "metric is str"),
        ("lora_targets=[q_proj, v_proj]", "lora_targets is str"),
        ("crop=null", "crop is float"),
        ("save_only_model=true", "not to be set"),
        ("gradient_checkpointing=1", "is bool"),
        ("bf16=fast", "is bool"),
        ("max_length=3", "not to be set"),
        ("loss_over=nothing", "loss_over is one of"),
        ("metric=mrr@5", "metric is hr@K"),
        ("ema=1.5", "ema is a decay"),
        ("drop_items=1.5", "drop_items is a chance"),
        ("nonsense", "key=value"),
    ],
)
def test_what_makes_no_sense_is_refused(pair: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_settings(None, [pair])


def test_unreadable_files_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        read_settings(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(UsageError):
        read_settings(tmp_path / "list.yaml")


def test_every_name_that_we_use_is_a_field() -> None:
    import dataclasses

    from trl import SFTConfig

    known = {field.name for field in dataclasses.fields(SFTConfig)}
    assert set(DEFAULTS) <= known
    assert set(OWNED) <= known
    assert not known & {field.name for field in dataclasses.fields(TrainOptions)}
    assert typed_fields(DEFAULTS)["learning_rate"] == DEFAULTS["learning_rate"]


@pytest.mark.parametrize(
    ("capabilities", "used"),
    [({"avx2": True}, False), ({"avx2": True, "avx512_bf16": True}, True), ({"bf16": True}, True)],
)
def test_bf16_is_used_where_the_processor_multiplies_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], used: bool
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    options, fields = read_settings(None, ["bf16=auto"])
    assert sft_config(tmp_path, options, {**DEFAULTS, **fields}, validated=False).bf16 is used
    assert sft_config(tmp_path, options, DEFAULTS, validated=False).bf16 is False
