"""Runs a trainer to its output, resumably: checkpoints are in a work folder, which is removed when
the output is complete. Of several processes, the first alone writes. Measures what a training
forgets of what the model was pretrained on, on general text that the examples held out."""

import json
import shutil
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sidtool.base.errors import DataError, SidtoolError, UsageError, first_line
from sidtool.base.extras import missing_package
from sidtool.base.output import locked, publish, refuse_existing, remove
from sidtool.base.records import is_number
from sidtool.base.work_folder import RUN_FILE, check_work_folder, open_work_folder
from sidtool.data.tables import json_lines
from sidtool.examples import (
    Lineage,
    checked_side_file,
    prompt_and_completion,
    read_training_examples,
)
from sidtool.model.contract import Forgetting
from sidtool.model.prompt import Segment
from sidtool.model.vocabulary import SidTokens
from sidtool.training.loop.checkpoints import (
    Totals,
    check_weights,
    has_ended,
    last_checkpoint,
    relocate_best,
)
from sidtool.training.loop.machine import random_states_kept
from sidtool.training.run import HISTORY_FILE, MACHINE_FIGURES, MACHINE_FILE, Run

LIBRARIES = ("accelerate", "peft", "torch", "transformers", "trl")
"""What settings are of."""
REFUSALS = (ValueError, TypeError, KeyError, AttributeError, ImportError)
"""What libraries raise for a setting that they do not take."""
RESTART = "--force starts again"
LOGS_FOLDER = "runs"
"""Where TensorBoard's writer puts its files."""

_OF_THE_CALL = "train_runtime"
"""The key of the entry that describes the last call of a resumed run, and its speed."""


@dataclass(frozen=True)
class Finished:
    """A training that reached its end."""

    trainer: Any
    checkpoint: Path | None
    """the checkpoint that it resumed from"""
    totals: Totals
    """the counts of the whole run, earlier calls included"""

    @property
    def loss(self) -> float:
        """The mean training loss of the whole run."""
        return self.totals.loss / max(1, self.trainer.state.global_step)


def train_and_publish(
    run: Run,
    arguments: Any,
    build: Callable[[], Any],
    *,
    force: bool,
    check: Callable[[Any], None] | None,
) -> Finished:
    """Train what `build` returns, from the last checkpoint of the same run if there is one, and
    move the result to the output.

    `arguments` is the configuration of the trainer; a trainer also has `restore` (a checkpoint at
    which training had ended) and `write_model` (a folder), which every process calls. `check` may
    refuse the trained model by raising; its checkpoints then stay. Raises UsageError if the output
    exists or an unfinished run had different settings, without `force`."""
    is_first = arguments.process_index == 0
    with locked(run.out) if is_first else nullcontext(), random_states_kept():
        refuse_existing(run.out, force)
        with arguments.main_process_first(desc="open the work folder"):
            if is_first:
                fingerprint = run.resumable(arguments.world_size)
                open_work_folder(run.work, fingerprint, restart=RESTART, force=force)
            checkpoint = last_checkpoint(run.work)
            if is_first and checkpoint:
                relocate_best(checkpoint)
        trainer = None
        try:
            trainer = build()
            if checkpoint and has_ended(checkpoint):
                trainer.restore(checkpoint)
            else:
                resume = str(checkpoint) if checkpoint else None
                trainer.train(resume_from_checkpoint=resume)
            check_weights(trainer)
            if check is not None:
                check(trainer)
        except (SidtoolError, *REFUSALS) as error:
            # without a checkpoint a corrected call must not find this run's settings
            if is_first and last_checkpoint(run.work) is None:
                remove(run.work)
            has_begun = trainer is not None and trainer.state.global_step > 0
            frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
            names = (frame.f_globals.get("__name__", "").partition(".")[0] for frame in frames)
            *_, package = (name for name in names if name not in sys.stdlib_module_names)
            is_explained = isinstance(error, SidtoolError) or missing_package(error) is not None
            if is_explained or has_begun or checkpoint or package not in LIBRARIES:
                raise
            # the libraries check some settings only when they make an optimizer or a schedule
            raise UsageError(f"the trainer refuses its settings: {first_line(error)}") from error
        totals = trainer.totals()
        trainer.accelerator.wait_for_everyone()
        final = run.work / "output"
        if is_first:
            remove(final)
        trainer.write_model(final)
        if is_first:
            write_history(trainer.state.log_history, final)
            if (run.work / LOGS_FOLDER).is_dir():
                shutil.move(run.work / LOGS_FOLDER, final / LOGS_FOLDER)
            refuse_existing(run.out, force)
            publish(final, run.out)
            remove(run.work)
        trainer.accelerator.wait_for_everyone()
    return Finished(trainer, checkpoint, totals)


def check_unfinished(run: Run, processes: int) -> None:
    """Raise as `train_and_publish` without `force` for an unfinished run with different settings;
    writes nothing."""
    if (run.work / RUN_FILE).exists():
        check_work_folder(run.work, run.resumable(processes), restart=RESTART)


def write_history(entries: Iterable[Mapping[str, Any]], folder: Path) -> None:
    """Write the log lines of a run, one JSON object each: to one file what the same run repeats,
    however often it was resumed, and to another what depends on the machine."""
    lines: dict[str, list[str]] = {HISTORY_FILE: [], MACHINE_FILE: []}
    for entry in entries:
        if _OF_THE_CALL in entry:
            continue
        # one that was in a checkpoint has its keys in another order
        figures = sorted(entry.keys() - {"step"})
        measured = {name: entry[name] for name in figures if name in MACHINE_FIGURES}
        repeated = {name: entry[name] for name in figures if name not in MACHINE_FIGURES}
        lines[HISTORY_FILE].append(json.dumps({"step": entry["step"], **repeated}))
        if measured:
            lines[MACHINE_FILE].append(json.dumps({"step": entry["step"], **measured}))
    for name, file_lines in lines.items():
        (folder / name).write_text("".join(f"{line}\n" for line in file_lines), encoding="utf-8")


def read_log(path: Path) -> tuple[dict[str, float], ...]:
    """The lines of a file that `write_history` wrote, without what is no number; none if there is
    no file. Raises DataError for a line that is no JSON object with a step."""
    if not path.is_file():
        return ()
    entries = []
    for number, line in json_lines(path):
        if not is_number(line.get("step")):
            raise DataError(f"{path}, line {number}: a log line is an object with a step")
        entries.append({name: float(value) for name, value in line.items() if is_number(value)})
    return tuple(entries)


@dataclass
class ForgettingCheck:
    """Measures a model before and after its training."""

    texts: Sequence[Sequence[Segment]]
    """the held-out texts"""
    tokens: SidTokens
    before: float | None = field(default=None, init=False)
    result: Forgetting | None = field(default=None, init=False)
    """None until both are measured"""

    @classmethod
    def read(cls, examples: Path, lineage: Lineage, tokens: SidTokens) -> "ForgettingCheck | None":
        """The check on the file that `make-sft --general` wrote beside training examples; None
        without general text among them. Raises DataError if the file is missing or was changed."""
        if lineage.general is None:
            return None
        path = checked_side_file(examples, lineage, "general", "the held-out general text")
        rows = read_training_examples(path)
        return cls([prompt_and_completion(row, tokens.space)[1] for row in rows], tokens)

    def measure(self, trainer: Any) -> None:
        """Measure the model of a trainer: first the one that it starts from, then the one that it
        has trained."""
        from sidtool.evaluation.tasks import answer_losses, perplexity
        from sidtool.model.prompt import prompt_encoder

        encoder = prompt_encoder(trainer.processing_class, self.tokens)
        ids = [encoder.ids(text) for text in self.texts]
        with trainer.evaluated_model() as model:
            measured = perplexity(*answer_losses(model, [[]] * len(ids), ids))
        if self.before is None:
            self.before = measured
        else:
            self.result = Forgetting(len(self.texts), self.before, measured)
