"""What a training run needs, checked before weights are read or anything is written."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sidtool.base.errors import CompatibilityError, UsageError
from sidtool.data.split.record import check_split
from sidtool.data.split.split import Split
from sidtool.examples.lineage import Lineage, check_same_bundle, read_lineage
from sidtool.memory.memory import Memory
from sidtool.model.contract.bases import refuse_base_as_output
from sidtool.model.contract.contract import Contract
from sidtool.model.contract.locate import model_folder
from sidtool.model.contract.read import read_contract
from sidtool.model.contract.split_check import check_model_split, further_splits
from sidtool.model.load import check_model_folder
from sidtool.tokenizer.bundle.bundle import Bundle
from sidtool.training.arguments import check_fields, complete_fields
from sidtool.training.kind_check import check_kind
from sidtool.training.loss.item_fields import BARE_SIDS, ItemFields
from sidtool.training.settings import TrainOptions
from sidtool.training.settings_file import TRAINING, typed_fields
from sidtool.training.training_memory import open_training_memory
from sidtool.training.training_run import TrainingRun


def plan_training(
    model_dir: str | Path,
    examples: Path,
    out: Path,
    options: TrainOptions,
    sft_fields: Mapping[str, Any],
    *,
    valid: Path | None = None,
    bundle: Bundle | None = None,
    teachers: Sequence[str | Path] = (),
    memory: Memory | str | Path | None = None,
    split: Split | str | Path | None = None,
    trust_remote_code: bool = False,
    before: TrainingRun | None = None,
) -> TrainingRun:
    """The run of a call of `train`, with everything checked that needs no weights; writes nothing.
    `before` is the run that will write `model_dir`. Raises as `train`."""
    lineage = read_lineage(examples)
    if before is None:
        model_dir = model_folder(model_dir, trust_remote_code=trust_remote_code)
        contract, bundle, _ = check_model_folder(model_dir, bundle)
    else:
        model_dir, contract, bundle = before.out, before.contract, before.bundle
        made_from = before.lineage.split
        check_split(str(before.examples), made_from, str(examples), lineage.split)
    teacher_dirs = tuple(
        model_folder(teacher, trust_remote_code=trust_remote_code) for teacher in teachers
    )
    if options.stage == "lora":
        refuse_base_as_output(out, contract, model_dir)
    check_same_bundle(lineage, bundle, examples)
    _check_field_tokens(lineage, contract, examples)
    by_name = {f"model {folder}": read_contract(folder) for folder in teacher_dirs}
    learned_from = further_splits(bundle, by_name.values())
    teacher_kinds = [teacher.kind for teacher in by_name.values()]
    check_kind(contract.kind, teacher_kinds, options, lineage)
    if teacher_dirs:
        from sidtool.training.loss.teachers import check_teachers

        check_teachers(teacher_dirs, contract.tokens, bundle)
    opened_memory = None
    if options.memory_weight > 0:
        opened_memory = open_training_memory(memory, split, lineage, bundle, options.softmax_over)
    by_name[f"model {model_dir}"] = contract
    for name, each in by_name.items():
        check_model_split(each, bundle, str(examples), lineage.split, model=name)
    check_fields(contract.kind, sft_fields)
    return TrainingRun(
        model_dir=model_dir,
        examples=examples,
        out=out,
        valid=valid,
        options=options,
        sft_fields=complete_fields(options, typed_fields(TRAINING, sft_fields), lineage),
        lineage=lineage,
        contract=contract,
        bundle=bundle,
        teacher_dirs=teacher_dirs,
        learned_from=learned_from,
        memory=opened_memory,
        item_fields=_item_fields(lineage, contract, options),
        trust_remote_code=trust_remote_code,
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
