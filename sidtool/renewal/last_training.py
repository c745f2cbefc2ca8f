"""The training stage that a model had last: what it was, and how it is repeated in short."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from sidtool.contract.contract import Contract
from sidtool.contract.stage_record import TrainParams
from sidtool.errors import CompatibilityError, UsageError
from sidtool.prompt.prompts import HistoryPrompt
from sidtool.sft.lineage import read_lineage
from sidtool.sft.sft_options import SftOptions
from sidtool.training.settings import DEFAULTS, TrainOptions

DEFAULT_SHARE = 0.2


@dataclass(frozen=True)
class RefreshOptions:
    """How a model is refreshed. Raises UsageError for a share outside of (0, 1]."""

    share: float = DEFAULT_SHARE
    """Length of the training stage, as a share of the epochs of the model's last one."""
    learning_rate: float | None = None
    """Default: that of the model's last training stage."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UsageError(f"--share must be above 0 and at most 1, not {self.share}")


def last_training(contract: Contract, model_dir: Path) -> TrainParams:
    """The parameters of a model's last training stage.

    Raises CompatibilityError without one, UsageError if its examples had weights or its prompt
    shows fields."""
    _refuse_fields(contract, model_dir)
    for record in reversed(contract.stages):
        if isinstance(record.params, TrainParams):
            _refuse_weights(record.params, model_dir)
            return record.params
    raise CompatibilityError(
        f"model {model_dir} was not trained by sidtool: its tasks and settings are unknown",
        hint="sidtool make-sft and sidtool train",
    )


def _refuse_weights(last: TrainParams, model_dir: Path) -> None:
    if last.weights is not None:
        raise UsageError(
            f"model {model_dir} was trained on examples weighted by {last.weights}, which refresh "
            "cannot make",
            hint="sidtool make-sft --weight, then sidtool train",
        )


def _refuse_fields(contract: Contract, model_dir: Path) -> None:
    if contract.history_prompt is not None and contract.history_prompt.shows_fields:
        raise UsageError(
            f"the prompt of model {model_dir} shows fields, by a template that refresh has not",
            hint="sidtool make-sft --template, then sidtool train",
        )


def refuse_other_template(contract: Contract, examples: Path, model_dir: Path) -> None:
    """Raise UsageError if new training examples show histories by other templates than the
    model's prompts."""
    lineage = read_lineage(examples)
    pairs: list[tuple[HistoryPrompt | None, HistoryPrompt | None]] = [
        (contract.history_prompt, lineage.history_prompt),
        (contract.list_prompt, lineage.list_prompt),
    ]
    made_labels = {prompt.task: prompt for prompt in lineage.label_prompts}
    pairs += [(prompt, made_labels.get(prompt.task)) for prompt in contract.label_prompts]
    for prompt, made in pairs:
        if prompt is None or made is None or prompt.task != made.task:
            continue
        texts = (prompt.template, prompt.separator, prompt.item)
        if texts != (made.template, made.separator, made.item):
            raise UsageError(
                f"the prompt of model {model_dir} is {prompt.template!r:.80}, a template that "
                "refresh has not",
                hint="sidtool make-sft --template, then sidtool train",
            )


def last_sft_options(contract: Contract, last: TrainParams, seed: int) -> SftOptions:
    """The training examples of the model's last stage, as far as its contract records them."""
    prompt = contract.history_prompt
    history_length = prompt.history_length if prompt else SftOptions.history_length
    return SftOptions(
        tasks=last.task_weights,
        format=last.example_format,  # type: ignore[arg-type]
        max_length=last.max_length or SftOptions.max_length,
        history_length=history_length,
        seed=seed,
        lists=last.lists,
    )


def training_settings(
    last: TrainParams, options: RefreshOptions
) -> tuple[TrainOptions, Mapping[str, Any]]:
    """The settings of the model's last training stage, shortened."""
    names = {field.name for field in fields(TrainOptions)}
    recorded = {name: value for name, value in last.options.items() if name in names}
    train_options = replace(TrainOptions(**recorded), stage="full")
    if train_options.token_budget is not None:
        budget = round(train_options.token_budget * options.share)
        train_options = replace(train_options, token_budget=budget)
    sft_fields = dict(last.sft_fields)
    if (steps := sft_fields.get("max_steps", -1)) > 0:
        sft_fields["max_steps"] = max(1, round(steps * options.share))
    elif train_options.token_budget is None:
        epochs = sft_fields.get("num_train_epochs", DEFAULTS["num_train_epochs"])
        sft_fields["num_train_epochs"] = epochs * options.share
    else:
        sft_fields.pop("num_train_epochs", None)
    sft_fields["seed"] = options.seed
    if options.learning_rate is not None:
        sft_fields["learning_rate"] = options.learning_rate
    return train_options, sft_fields
