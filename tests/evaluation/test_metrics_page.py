"""The example of docs/metrics.md, run: each line's value is that of its comment."""

import re
from pathlib import Path
from typing import Any

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
CHECKED = re.compile(r"^(?P<expression>\S.*\))  # (?P<value>[\d.]+)", flags=re.MULTILINE)
"""An expression on a line of its own, and the value in the comment behind it."""


def test_the_example_has_the_values_of_its_comments() -> None:
    block = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL))
    names: dict[str, Any] = {}
    exec(block, names)
    checked = list(CHECKED.finditer(block))
    assert len(checked) == 6
    for line in checked:
        value = eval(line["expression"], names)
        assert value == pytest.approx(float(line["value"])), line["expression"]
