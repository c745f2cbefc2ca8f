"""With PYTHONOPTIMIZE=1, Python skips `assert`: nothing may depend on it."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sidtool
from tests.cli.road import catalog, done, interactions, tree

SOURCES = sorted(Path(sidtool.__file__).parent.rglob("*.py"))


def test_an_assert_only_tells_the_type_checker_what_holds() -> None:
    """It names a type, and whoever checks input raises an error instead."""
    asserts = [
        (path, node)
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assert)
    ]
    for path, node in asserts:
        condition = ast.unparse(node.test)
        narrows = condition.startswith("isinstance(") or condition.endswith(" is not None")
        assert narrows, f"{path}:{node.lineno}: {condition}"
        assert node.msg is None, f"{path}:{node.lineno}: raise an error with this message"


PROGRAM = """
import json, sys
from tests.cli.road import run
print(json.dumps([[ran.code, ran.err] for ran in (run(*line) for line in json.loads(sys.argv[1]))]))
"""


def optimized(*lines: tuple[object, ...]) -> list[tuple[int, str]]:
    """Run commands in a process without asserts; their exit codes, and what they say."""
    words = json.dumps([[str(word) for word in line] for line in lines])
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, words],
        env={**os.environ, "PYTHONOPTIMIZE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return [(code, err) for code, err in json.loads(ended.stdout)]


@pytest.mark.slow
def test_commands_work_and_refuse_as_without_it(tmp_path: Path) -> None:
    items = catalog(tmp_path / "items.jsonl")
    events = interactions(tmp_path / "events.csv")
    for name in ("split", "damaged"):
        done("split", events, "-o", tmp_path / name)
    (tmp_path / "damaged" / "test.parquet").write_text("")
    split = ("split", events, "-o", tmp_path / "again")
    made, repeated, refused = optimized(
        split,
        split,
        ("make-sft", "no.zarr", items, tmp_path / "damaged", "-o", tmp_path / "x.jsonl"),
    )
    assert made[0] == 0, made
    assert tree(tmp_path / "again") == tree(tmp_path / "split")
    assert (repeated[0], repeated[1].count("exists already")) == (2, 1)
    assert refused[0] == 1, refused
    assert refused[1].startswith("error: ")
