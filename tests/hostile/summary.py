"""A pytest plugin that prints the hostile cases of each family, from all processes, at the end."""

import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

KEY = "hostile_cases"
FOLDER = "tests/hostile/"

counts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(3))
"""By family: the cases that were refused and accepted so far, and seconds of its tests."""


def family_of(test: str) -> str:
    """The family of a test: "tests/hostile/test_bundles.py::test_x" -> "bundles"."""
    module = test.partition("::")[0].rpartition("/")[2]
    return module.removeprefix("test_").removesuffix(".py")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Measure the tests of a family."""
    begun = time.perf_counter()
    try:
        return (yield)
    finally:
        if item.nodeid.startswith(FOLDER):
            counts[family_of(item.nodeid)] += (0, 0, time.perf_counter() - begun)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send the counts of a pytest-xdist process to the one that prints them."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[KEY] = {family: numbers.tolist() for family, numbers in counts.items()}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Receive the counts of a pytest-xdist process; a crashed one has none."""
    for family, numbers in getattr(node, "workeroutput", {}).get(KEY, {}).items():
        counts[family] += numbers


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    counts.pop("harness", None)  # the tests of the harness itself
    if not counts:
        return
    terminalreporter.section("hostile cases")
    columns = ("family", "cases", "refused", "accepted", "seconds")
    terminalreporter.write_line("{:<24} {:>10} {:>10} {:>10} {:>8}".format(*columns))
    for family, numbers in (*sorted(counts.items()), ("all", sum(counts.values()))):
        refused, accepted, seconds = numbers
        line = f"{refused + accepted:>10,.0f} {refused:>10,.0f} {accepted:>10,.0f} {seconds:>8.0f}"
        terminalreporter.write_line(f"{family:<24} {line}")
