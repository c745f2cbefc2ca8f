import runpy
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import torch
from trl import SFTConfig

from sidtool.base.errors import DataError, MissingPackageError, UsageError
from sidtool.cli.settings_table import list_settings
from sidtool.model.network.structure import ModelKind
from sidtool.training.run_checks import complete_fields
from sidtool.training.settings import DECIDED, DEFAULTS, StageSettings, TrainOptions
from sidtool.training.settings_file import TRAINING, read_stages, typed_fields
from sidtool.training.trainer_config import made_config, run_config


def read_one(config: Path | None, pairs: Sequence[str] = ()) -> StageSettings:
    """The settings of a run without stages."""
    (stage,) = read_stages(config, pairs)
    return stage


def test_flags_override_the_file_and_are_typed(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    settings = "learning_rate: 1e-3\neval_num_beams: 9\nnum_train_epochs: 2\n"
    config.write_text(settings + "optim_args: a=1\n")
    stage = read_one(config, ["learning_rate=2e-3", "eval_users=7", "gradient_checkpointing=true"])
    assert stage.options == TrainOptions(eval_num_beams=9, eval_users=7)
    fields = {"learning_rate": 0.002, "num_train_epochs": 2.0, "optim_args": "a=1"}
    assert stage.sft_fields == {**fields, "gradient_checkpointing": True}
    assert read_one(None, ["run_name=null"]).sft_fields == {"run_name": None}


def test_options_and_fields_are_kept_apart() -> None:
    with pytest.raises(UsageError, match="stage belongs to TrainOptions"):
        typed_fields(TRAINING, {"stage": "lora"})
    with pytest.raises(UsageError, match="token_budget requires training examples whose tokens"):
        complete_fields(TrainOptions(token_budget=9), {}, SimpleNamespace(tokens=None))


def test_stages_name_their_examples(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("stages:\n  - {eval_users: 7}\n  - {examples: e.jsonl}\n")
    first, second = read_stages(config)
    assert (first.examples, second.examples) == (None, Path("e.jsonl"))
    flagged = read_stages(config, ["eval_users=5"])  # over a stage's own
    assert [stage.options.eval_users for stage in flagged] == [5, 5]
    for value in ("3", "[a]", "''"):
        config.write_text(f"stages:\n  - {{examples: {value}}}\n")
        with pytest.raises(UsageError, match="examples must be a path"):
            read_stages(config)


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("learning_rat=1", "no setting 'learning_rat'"),
        ("learning_rate=fast", "must be a number"),
        ("eval_users=many", "eval_users must be int"),
        ("eval_users=0.5", "eval_users must be int"),
        ("eval_users=-1", "eval_users must be at least 0"),
        ("token_budget=0", "token_budget must be at least 1"),
        ("dropout=7", "dropout must be less than 1"),
        ("metric_for_best_model=10", "metric_for_best_model must be str"),
        ("item_dropout=null", "item_dropout must be float"),
        ("save_only_model=true", "cannot be set"),
        ("gradient_checkpointing=1", "must be bool"),
        ("bf16=fast", "must be bool"),
        ("max_length=3", "cannot be set"),
        # they would have no effect
        ("logging_nan_inf_filter=true", "cannot be set"),
        ("per_device_eval_batch_size=4", "cannot be set"),
        ("trust_remote_code=true", "cannot be set"),
        ("shuffle_dataset=true", "cannot be set"),
        ("push_to_hub=true", "cannot be set"),
        ("hub_token=hf_secret", "cannot be set"),
        ("softmax_over=nothing", "softmax_over must be one of"),
        ("metric_for_best_model=mrr@5", "must be hr@K"),
        ("metric_for_best_model=ndcg@010", "must be hr@K"),
        ("item_dropout=1.5", "item_dropout must be at most 1"),
        ("per_device_train_batch_size=0", "at least 1"),
        ("num_train_epochs=-1", "num_train_epochs must be above 0, not -1"),
        ("num_train_epochs=0", "num_train_epochs must be above 0, not 0"),
        ("num_train_epochs=.inf", "num_train_epochs must be a finite number, not inf"),
        ("max_steps=0", "max_steps must be at least 1, not 0"),
        ("max_steps=-2", "max_steps must be at least 1, not -2"),
        ("seed=-1", "seed must be at least 0 and less than 4294967296, not -1"),
        ("learning_rate=-1", r"learning_rate must be at least 0, not -1"),
        ("learning_rate=.inf", "learning_rate must be a finite number, not inf"),
        ("weight_decay=.nan", "weight_decay must be a finite number, not nan"),
        ("logging_steps=.inf", "logging_steps must be a finite number, not inf"),
        (f"lora_alpha={'9' * 400}", "lora_alpha must be a finite number, not 999"),
        # TRL does not check them, so torch would raise, or the loss would be another
        ("adam_beta1=1", "adam_beta1 must be at least 0 and less than 1, not 1"),
        ("adam_beta2=7", "adam_beta2 must be at least 0 and less than 1, not 7"),
        ("adam_epsilon=-1", "adam_epsilon must be at least 0, not -1"),
        ("label_smoothing_factor=2", "label_smoothing_factor must be at least 0 and less than 1"),
        ("dataloader_num_workers=-1", "dataloader_num_workers must be at least 0, not -1"),
        ("nonsense", "key=value"),
    ],
)
def test_invalid_settings_are_refused(pair: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        read_one(None, [pair])


@pytest.mark.parametrize("text", ["1: 2", "yes: 2", "stages:\n- {1: 2}"])
def test_a_key_that_is_no_text_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(UsageError, match=r"no setting (1|True)") as error:
        read_stages(tmp_path / "c.yaml")
    assert error.value.shell_hint == "`sidtool settings train` lists all settings"


def test_an_unquoted_no_is_a_strategy() -> None:
    (stage,) = read_stages(None, ["eval_strategy=no", "save_strategy=no"])
    assert stage.sft_fields == {"eval_strategy": "no", "save_strategy": "no"}


def test_unreadable_files_are_data_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read configuration .*No such file"):
        read_one(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(UsageError, match="must be a mapping of settings"):
        read_one(tmp_path / "list.yaml")


def test_every_default_is_a_field_of_sftconfig() -> None:
    trl_fields = {field.name for field in fields(SFTConfig)}
    assert set(DEFAULTS) <= trl_fields
    assert set(DECIDED) <= trl_fields
    # ours replaces TRL's: `ndcg@10` in place of the name of a metric in a log
    sidtool_fields = {field.name for field in fields(TrainOptions)}
    assert trl_fields & sidtool_fields == {"metric_for_best_model"}
    assert typed_fields(TRAINING, DEFAULTS)["learning_rate"] == DEFAULTS["learning_rate"]


@pytest.mark.parametrize(
    ("capabilities", "used"),
    [
        ({"avx2": True}, False),
        ({"avx512_bf16": True, "cpu_name": "Intel(R) Xeon(R) Processor"}, False),
        ({"avx512_bf16": True, "cpu_name": "AMD EPYC"}, True),
        ({"avx512_bf16": False, "cpu_name": "AMD EPYC"}, False),
        ({"avx512_bf16": True, "amx_bf16": True}, True),
        ({"bf16": True}, True),
    ],
)
def test_bf16_is_used_where_the_processor_multiplies_faster_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, Any], used: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    stage = read_one(None, ["bf16=auto"])
    run: Any = SimpleNamespace(work=tmp_path, options=stage.options, softmax_over="sid", valid=None)
    for kind in get_args(ModelKind):
        run.contract = SimpleNamespace(kind=kind)
        run.config_fields = {**DEFAULTS, **stage.sft_fields}
        assert run_config(run).bf16 is used
        run.config_fields = DEFAULTS
        assert run_config(run).bf16 is False
        run.config_fields = {**DEFAULTS, "eval_on_start": True}
        assert run_config(run).eval_on_start is False, "there is nothing to evaluate"


def test_the_settings_page_has_our_settings_whatever_the_version_of_trl() -> None:
    builder = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "build_settings.py"))
    page = builder["PAGE"].read_text(encoding="utf-8")
    ours = [setting for setting in list_settings("train") if setting.group == "sidtool"]
    assert {setting.key for setting in ours} == {field.name for field in fields(TrainOptions)}
    for setting in ours:
        assert builder["row"](setting) in page
    for name, instead in DECIDED.items():
        assert f"| `{name}` | {instead} |" in page


def test_a_tracker_must_exist_and_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="report_to cannot be 'tensorbord'"):
        read_one(None, ["report_to=tensorbord"])
    monkeypatch.setitem(sys.modules, "wandb", None)
    for value in ("wandb", "[mlflow, wandb]"):
        with pytest.raises(MissingPackageError, match=r"pip install 'sidtool\[wandb\]'"):
            read_one(None, [f"report_to={value}"])
    assert read_one(None, ["report_to=none"]).sft_fields == {"report_to": "none"}
    assert read_one(None, ["fsdp=true"]).sft_fields == {"fsdp": True}


@pytest.mark.parametrize("name", ["fsdp", "deepspeed"])
def test_weights_that_are_divided_among_processes_are_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Any = SimpleNamespace(config_fields={}, work=Path("work"), options=TrainOptions())

    def made(**fields: Any) -> Any:
        return made_config(lambda **_: SimpleNamespace(n_gpu=0), run, fields)

    with pytest.raises(UsageError, match=f"{name} divides weights among processes"):
        made(**{name: "full_shard"})
    assert made(**{name: None}).n_gpu == 0
    monkeypatch.setenv(f"ACCELERATE_USE_{name.upper()}", "true")
    with pytest.raises(UsageError, match=f"{name} divides weights among processes"):
        made()
    with pytest.raises(UsageError, match="deepspeed divides weights among processes"):
        made_config(dict, run, {"deepspeed": "zero.json"}, shards=True)
