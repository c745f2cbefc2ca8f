"""Trains a model on a file of training examples, resumably, in one stage or in several.

Under `torchrun` or `accelerate launch` every process runs this code, and the first one alone
writes. The outputs of earlier stages are stored beside the last one, as OUT-1-embeddings, and are
not deleted: adapters need their base."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sidtool.base.errors import UsageError
from sidtool.base.extras import offline, require
from sidtool.base.inputs import keeps_inputs
from sidtool.base.locations import opened
from sidtool.base.options import Option, settings_from
from sidtool.base.output import refuse_existing, tidy
from sidtool.base.output_name import FOLDER
from sidtool.base.progress import Log, Progress
from sidtool.examples import validation_users
from sidtool.model.contract import TrainParams, read_contract
from sidtool.tokenizer.bundle import Bundle
from sidtool.training.execution import (
    Finished,
    ForgettingCheck,
    check_unfinished,
    train_and_publish,
)
from sidtool.training.loop.machine import peak_cuda_gib, peak_rss_gib, quiet
from sidtool.training.run import TrainingRun
from sidtool.training.run_checks import plan_training
from sidtool.training.settings import StageSettings, TrainOptions
from sidtool.training.trainer_config import run_config


@dataclass(frozen=True)
class TrainingSummary:
    """What a call of `train` did."""

    stage: str
    model: str
    """the output folder"""
    reused: bool = False
    """whether the output was there already, from the same run; all fields below are then None"""
    steps: int | None = None
    epochs: float | None = None
    loss: float | None = None
    """mean training loss of the whole run, as all counts below, also if it was resumed"""
    metric: str | None = None
    """the validation metric; None without validation"""
    best: float | None = None
    """its best value"""
    tokens: int | None = None
    """tokens that were read, without padding"""
    targets: int | None = None
    tokens_per_second: float | None = None
    seconds: float | None = None
    peak_rss_gib: float | None = None
    peak_cuda_gib: float | None = None
    trained_parameters: int | None = None
    resumed_from: str | None = None
    """name of the checkpoint"""
    packed: bool | None = None
    softmax_over: str | None = None
    perplexity_before: float | None = None
    """on the general text that the examples held out; None without any"""
    perplexity_after: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON values; of a reused output only the first three."""
        if self.reused:
            return {"stage": self.stage, "model": self.model, "reused": True}
        return asdict(self)


@keeps_inputs("a model")
def train(
    model_dir: str | Path,
    examples: str | Path,
    out: str | Path,
    *,
    options: TrainOptions | None = None,
    sft_fields: Mapping[str, Any] | None = None,
    valid: str | Path | None = None,
    bundle: Bundle | str | Path | None = None,
    teachers: Sequence[str | Path] = (),
    force: bool = False,
    reuse: bool = False,
    max_minutes: float | None = None,
    trust_remote_code: bool = False,
    progress: Progress | None = None,
    log: Log | None = None,
    notify: Callable[[str], None] | None = None,
    **keywords: Any,
) -> TrainingSummary:
    """Train a model on a file of training examples and write it to the folder `out`.

    Every setting of `--set` may also be given as a keyword: the fields of `options` and of TRL's
    SFTConfig.

    The output is the best checkpoint on the users in `valid` (make-sft writes them beside the
    examples; `train_stages` uses those by default), or the last checkpoint without `valid`.
    `sft_fields` are fields of TRL's SFTConfig by name. `bundle` is the bundle that the examples
    were made with, if that is a refreshed one and not the model's own. `teachers` are
    trained models with the same SIDs and tokenizer, or a memory of the examples' split
    (`TrainOptions.distill_weight`).

    A run that was killed resumes from its last checkpoint when called again with the same
    arguments, and ends with the same weights. With `reuse`, an output of the same run is not made
    again. After `max_minutes` the training stops with a validation and records `stop_step`, with
    which a run without this limit makes the same model. `progress` receives (done, total) steps,
    `log` each log line and validation, `notify` one line on what the run starts from.

    Raises UsageError if the output exists, settings do not fit together or an unfinished run had
    different ones; CompatibilityError if model, bundle, examples and teachers do not belong
    together or come from different splits; DataError if examples are malformed; SidtoolError if the
    training diverges.

    Examples:
        >>> summary = sidtool.train("base+sid", "train.jsonl", "model", max_steps=2)
        >>> summary.steps, summary.stage
        (2, 'full')
    """
    train_options, sft_settings = settings_from(TrainOptions, options, sft_fields, keywords)
    Option(minimum=0).check("max_minutes", max_minutes, float | None)
    out = Path(out)
    require("train")
    if not reuse:
        refuse_existing(out, force, FOLDER)
    run = plan_training(
        model_dir,
        Path(examples),
        out,
        train_options,
        sft_settings,
        valid=None if valid is None else Path(valid),
        bundle=opened(bundle, "open_source"),
        teachers=teachers,
        trust_remote_code=trust_remote_code,
    )
    forgetting = ForgettingCheck.read(run.examples, run.lineage, run.contract.tokens)
    if notify:
        notify(run.inheritance())
    if reuse and _is_made(run, force=force):
        return TrainingSummary(run.options.stage, str(out), reused=True)
    with quiet(), offline():
        arguments = run_config(run)
        if max_minutes is not None and arguments.world_size > 1:
            raise UsageError("max_minutes is for one process: several would stop at other steps")

        def build() -> Any:
            from sidtool.training.trainer_setup import build_trainer

            seconds = None if max_minutes is None else 60 * max_minutes
            return build_trainer(run, arguments, progress, log, forgetting, seconds)

        check = None if forgetting is None else forgetting.measure
        finished = train_and_publish(run, arguments, build, force=force, check=check)
    return _summary(run, finished, forgetting)


def _is_made(run: TrainingRun, *, force: bool = False) -> bool:
    """Whether the output is there already. Raises UsageError, without `force`, if it is of another
    run."""
    if run.out.exists():
        params = read_contract(run.out).params
        if isinstance(params, TrainParams) and params.run == run.digest:
            tidy(run.out)
            return True
    refuse_existing(run.out, force, FOLDER)
    return False


def _summary(
    run: TrainingRun, finished: Finished, forgetting: ForgettingCheck | None
) -> TrainingSummary:
    trainer, totals = finished.trainer, finished.totals
    tokens, targets = totals.seen
    trained = [weight for weight in trainer.model.parameters() if weight.requires_grad]
    measured = None if forgetting is None else forgetting.result
    return TrainingSummary(
        stage=run.options.stage,
        model=str(run.out),
        steps=trainer.state.global_step,
        epochs=trainer.state.epoch,
        loss=finished.loss,
        metric=run.options.metric_for_best_model if run.valid else None,
        best=trainer.state.best_metric,
        tokens=tokens,
        targets=targets,
        tokens_per_second=tokens / max(totals.seconds, 1e-9),
        seconds=totals.seconds,
        peak_rss_gib=peak_rss_gib(),
        peak_cuda_gib=peak_cuda_gib(),
        trained_parameters=sum(weight.numel() for weight in trained),
        resumed_from=finished.checkpoint.name if finished.checkpoint else None,
        packed=trainer.packed,
        softmax_over=run.softmax_over,
        perplexity_before=None if measured is None else measured.before,
        perplexity_after=None if measured is None else measured.after,
    )


def plan_stages(
    model_dir: str | Path,
    examples: str | Path,
    out: str | Path,
    stages: Sequence[StageSettings],
    *,
    teachers: Sequence[str | Path] = (),
    force: bool = False,
    max_minutes: float | None = None,
    trust_remote_code: bool = False,
) -> list[TrainingRun]:
    """The stages of `train_stages` in order, each with everything checked that needs no weights.

    A stage is validated on the users beside its examples, if there are some, and it or an earlier
    stage trains on a task with a history prompt; else it trains to its end. Raises UsageError if
    the output exists without `force`, MissingPackageError without the packages of training, and
    what `train` raises before it reads weights."""
    if max_minutes is not None and len(stages) > 1:
        raise UsageError("max_minutes is for one stage: the configuration lists several")
    out = Path(out)
    refuse_existing(out, force, FOLDER)
    require("train")
    planned: list[TrainingRun] = []
    for number, settings in enumerate(stages, start=1):
        is_last = number == len(stages)
        run = plan_training(
            model_dir,
            Path(settings.examples or examples),
            out if is_last else out.with_name(f"{out.name}-{number}-{settings.options.stage}"),
            settings.options,
            settings.sft_fields,
            teachers=teachers,
            trust_remote_code=trust_remote_code,
            before=planned[-1] if planned else None,
        )
        if run.history_prompt is not None and run.lineage.valid:
            run = replace(run, valid=validation_users(run.examples, run.lineage))
        with quiet(), offline():
            run_config(run)  # raises for settings that do not fit together
        planned.append(run)
    return planned


def check_stages(planned: Sequence[TrainingRun], *, force: bool = False) -> None:
    """Read what the stages of `plan_stages` will read, except weights, as they will read it. Raises
    as `train` does before its first step, and for every example; as `train_stages` for what it
    finds of the outputs."""
    from sidtool.model import load_without_weights
    from sidtool.training.trainer_setup import check_inputs

    # all stages have the tokenizer and the configuration of the first one's model
    first = planned[0]
    with quiet(), offline():
        for run in planned:
            loaded = load_without_weights(
                first.model_dir, first.contract, run.bundle, trust_remote_code=run.trust_remote_code
            )
            check_inputs(run, loaded)
            processes = run_config(run).world_size
            # what the stage before has yet to make determines a run, too
            if not force and run.model_dir.exists() and not _is_made(run):
                check_unfinished(run, processes)


@keeps_inputs("a model")
def train_stages(
    model_dir: str | Path,
    examples: str | Path,
    out: str | Path,
    stages: Sequence[StageSettings],
    *,
    teachers: Sequence[str | Path] = (),
    force: bool = False,
    max_minutes: float | None = None,
    trust_remote_code: bool = False,
    progress: Callable[[int], Progress | None] | None = None,
    log: Log | None = None,
    notify: Callable[[str], None] | None = None,
) -> list[TrainingSummary]:
    """Run the stages; a call that was killed resumes where it stopped.

    `progress` gives the reporter of a stage by its number, from 1. `max_minutes` is as in `train`,
    for one stage. Returns the summary of each stage. Raises as `plan_stages` and `train`, and
    UsageError if an intermediate output has different settings, without `force`."""
    planned = plan_stages(
        model_dir,
        examples,
        out,
        stages,
        teachers=teachers,
        force=force,
        max_minutes=max_minutes,
        trust_remote_code=trust_remote_code,
    )
    summaries = []
    for number, run in enumerate(planned, start=1):
        summary = train(
            run.model_dir,
            run.examples,
            run.out,
            options=run.options,
            sft_fields=run.sft_fields,
            valid=run.valid,
            teachers=run.teacher_dirs,
            force=force,
            reuse=number < len(planned),
            max_minutes=max_minutes,
            trust_remote_code=run.trust_remote_code,
            progress=progress(number) if progress else None,
            log=log,
            notify=notify,
        )
        summaries.append(summary)
    return summaries
