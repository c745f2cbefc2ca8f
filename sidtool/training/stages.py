"""Several stages of training, each a resumable run over the output of the one before it.

Intermediate outputs are stored beside the last one, as OUT-1-embeddings, and are not deleted:
adapters need their base."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sidtool.contract.locate import model_folder
from sidtool.contract.read import read_contract
from sidtool.extras import require
from sidtool.output import refuse_existing
from sidtool.output_name import FOLDER
from sidtool.recommendation.query import Progress
from sidtool.sft.lineage import read_lineage, validation_users
from sidtool.splits.split import Split
from sidtool.training.arguments import check_fields
from sidtool.training.kind_check import check_kind
from sidtool.training.run import TrainingSummary, train
from sidtool.training.settings import StageSettings
from sidtool.training.training_run import Log


@dataclass(frozen=True)
class PlannedStage:
    """One stage with its input and its output."""

    settings: StageSettings
    model_dir: Path
    examples: Path
    out: Path

    def to_json(self) -> dict[str, Any]:
        """The plan as JSON values."""
        return {
            "model": str(self.out),
            "starts_from": str(self.model_dir),
            "examples": str(self.examples),
            "options": asdict(self.settings.options),
            "settings": dict(self.settings.sft_fields),
        }

    def __str__(self) -> str:
        fields = dict(self.settings.sft_fields) or "sidtool's defaults"
        return (
            f"{self.model_dir} on {self.examples} with {self.settings.options} and {fields}; "
            f"output {self.out}"
        )


def plan_stages(
    model_dir: str | Path,
    examples: Path,
    out: Path,
    stages: Sequence[StageSettings],
    *,
    teachers: Sequence[str | Path] = (),
    force: bool = False,
    trust_remote_code: bool = False,
) -> list[PlannedStage]:
    """The stages in order; the last one writes `out`.

    Raises UsageError if `out` exists without `force` or settings do not fit the kind of the model
    or of a teacher, CompatibilityError if `model_dir` has no SID
    vocabulary, DataError if a stage's examples cannot be read, MissingPackageError without the
    packages of training."""
    refuse_existing(out, force, FOLDER)
    require("train")
    model_dir = model_folder(model_dir, trust_remote_code=trust_remote_code)
    kind = read_contract(model_dir).kind
    teacher_kinds = [
        read_contract(model_folder(each, trust_remote_code=trust_remote_code)).kind
        for each in teachers
    ]
    planned = []
    for number, settings in enumerate(stages, start=1):
        is_last = number == len(stages)
        target = out if is_last else out.with_name(f"{out.name}-{number}-{settings.options.stage}")
        stage_examples = settings.examples or examples
        check_kind(kind, teacher_kinds, settings.options, read_lineage(stage_examples))
        check_fields(kind, settings.sft_fields)
        planned.append(PlannedStage(settings, model_dir, stage_examples, target))
        model_dir = target
    return planned


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

    A stage is validated on `valid`, or on the users beside its examples, if it or an earlier stage
    trains on a task with a history prompt; else it trains to its end. `memory` and `split` replace
    those of the stages. `progress` gives the reporter
    of a stage by its number, from 1. Returns the summary of each stage. Raises as `plan_stages` and
    `train`, and UsageError if an intermediate output has different settings, without `force`."""
    planned = plan_stages(
        model_dir,
        Path(examples),
        Path(out),
        stages,
        teachers=teachers,
        force=force,
        trust_remote_code=trust_remote_code,
    )
    summaries = []
    for number, stage in enumerate(planned, start=1):
        summary = train(
            stage.model_dir,
            stage.examples,
            stage.out,
            options=stage.settings.options,
            sft_fields=stage.settings.sft_fields,
            valid=_validation_users(stage, valid, is_only=len(planned) == 1),
            teachers=teachers,
            memory=memory if memory is not None else stage.settings.memory,
            split=split if split is not None else stage.settings.split,
            force=force,
            reuse=number < len(planned),
            trust_remote_code=trust_remote_code,
            progress=progress(number) if progress else None,
            log=log,
            notify=notify,
        )
        summaries.append(summary)
    return summaries


def _validation_users(
    stage: PlannedStage, valid: str | Path | None, *, is_only: bool
) -> str | Path | None:
    lineage = read_lineage(stage.examples)
    if lineage.history_prompt or read_contract(stage.model_dir).history_prompt:
        return validation_users(valid, stage.examples, lineage)
    # `train` refuses --valid for a single stage that cannot be validated
    return valid if is_only else None
