"""Pages as HTML: one file without a script or any address, which its content security policy also
forbids."""

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from sidtool.base.extras import require
from sidtool.base.visible import visible
from sidtool.cli.reports import drawing
from sidtool.cli.reports.blocks import Page

TEMPLATES = Path(__file__).with_name("templates")
CUT = 160
"""Characters of a text from data that are shown."""
COLORS = 8
"""Colors of series in the style sheet; more series repeat them."""


def render(page: Page) -> str:
    """The HTML of a page; it has no control character and no change of the direction of writing.

    Raises MissingPackageError without Jinja2."""
    require("report")
    from markupsafe import Markup

    style = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return _template().render(page=page, style=Markup(style), style_digest=digest)


@cache
def _template() -> Any:
    """The template of a page, which takes longer to compile than a page to write."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        autoescape=True,
        finalize=_plain,
        loader=FileSystemLoader(TEMPLATES),
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters |= {
        "cell": cell,
        "color": color,
        "cut": cut,
        "kind": lambda block: type(block).__name__,
        "numeric_columns": numeric_columns,
    }
    environment.globals |= {"drawing": drawing}
    return environment.get_template("page.html")


def cell(value: object) -> str:
    """A cell of a table: a float has four significant digits, a large whole number separators."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def numeric_columns(rows: Sequence[Sequence[object]]) -> frozenset[int]:
    """The columns of a table after the first that have numbers only, which end at the right."""
    return frozenset(
        number
        for number, cells in enumerate(zip(*rows, strict=True))
        if number and all(cell is None or type(cell) in (int, float) for cell in cells)
    )


def cut(text: str) -> str:
    """The first CUT characters of a text."""
    return text if len(text) <= CUT else f"{text[: CUT - 1]}…"


def color(index: int) -> str:
    """The class of a series by its number."""
    return f"s{index % COLORS}"


def _plain(value: Any) -> Any:
    """A value of a template as it is shown; what is HTML already, or the style, stays."""
    return visible(value) if type(value) is str else value
