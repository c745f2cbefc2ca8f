import ast
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from tests.doc_blocks import page

SMALLER = {"K-": "b", "red soap no. 1": "blue soap 1", "sft/train.jsonl": "train.jsonl"}
"""Names in the tutorial's folder, and those of the tests' shop in their place."""
TEXT = re.sub("|".join(SMALLER), lambda match: SMALLER[match[0]], page("notebook.md"))
BLOCKS = re.findall(r"```python\n(.*?)```(?:\n\n```text\n(.*?)```)?", TEXT, re.DOTALL)


def run_cell(code: str, names: dict[str, Any]) -> str:
    """What a notebook shows for a cell: what it prints, and its last expression."""
    tree = ast.parse(code)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    printed = StringIO()
    with redirect_stdout(printed):
        exec(compile(tree, "cell", "exec"), names)
        value = None
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
    return printed.getvalue() + ("" if value is None else f"{value!r}\n")


@pytest.mark.usefixtures("in_road")
def test_every_block_shows_what_the_page_says() -> None:
    names: dict[str, Any] = {}
    shown = []
    for code, expected in BLOCKS:
        shown.append(run_cell(code, names))
        assert expected in ("", shown[-1]), code
    assert len(BLOCKS) == 14
    assert "anna" in shown[4]
    assert shown[6].splitlines()[0] == "<2 recommendations>"
    assert "<3 items for anna: " in shown[6]
    assert "item-kNN" in shown[7]
    assert all(name in shown[8] for name in ("model", "item-knn", "popularity"))
    assert Path("tuned.html").stat().st_size > 10_000
