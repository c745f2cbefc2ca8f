"""Checks the inputs of a training run against each other and against its settings, before weights
are read or anything is written."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.data.split import check_split
from sidtool.data.tables import as_url
from sidtool.examples import Lineage, find_task, read_any_lineage
from sidtool.memory import Memory, is_memory
from sidtool.model import check_model_folder
from sidtool.model.contract import (
    Contract,
    check_model_split,
    further_splits,
    model_folder,
    read_contract,
    refuse_base_as_output,
)
from sidtool.model.network import ModelKind
from sidtool.recommendation.search import SeenOptions
from sidtool.tokenizer.bundle import Bundle
from sidtool.training.loss.item_fields import BARE_SIDS, ItemFields
from sidtool.training.run import TrainingRun, sliding_windows
from sidtool.training.settings import DEFAULTS, TrainOptions
from sidtool.training.settings_file import TRAINING, typed_fields
from sidtool.training.trainer_config import check_fields


def plan_training(
    model: str | Path,
    examples: Path,
    out: Path,
    options: TrainOptions,
    sft_fields: Mapping[str, Any],
    *,
    valid: Path | None = None,
    bundle: Bundle | None = None,
    teachers: Sequence[str | Path] = (),
    trust_remote_code: bool = False,
    before: TrainingRun | None = None,
) -> TrainingRun:
    """The run of a call of `train`, with everything checked that needs no weights; writes nothing.
    `before` is the stage whose output replaces `model` and `bundle`. Raises as `train`."""
    trust = trust_remote_code
    location = as_url(examples)  # as errors name the examples
    lineage = read_any_lineage(examples)
    seen = SeenOptions(exclude_seen=options.eval_exclude_seen)
    seen = seen.with_seen(lineage.split.targets_repeat)
    options = replace(options, eval_exclude_seen=seen.exclude_seen)

    # the model, its contract and its bundle
    if before is None:
        model_dir = model_folder(model, trust_remote_code=trust)
        contract, bundle, _ = check_model_folder(model_dir, bundle)
    else:
        model_dir, bundle = before.out, before.bundle
        prompt, normalize = before.history_prompt, before.normalize
        contract = replace(before.contract, history_prompt=prompt, normalize=normalize)
        earlier_split = before.lineage.split
        check_split(as_url(before.examples), earlier_split, location, lineage.split)

    # teachers are memories or models
    teachers = [teachers] if isinstance(teachers, str | Path) else teachers
    memories = {Path(path): Memory.open_verified(path) for path in teachers if is_memory(path)}
    teacher_dirs = tuple(
        Path(path) if Path(path) in memories else model_folder(path, trust_remote_code=trust)
        for path in teachers
    )

    if options.stage == "lora":
        refuse_base_as_output(out, contract, model_dir)
    if options.stage != "full":
        _ = contract.added_ids  # raises if their rows cannot be trained alone
    lineage.check_bundle(bundle, location)
    _check_field_tokens(lineage, contract, location)
    _check_kind(contract.kind, options, lineage)
    teacher_models = [folder for folder in teacher_dirs if folder not in memories]
    contracts = {f"model {folder}": read_contract(folder) for folder in teacher_models}
    learned_from = further_splits(bundle, contracts.values())
    if teacher_models:
        from sidtool.training.loss.loss import check_teachers

        check_teachers(teacher_models, contract, bundle)
    for name, model_contract in {**contracts, f"model {model_dir}": contract}.items():
        check_model_split(model_contract, bundle, location, lineage.split, model=name)
    check_fields(contract.kind, sft_fields)
    run = TrainingRun(
        model_dir=model_dir,
        examples=examples,
        out=out,
        valid=valid,
        options=options,
        config_fields=complete_fields(options, typed_fields(TRAINING, sft_fields), lineage),
        sft_fields=sft_fields,
        lineage=lineage,
        contract=contract,
        bundle=bundle,
        teacher_dirs=teacher_dirs,
        memories=memories,
        learned_from=learned_from,
        item_fields=_item_fields(lineage, contract, options),
        trust_remote_code=trust,
    )
    for folder, memory in memories.items():
        _check_memory(f"memory {folder}", memory, run)
    return run


def _check_field_tokens(lineage: Lineage, contract: Contract, location: str | Path) -> None:
    """Raise CompatibilityError if the examples show tokens of fields that the model has not."""
    fields = lineage.field_tokens
    if fields and dict(fields) != dict(contract.field_tokens):
        raise CompatibilityError(
            f"{location} shows tokens of {', '.join(fields)} as another model has them than the "
            f"one to train, which has {', '.join(contract.field_tokens) or 'none'}",
            hint="make-sft --model with the model that is to be trained",
        )


def _item_fields(lineage: Lineage, contract: Contract, options: TrainOptions) -> ItemFields:
    """The field tokens beside the items of sequences. Raises UsageError if the items are to change
    their order, and what stands beside them cannot move with them."""
    prompt = lineage.history_prompt
    if prompt is None or not prompt.is_sequence:
        return BARE_SIDS
    fields = ItemFields.of(prompt, contract.fields)
    if fields is None and (options.reverse_prob or options.shuffle_span):
        raise UsageError(
            "reverse_prob and shuffle_span change the order of items, which needs sequences with "
            "nothing but tokens of fields beside an item",
            hint="show fields as tokens, {event.FIELD:token}, or set both to 0",
        )
    return fields or BARE_SIDS


def _check_memory(name: str, memory: Memory, run: TrainingRun) -> None:
    """Raise CompatibilityError if the memory is of another bundle or split than the examples,
    UsageError if it cannot teach a model of this kind with these settings."""
    digest, split = memory.manifest.bundle.digest, memory.manifest.split
    if digest != run.bundle.identity.digest or split != run.lineage.split:
        raise CompatibilityError(
            f"{name} has bundle {digest[:12]} and split {split}, the examples have "
            f"{run.bundle.identity.digest[:12]} and {run.lineage.split}",
            hint="build-memory from the split and the bundle of the examples",
        )
    if run.contract.kind != "causal":
        raise UsageError(f"{name} teaches causal models, not a model that is {run.contract.kind}")
    if run.softmax_over != "trie":
        fitting = "training examples that all answer with SIDs"
        raise UsageError(
            f"{name} teaches which item comes next, and the loss is over {run.softmax_over}",
            hint="--set softmax_over=trie" if run.answers_are_sids else fitting,
        )


def _check_kind(kind: ModelKind, options: TrainOptions, lineage: Lineage) -> None:
    """Raise UsageError if the model has an encoder, and the settings or the examples leave it no
    prompt to read, or if the tokens of prefixes would have to be known."""
    windows = sliding_windows(options, kind)
    tasks = {name: task for name in lineage.tasks if (task := find_task(name)) is not None}
    has_sequences = any(task.is_sequence for task in tasks.values())
    if options.token_budget is not None and has_sequences and windows != "none":
        raise UsageError(
            f"token_budget counts tokens of whole sequences, and sliding_windows={windows} trains "
            "on prefixes",
            hint="num_train_epochs",
        )
    if lineage.parts and windows != "none":
        raise UsageError(
            f"examples in parts are not cut to prefixes, as sliding_windows={windows} does",
            hint="make-sft -o FILE.jsonl",
        )
    if kind == "causal":
        return
    if options.batching == "packed":
        raise UsageError(
            "examples cannot be packed for an encoder-decoder, which reads one prompt per line",
            hint="leave batching out",
        )
    for name, task in tasks.items():
        if task.target == "text":
            raise UsageError(
                f"task {name} is running text, which has no prompt that an encoder could read",
                hint="make training examples without it",
            )
    if windows == "none" and has_sequences:
        raise UsageError(
            "with sliding_windows=none an item sequence is one example, which has no prompt that "
            "an encoder could read",
            hint="sliding_windows=drawn",
        )


def complete_fields(
    options: TrainOptions, sft_fields: Mapping[str, Any], lineage: Lineage
) -> dict[str, Any]:
    """The fields of SFTConfig with sidtool's defaults, and epochs from `token_budget`.

    Raises UsageError for settings that exclude each other."""
    if options.optimizer == "muon" and "optim" in sft_fields:
        raise UsageError(
            "optim cannot be set with optimizer=muon, which uses its own AdamW",
            hint="set one of the two",
        )
    if options.early_stopping_patience is not None and sft_fields.get("eval_strategy") == "no":
        raise UsageError(
            "early_stopping_patience counts validations, and eval_strategy=no has none"
        )
    if options.token_budget is None:
        return {**DEFAULTS, **sft_fields}
    if {"num_train_epochs", "max_steps"} & sft_fields.keys():
        raise UsageError("num_train_epochs and max_steps cannot be set with token_budget")
    if not lineage.tokens:
        raise UsageError(
            "token_budget requires training examples whose tokens were counted",
            hint="make-sft --model counts them",
        )
    return {**DEFAULTS, **sft_fields, "num_train_epochs": options.token_budget / lineage.tokens}
