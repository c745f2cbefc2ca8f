"""What a training run needs, checked before weights are read or anything is written."""

from dataclasses import replace
from pathlib import Path

from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.data.split import check_split
from sidtool.examples import Lineage, check_same_bundle, find_task, read_lineage
from sidtool.model import check_model_folder
from sidtool.model.contract import (
    Contract,
    ModelKind,
    check_model_split,
    further_splits,
    model_folder,
    read_contract,
    refuse_base_as_output,
)
from sidtool.recommendation.search import excludes_seen
from sidtool.training.arguments import check_fields, complete_fields
from sidtool.training.loss.item_fields import BARE_SIDS, ItemFields
from sidtool.training.settings import TrainOptions
from sidtool.training.settings_file import TRAINING, typed_fields
from sidtool.training.training_run import (
    TrainingRun,
    TrainRequest,
    sliding_windows,
)


def plan_training(request: TrainRequest, *, before: TrainingRun | None = None) -> TrainingRun:
    """The run of a request, with everything checked that needs no weights; writes nothing. `before`
    is the run that will write the request's model. Raises as `train`."""
    options = request.options
    examples = request.examples
    trust = request.trust_remote_code
    lineage = read_lineage(examples)
    exclude_seen = excludes_seen(options.eval_exclude_seen, lineage.split.targets_repeat)
    options = replace(options, eval_exclude_seen=exclude_seen)
    if before is None:
        model_dir = model_folder(request.model, trust_remote_code=trust)
        contract, bundle, _ = check_model_folder(model_dir, request.bundle)
    else:
        model_dir, contract, bundle = before.out, before.contract, before.bundle
        made_from = before.lineage.split
        check_split(str(before.examples), made_from, str(examples), lineage.split)
    teacher_dirs = tuple(
        model_folder(teacher, trust_remote_code=trust) for teacher in request.teachers
    )
    if options.stage == "lora":
        refuse_base_as_output(request.out, contract, model_dir)
    check_same_bundle(lineage, bundle, examples)
    _check_field_tokens(lineage, contract, examples)
    by_name = {f"model {folder}": read_contract(folder) for folder in teacher_dirs}
    learned_from = further_splits(bundle, by_name.values())
    _check_kind(contract.kind, options, lineage)
    if teacher_dirs:
        from sidtool.training.loss.teachers import check_teachers

        check_teachers(teacher_dirs, contract, bundle)
    by_name[f"model {model_dir}"] = contract
    for name, model_contract in by_name.items():
        check_model_split(model_contract, bundle, str(examples), lineage.split, model=name)
    check_fields(contract.kind, request.sft_fields)
    return TrainingRun(
        model_dir=model_dir,
        examples=examples,
        out=request.out,
        valid=request.valid,
        options=options,
        config_fields=complete_fields(options, typed_fields(TRAINING, request.sft_fields), lineage),
        lineage=lineage,
        contract=contract,
        bundle=bundle,
        teacher_dirs=teacher_dirs,
        learned_from=learned_from,
        item_fields=_item_fields(lineage, contract, options),
        trust_remote_code=trust,
    )


def _check_field_tokens(lineage: Lineage, contract: Contract, examples: Path) -> None:
    """Raise CompatibilityError if the examples show tokens of fields that the model has not."""
    shown = lineage.field_tokens
    if shown and dict(shown) != dict(contract.field_tokens):
        raise CompatibilityError(
            f"{examples} shows tokens of {', '.join(shown)} as another model has them than the "
            f"one to train, which has {', '.join(contract.field_tokens) or 'none'}",
            hint="make-sft --model with the model that is to be trained",
        )


def _item_fields(lineage: Lineage, contract: Contract, options: TrainOptions) -> ItemFields:
    """The field tokens beside the items of sequences. Raises UsageError if the items are to change
    their order, and what stands beside them cannot move with them."""
    prompt = lineage.history_prompt
    if prompt is None or prompt.task != "sequence":
        return BARE_SIDS
    fields = ItemFields.of(prompt, contract.fields)
    if fields is None and (options.reverse_prob or options.shuffle_span):
        raise UsageError(
            "reverse_prob and shuffle_span change the order of items, which needs sequences with "
            "nothing but tokens of fields beside an item",
            hint="show fields as tokens, {event.FIELD:token}, or set both to 0",
        )
    return fields or BARE_SIDS


def _check_kind(kind: ModelKind, options: TrainOptions, lineage: Lineage) -> None:
    """Raise UsageError if the model has an encoder, and the settings or the examples leave it no
    prompt to read, or if the tokens of prefixes would have to be known."""
    windows = sliding_windows(options, kind)
    has_sequences = "sequence" in lineage.tasks
    if options.token_budget is not None and has_sequences and windows != "none":
        raise UsageError(
            f"token_budget counts tokens of whole sequences, and sliding_windows={windows} trains "
            "on prefixes",
            hint="num_train_epochs",
        )
    if kind == "causal":
        return
    if options.batching == "packed":
        raise UsageError(
            "examples cannot be packed for an encoder-decoder, which reads one prompt per line",
            hint="leave batching out",
        )
    for name in lineage.tasks:
        task = find_task(name)
        if task is not None and task.is_running_text:
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
