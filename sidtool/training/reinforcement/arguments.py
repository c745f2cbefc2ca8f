"""Makes GRPOConfig from the settings, the machine and what sidtool decides."""

from collections.abc import Mapping
from typing import Any

from sidtool.base.errors import UsageError
from sidtool.training.arguments import machine_defaults, made_config
from sidtool.training.reinforcement.rl_run import RlRun
from sidtool.training.reinforcement.settings import (
    ALGORITHM_DEFAULTS,
    CHOICES,
    POLICY_GRADIENT_FIELDS,
    RL_DEFAULTS,
    RlOptions,
)


def complete_fields(options: RlOptions, fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of GRPOConfig with the defaults of sidtool and of the algorithm.

    Raises UsageError for settings that exclude each other."""
    complete = {**RL_DEFAULTS, **ALGORITHM_DEFAULTS[options.algorithm], **fields}
    for name, choices in CHOICES.items():
        if complete.get(name, choices[0]) not in choices:
            spelled = ", ".join(map(str, choices))
            raise UsageError(f"{name} must be one of {spelled}, not {complete[name]!r}")
    is_preference = options.algorithm in ("dpo", "ipa")
    for name in POLICY_GRADIENT_FIELDS if is_preference else ():
        if name in fields:
            raise UsageError(f"{name} has no effect with algorithm={options.algorithm}")
    if is_preference and not complete["beta"]:
        raise UsageError(f"algorithm={options.algorithm} requires a beta greater than 0")
    if complete.get("sync_ref_model") and (is_preference or not complete["beta"]):
        raise UsageError(
            "sync_ref_model=true moves the reference of the divergence from the start: it requires "
            "a beta greater than 0, and an algorithm other than dpo and ipa"
        )
    size = complete["num_generations"]
    if options.algorithm == "ipa" and size != 2:
        raise UsageError(
            f"num_generations is 2 with algorithm=ipa, the lists of a pair, not {size}",
            hint="--set candidate_lists=N is the number of lists that are compared",
        )
    batch = complete["per_device_train_batch_size"]
    if type(size) is not int or size < 2:
        raise UsageError(f"num_generations must be at least 2, not {size}")
    if batch % size:
        raise UsageError(
            f"per_device_train_batch_size counts items: {batch} is no multiple of the "
            f"{size} items of a group (num_generations)"
        )
    if options.rollouts == "gumbel" and complete.get("scale_rewards") == "batch":
        raise UsageError("rollouts=gumbel requires scale_rewards group or none, not batch")
    return complete


def grpo_config(run: RlRun) -> Any:
    """The GRPOConfig of a run, whose checkpoints go to its work folder.

    What sidtool decides overrides the run's fields, and these override what the machine suggests.
    Raises UsageError if the settings do not fit together."""
    from trl import GRPOConfig

    suggested, fields = machine_defaults(run.grpo_fields)
    decided = {
        "output_dir": str(run.work),
        "max_completion_length": run.bundle.space.levels,
        # TRL wants whole groups in a batch of validation, which sidtool does not use
        "per_device_eval_batch_size": fields["num_generations"],
        "logging_nan_inf_filter": False,
        "metric_for_best_model": f"eval_{run.options.metric_for_best_model}",
        "greater_is_better": True,
        "load_best_model_at_end": True,
        # else early stopping would count from zero in a resumed run
        "restore_callback_states_from_checkpoint": True,
    }
    arguments = made_config(GRPOConfig, {**suggested, **fields, **decided})
    steps = arguments.steps_per_generation * arguments.num_iterations
    if steps % arguments.gradient_accumulation_steps:
        raise UsageError(
            f"gradient_accumulation_steps={arguments.gradient_accumulation_steps} does not divide "
            f"the {steps} batches that a generation of groups is used for "
            "(steps_per_generation * num_iterations)"
        )
    return arguments
