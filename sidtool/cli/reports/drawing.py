"""Charts as shapes of an SVG: where the lines, dots and ticks are, in units of its view box."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from sidtool.base.errors import DataError
from sidtool.cli.reports.blocks import IntervalChart, LineChart, Point, Scatter

WIDTH = 720
LEFT = 80
"""Room for the labels of the y axis."""
RIGHT = 16
TOP = 12
BOTTOM = 44
"""Room for the labels of the x axis."""
HEIGHT = 300
ROW = 26
"""Height of a row of an interval chart."""
LABELS = 250
"""Room for the labels of an interval chart."""
SIDE = 560
"""Width and height of a scatter plot."""
LEAST_SPAN = 1e-300
"""Values that are nearer to each other count as equal: a float divides no smaller span."""
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
"""Distances of ticks, times a power of ten."""


Tick = tuple[float, str]
"""A mark of an axis: where it is, and its number."""


@dataclass(frozen=True)
class Line:
    """The points of one series, as the attribute `points` of a polyline has them."""

    points: str
    dots: tuple[Point, ...]
    """Where a dot marks a point; empty if they are many."""
    band: str
    """The points of a polygon around the intervals; empty without."""


@dataclass(frozen=True)
class Axis:
    """A scale from values to units of the view box."""

    low: float
    high: float
    start: float
    stop: float

    def at(self, value: float) -> float:
        """Where a value is."""
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.stop - self.start), 1)

    def ticks(self, most: int = 6) -> tuple[Tick, ...]:
        """Round numbers along the axis, at most about so many."""
        span = self.high - self.low
        power = 10.0 ** math.floor(math.log10(span / most))
        steps = [factor * power for factor in (*STEPS, 20.0)]  # 20 where the logarithm is rounded
        step = next(step for step in steps if span / step <= most)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return tuple(
            (self.at(number * step), f"{number * step:.6g}") for number in range(first, last + 1)
        )


def axis(values: Iterable[float], start: float, stop: float, *, zero: bool = True) -> Axis:
    """The scale that shows these values, and 0 if `zero`, from `start` to `stop`. Raises DataError
    if they are too far apart for a float."""
    included = [*values, *([0.0] if zero else [])]
    low = min(included, default=0.0)
    high = max(included, default=1.0)
    if high - low < LEAST_SPAN:
        high = low + (abs(low) if abs(low) >= LEAST_SPAN else 1.0)
    if not math.isfinite(high - low):
        raise DataError(f"a chart cannot show values from {low:g} to {high:g}")
    return Axis(low, high, start, stop)


def draw_lines(chart: LineChart) -> tuple[list[Line], tuple[Tick, ...], tuple[Tick, ...]]:
    """The lines of a chart, the ticks of its x axis and those of its y axis."""
    xs = [x for series in chart.series for x, _ in series.points]
    ys = [y for series in chart.series for _, y in series.points]
    intervals = [interval for series in chart.series for interval in series.intervals]
    x_axis = axis(xs, LEFT, WIDTH - RIGHT, zero=False)
    y_axis = axis([*ys, *chain(*intervals)], HEIGHT - BOTTOM, TOP, zero=chart.zero)
    lines = []
    for series in chart.series:
        placed = tuple((x_axis.at(x), y_axis.at(y)) for x, y in series.points)
        dots = placed if len(placed) <= 24 else ()
        lows, highs = [], []
        for (x, _), (low, high) in zip(placed, series.intervals, strict=False):
            lows.append((x, y_axis.at(low)))
            highs.append((x, y_axis.at(high)))
        band = [*lows, *reversed(highs)]  # along the low ends, and back along the high ones
        lines.append(Line(_spell(placed), dots, _spell(band)))
    x_ticks = x_axis.ticks(8)
    if all(float(x).is_integer() for x in xs):  # such as steps: no tick is at a fraction
        x_ticks = tuple((x, label) for x, label in x_ticks if "." not in label)
    return lines, x_ticks, y_axis.ticks()


def _spell(points: Iterable[Point]) -> str:
    """Points as an attribute of SVG has them."""
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def row_axis(chart: IntervalChart) -> Axis:
    """The scale of the estimates of a chart, and of the ends of their intervals."""
    ends = [
        end
        for estimate in chart.estimates
        for end in (estimate.value, estimate.low, estimate.high)
        if end is not None
    ]
    return axis(ends, LABELS, WIDTH - RIGHT)


def draw_points(chart: Scatter) -> tuple[tuple[Point, ...], ...]:
    """Per series: where its points are; one unit is as long on both axes."""
    points = [point for series in chart.series for point in series.points]
    xs = [x for x, _ in points] or [0.0]
    ys = [y for _, y in points] or [0.0]
    longest = max(max(xs) - min(xs), max(ys) - min(ys)) or 1.0
    margin = 8
    scale = (SIDE - 2 * margin) / longest
    x_middle = (min(xs) + max(xs)) / 2
    y_middle = (min(ys) + max(ys)) / 2

    def place(point: Point) -> Point:
        x = SIDE / 2 + (point[0] - x_middle) * scale
        y = SIDE / 2 - (point[1] - y_middle) * scale
        return round(x, 1), round(y, 1)

    return tuple(tuple(map(place, series.points)) for series in chart.series)
