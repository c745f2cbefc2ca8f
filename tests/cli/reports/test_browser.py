"""Pages in headless Chromium: no message, no request, no accessibility violation, and everything is
reached by keyboard.

`tests/cli/reports/install_browser.sh FOLDER` installs what is needed; SIDTOOL_BROWSER_PACKAGES
names the folder."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sidtool.cli.reports.bundle_page import bundle_page
from sidtool.cli.reports.render import render
from tests.bundles import small_bundle
from tests.cli.reports.test_render import HOSTILE, page_of
from tests.cli.road import done, walk

PACKAGES = os.environ.get("SIDTOOL_BROWSER_PACKAGES", "")
WALK = Path(__file__).with_name("walk_page.mjs")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (PACKAGES and shutil.which("chromium") and shutil.which("node")),
        reason="no Chromium: run tests/cli/reports/install_browser.sh FOLDER and set "
        "SIDTOOL_BROWSER_PACKAGES=FOLDER",
    ),
]


def walk_page(html: str, folder: Path, scheme: str) -> dict[str, Any]:
    """What a browser saw on a page."""
    path = folder / "page.html"
    path.write_text(html, encoding="utf-8")
    command = ["node", str(WALK), PACKAGES, str(path), scheme]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A page of every kind, those of trainings and evaluations made by the commands."""
    folder = tmp_path_factory.mktemp("shop")
    road = walk(folder)
    evaluation = folder / "evaluation.json"
    evaluation.write_text(done("evaluate", road.tuned, road.split, "--json").out, "utf-8")
    other = folder / "other.json"
    more = ("--exclude-seen", "--json")
    other.write_text(done("evaluate", road.tuned, road.split, *more).out, "utf-8")
    bundle = small_bundle(40, (2, 3, 20), seed=1)
    made = {"blocks": render(page_of(HOSTILE)), "bundle": render(bundle_page({"small": bundle}))}
    for kind, artifacts in (
        ("bundles", (road.bundle, road.other)),
        ("training", (road.tuned,)),
        ("evaluation", (evaluation,)),
        ("evaluations", (evaluation, other)),
    ):
        done("report", *artifacts, "-o", folder / f"{kind}.html")
        made[kind] = (folder / f"{kind}.html").read_text("utf-8")
    return made


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    "kind", ["blocks", "bundle", "bundles", "training", "evaluation", "evaluations"]
)
def test_pages_can_be_walked(kind: str, scheme: str, pages: dict[str, str], tmp_path: Path) -> None:
    seen = walk_page(pages[kind], tmp_path, scheme)
    assert seen["messages"] == []
    assert [Path(url).name.partition("#")[0] for url in seen["requests"]] == ["page.html"]
    assert seen["violations"] == []
    assert seen["background"] == {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[scheme]
    assert seen["focused"][0] == "A"
    # what is within a part that was opened comes next, so everything was opened
    assert seen["open"] == seen["details"] > 0
    assert seen["lost"] == []
    assert seen["overflow"] <= 0
