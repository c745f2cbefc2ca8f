"""Trains a trained model further by rewards of its own recommendations, resumably."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sidtool.base.errors import RefusedError, UsageError
from sidtool.base.extras import offline
from sidtool.base.inputs import keeps_inputs
from sidtool.base.options import settings_from
from sidtool.base.progress import Log, Progress
from sidtool.base.records import JsonRecord
from sidtool.training.execution import check_unfinished, train_and_publish
from sidtool.training.loop.machine import peak_cuda_gib, peak_rss_gib, quiet
from sidtool.training.reinforcement.rl_run import RlRun, plan_rl
from sidtool.training.reinforcement.settings import RlOptions
from sidtool.training.trainer_config import made_config


@dataclass(frozen=True)
class RlSummary(JsonRecord):
    """What a call of `rl` did."""

    algorithm: str
    model: str
    """the output folder"""
    steps: int
    loss: float | None
    """mean training loss of the whole run, as the counts below, also if it was resumed"""
    metric: str
    """the validation metric"""
    start: float | None
    """its value for the start; None if no step was left"""
    best: float | None
    """its best value; None if no checkpoint was validated"""
    tokens: int
    """tokens of prompts"""
    groups: int
    examples: int
    """events, or lists, with a history and a target that can be recommended"""
    left_out: int
    """those whose target cannot: it is retired, or in the history while seen items are excluded"""
    seconds: float
    peak_rss_gib: float | None
    peak_cuda_gib: float | None
    trained_parameters: int
    resumed_from: str | None
    """name of the checkpoint"""


@keeps_inputs("a model")
def rl(
    model_dir: str | Path,
    examples: str | Path,
    out: str | Path,
    *,
    options: RlOptions | None = None,
    grpo_fields: Mapping[str, Any] | None = None,
    reward_inputs: Mapping[str, str | Path] | None = None,
    split: str | Path | None = None,
    allow_worse_slices: bool = False,
    force: bool = False,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
    log: Log | None = None,
    notify: Callable[[str], None] | None = None,
    **keywords: Any,
) -> RlSummary:
    """Train a model further on the items that it recommends for the histories in a file of
    training examples, and write it to the folder `out`. Every setting of `--set` may also be given
    as a keyword.

    The output is the checkpoint that recommends best to the validation users beside the examples,
    among those that are worse than the start on no slice of targets by training frequency; with
    `allow_worse_slices` among all. `grpo_fields` are fields of TRL's GRPOConfig by name.
    `reward_inputs` are what rewards score items by, such as the memory of `collaborative`, by the
    name of the reward. If the prompt of the start or of a reward shows fields, `split` is the
    folder of the split that the examples were made from, which has them. The memory of the
    start itself is left out: its weight was tuned for the weights before.

    A run that was killed resumes from its last checkpoint when called again with the same
    arguments, and ends with the same weights. `progress` receives (done, total) steps, `log` each
    log line and validation, `notify` one line on what the run starts from.

    Raises UsageError if the output exists, settings do not fit together or an unfinished run had
    different ones; CompatibilityError if model, bundle, examples and reward models do not belong
    together or come from different splits; DataError if examples are malformed or a reward
    function fails; RefusedError if every checkpoint is worse than the start on a slice;
    SidtoolError if the training diverges.

    Examples:
        >>> settings = {"max_steps": 1, "num_generations": 4, "per_device_train_batch_size": 8}
        >>> summary = sidtool.rl(
        ...     "tuned", "train.jsonl", "reinforced", allow_worse_slices=True, **settings
        ... )
        >>> summary.algorithm, summary.steps
        ('grpo', 1)
    """
    rl_options, grpo_settings = settings_from(RlOptions, options, grpo_fields, keywords)
    run = plan_rl(
        model_dir,
        Path(examples),
        Path(out),
        rl_options,
        grpo_settings,
        reward_inputs=reward_inputs or {},
        split=split,
        trust_remote_code=trust_remote_code,
        force=force,
    )
    if notify:
        notify(run.inheritance())
    with quiet(), offline():
        from sidtool.training.reinforcement.trainer_setup import build_trainer

        arguments = grpo_config(run)

        def build() -> Any:
            return build_trainer(run, arguments, allow_worse_slices, progress, log)

        finished = train_and_publish(run, arguments, build, force=force, check=_check_selection)
    trainer = finished.trainer
    tokens, groups = finished.totals.seen
    trained = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    return RlSummary(
        algorithm=run.options.algorithm,
        model=str(run.out),
        steps=trainer.state.global_step,
        loss=finished.loss,
        metric=run.options.metric_for_best_model,
        start=trainer.start_value,
        best=trainer.state.best_metric,
        tokens=tokens,
        groups=groups,
        examples=len(trainer.examples),
        left_out=trainer.examples.left_out,
        seconds=finished.totals.seconds,
        peak_rss_gib=peak_rss_gib(),
        peak_cuda_gib=peak_cuda_gib(),
        trained_parameters=sum(weight.numel() for weight in trained),
        resumed_from=finished.checkpoint.name if finished.checkpoint else None,
    )


def check_rl(run: RlRun, *, force: bool = False) -> None:
    """Raise as `rl` for settings that do not fit together or the examples, for malformed examples,
    and for an unfinished run with different settings; reads no weights and writes nothing."""
    from sidtool.training.reinforcement.trainer_setup import check_examples

    with quiet(), offline():
        arguments = grpo_config(run)
        if not force:
            check_unfinished(run, arguments.world_size)
        check_examples(run, arguments)


def grpo_config(run: RlRun) -> Any:
    """The GRPOConfig of a run. Raises UsageError if the settings do not fit together."""
    from trl import GRPOConfig

    decided = {
        "max_completion_length": run.bundle.space.levels,
        # TRL wants whole groups in a batch of validation, which sidtool does not use
        "per_device_eval_batch_size": run.config_fields["num_generations"],
        "load_best_model_at_end": True,
    }
    arguments = made_config(GRPOConfig, run, decided)
    steps = arguments.steps_per_generation * arguments.num_iterations
    if steps % arguments.gradient_accumulation_steps:
        raise UsageError(
            f"gradient_accumulation_steps={arguments.gradient_accumulation_steps} does not divide "
            f"the {steps} batches that a generation of groups is used for "
            "(steps_per_generation * num_iterations)"
        )
    return arguments


def _check_selection(trainer: Any) -> None:
    """Raise RefusedError if validation found every checkpoint to be worse on a slice."""
    has_best = trainer.state.best_model_checkpoint is not None
    worse = trainer.worse_slices()  # empty if no validation was due
    if worse and trainer.refuses_worse_slices and not has_best:
        raise RefusedError(
            f"every checkpoint is worse than the start on a slice of targets: {worse}",
            hint="a smaller learning_rate, a larger beta or sft_weight; or the same command with "
            "--allow-worse-slices, which writes the last checkpoint",
        )
