import pytest

from sidtool.cli.reports import drawing
from sidtool.cli.reports.blocks import LineChart, Page, Section, Series
from sidtool.cli.reports.render import render
from sidtool.cli.reports.training_page import _chart, course

METRIC = "eval_ndcg@10"


def validated(step: int, value: float, loss: float = 5.0) -> dict[str, float]:
    ends = {f"{METRIC}_low": value - 0.01, f"{METRIC}_high": value + 0.01}
    return {"step": step, METRIC: value, "eval_loss": loss, f"{METRIC}_item_knn": 0.05, **ends}


def test_the_best_validation_is_placed_beside_item_knn() -> None:
    history = [{"step": 5, "loss": 6.0}, validated(10, 0.02), validated(20, 0.04), {"step": 25}]
    assert course(history, METRIC) == (
        "Best ndcg@10 0.0400 (95% interval 0.0300 to 0.0500) at step 20 of 25.",
        "20% behind item-kNN (0.0500) on the same users.",
        "The last validation is the best one: more epochs may help.",
    )


def test_the_best_weights_are_those_that_were_selected() -> None:
    """`rl` selects no checkpoint that is worse on a slice, however good it is on all."""
    history = [validated(10, 0.03), validated(20, 0.04)]
    sentences = course(history, METRIC, 10)
    assert "Best ndcg@10 0.0300 (95% interval 0.0200 to 0.0400) at step 10 of 20." in sentences
    assert not any("more epochs" in sentence for sentence in sentences)


@pytest.mark.parametrize(("last", "overfits"), [(5.05, False), (5.4, True)])
def test_a_loss_that_rises_is_overfitting(last: float, overfits: bool) -> None:
    history = [validated(10, 0.06, 5.6), validated(20, 0.055), validated(30, 0.05, last)]
    sentences = course(history, METRIC)
    assert "20% ahead of item-kNN (0.0500) on the same users." in sentences
    is_reported = "The validation loss rises since step 20: the model overfits." in sentences
    assert is_reported == overfits
    assert not any("more epochs" in sentence for sentence in sentences)


def test_runs_of_earlier_versions_have_no_interval() -> None:
    assert course([{"step": 4, METRIC: 0.1}], METRIC) == ("Best ndcg@10 0.1000 at step 4 of 4.",)
    assert course([{"step": 4, "loss": 0.1}], METRIC) == ()


def test_one_end_of_an_interval_is_none() -> None:
    """A log line lacks the figures that are no numbers."""
    entry = {"step": 4.0, METRIC: 0.1, f"{METRIC}_low": 0.05}
    assert course([entry], METRIC) == ("Best ndcg@10 0.1000 at step 4 of 4.",)
    (line,) = _chart(METRIC, {"a": (entry,)}, zero=True).series
    assert line.intervals == ()


def test_a_band_goes_around_the_intervals() -> None:
    series = Series("a", ((0.0, 5.0), (1.0, 6.0)), intervals=((4.0, 8.0), (5.0, 10.0)))
    chart = LineChart("curve", "step", "metric", (series, Series("item-kNN", ((0.0, 2.0),))))
    (first, second), _, _ = drawing.draw_lines(chart)
    left, right = drawing.LEFT, drawing.WIDTH - drawing.RIGHT
    bottom, top = drawing.HEIGHT - drawing.BOTTOM, drawing.TOP

    def y(value: float) -> str:
        return f"{round(bottom + value / 10 * (top - bottom), 1):g}"

    corners = [(left, y(4)), (right, y(5)), (right, y(10)), (left, y(8))]
    assert first.band == " ".join(f"{x},{height}" for x, height in corners)
    assert second.band == ""
    html = render(Page("", "", (Section("", (chart,)),)))
    assert html.count("<polygon") == 1
    assert "95% from" in html
