"""With PYTHONOPTIMIZE=1, Python skips `assert`: nothing may depend on it."""

import ast
import re
from pathlib import Path

import sidtool

SOURCES = sorted(Path(sidtool.__file__).parent.rglob("*.py"))
ASSERT = re.compile(r"^\s*assert\b", re.MULTILINE)


def test_an_assert_only_tells_the_type_checker_what_holds() -> None:
    """It names a type, and whoever checks input raises an error instead."""
    asserts = [
        (path, node)
        for path in SOURCES
        if ASSERT.search(text := path.read_text(encoding="utf-8"))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Assert)
    ]
    for path, node in asserts:
        condition = ast.unparse(node.test)
        narrows = condition.startswith("isinstance(") or condition.endswith(" is not None")
        assert narrows, f"{path}:{node.lineno}: {condition}"
        assert node.msg is None, f"{path}:{node.lineno}: raise an error with this message"
