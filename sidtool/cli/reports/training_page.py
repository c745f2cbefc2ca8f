"""The page of one training run, or of several to compare."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sidtool.base.documents import parse_json
from sidtool.base.errors import DataError
from sidtool.base.records import is_number
from sidtool.cli.reports.blocks import (
    Block,
    LineChart,
    Page,
    Section,
    Series,
    Table,
    Text,
    facts_table,
    thinned,
)
from sidtool.model.contract import Contract, RlParams, TrainParams, read_contract
from sidtool.tokenizer.bundle import flat_record
from sidtool.training import HISTORY_FILE, MACHINE_FIGURES, MACHINE_FILE

POINTS = 500
"""Points of a curve that are drawn."""
VALIDATION = "eval_"
"""How the names of validation metrics start."""
FIRST = ("loss", "learning_rate", "grad_norm", "tokens")
"""Curves that come first, in this order."""
UNITS = ("step", "epoch")
"""What a log line is about, not what it measures."""

Entry = Mapping[str, float]
"""A log line or a validation: figure -> value; always with "step"."""


@dataclass(frozen=True)
class Training:
    """A model folder that `train` or `rl` wrote: its contract, and the history of its last
    stage."""

    contract: Contract
    history: tuple[Entry, ...]
    """Empty if the folder has none."""
    machine: tuple[Entry, ...]
    """Time and memory by step; empty if the folder has none."""


def read_training(folder: Path) -> Training:
    """Read a model folder.

    Raises DataError if its history is malformed, and as `read_contract`."""
    contract = read_contract(folder)
    return Training(contract, _entries(folder / HISTORY_FILE), _entries(folder / MACHINE_FILE))


def _entries(path: Path) -> tuple[Entry, ...]:
    """The entries of a file, none if there is no file."""
    if not path.is_file():
        return ()
    entries = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            entries.append(_entry(line, path, number))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    return tuple(entries)


def _entry(line: str, path: Path, number: int) -> Entry:
    try:
        value = parse_json(line)
    except ValueError as error:
        raise DataError(f"{path}, line {number}: {error}") from error
    if not isinstance(value, dict) or not is_number(value.get("step")):
        raise DataError(f"{path}, line {number}: a log line is an object with a step")
    return {key: float(member) for key, member in value.items() if is_number(member)}


def training_page(trainings: Mapping[str, Training]) -> Page:
    """The page of trainings by name."""
    facts = {name: _facts(training) for name, training in trainings.items()}
    sections = [Section("Overview", (facts_table("What the run is", facts),))]
    curves = tuple(_curves({name: training.history for name, training in trainings.items()}))
    sections.append(Section("Validation", tuple(_validations(trainings, curves))))
    others = tuple(chart for chart in curves if not chart.y_label.startswith(VALIDATION))
    if others:
        sections.append(Section("Training curves", others))
    machine = tuple(_curves({name: training.machine for name, training in trainings.items()}))
    if machine:
        explanation = Text("Of the first process: seconds in training, and its memory in GiB.")
        sections.append(Section("Time and memory", (explanation, *machine)))
    sections.append(Section("Settings", (_settings(trainings),)))
    sections.append(Section("Lineage", tuple(_lineage(trainings))))
    names = ", ".join(trainings)
    return Page(
        f"Training: {names}",
        f"Curves, settings and lineage of the training of {names}.",
        tuple(sections),
    )


def _facts(training: Training) -> dict[str, object]:
    contract = training.contract
    params = contract.params
    best = params.best if isinstance(params, TrainParams | RlParams) else None
    validation = best and f"{best.metric} {best.value:.4f} at step {best.step}"
    return {
        "stage": contract.stages[-1].stage,
        "base model": contract.base_model,
        "bundle": contract.identity.digest[:12],
        "codes per level": contract.space.spelled_sizes,
        "steps": _last(training, "step"),
        "epochs": _last(training, "epoch"),
        "tokens": _last(training, "tokens"),
        "seconds": training.machine[-1].get("seconds") if training.machine else None,
        "best validation": validation,
    }


def _last(training: Training, figure: str) -> float | int | None:
    values = [entry[figure] for entry in training.history if figure in entry]
    if not values:
        return None
    return int(values[-1]) if values[-1].is_integer() else values[-1]


def _curves(histories: Mapping[str, tuple[Entry, ...]]) -> Iterator[LineChart]:
    """One chart for each figure of histories by name, with a line for each."""
    entries = [entry for history in histories.values() for entry in history]
    figures = dict.fromkeys(key for entry in entries for key in entry if key not in UNITS)
    for figure in sorted(figures, key=lambda key: FIRST.index(key) if key in FIRST else len(FIRST)):
        series = []
        for name, history in histories.items():
            points = tuple((entry["step"], entry[figure]) for entry in history if figure in entry)
            if points:
                series.append(Series(name, thinned(points, POINTS)))
        zero = figure in MACHINE_FIGURES
        yield LineChart(f"{figure} by step", "step", figure, tuple(series), zero=zero)


def _validations(
    trainings: Mapping[str, Training], curves: tuple[LineChart, ...]
) -> Iterator[Block]:
    for name, training in trainings.items():
        if not training.history:
            yield Text(f"{name} has no {HISTORY_FILE}: nothing is known of its course.")
    validations = [chart for chart in curves if chart.y_label.startswith(VALIDATION)]
    if not validations:
        yield Text("No validation is recorded.")
    yield from validations


def _settings(trainings: Mapping[str, Training]) -> Table:
    """The settings of the last stages; settings that differ come first."""
    settings = {name: _stage_settings(training.contract) for name, training in trainings.items()}
    table = facts_table("Settings of the last stage", settings, "setting")
    rows = sorted(table.rows, key=lambda row: all(cell == row[1] for cell in row[1:]))
    return replace(table, rows=tuple(rows))


def _stage_settings(contract: Contract) -> dict[str, Any]:
    params = contract.params
    return {} if params is None else flat_record(params.to_json())


def _lineage(trainings: Mapping[str, Training]) -> Iterator[Block]:
    for name, training in trainings.items():
        rows: list[tuple[object, ...]] = []
        for number, record in enumerate(training.contract.stages, 1):
            params = record.params
            sources: tuple[str | None, ...] = (None, None, None)
            if isinstance(params, TrainParams | RlParams):
                split = params.split
                sources = (split.protocol, split.digest[:12], params.examples[:12])
            rows.append((number, record.stage, *sources))
        columns = ("stage", "name", "protocol", "split", "training examples")
        yield Table(f"Stages of {name}, oldest first", columns, tuple(rows))
        base = {"base model": training.contract.base_model, **training.contract.base_weights}
        yield Table(f"Base of {name}", ("file", "SHA-256"), tuple(base.items()))
