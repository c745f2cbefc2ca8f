"""Every command of docs/training.md, run in order on a small shop."""

import re
from pathlib import Path

import pytest

from tests.cli.road import Road, done, write_lines
from tests.doc_blocks import blocks, commands, page

MANY = re.compile(r"\b\d{5,}\b")
"""Token budgets, which are reduced for a small shop."""
PAGE = MANY.sub("2000", page("training.md"))


@pytest.mark.slow
def test_every_command_of_the_page_runs(
    road: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, source in (
        ("shop.zarr", road.bundle),
        ("items.jsonl", road.items),
        ("base+sid", road.model),
    ):
        (tmp_path / name).symlink_to(source)
    (tmp_path / "interactions.csv").symlink_to(road.events)
    write_lines(tmp_path / "held-out.txt", ["b003", "b004"])
    (stages,) = blocks(PAGE, "yaml")
    (tmp_path / "stages.yaml").write_text(stages, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for command in commands(PAGE, "bash"):
        done(*command.words, text=command.piped)
    assert {"tuned", "tuned-1-embeddings", "plain", "aligned", "mix"} <= {
        path.name for path in tmp_path.iterdir()
    }
