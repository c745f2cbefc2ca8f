"""What a page consists of, as values: sections of tables, charts and a tree. Text is not escaped
here: `render` escapes all of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sidtool.tokenizer import Example, Term

Point = tuple[float, float]


@dataclass(frozen=True)
class Mark:
    """A cell of a table that stands out, like a correct recommendation."""

    text: str


@dataclass(frozen=True)
class Listing:
    """A numbered list with a line above."""

    caption: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row is its header."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class Series:
    """A named line, or a named group of points."""

    name: str
    points: tuple[Point, ...]
    labels: tuple[str, ...] = ()
    """One per point; empty if points have no name."""
    intervals: tuple[Point, ...] = ()
    """The ends of the 95% interval of each point of a line; empty without."""


@dataclass(frozen=True)
class LineChart:
    """Lines over a common x axis."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    zero: bool = True
    """The y axis contains 0."""


@dataclass(frozen=True)
class Estimate:
    """A value with the ends of its 95% interval, which may be unknown."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class IntervalChart:
    """One row per estimate: a dot, and a line from end to end of the interval."""

    title: str
    x_label: str
    estimates: tuple[Estimate, ...]


@dataclass(frozen=True)
class Scatter:
    """Points of groups in a plane; both axes have one scale."""

    title: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Node:
    """A SID prefix in the tree of a codebook."""

    prefix: str
    items: int
    terms: tuple[Term, ...] = ()
    common: str = ""
    """The most frequent value of a catalog field under the prefix."""
    common_share: float = 0.0
    """Of the items under the prefix that have a value."""
    children: tuple["Node", ...] = ()
    examples: tuple[Example, ...] = ()
    """Items, where the tree goes no deeper."""
    left_out: str = ""
    """What of the prefix is not shown."""


@dataclass(frozen=True)
class Tree:
    """The codebook, to walk from code to items."""

    caption: str
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class Details:
    """A part that opens, and the line that opens it."""

    summary: str
    blocks: tuple[str | Listing | Table, ...]


Block = str | Listing | Table | LineChart | IntervalChart | Scatter | Tree | Details
"""A text is a paragraph."""


@dataclass(frozen=True)
class Section:
    """A part of a page with a heading, which is unique in the page."""

    heading: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Page:
    """A page: its title, one line on what it shows, and its sections."""

    title: str
    summary: str
    sections: tuple[Section, ...]


def thinned(points: tuple[Point, ...], most: int) -> tuple[Point, ...]:
    """At most so many of the points, evenly spread, the first and the last among them."""
    if len(points) <= most:
        return points
    last = len(points) - 1
    return tuple(points[round(position * last / (most - 1))] for position in range(most))


def facts_table(
    caption: str, facts: Mapping[str, Mapping[str, object]], heading: str = "property"
) -> Table:
    """A table with a column of facts for each name; a fact that one lacks is an empty cell."""
    keys = dict.fromkeys(key for column in facts.values() for key in column)
    rows = tuple((key, *(column.get(key) for column in facts.values())) for key in keys)
    return Table(caption, (heading, *facts), rows)


def named(item: str, title: str) -> str:
    """An item as a reader knows it: its title, if it has one, and its id."""
    return f"{title} ({item})" if title else item
