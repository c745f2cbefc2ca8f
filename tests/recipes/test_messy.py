"""Messy tables end in a verdict, with the flags that the first command names."""

import shlex
from pathlib import Path

import pytest

from tests.cli.messy import garden, library, parts
from tests.cli.road import done
from tests.cli.test_stumbles import HINTS, Shop
from tests.recipes.conftest import Shop as Fixture


@pytest.mark.slow
@pytest.mark.parametrize("tables", [garden, parts, library], ids=lambda tables: tables.__name__)
def test_messy_tables_end_in_a_verdict(tables: Shop, shop: Fixture, tmp_path: Path) -> None:
    items, events = tables(tmp_path)
    recipe = ("--recipe", shop.recipe, "--minutes", 1, "--fix")
    words = ("fit", items, events, "-o", tmp_path / "out", *shlex.split(HINTS[tables]), *recipe)
    ran = done(*words, "--json").json
    assert ran["verdict"]["standing"] in ("ahead", "level", "behind")
    assert ran["profile"]["items"] == 40
    assert Path(ran["report"]).exists()
