"""Several stages of training, each a resumable run over the output of the one before it.

Intermediate outputs are stored beside the last one, as OUT-1-embeddings, and are not deleted:
adapters need their base."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sidtool.base.checkpoint.hub import offline
from sidtool.base.extras import require
from sidtool.base.output import refuse_existing
from sidtool.base.output_name import FOLDER
from sidtool.base.progress import Progress
from sidtool.data.split.split import Split
from sidtool.examples.lineage import validation_users
from sidtool.training.arguments import run_config
from sidtool.training.loop.machine import quiet
from sidtool.training.plan import plan_training
from sidtool.training.run import TrainingSummary, train
from sidtool.training.settings import StageSettings
from sidtool.training.training_run import Log, TrainingRun


@dataclass(frozen=True)
class PlannedStage:
    """One stage with its input and its output."""

    settings: StageSettings
    run: TrainingRun

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        run = self.run
        return {
            "model": str(run.out),
            "starts_from": str(run.model_dir),
            "examples": str(run.examples),
            "valid": None if run.valid is None else str(run.valid),
            "memory": None if run.memory is None else run.memory.memory.digest,
            "options": asdict(self.settings.options),
            "settings": dict(self.settings.sft_fields),
        }

    def __str__(self) -> str:
        fields = dict(self.settings.sft_fields) or "sidtool's defaults"
        return (
            f"{self.run.model_dir} on {self.run.examples} with {self.settings.options} and "
            f"{fields}; output {self.run.out}"
        )


def plan_stages(
    model_dir: str | Path,
    examples: Path,
    out: Path,
    stages: Sequence[StageSettings],
    *,
    valid: str | Path | None = None,
    teachers: Sequence[str | Path] = (),
    memory: str | Path | None = None,
    split: Split | str | Path | None = None,
    force: bool = False,
    trust_remote_code: bool = False,
) -> list[PlannedStage]:
    """The stages in order, each with everything checked that needs no weights; the last one writes
    `out`.

    A stage is validated on `valid`, or on the users beside its examples, if it or an earlier stage
    trains on a task with a history prompt; else it trains to its end. Raises UsageError if `out`
    exists without `force`, MissingPackageError without the packages of training, and what `train`
    raises before it reads weights."""
    refuse_existing(out, force, FOLDER)
    require("train")
    planned: list[PlannedStage] = []
    has_prompt = False
    for number, settings in enumerate(stages, start=1):
        is_last = number == len(stages)
        run = plan_training(
            model_dir,
            settings.examples or examples,
            out if is_last else out.with_name(f"{out.name}-{number}-{settings.options.stage}"),
            settings.options,
            settings.sft_fields,
            teachers=teachers,
            memory=memory if memory is not None else settings.memory,
            split=split if split is not None else settings.split,
            trust_remote_code=trust_remote_code,
            before=planned[-1].run if planned else None,
        )
        has_prompt = has_prompt or run.history_prompt is not None
        if has_prompt:
            run = replace(run, valid=validation_users(valid, run.examples, run.lineage))
        elif valid is not None and len(stages) == 1:
            run = replace(run, valid=Path(valid))  # for `train` to refuse
        with quiet(), offline():
            run_config(run)  # raises for settings that do not fit together
        planned.append(PlannedStage(settings, run))
    return planned


def check_stages(planned: Sequence[PlannedStage]) -> None:
    """Read what the stages will read, except weights, as they will read it. Raises as `train`
    does before its first step, and for every example."""
    from sidtool.model.load import load_without_weights
    from sidtool.training.setup import check_inputs

    # all stages have the tokenizer and the configuration of the first one's model
    first = planned[0].run
    with quiet(), offline():
        for run in (stage.run for stage in planned):
            loaded = load_without_weights(
                first.model_dir,
                first.contract,
                run.bundle,
                trust_remote_code=run.trust_remote_code,
            )
            check_inputs(run, loaded, run_config(run))


def train_stages(
    model_dir: str | Path,
    examples: str | Path,
    out: str | Path,
    stages: Sequence[StageSettings],
    *,
    valid: str | Path | None = None,
    teachers: Sequence[str | Path] = (),
    memory: str | Path | None = None,
    split: Split | str | Path | None = None,
    force: bool = False,
    trust_remote_code: bool = False,
    progress: Callable[[int], Progress | None] | None = None,
    log: Log | None = None,
    notify: Callable[[str], None] | None = None,
) -> list[TrainingSummary]:
    """Run the stages; a call that was killed resumes where it stopped.

    `memory` and `split` replace those of the stages, `valid` is as in `plan_stages`. `progress`
    gives the reporter of a stage by its number, from 1. Returns the summary of each stage. Raises
    as `plan_stages` and `train`, and UsageError if an intermediate output has different settings,
    without `force`."""
    planned = plan_stages(
        model_dir,
        Path(examples),
        Path(out),
        stages,
        valid=valid,
        teachers=teachers,
        memory=memory,
        split=split,
        force=force,
        trust_remote_code=trust_remote_code,
    )
    summaries = []
    for number, stage in enumerate(planned, start=1):
        run = stage.run
        summary = train(
            run.model_dir,
            run.examples,
            run.out,
            options=run.options,
            sft_fields=stage.settings.sft_fields,
            valid=run.valid,
            teachers=teachers,
            memory=None if run.memory is None else run.memory.memory,
            split=None if run.memory is None else run.memory.split,
            force=force,
            reuse=number < len(planned),
            trust_remote_code=trust_remote_code,
            progress=progress(number) if progress else None,
            log=log,
            notify=notify,
        )
        summaries.append(summary)
    return summaries
