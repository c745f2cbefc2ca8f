"""Stages of training, one after another, each a resumable run over what the one before it made.

Knows the order and where the outputs between lie: `OUT-1-embeddings` beside OUT, kept, for adapters need
their base. What a stage does is train.py's."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sidtool.model.contract import read_contract
from sidtool.output import refuse_existing
from sidtool.sft.make_sft import read_lineage, side_files
from sidtool.train.run import Log, Progress, Tell, train
from sidtool.train.settings import StageSettings


def train_stages(
    model_dir: Path,
    rows: Path,
    out: Path,
    stages: Sequence[StageSettings],
    *,
    valid: Path | None = None,
    teachers: Sequence[Path] = (),
    force: bool = False,
    trust_remote_code: bool = False,
    progress: Callable[[int], Progress | None] | None = None,
    log: Log | None = None,
    tell: Tell | None = None,
) -> list[dict[str, Any]]:
    """Run the stages; the last one's model becomes `out`. A run that was killed goes on where it
    was.

    A stage validates on `valid`, or the users beside its rows, if it or one before it learns to
    recommend: a stage of titles alone trains to its end, and is refused where it is the only one
    and `valid` is given. `teachers` are every stage's. `progress` is asked for the reporter of each
    stage by its number. Returns each stage's summary. Raises as `train`, and UsageError if what
    lies between is of other settings, unless `force`."""
    refuse_existing(out, force)
    summaries = []
    for number, stage in enumerate(stages, start=1):
        last = number == len(stages)
        target = out if last else between(out, number, stage)
        of = stage.examples or rows
        summaries.append(
            train(
                model_dir,
                of,
                target,
                options=stage.options,
                fields=stage.sft_fields,
                valid=_users(valid, model_dir, of, alone=len(stages) == 1),
                teachers=teachers,
                force=force,
                keep=not last,
                trust_remote_code=trust_remote_code,
                progress=progress(number) if progress else None,
                log=log,
                tell=tell,
            )
        )
        model_dir = target
    return summaries


def _users(valid: Path | None, model_dir: Path, rows: Path, *, alone: bool) -> Path | None:
    """Whom a stage is validated on: nobody, where neither its rows nor those of a stage before say
    how it is served."""
    if read_lineage(rows)["history_prompt"] or read_contract(model_dir).history_prompt:
        return valid or side_files(rows)["valid"]
    return valid if alone else None  # which is then refused


def between(out: Path, number: int, stage: StageSettings) -> Path:
    """Where the output of a stage lies that is not the last."""
    return out.with_name(f"{out.name}-{number}-{stage.options.stage}")
