"""The training stage that a model had last: what it was, and how it is repeated in short."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.base.options import MAX_TRAINING_SEED, check_options, option
from sidtool.base.output import partial_path, refuse_existing
from sidtool.base.output_name import FOLDER
from sidtool.base.work_folder import RUN_FILE, check_work_folder
from sidtool.data import FieldTypes
from sidtool.data.split import Split
from sidtool.examples import SftOptions, WeightOptions, named_task, read_lineage, templates_for
from sidtool.model.contract import Contract, RebindParams, TrainParams, read_contract
from sidtool.model.prompt import HistoryPrompt
from sidtool.tokenizer.bundle import Bundle
from sidtool.training.execution import RESTART
from sidtool.training.run import json_values
from sidtool.training.settings import DEFAULTS, SHARDING, TrainOptions
from sidtool.training.settings_file import TRAINING, typed_fields


@dataclass(frozen=True)
class RefreshOptions:
    """How a model is refreshed. Raises UsageError for a share outside of (0, 1]."""

    share: float = option(0.2, above=0, maximum=1)
    """Length of the training stage, as a share of the model's last one that `refresh` did not
    shorten."""
    learning_rate: float | None = option(None)
    """Default: that of the model's last training stage; required if it was `lora`."""
    seed: int = option(0, minimum=0, maximum=MAX_TRAINING_SEED)
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        check_options(self)


def refuse_options_of_training(
    options: RefreshOptions, *, items: str | Path | None, embeddings: Sequence[str | Path]
) -> None:
    """Raise UsageError for an option that has no effect without a split."""
    is_set = {
        "--items": items is not None,
        "--embeddings": bool(embeddings),
        "--share": options.share != RefreshOptions.share,
        "--learning-rate": options.learning_rate is not None,
    }
    unused = next((option for option, has_value in is_set.items() if has_value), None)
    if unused is not None:
        raise UsageError(f"{unused} has no effect without a split: nothing is trained")


def last_training(contract: Contract, model_dir: Path) -> TrainParams:
    """The parameters of a model's last training stage, in full length if `refresh` made it.

    Raises CompatibilityError without one, UsageError if its training examples cannot be made again
    from what the contract records."""
    stages = [record.params for record in contract.stages]
    trained = [
        (before, params)
        for before, params in pairwise([None, *stages])
        if isinstance(params, TrainParams)
    ]
    if not trained:
        raise CompatibilityError(
            f"model {model_dir} was not trained by sidtool: its tasks and settings are unknown",
            hint="sidtool make-sft and sidtool train",
        )
    before, last = trained[-1]
    made, prompt = last.sft, contract.history_prompt
    unknown = None
    if any(named_task(task).needs_queries for task in last.task_weights):
        unknown = "--queries", "of queries"
    elif made is None and last.weights is not None:
        unknown = "--weight-clip", f"weighted by {last.weights}, perhaps clipped"
    elif made is None and prompt is not None and prompt.shows_fields:
        unknown = "--template", "that show fields"
    elif made is not None and made.hidden_items:
        unknown = "--hide-text-of", f"that hide the text of {made.hidden_items} items"
    elif made is not None and made.general:
        unknown = "--general", "with general text among them"
    if unknown is not None:
        option, examples = unknown
        raise UsageError(
            f"model {model_dir} was trained on examples {examples}; it does not record {option}, "
            "so refresh cannot make them again",
            hint=f"sidtool make-sft {option}, then sidtool train",
        )
    if isinstance(before, RebindParams) and before.refresh_share is not None:
        return _with_length(last, 1 / before.refresh_share)
    return last


def refuse_other_template(contract: Contract, examples: Path, model_dir: Path) -> None:
    """Raise UsageError if new training examples show histories by other templates than the
    model's prompts: an earlier version did not record the user's."""
    lineage = read_lineage(examples)
    made_labels = {prompt.task: prompt for prompt in lineage.label_prompts}
    pairs: list[tuple[HistoryPrompt | None, HistoryPrompt | None]] = [
        (contract.history_prompt, lineage.history_prompt),
        (contract.list_prompt, lineage.list_prompt),
        *((prompt, made_labels.get(prompt.task)) for prompt in contract.label_prompts),
    ]
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
    """The training examples of the model's last stage."""
    options = SftOptions.of_training(last, seed)
    # only warned of: the new events may be ahead of the catalog
    options = replace(options, allow_unknown=True)
    if last.sft is None and contract.history_prompt is not None:
        return replace(options, history_length=contract.history_prompt.history_length)
    return options


def last_weights(last: TrainParams) -> WeightOptions | None:
    """The weights of the training examples of the model's last stage, None without any."""
    if last.weights is None or last.sft is None:
        return None
    return WeightOptions(last.weights, last.sft.weight_clip)


def check_fields(last: TrainParams, types: FieldTypes) -> None:
    """Raise UsageError unless a split has the fields that the examples of the model's last stage
    show or are weighted by."""
    if (weights := last_weights(last)) is not None:
        types.need_numbers(weights.field, "--weight")
    templates = {} if last.sft is None else last.sft.templates
    for task in last.task_weights:
        templates_for(task, templates.get(task), types)


def chosen_seen(recorded: bool | None, targets_repeat: bool | None) -> bool | None:
    """Whether seen items are excluded; None if a record has the default by its split, since the
    newer split may have another."""
    return None if recorded == (targets_repeat is False) else recorded


def _with_length(params: TrainParams, share: float) -> TrainParams:
    """A training stage with a share of its length: of its steps, if it was stopped."""
    options, sft_fields = dict(params.options), dict(params.sft_fields)
    if (stopped := options.pop("stop_step", None)) is not None:
        options.pop("token_budget", None)
        sft_fields["max_steps"] = stopped
    if (budget := options.get("token_budget")) is not None:
        options["token_budget"] = max(1, round(budget * share))
        sft_fields.pop("num_train_epochs", None)  # follows from the budget
    elif (steps := sft_fields.get("max_steps", -1)) > 0:
        sft_fields["max_steps"] = max(1, round(steps * share))
    else:
        epochs = sft_fields.get("num_train_epochs", DEFAULTS["num_train_epochs"])
        sft_fields["num_train_epochs"] = epochs * share
    if "eval_delay" in sft_fields:  # in epochs or steps
        sft_fields["eval_delay"] *= share
    sft_fields |= _shortened_steps(sft_fields, share)
    return replace(params, options=options, sft_fields=sft_fields)


def _shortened_steps(sft_fields: Mapping[str, Any], share: float) -> dict[str, int]:
    """The settings that are numbers of steps, shortened; those below 1 are shares already."""
    names = ("warmup_steps", "eval_steps", "save_steps")
    if sft_fields.get("eval_strategy") == "steps":
        # what transformers has in their place, as one stays a multiple of the other
        logging_steps = sft_fields.get("logging_steps", DEFAULTS["logging_steps"])
        sft_fields = {"eval_steps": logging_steps, "save_steps": 500, **sft_fields}
    numbers = {name: number for name in names if (number := sft_fields.get(name) or 0) >= 1}
    shortened = {name: max(1, round(number * share)) for name, number in numbers.items()}
    if {"eval_steps", "save_steps"} <= numbers.keys():  # one stays a multiple of the other
        evaluations = round(numbers["save_steps"] / numbers["eval_steps"])
        shortened["save_steps"] = shortened["eval_steps"] * max(1, evaluations)
    return shortened


def training_settings(
    last: TrainParams, options: RefreshOptions
) -> tuple[TrainOptions, Mapping[str, Any]]:
    """The settings of the model's last training stage, shortened, without those that cannot be set
    any more or divide weights among processes, as this is one; adapters are merged by now, so all
    weights are trained in their place. Raises UsageError without a learning rate for that."""
    last = _with_length(last, options.share)
    recorded = {key: value for key, value in last.options.items() if key in TRAINING.option_types}
    train_options = TrainOptions(**recorded)
    seen = chosen_seen(train_options.eval_exclude_seen, last.split.targets_repeat)
    train_options = replace(train_options, eval_exclude_seen=seen)
    if train_options.stage == "lora":
        if options.learning_rate is None:
            raise UsageError(
                "the last stage trained adapters, whose learning rate is too large for all weights",
                hint="--learning-rate 1e-4",
            )
        train_options = replace(train_options, stage="full")
    sft_fields = {
        key: value
        for key, value in last.sft_fields.items()
        if not TRAINING.refusal(key) and key not in SHARDING
    }
    if sft_fields.get("save_strategy") == "no":  # of a training without validation
        del sft_fields["save_strategy"]
    sft_fields["seed"] = options.seed
    if options.learning_rate is not None:
        sft_fields["learning_rate"] = options.learning_rate
    return train_options, sft_fields


def refuse_other_run(
    out: Path, bundle: Bundle, split: Split, options: TrainOptions, sft_fields: Mapping[str, Any]
) -> None:
    """Raise UsageError for a training with another bundle or other settings, or a finished one with
    another split, before its examples are made again, with which `train` compares everything."""
    settings = {**DEFAULTS, **typed_fields(TRAINING, sft_fields)}
    if options.token_budget is not None:
        del settings["num_train_epochs"]  # follows from the examples
    set_options = {name: value for name, value in asdict(options).items() if value is not None}
    work = partial_path(out)
    if (work / RUN_FILE).exists():
        fingerprint = json_values(
            {"bundle": bundle.identity.digest, "options": set_options, "settings": settings}
        )
        check_work_folder(work, fingerprint, restart=RESTART, partly=True)
    if out.exists():
        contract = read_contract(out)
        params = contract.params
        is_same = contract.identity == bundle.identity
        if is_same and isinstance(params, TrainParams) and params.split == split.reference:
            made = json_values({**DEFAULTS, **params.sft_fields, **params.options})
            if made.items() >= json_values({**settings, **set_options}).items():
                return
        refuse_existing(out, False, FOLDER)
