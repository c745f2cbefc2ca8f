"""The tables of `evaluate-lists`, at most 80 columns wide."""

from typing import TYPE_CHECKING

from sidtool.cli.terminal.console import note, say, say_json, say_table

if TYPE_CHECKING:
    from sidtool.evaluation import ListEvaluation, Mean

COLUMNS = 3
"""Systems beside one another in a table."""


def say_lists(evaluation: "ListEvaluation", *, json: bool) -> None:
    """The tables of an evaluation of lists; with `json` on stderr, beside the JSON on stdout."""
    if json:
        say_json(evaluation.to_json())
    _say_metrics(evaluation, aside=json)
    _say_differences(evaluation, aside=json)


def _say_metrics(evaluation: "ListEvaluation", *, aside: bool) -> None:
    """Every metric of every system."""
    names = list(evaluation.systems)
    for start in range(0, len(names), COLUMNS):
        systems = names[start : start + COLUMNS]
        rows = [
            [metric, *(_figure(evaluation.systems[each].get(metric)) for each in systems)]
            for metric in evaluation.names
        ]
        shares = [f"{evaluation.coverage[system]:.1%}" for system in systems]
        rows.append(["coverage", *shares])
        if start:
            (note if aside else say)("")
        sessions = "session" if evaluation.n == 1 else "sessions"
        title = f"lists of {evaluation.length} items, {evaluation.n} held-out {sessions}"
        say_table(["", *systems], rows, title=title, aside=aside)


def _say_differences(evaluation: "ListEvaluation", *, aside: bool) -> None:
    """By how much the first system is better than each other one."""
    first = next(iter(evaluation.systems))
    rows: list[list[object]] = []
    for system, by_metric in evaluation.differences.items():
        for metric in (*evaluation.names[:2], "diversity"):
            if metric in by_metric:
                each = by_metric[metric]
                interval = f"{each.low:z.4f} to {each.high:z.4f}"
                rows.append([system, metric, f"{each.mean:+z.4f}", interval, f"{each.p_value:.3f}"])
    if rows:
        (note if aside else say)("")
        title = f"the gain of {first}, paired by user"
        say_table(["over", "", "gain", "95% interval", "p"], rows, title=title, aside=aside)


def _figure(mean: "Mean | None") -> str:
    """A mean with the half width of its interval; - where it is defined for no list."""
    if mean is None:
        return "-"
    return f"{mean.mean:.4f} ±{(mean.high - mean.low) / 2:.4f}"
