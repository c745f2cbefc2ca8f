"""The tables of evaluate, evaluate-task and evaluate-lists, at most 80 columns wide."""

import math
from collections.abc import Iterator, Mapping
from textwrap import wrap
from typing import Any

from sidtool.cli.reports.blocks import Table
from sidtool.cli.terminal.console import note, say, say_json, say_table
from sidtool.evaluation import OTHER_MODEL, Averages, Evaluation, verdict
from sidtool.evaluation.lists import ListEvaluation
from sidtool.evaluation.tasks import TaskEvaluation

HIT_RATE = "hr@10"
NDCG = "ndcg@10"
DECIMALS = (2, 4)
"""Fewest and most decimals of a metric."""
WIDTH = 80
SYSTEMS = 3
"""Systems beside one another in a table of lists."""


def say_evaluation(evaluation: Evaluation, *, details: bool, json: bool) -> None:
    """The verdict of an evaluation and its tables; with `json` on stderr, beside the JSON on
    stdout."""
    answer = verdict(evaluation)
    if json:
        say_json(evaluation.to_json() | {"verdict": answer.to_json()})
    tell = note if json else say
    for text in (str(answer), f"to try: {answer.advice}"):
        for line in wrap(text, WIDTH):
            tell(line)
    tell("")
    # every metric of every system but the other model
    systems = {name: means for name, means in evaluation.baselines.items() if name != OTHER_MODEL}
    rows = []
    for name in evaluation.sid_level:
        if not name.endswith("@3"):
            decimals = _decimals(evaluation.confidence_interval[name], evaluation.n)
            others = [_figure(metrics[name], decimals) for metrics in systems.values()]
            rows.append([name, *_with_interval(evaluation, name), *others])
    title = f"{evaluation.n} examples, full ranking, item level"
    n_missing = evaluation.counts["targets_not_recommendable"]
    if n_missing:
        title += f"; {n_missing} targets cannot be recommended"
    say_table(["", "model", "95% interval", *systems], rows, title=title, aside=json)
    if "seen" in evaluation.settings:
        tell(str(evaluation.settings["seen"]))
    further = [_averages(groups, f"by {name}") for name, groups in evaluation.by.items()]
    if evaluation.weighted is not None:
        title = f"weighted by {evaluation.settings['weight']} of the target"
        further.append(_averages({"all": evaluation.weighted}, title))
    if details:
        further += _detail_tables(evaluation)
    if OTHER_MODEL in evaluation.differences:
        further.append(_differences(evaluation))
    for table in further:
        tell("")
        say_table(table.columns, table.rows, title=table.caption, aside=json)


def _detail_tables(evaluation: Evaluation) -> Iterator[Table]:
    """Groups of examples, prefixes in the beam after each level, how many items each system
    recommends, and metrics where any item of a shared SID counts, if they differ at all."""
    groups = _groups(evaluation)
    yield _averages(groups, "by the number of training events of the target")
    names = [name for name in evaluation.metrics if name.startswith("survival@")]
    yield Table(
        f"share of targets whose prefix is among the {evaluation.settings['num_beams']} beams",
        ["", "n", *(name.replace("survival@", "level ") for name in names)],
        [
            [label, averages.n, *(_with_interval(averages, name)[0] for name in names)]
            for label, averages in groups.items()
        ],
    )
    yield Table(
        f"of {evaluation.counts['active_items']} items, those among anyone's first ten",
        ["", "coverage", "effective items"],
        [
            [system, f"{share:.1%}", f"{evaluation.effective_items[system]:.0f}"]
            for system, share in evaluation.coverage.items()
        ],
    )
    rows = []
    for name, value in evaluation.sid_level.items():
        if value != evaluation.metrics[name]:
            decimals = _decimals(evaluation.confidence_interval[name], evaluation.n)
            figures = (evaluation.metrics[name], value)
            rows.append([name, *(_figure(figure, decimals) for figure in figures)])
    if rows:
        title = "where any item of a shared SID counts as correct"
        yield Table(title, ["", "item level", "SID level"], rows)


def _averages(groups: Mapping[str, Averages], title: str) -> Table:
    """The model's metrics in groups of examples by their labels."""
    rows = [
        [label, averages.n, *_with_interval(averages, HIT_RATE), *_with_interval(averages, NDCG)]
        for label, averages in groups.items()
    ]
    return Table(title, ["", "n", HIT_RATE, "95% interval", NDCG, "95% interval"], rows)


def _differences(evaluation: Evaluation) -> Table:
    """The model less the other model in every group of examples."""
    rows: list[list[object]] = []
    for label, averages in _groups(evaluation).items():
        for name in (HIT_RATE, NDCG):
            gain = averages.differences[OTHER_MODEL][name]
            decimals = _decimals((gain.low, gain.high), averages.n)
            values = (averages.metrics[name], averages.baselines[OTHER_MODEL][name])
            figures = [_figure(value, decimals) for value in values]
            rows.append([label, name, *figures, *_gain(gain, decimals)])
    columns = ["", "", "model", "other", "gain", "95% interval", "p"]
    return Table(f"the gain of the model over the {OTHER_MODEL}, paired by user", columns, rows)


def _gain(gain: Any, decimals: int = max(DECIMALS)) -> tuple[str, str, str]:
    """A paired difference, its interval and its p-value."""
    interval = f"{gain.low:z.{decimals}f} to {gain.high:z.{decimals}f}"
    return f"{gain.mean:+z.{decimals}f}", interval, f"{gain.p_value:.3f}"


def _groups(evaluation: Evaluation) -> Mapping[str, Averages]:
    """The groups that have examples, by a label like "all" or "popular, 100+" (training events)."""
    groups: dict[str, Averages] = {"all": evaluation, "mean over items": evaluation.macro}
    for name, averages in evaluation.slices.items():
        fewest, most = averages.events
        if most is None:
            events = f"{fewest}+"
        else:
            events = f"{fewest}-{most}" if most > fewest else str(fewest)
        if averages.n:
            groups[f"{name}, {events}"] = averages
    return groups


def _decimals(interval: tuple[float, float], n: int) -> int:
    """The decimals that matter in a mean over n examples: down to a tenth of the interval's half
    width."""
    fewest, most = DECIMALS
    # an interval may have no width, as where nobody has a hit, but n hits are no finer than 1 / n
    half_width = max((interval[1] - interval[0]) / 2, 1 / n)
    return min(max(math.ceil(-math.log10(half_width)) + 1, fewest), most)


def _figure(value: float, decimals: int) -> str:
    return f"{value:.{decimals}f}"


def _with_interval(averages: Averages | TaskEvaluation, name: str) -> tuple[str, str]:
    """A metric and its interval, with the decimals that matter."""
    ends = averages.confidence_interval[name]
    decimals = _decimals(ends, averages.n)
    interval = "-".join(_figure(end, decimals) for end in ends)
    return _figure(averages.metrics[name], decimals), interval


def say_task(evaluation: TaskEvaluation, *, json: bool) -> None:
    """The table of a task's metrics; with `json` on stderr, beside the JSON on stdout."""
    if json:
        say_json(evaluation.to_json())
    rows = []
    for name, value in evaluation.metrics.items():
        if name in evaluation.confidence_interval:
            figure, interval = _with_interval(evaluation, name)
        else:
            figure, interval = _figure(value, max(DECIMALS)), "-"
        rows.append((name, figure, evaluation.chance.get(name, "-"), interval))
    title = f"{evaluation.task}: {evaluation.n} questions"
    say_table(["", "model", "chance", "95% interval"], rows, title=title, aside=json)


def say_lists(evaluation: ListEvaluation, *, json: bool) -> None:
    """The tables of an evaluation of lists; with `json` on stderr, beside the JSON on stdout."""
    if json:
        say_json(evaluation.to_json())
    tell = note if json else say
    names = list(evaluation.systems)
    sessions = "session" if evaluation.n == 1 else "sessions"
    title = f"lists of {evaluation.length} items, {evaluation.n} held-out {sessions}"
    for start in range(0, len(names), SYSTEMS):
        systems = names[start : start + SYSTEMS]
        rows = []
        for metric in evaluation.names:
            # a mean with the half width of its interval, - where it is defined for no list
            means = [evaluation.systems[system].get(metric) for system in systems]
            cells = [f"{m.mean:.4f} ±{(m.high - m.low) / 2:.4f}" if m else "-" for m in means]
            rows.append([metric, *cells])
        rows.append(["coverage", *(f"{evaluation.coverage[system]:.1%}" for system in systems)])
        if start:
            tell("")
        say_table(["", *systems], rows, title=title, aside=json)
    if "seen" in evaluation.settings:
        tell(str(evaluation.settings["seen"]))
    rows = []
    for system, by_metric in evaluation.differences.items():
        for metric in (*evaluation.names[:2], "diversity"):
            if metric in by_metric:
                rows.append([system, metric, *_gain(by_metric[metric])])
    if rows:
        tell("")
        title = f"the gain of {names[0]}, paired by user"
        say_table(["over", "", "gain", "95% interval", "p"], rows, title=title, aside=json)
