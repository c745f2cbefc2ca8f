"""With PYTHONOPTIMIZE=1, Python skips `assert`: nothing may depend on it."""

import ast
import os
import subprocess
import sys
from pathlib import Path

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


def optimized(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run a command without asserts."""
    return subprocess.run(
        [sys.executable, "-m", "sidtool", *map(str, arguments)],
        env={**os.environ, "PYTHONOPTIMIZE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_commands_work_and_refuse_as_without_it(tmp_path: Path) -> None:
    items = catalog(tmp_path / "items.jsonl")
    events = interactions(tmp_path / "events.csv")
    done("split", events, "-o", tmp_path / "split")
    ran = optimized("split", events, "-o", tmp_path / "again")
    assert ran.returncode == 0, ran.stderr
    assert tree(tmp_path / "again") == tree(tmp_path / "split")
    ran = optimized("split", events, "-o", tmp_path / "again")
    assert (ran.returncode, ran.stderr.count("exists already")) == (2, 1)
    (tmp_path / "split" / "test.parquet").write_text("")
    ran = optimized("make-sft", "no.zarr", items, tmp_path / "split", "-o", tmp_path / "x.jsonl")
    assert ran.returncode == 1, ran.stderr
    assert ran.stderr.startswith("error: ")
