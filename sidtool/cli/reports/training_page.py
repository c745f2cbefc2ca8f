"""The page of one training run, or of several to compare."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sidtool.cli.reports.blocks import (
    Block,
    LineChart,
    Listing,
    Page,
    Section,
    Series,
    Table,
    facts_table,
    thinned,
)
from sidtool.evaluation import HIGH, LOW, OF_ITEM_KNN
from sidtool.model.contract import Contract, RlParams, Selection, TrainParams, read_contract
from sidtool.tokenizer.bundle import flat_record
from sidtool.training import HISTORY_FILE, MACHINE_FIGURES, MACHINE_FILE, read_log

POINTS = 500
"""Points of a curve that are drawn."""
VALIDATION = "eval_"
"""How the names of validation metrics start."""
LOSS = "eval_loss"
RISE = 0.02
"""From this rise of the validation loss on, a run is said to overfit."""
FIRST = ("loss", "learning_rate", "grad_norm", "tokens")
"""Curves that come first, in this order."""
UNITS = ("step", "epoch")
"""What a log line is about, not what it measures."""

Entry = Mapping[str, float]
"""A log line or a validation: figure -> value; always with "step"."""
Histories = Mapping[str, tuple[Entry, ...]]
"""The entries of runs by their names."""


@dataclass(frozen=True)
class Training:
    """A model folder that `train` or `rl` wrote: its contract, and the history of its last
    stage."""

    contract: Contract
    history: tuple[Entry, ...]
    """Empty if the folder has none."""
    machine: tuple[Entry, ...]
    """Time and memory by step; empty if the folder has none."""

    @property
    def best(self) -> Selection | None:
        """The validation that selected the weights; None without one."""
        return getattr(self.contract.params, "best", None)

    @property
    def selected(self) -> str:
        """The figure that selected the weights, "" without validation."""
        return "" if self.best is None else f"{VALIDATION}{self.best.metric}"

    def last(self, figure: str) -> float | int | None:
        """The last value of a figure in the history."""
        values = [entry[figure] for entry in self.history if figure in entry]
        if not values:
            return None
        return int(values[-1]) if values[-1].is_integer() else values[-1]


def read_training(folder: Path) -> Training:
    """Read a model folder.

    Raises DataError if its history is malformed, and as `read_contract`."""
    contract = read_contract(folder)
    return Training(contract, read_log(folder / HISTORY_FILE), read_log(folder / MACHINE_FILE))


def training_page(trainings: Mapping[str, Training]) -> Page:
    """The page of trainings by name."""
    facts = {name: _facts(training) for name, training in trainings.items()}
    histories = {name: training.history for name, training in trainings.items()}
    curves = tuple(_curves(histories))
    machine = tuple(_curves({name: training.machine for name, training in trainings.items()}))
    sections = [Section("Validation", tuple(_validations(trainings, histories)))]
    if curves:
        sections.append(Section("Training curves", curves))
    if machine:
        explanation = "Of the first process: seconds in training, and its memory in GiB."
        sections.append(Section("Time and memory", (explanation, *machine)))
    sections.append(Section("What the run is", (facts_table("Data, model and length", facts),)))
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
    best = training.best
    validation = best and f"{best.metric} {best.value:.4f} at step {best.step}"
    return {
        "stage": contract.stages[-1].stage,
        "base model": contract.base_model,
        "bundle": contract.identity.digest[:12],
        "codes per level": contract.space.spelled_sizes,
        "steps": training.last("step"),
        "epochs": training.last("epoch"),
        "tokens": training.last("tokens"),
        "seconds": training.machine[-1].get("seconds") if training.machine else None,
        "best validation": validation,
    }


def _figures(histories: Histories) -> Iterator[str]:
    """The figures of histories, in the order in which they first occur."""
    entries = (entry for history in histories.values() for entry in history)
    yield from dict.fromkeys(key for entry in entries for key in entry)


def _curves(histories: Histories) -> Iterator[LineChart]:
    """One chart for each figure, with a line for each history; validations have charts of their
    own."""
    figures = [
        figure
        for figure in _figures(histories)
        if figure not in UNITS and not figure.startswith(VALIDATION)
    ]
    for figure in sorted(figures, key=lambda key: FIRST.index(key) if key in FIRST else len(FIRST)):
        yield _chart(figure, histories, zero=figure in MACHINE_FIGURES)


def _validations(trainings: Mapping[str, Training], histories: Histories) -> Iterator[Block]:
    """What validation says of each run, and a chart per figure, the one that selected first."""
    selected = {training.selected for training in trainings.values()}
    for name, training in trainings.items():
        if not training.history:
            yield f"{name} has no {HISTORY_FILE}: nothing is known of its course."
        best = training.best
        answers = course(training.history, training.selected, None if best is None else best.step)
        if answers:
            yield Listing(f"Validation of {name}", answers)
    figures = [
        figure
        for figure in _figures(histories)
        if figure.startswith(VALIDATION) and not figure.endswith((LOW, HIGH, OF_ITEM_KNN))
    ]
    if not figures:
        yield "No validation is recorded."
    for figure in sorted(figures, key=lambda key: key not in selected):
        yield _chart(figure, histories, zero=figure != LOSS)


def _chart(figure: str, histories: Histories, *, zero: bool) -> LineChart:
    """The course of a figure in each history; of a validation with its intervals, and item-kNN on
    the same users."""
    lines = []
    item_knn: dict[float, Series] = {}
    for name, history in histories.items():
        entries = [entry for entry in history if figure in entry]
        if not entries:
            continue
        points = tuple((entry["step"], entry[figure]) for entry in entries)
        ends = tuple(
            (entry[figure + LOW], entry[figure + HIGH])
            for entry in entries
            if {figure + LOW, figure + HIGH} <= entry.keys()
        )
        has_ends = len(ends) == len(points) <= POINTS
        lines.append(Series(name, thinned(points, POINTS), intervals=ends if has_ends else ()))
        beside = [
            (x["step"], x[figure + OF_ITEM_KNN]) for x in entries if figure + OF_ITEM_KNN in x
        ]
        if beside:
            item_knn.setdefault(beside[0][1], Series("item-kNN", (beside[0], beside[-1])))
    label = "validation loss" if figure == LOSS else figure.removeprefix(VALIDATION)
    drawn = (*lines, *item_knn.values())
    return LineChart(f"{label} by step", "step", label, drawn, zero=zero)


def course(history: Sequence[Entry], figure: str, step: int | None = None) -> tuple[str, ...]:
    """What validation says of a run in words: how good its best weights, those of a `step`, are
    beside item-kNN, and whether it ended too early or too late."""
    entries = [entry for entry in history if figure in entry]
    if not entries:
        return ()
    best = max(entries, key=lambda entry: entry[figure])
    # rl selects no checkpoint that is worse on a slice
    best = next((entry for entry in entries if entry["step"] == step), best)
    name = figure.removeprefix(VALIDATION)
    sentence = f"Best {name} {best[figure]:.4f}"
    if {figure + LOW, figure + HIGH} <= best.keys():
        sentence += f" (95% interval {best[figure + LOW]:.4f} to {best[figure + HIGH]:.4f})"
    sentences = [f"{sentence} at step {best['step']:.0f} of {history[-1]['step']:.0f}."]
    item_knn = best.get(figure + OF_ITEM_KNN)
    if item_knn:
        share = best[figure] / item_knn - 1
        place = "ahead of" if share > 0 else "behind"
        sentences.append(f"{abs(share):.0%} {place} item-kNN ({item_knn:.4f}) on the same users.")
    if len(entries) > 1 and best is entries[-1]:
        sentences.append("The last validation is the best one: more epochs may help.")
    losses = [(entry[LOSS], entry["step"]) for entry in entries if LOSS in entry]
    if losses and losses[-1][0] > min(losses)[0] * (1 + RISE):
        sentences.append(
            f"The validation loss rises since step {min(losses)[1]:.0f}: the model overfits."
        )
    return tuple(sentences)


def _settings(trainings: Mapping[str, Training]) -> Table:
    """The settings of the last stages; settings that differ come first."""
    stages = {name: training.contract.params for name, training in trainings.items()}
    settings = {
        name: flat_record(stage.to_json()) if stage else {} for name, stage in stages.items()
    }
    table = facts_table("Settings of the last stage", settings, "setting")
    # a row is a name, then the values; False, for values that differ, comes before True
    rows = sorted(table.rows, key=lambda row: all(value == row[1] for value in row[1:]))
    return replace(table, rows=tuple(rows))


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
