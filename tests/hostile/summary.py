"""A pytest plugin that prints the hostile cases of each family, from all processes, at the end."""

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Any

import pytest

KEY = "hostile_cases"
FOLDER = "tests/hostile/"


@dataclass
class Count:
    """The cases of a family so far."""

    refused: int = 0
    accepted: int = 0
    seconds: float = 0.0
    """duration of its tests"""


counts: dict[str, Count] = defaultdict(Count)
"""The cases by family."""


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
            counts[family_of(item.nodeid)].seconds += time.perf_counter() - begun


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send the counts of a pytest-xdist process to the one that prints them."""
    output: dict[str, Any] | None = getattr(session.config, "workeroutput", None)
    if output is not None:
        output[KEY] = {family: astuple(count) for family, count in counts.items()}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Receive the counts of a pytest-xdist process; a crashed one has none."""
    for family, values in getattr(node, "workeroutput", {}).get(KEY, {}).items():
        refused, accepted, seconds = values
        counts[family].refused += refused
        counts[family].accepted += accepted
        counts[family].seconds += seconds


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table."""
    counts.pop("harness", None)  # the tests of the harness itself
    if not counts:
        return
    terminalreporter.section("hostile cases")
    columns = ("family", "cases", "refused", "accepted", "seconds")
    terminalreporter.write_line("{:<24} {:>10} {:>10} {:>10} {:>8}".format(*columns))
    total = Count()
    for family, count in sorted(counts.items()):
        terminalreporter.write_line(_line(family, count))
        total.refused += count.refused
        total.accepted += count.accepted
        total.seconds += count.seconds
    terminalreporter.write_line(_line("all", total))


def _line(family: str, count: Count) -> str:
    cases = count.refused + count.accepted
    numbers = f"{cases:>10,} {count.refused:>10,} {count.accepted:>10,}"
    return f"{family:<24} {numbers} {count.seconds:>8.0f}"
