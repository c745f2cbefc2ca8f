import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sidtool.cli.reports import drawing
from sidtool.cli.reports.blocks import (
    Estimate,
    IntervalChart,
    LineChart,
    Page,
    Scatter,
    Section,
    Series,
    thinned,
)
from sidtool.cli.reports.render import render

NUMBERS = st.floats(-1e9, 1e9).filter(lambda x: x == 0 or abs(x) > 1e-9)


def test_lines_go_from_corner_to_corner() -> None:
    series = Series("a", ((1.0, 0.0), (3.0, 10.0)))
    (line,), x_ticks, y_ticks = drawing.draw_lines(LineChart("", "", "", (series,)))
    left, right = drawing.LEFT, drawing.WIDTH - drawing.RIGHT
    bottom, top = drawing.HEIGHT - drawing.BOTTOM, drawing.TOP
    assert line.dots == ((left, bottom), (right, top))
    assert line.points == f"{left},{bottom} {right},{top}"
    assert [label for _, label in y_ticks] == ["0", "2", "4", "6", "8", "10"]
    # whole numbers have no tick between them
    assert [label for _, label in x_ticks] == ["1", "2", "3"]


def test_intervals_lie_on_the_scale_of_their_values() -> None:
    estimates = (Estimate("a", 1.0, 0.0, 2.0), Estimate("b", 2.0))
    axis = drawing.row_axis(IntervalChart("", "", estimates))
    assert (axis.at(0.0), axis.at(2.0)) == (drawing.LABELS, drawing.WIDTH - drawing.RIGHT)
    html = render(Page("", "", (Section("", (IntervalChart("", "", estimates),)),)))
    assert f'<circle class="dot s0" cx="{axis.at(1.0)}"' in html
    assert f'<circle class="dot s1" cx="{axis.at(2.0)}"' in html
    assert html.count('<line class="line s0"') == 1


def test_a_plane_has_one_scale() -> None:
    series = Series("", ((0.0, 0.0), (4.0, 0.0), (4.0, 1.0)))
    ((origin, right, corner),) = drawing.draw_points(Scatter("", (series,)))
    assert right[0] - origin[0] == drawing.SIDE - 16
    assert right[1] - corner[1] == pytest.approx((right[0] - origin[0]) / 4)


@settings(deadline=None)
@given(st.lists(NUMBERS, max_size=5))
@example([5e-324])
def test_an_axis_contains_every_value_and_few_ticks(values: list[float]) -> None:
    axis = drawing.axis(values, 0, 100)
    assert all(-0.1 <= axis.at(value) <= 100.1 for value in values)
    ticks = axis.ticks()
    assert 1 <= len(ticks) <= 7
    assert all(-0.1 <= at <= 100.1 for at, _ in ticks)


def test_thinned_points_keep_the_ends() -> None:
    points = tuple((float(x), 0.0) for x in range(1000))
    few = thinned(points, 11)
    assert [x for x, _ in few] == [0, 100, 200, 300, 400, 500, 599, 699, 799, 899, 999]
    assert thinned(points, 1000) == points
