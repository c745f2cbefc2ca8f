import base64
import hashlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.base.errors import MissingPackageError
from sidtool.base.visible import STEERING
from sidtool.cli.reports.blocks import (
    Details,
    Estimate,
    IntervalChart,
    LineChart,
    Listing,
    Mark,
    Node,
    Page,
    Scatter,
    Section,
    Series,
    Table,
    Tree,
)
from sidtool.cli.reports.render import CUT, cell, numeric_columns, render
from sidtool.tokenizer.make.explain import Example, Term
from tests.cli.reports.html_page import parsed

HOSTILE = (
    "</script><script>alert(1)</script>\"'><img src=x onerror=a()>{{ 7 * 7 }}\x00\x1b[31m\u202eabc"
)


def page_of(text: str) -> Page:
    """A page with every kind of block, and a text in each of their places."""
    series = Series(text, ((0.0, 1.0), (1.0, 2.0)), (text, text))
    node = Node(
        text,
        2,
        terms=(Term(text, 0.5, 0.1),),
        common=text,
        common_share=0.5,
        examples=(Example(text, text, text),),
        left_out=text,
    )
    blocks = (
        text,
        Listing(text, (text, text)),
        Table(text, (text, text), ((text, Mark(text)), (text, 1.5))),
        Details(text, (text, Table(text, (text,), ((text,),)))),
        LineChart(text, text, text, (series, series)),
        IntervalChart(text, text, (Estimate(text, 1.0, 0.5, 1.5), Estimate(text, 2.0))),
        Scatter(text, (series, series)),
        Tree(text, (Node(text, 3, children=(node,)),)),
    )
    return Page(text, text, (Section(text, blocks),))


def test_a_hostile_text_stays_text() -> None:
    html = render(page_of(HOSTILE))
    page = parsed(html)
    assert "{{ 7 * 7 }}" in page.text
    assert "<script" not in html
    assert "\\x00\\x1b[31m\\u202eabc" in page.text
    assert "\x00" not in html
    assert "\u202e" not in html


@settings(max_examples=10, deadline=None)
@given(st.text(st.characters(exclude_categories=[]), min_size=1))
def test_any_text_leaves_the_page_as_it_is(text: str) -> None:
    html = render(page_of(text))
    html.encode("utf-8")
    assert not STEERING.search(html.replace("\n", ""))
    ordinary = parsed(render(page_of("title")))
    assert [tag for tag, _ in parsed(html).tags] == [tag for tag, _ in ordinary.tags]


def test_the_policy_allows_nothing_but_the_style() -> None:
    html = render(page_of("title"))
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', html)
    (style,) = re.findall(r"<style>(.*?)</style>", html, flags=re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"default-src 'none'; style-src 'sha256-{digest}'" in policy


def test_a_page_has_landmarks_headings_and_captions() -> None:
    page = parsed(render(page_of("title")))
    for tag in ("header", "nav", "main", "footer", "h1", "h2"):
        assert page.count(tag) == 1, tag
    # one table, one in a part that opens, and the numbers of each of the three charts
    assert page.count("table") == page.count("caption") == 5
    assert all(attributes["aria-label"] for tag, attributes in page.tags if "viewbox" in attributes)


@pytest.mark.parametrize(
    ("value", "text"),
    [(1234567, "1,234,567"), (0.123456, "0.1235"), (None, "–"), (True, "yes"), ([1], "[1]")],
)
def test_cells(value: object, text: str) -> None:
    assert cell(value) == text


def test_columns_of_numbers_end_at_the_right() -> None:
    rows = ((1, 2, "a", None, 3.5), (2, None, 4, None, True))
    assert numeric_columns(rows) == {1, 3}
    assert numeric_columns(()) == set()


def test_a_long_text_is_cut() -> None:
    page = parsed(render(page_of("x" * 500)))
    assert max(map(len, re.findall("x+", page.text.partition("…")[0]))) == CUT - 1


def test_without_jinja_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidtool.base.extras.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"jinja2 is not installed.*sidtool\[report\]"):
        render(page_of("title"))
