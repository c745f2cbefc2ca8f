"""The arguments of a run: SFTConfig out of settings, machine, and what sidtool decides.

Knows which of the three is stronger; knows nothing of rows or trainers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sidtool.errors import UsageError
from sidtool.train.machine import multiplies_in_bf16, stored_dtype
from sidtool.train.settings import DEFAULTS, TrainOptions


def settled(
    options: TrainOptions, fields: Mapping[str, Any], lineage: Mapping[str, Any]
) -> dict[str, Any]:
    """All fields: the defaults, those that are set, and as many epochs as the budget of tokens is."""
    if options.optimizer == "muon" and "optim" in fields:
        raise UsageError(
            "optimizer=muon brings its own AdamW, so optim may not be set",
            hint="set one of the two",
        )
    if options.token_budget is None:
        return {**DEFAULTS, **fields}
    if {"num_train_epochs", "max_steps"} & fields.keys():
        raise UsageError(
            "token_budget says how long to train, so num_train_epochs and max_steps may not"
        )
    tokens = sum(counted["tokens"] for counted in lineage["tasks"].values())
    if not tokens:
        raise UsageError(
            "the rows were not measured, so token_budget is of no use",
            hint="make-sft --model measures",
        )
    return {**DEFAULTS, **fields, "num_train_epochs": options.token_budget / tokens}


def sft_config(
    work: Path, options: TrainOptions, fields: Mapping[str, Any], *, validated: bool
) -> Any:
    """SFTConfig from the settings, what the machine suggests, and what sidtool decides; `work` gets
    the checkpoints.

    Raises UsageError if the settings do not fit together.
    """
    import torch
    from trl import SFTConfig

    on_gpu = torch.cuda.is_available() and not fields.get("use_cpu", False)
    decided = {
        "output_dir": str(work),
        "max_length": None,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        "remove_unused_columns": False,
        "metric_for_best_model": f"eval_{options.metric_for_best_model}",
        "greater_is_better": True,
        "load_best_model_at_end": validated,
        "restore_callback_states_from_checkpoint": True,
    }
    quick = torch.cuda.is_bf16_supported() if on_gpu else multiplies_in_bf16()
    if fields.get("bf16") == "auto":
        fields = {**fields, "bf16": quick}
    softer = {  # what the machine suggests, unless it is set
        "use_cpu": not on_gpu,
        "bf16": options.dtype == "bfloat16" or (on_gpu and quick),
        "gradient_checkpointing": False,
        "ddp_find_unused_parameters": False,
        "dataloader_pin_memory": on_gpu,
        "report_to": "none",
        "disable_tqdm": True,
    }
    if not validated:
        decided["eval_strategy"] = "no"
    try:
        arguments = SFTConfig(**{**softer, **fields, **decided})
    except (ValueError, TypeError) as error:
        raise UsageError(f"settings do not fit together: {str(error).splitlines()[0]}") from error
    if arguments.n_gpu > 1:
        raise UsageError(
            f"one process trains on one GPU, and sees {arguments.n_gpu}",
            hint="torchrun --nproc_per_node starts a process for each; CUDA_VISIBLE_DEVICES=0 "
            "shows one",
        )
    return arguments


def kept_dtype(model_dir: Path, options: TrainOptions, arguments: Any) -> str:
    """What weights are kept in: float32, for a GPU computes in bf16 under autocast; less where they
    are frozen.

    Raises UsageError if weights that are to stay would be kept in another precision than they are
    stored in."""
    stored = stored_dtype(model_dir)
    if options.dtype == "auto":
        frozen = options.stage != "full" and arguments.device.type == "cuda" and arguments.bf16
        return "bfloat16" if frozen and stored == "bfloat16" else "float32"
    if options.stage == "embeddings" and options.dtype != "float32" and options.dtype != stored:
        raise UsageError(
            f"{model_dir} is stored in {stored}: in {options.dtype} its frozen weights would change",
            hint="leave dtype out",
        )
    return options.dtype
