"""The configuration of a run's trainer: what sidtool decides, the settings of the user, and what
suits the machine, in this order."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from sidtool.base.checkpoint import CONFIG, read_object
from sidtool.base.errors import UsageError
from sidtool.model import Dtype
from sidtool.model.network import ModelKind
from sidtool.training.loop.machine import check_fsdp, is_faster_in_bf16, is_set
from sidtool.training.run import Run, TrainingRun


def run_config(run: TrainingRun) -> Any:
    """The configuration of a run: TRL's SFTConfig for a causal model, transformers'
    Seq2SeqTrainingArguments for an encoder-decoder.

    What sidtool decides overrides the run's fields, and these override what the machine suggests.
    Raises UsageError if the settings do not fit together."""
    _ = run.softmax_over  # does not fit all examples
    kind = run.contract.kind
    validates = run.valid is not None and run.config_fields["eval_strategy"] != "no"
    decided: dict[str, Any] = {"remove_unused_columns": False, "load_best_model_at_end": validates}
    if not validates:
        decided["eval_strategy"] = "no"
    if run.valid is None:
        decided["eval_on_start"] = False
    if kind == "causal":
        from trl import SFTConfig as config_class

        # make-sft limits the length, and TokenizedExamples replaces TRL's preparation
        decided |= {"max_length": None, "dataset_kwargs": {"skip_prepare_dataset": True}}
    else:
        from transformers import Seq2SeqTrainingArguments as config_class
    arguments = made_config(config_class, run, decided, shards=True)
    check_fsdp(arguments)
    return arguments


def check_fields(kind: ModelKind, fields: Mapping[str, Any]) -> None:
    """Raise UsageError for a field that the trainer of this kind of model lacks."""
    if kind == "causal" or not fields:
        return
    from transformers import Seq2SeqTrainingArguments

    names = {field.name for field in dataclasses.fields(Seq2SeqTrainingArguments)}
    for name in fields:
        if name not in names:
            raise UsageError(
                f"{name} is a setting of TRL's trainer, which trains causal models only",
                hint="leave it out for an encoder-decoder",
            )


def made_config(
    config_class: Any, run: Run, decided: Mapping[str, Any], *, shards: bool = False
) -> Any:
    """The configuration of a run's trainer: what sidtool decides for it overrides the run's own
    fields, and these override what suits the machine. `shards` says whether the trainer trains
    weights that FSDP divides among processes.

    Raises UsageError if the fields do not fit together, or if one process would train on several
    GPUs."""
    import torch

    run_fields = dict(run.config_fields)
    on_gpu = torch.cuda.is_available() and not run_fields.get("use_cpu", False)
    if run_fields.get("bf16") == "auto":
        run_fields["bf16"] = torch.cuda.is_bf16_supported() if on_gpu else is_faster_in_bf16()
    fields = {
        "use_cpu": not on_gpu,
        "bf16": on_gpu and torch.cuda.is_bf16_supported(),
        "dataloader_pin_memory": on_gpu,
        **run_fields,
        "output_dir": str(run.work),
        "logging_nan_inf_filter": False,
        "metric_for_best_model": f"eval_{run.options.metric_for_best_model}",
        "greater_is_better": True,
        "restore_callback_states_from_checkpoint": True,
        **decided,
    }
    for name in ("deepspeed",) if shards else ("fsdp", "deepspeed"):
        if fields.get(name) or is_set(f"ACCELERATE_USE_{name.upper()}"):
            raise UsageError(
                f"{name} divides weights among processes, and training reads them whole",
                hint="torchrun or accelerate launch without it: every process has the whole model",
            )
    try:
        arguments = config_class(**fields)
        if fields.get("lr_scheduler_type") in ("reduce_lr_on_plateau", "greedy"):
            # these compare the metric of a validation with the best one, by default the least
            arguments.lr_scheduler_kwargs = {"mode": "max"} | (arguments.lr_scheduler_kwargs or {})
    except (ValueError, TypeError) as error:
        raise UsageError(f"settings do not fit together: {' '.join(str(error).split())}") from error
    if arguments.n_gpu > 1:
        raise UsageError(
            f"one process trains on one GPU, but {arguments.n_gpu} are visible",
            hint="torchrun --nproc_per_node starts one process per GPU; CUDA_VISIBLE_DEVICES=0 "
            "selects one",
        )
    return arguments


def weight_dtype(run: TrainingRun, arguments: Any) -> Dtype:
    """The precision in which weights are kept while training: float32, since a GPU computes in
    bfloat16 under autocast, and bfloat16 for frozen weights that are stored so."""
    is_frozen = run.options.stage != "full" and arguments.device.type == "cuda" and arguments.bf16
    if not is_frozen or not (run.model_dir / CONFIG).is_file():
        return "float32"
    config = read_object(run.model_dir / CONFIG)
    is_stored_so = (config.get("dtype") or config.get("torch_dtype")) == "bfloat16"
    return "bfloat16" if is_stored_so else "float32"
