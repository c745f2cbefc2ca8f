from pathlib import Path
from typing import get_args

from sidtool.data.columns import GUESSES, TIME, Tiers
from sidtool.data.prepare.check import MEANINGS, STOPS
from sidtool.data.prepare.formats import Source
from sidtool.data.tables.tables import CONTAINERS

PAGE = (Path(__file__).resolve().parents[3] / "docs/data.md").read_text(encoding="utf-8")


def rows(tiers: Tiers) -> str:
    tiers = [", ".join(f"`{name}`" for name in tier) for tier in tiers]
    return "\n".join(f"| {number} | {names} |" for number, names in enumerate(tiers, 1))


def test_the_page_lists_every_guess_in_its_tier() -> None:
    for content in ("item id", "title", "user id", TIME):
        assert rows(GUESSES[content]) in PAGE


def test_the_page_lists_every_problem_and_format() -> None:
    for kind, meaning in MEANINGS.items():
        stops = "yes" if kind in STOPS else "no"
        if kind == "unknown_item":
            stops = "above a fifth of the events"
        if kind == "tied_time":
            stops = "no, a warning above a tenth"
        assert f"| `{kind}`: {meaning} | {stops} |" in PAGE
    for name in (*CONTAINERS, *get_args(Source)):
        assert f"`{name}`" in PAGE
