"""Pages in headless Chromium: no message, no request, no accessibility violation, and everything is
reached by keyboard.

`tests/pages/install_browser.sh FOLDER` installs what is needed; SIDTOOL_BROWSER_PACKAGES names the
folder."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sidtool.pages.bundle_page import bundle_page
from sidtool.pages.render import render
from tests.bundles import small_bundle
from tests.pages.test_render import HOSTILE, page_of

PACKAGES = os.environ.get("SIDTOOL_BROWSER_PACKAGES", "")
WALK = Path(__file__).with_name("walk_page.mjs")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (PACKAGES and shutil.which("chromium") and shutil.which("node")),
        reason="no Chromium: run tests/pages/install_browser.sh FOLDER and set "
        "SIDTOOL_BROWSER_PACKAGES=FOLDER",
    ),
]


def walk(html: str, folder: Path, scheme: str) -> dict[str, Any]:
    """What a browser saw on a page."""
    path = folder / "page.html"
    path.write_text(html, encoding="utf-8")
    done = subprocess.run(
        ["node", str(WALK), PACKAGES, str(path), scheme], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["blocks", "bundle"])
def test_a_page_is_walked_through(kind: str, scheme: str, tmp_path: Path) -> None:
    bundle = small_bundle(40, (2, 3, 20), seed=1)
    page = page_of(HOSTILE) if kind == "blocks" else bundle_page({"small": bundle})
    seen = walk(render(page), tmp_path, scheme)
    assert seen["messages"] == []
    assert [Path(url).name for url in seen["requests"]] == ["page.html"]
    assert seen["violations"] == []
    assert seen["background"] == {"light": "rgb(255, 255, 255)", "dark": "rgb(13, 17, 23)"}[scheme]
    assert seen["focused"][0] == "A"
    # what is within a part that was opened comes next, so everything was opened
    assert seen["open"] == seen["details"] > 0
