"""The page of one evaluation, or of several side by side: metrics, and what a few users did, were
recommended and did next."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sidtool.base.checkpoint import MAX_JSON
from sidtool.base.documents import parse_json, read_document
from sidtool.base.errors import DataError
from sidtool.cli.reports.blocks import (
    Block,
    Details,
    Estimate,
    IntervalChart,
    LineChart,
    Listing,
    Mark,
    Page,
    Point,
    Section,
    Series,
    Table,
    facts_table,
    named,
)
from sidtool.evaluation import KINDS, SLICES, Interval, Sample, StoredEvaluation, verdict
from sidtool.tokenizer.bundle import flat_record

NEAR = 10
"""The cut-off that charts of one metric show: the given one nearest to it."""
AT_NUMBER = re.compile(r"[^@]+@[0-9]{1,9}")
SPELLED = {"hr": "Hit rate", "ndcg": "NDCG", "mrr": "MRR"}

Evaluations = Mapping[str, StoredEvaluation]
"""Evaluation by name."""
MODEL = "model"
"""The name of the evaluated model among the systems of its evaluation."""

Titles = Mapping[str, str]
"""Item id -> title."""
Lists = Mapping[str, tuple[str, ...]]
"""System -> its first recommendations, best first."""


@dataclass(frozen=True)
class System:
    """The metrics of a model or a baseline."""

    metrics: dict[str, float]
    intervals: Mapping[str, Interval]
    """95% intervals by metric; of the evaluations of earlier versions, baselines have none."""

    def estimate(self, metric: str, label: str = "") -> Estimate:
        """A metric with its interval."""
        low, high = self.intervals.get(metric, (None, None))
        return Estimate(label, self.metrics[metric], low, high)

    def spelled(self, metric: str) -> str | None:
        """A metric with its interval as a text; None if the system does not have it."""
        if metric not in self.metrics:
            return None
        estimate = self.estimate(metric)
        if estimate.low is None:
            return f"{estimate.value:.4f}"
        return f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"


def read_evaluation(path: Path) -> StoredEvaluation:
    """What `sidtool evaluate --json` printed. Raises DataError if the file has anything else."""
    try:
        evaluation = StoredEvaluation.from_json(parse_json(read_document(path, MAX_JSON)))
        _cut_offs(evaluation)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path} is no evaluation: {error}",
            hint="sidtool evaluate MODEL SPLIT --json > FILE writes one",
        ) from error
    return evaluation


def _cut_offs(evaluation: StoredEvaluation) -> tuple[int, ...]:
    """The cut-offs of all metrics. Raises ValueError unless each metric has a value at each, and no
    metric is at what is no number."""
    cut_offs = evaluation.settings.get("ks")
    if not isinstance(cut_offs, list) or not all(type(k) is int for k in cut_offs) or not cut_offs:
        raise ValueError("settings.ks is no list of whole numbers")
    systems = {"metrics": evaluation.metrics, **evaluation.baselines}
    for system, metrics in systems.items():
        for kind in KINDS:
            for k in cut_offs:
                if f"{kind}@{k}" not in metrics:
                    raise ValueError(f"{system} has no {kind}@{k}")
        for name in metrics:
            if "@" in name and not AT_NUMBER.fullmatch(name):
                raise ValueError(f"{system} has {name[:40]!r}, which is at no number")
    return tuple(cut_offs)


def evaluation_page(evaluations: Evaluations, titles: Titles | None) -> Page:
    """The page of evaluations by name. `titles` replace those that the evaluations have stored."""
    first = next(iter(evaluations.values()))
    cut_off = min(_cut_offs(first), key=lambda k: abs(k - NEAR))
    systems = _systems(evaluations)
    sections = [
        Section("Verdict", tuple(_verdicts(evaluations))),
        Section("Metrics", tuple(_metrics(evaluations, systems, cut_off))),
    ]
    if any(evaluation.slices for evaluation in evaluations.values()):
        blocks = tuple(_slices(evaluations, f"ndcg@{cut_off}"))
        sections.append(Section("Slices by training events of the target", blocks))
    survival = {
        name: _points("survival", evaluation.metrics) for name, evaluation in evaluations.items()
    }
    lines = tuple(Series(name, points) for name, points in survival.items() if points)
    if lines:
        text = (
            "Share of examples whose target's first codes are still in the beam after each level: "
            "a drop shows the level at which the beam loses the target."
        )
        chart = LineChart("Prefixes that survive", "level", "share of examples", lines)
        sections.append(Section("Survival of prefixes in the beam", (text, chart)))
    rows = tuple(
        (f"{name}: {system}", share, evaluation.effective_items.get(system))
        for name, evaluation in evaluations.items()
        for system, share in evaluation.coverage.items()
    )
    columns = ("system", "share of items in a first ten", "effective items")
    sections.append(Section("Coverage", (Table("Items that are recommended", columns, rows),)))
    samples = tuple(sample_blocks(evaluations, titles))
    if samples:
        sections.append(Section("Users and their recommendations", samples))
    facts = {
        name: {"examples": evaluation.n, **evaluation.counts, **flat_record(evaluation.settings)}
        for name, evaluation in evaluations.items()
    }
    table = facts_table("Counts, settings and digests", facts)
    sections.append(Section("What was evaluated", (table,)))
    summary = (
        f"{first.n:,} held-out examples over the full catalog; intervals are 95% by bootstrap."
    )
    return Page(f"Evaluation: {', '.join(evaluations)}", summary, tuple(sections))


def _verdicts(evaluations: Evaluations) -> Iterator[Block]:
    """The answer of each evaluation, with the name of its model."""
    for name, evaluation in evaluations.items():
        answer = verdict(evaluation)
        model = evaluation.settings.get("model", name)
        title = f"{name}: {model}" if model != name else name
        yield Listing(title, (*answer.sentences, f"To try: {answer.advice}."))
    bases = [
        (
            evaluation.n,
            evaluation.settings.get("examples"),
            evaluation.settings.get("ks"),
            evaluation.settings.get("exclude_seen"),
            evaluation.counts.get("active_items"),
        )
        for evaluation in evaluations.values()
    ]
    if any(basis != bases[0] for basis in bases):
        yield (
            "The evaluations have different examples, cut-offs, seen items or numbers of items: "
            "their numbers do not compare."
        )


def _systems(evaluations: Evaluations) -> dict[str, System]:
    """The models by the names of their evaluations, and each distinct system beside them once."""
    systems = {
        name: System(evaluation.metrics, evaluation.confidence_interval)
        for name, evaluation in evaluations.items()
    }
    for name, evaluation in evaluations.items():
        for beside, metrics in evaluation.baselines.items():
            if beside in systems and systems[beside].metrics == metrics:
                continue
            system = System(metrics, evaluation.baseline_intervals.get(beside, {}))
            systems[f"{beside} ({name})" if beside in systems else beside] = system
    return systems


def _metrics(
    evaluations: Evaluations, systems: Mapping[str, System], cut_off: int
) -> Iterator[Block]:
    """Charts at one cut-off and by cut-off, a table of all metrics, and paired differences."""
    for kind in ("ndcg", "hr"):
        metric = f"{kind}@{cut_off}"
        estimates = tuple(
            system.estimate(metric, name)
            for name, system in systems.items()
            if metric in system.metrics
        )
        yield IntervalChart(f"{SPELLED[kind]} at {cut_off}", metric, estimates)
    for kind in KINDS:
        series = tuple(
            Series(name, _points(kind, system.metrics)) for name, system in systems.items()
        )
        yield LineChart(f"{SPELLED[kind]} by cut-off", "cut-off", SPELLED[kind], series)
    metrics = dict.fromkeys(metric for system in systems.values() for metric in system.metrics)
    rows = tuple(
        (metric, *(system.spelled(metric) for system in systems.values()))
        for metric in metrics
        if not metric.startswith("survival@")
    )
    yield Table("All metrics", ("metric", *systems), rows)
    for name, evaluation in evaluations.items():
        if not evaluation.differences:
            continue
        differences = tuple(
            (f"{metric} less that of {system}", gain.mean, gain.low, gain.high, gain.p_value)
            for system, gains in evaluation.differences.items()
            for metric, gain in gains.items()
            if metric.endswith(f"@{cut_off}")
        )
        columns = ("difference", "mean", "95% from", "95% to", "p-value")
        yield Table(f"Paired differences of {name}", columns, differences)


def _points(kind: str, metrics: dict[str, float]) -> tuple[Point, ...]:
    """What follows the @ in the names of metrics of a kind, and their values."""
    parts = ((name.partition("@"), value) for name, value in metrics.items())
    return tuple((float(at), value) for (prefix, _, at), value in parts if prefix == kind)


def _slices(evaluations: Evaluations, metric: str) -> Iterator[Block]:
    estimates = []
    rows = []
    for slice_name in SLICES:
        for name, evaluation in evaluations.items():
            group = evaluation.slices.get(slice_name)
            if group is None or not group.n or metric not in group.metrics:
                continue
            label = slice_name if len(evaluations) == 1 else f"{slice_name}, {name}"
            model = System(group.metrics, group.confidence_interval)
            estimates.append(model.estimate(metric, label))
            first, last = group.events
            events = f"{first}–{last}" if last is not None else f"{first} or more"
            baselines = ", ".join(
                f"{system} {values[metric]:.4f}"
                for system, values in group.baselines.items()
                if metric in values
            )
            rows.append((label, events, group.n, model.spelled(metric), baselines))
    yield IntervalChart(f"{metric} by slice", metric, tuple(estimates))
    columns = ("slice", "training events", "examples", metric, "systems beside")
    yield Table(f"{metric} by slice, with the systems beside", columns, tuple(rows))


def sample_blocks(
    evaluations: Mapping[str, StoredEvaluation], titles: Titles | None
) -> Iterator[Block]:
    """The samples of evaluations by name, one part to open per user; nothing without any.

    A sample that several evaluations have is shown once, with the recommendations of each.
    `titles` come before those of the evaluations."""
    merged: dict[tuple[str, str, int, tuple[str, ...]], dict[str, Sample]] = {}
    item_titles: dict[str, str] = {}
    for name, evaluation in evaluations.items():
        item_titles |= evaluation.titles
        for sample in evaluation.samples:
            key = (sample.user, sample.target, sample.earlier, sample.history)
            merged.setdefault(key, {})[name] = sample
    item_titles |= titles or {}
    if not merged:
        return
    n_examples = next(iter(evaluations.values())).n
    yield (
        f"{len(merged):,} of {n_examples:,} examples, evenly spread and not chosen by result. Open "
        "one to see the history of the user and what each system recommends; the item that "
        "followed is marked."
    )
    for by_name in merged.values():
        sample = next(iter(by_name.values()))
        lists = _lists(by_name)
        ranks = []
        for system, items in lists.items():
            rank = items.index(sample.target) + 1 if sample.target in items else "–"
            ranks.append(f"{system}: {rank}")
        target = named(sample.target, item_titles.get(sample.target, ""))
        caption = f"History of user {sample.user}, oldest first"
        if sample.earlier:
            caption += f"; {sample.earlier:,} earlier items are left out"
        history = tuple(named(item, item_titles.get(item, "")) for item in sample.history)
        blocks = (Listing(caption, history), _recommendations(sample, lists, item_titles))
        yield Details(f"User {sample.user}, then {target} ({', '.join(ranks)})", blocks)


def _lists(by_name: Mapping[str, Sample]) -> dict[str, tuple[str, ...]]:
    """The recommendations by system: models by the names of their evaluations, other systems once
    where they agree."""
    lists = {name: sample.recommended.get(MODEL, ()) for name, sample in by_name.items()}
    for name, sample in by_name.items():
        for system, items in sample.recommended.items():
            if system == MODEL or lists.get(system) == items:
                continue
            lists[f"{system} ({name})" if system in lists else system] = items
    return lists


def _recommendations(sample: Sample, lists: Lists, titles: Titles) -> Table:
    depth = max(map(len, lists.values()), default=0)
    rows = []
    for place in range(depth):
        cells: list[object] = [place + 1]
        for items in lists.values():
            item = items[place] if place < len(items) else None
            text = None if item is None else named(item, titles.get(item, ""))
            cells.append(Mark(text) if text and item == sample.target else text)
        rows.append(tuple(cells))
    caption = f"Recommendations for user {sample.user}"
    return Table(caption, ("rank", *lists), tuple(rows))
