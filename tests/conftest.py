"""An S3 server for the tests of several rooms, the counts of hostile cases, which tests are slow
or stay together, and the examples of Hypothesis, without a limit of time: on a shared machine any
example may take seconds. `tests.waiting` is for other waits."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

if TYPE_CHECKING:
    from tests.s3 import Wire

pytest_plugins = ["tests.hostile.summary"]

# TRL imports it, which takes two seconds, wherever it is installed
sys.modules.setdefault("wandb", None)  # type: ignore[arg-type]

# one thread per process adds up in one order, and waits for no other
os.environ.setdefault("OMP_NUM_THREADS", "1")

# the power does not fail between a test's writes and its reads
os.fsync = lambda descriptor: None

EXAMPLES = int(os.environ.get("SIDTOOL_EXAMPLES", "1"))
"""How many times as many examples each property is tried with as in `make test`: twenty times in
`make test-slow`. Those of tests/hostile are counted by SIDTOOL_HOSTILE_CASES."""
MOST_EXAMPLES = 25
"""Examples of a property in `make test`, 500 in `make test-slow`; a costly one declares fewer."""

suppressed = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
settings.register_profile(
    "shared-machine", deadline=None, max_examples=MOST_EXAMPLES, suppress_health_check=suppressed
)
settings.load_profile("shared-machine")

TESTS = Path(__file__).parent
TOGETHER = {
    "hostile/": "hostile",
    "recommendation/serve/": "serve",
    **dict.fromkeys(
        ("cli/", "recipes/", "training/", "registry/", "test_audit", "test_readme"), "trains"
    ),
}
"""Tests that share artifacts or imports which take seconds, by how their paths begin: one process
runs the tests of a name, with `--dist loadgroup`. Other tests stay together by file."""


def group_of(path: str) -> str:
    """The name of the tests that stay together with those of a file, by its path in tests/."""
    return next((name for start, name in TOGETHER.items() if path.startswith(start)), path)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep groups together: the scheduler of pytest-xdist 3.8 finds none in the ids of pytest 9.2,
    and then makes the artifacts of a group in every process."""
    from xdist.scheduler import LoadScopeScheduling

    class GroupScheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid.partition("::")[0].removeprefix("tests/"))

    return GroupScheduling(config, log) if config.getvalue("dist") == "loadgroup" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of benchmarks as slow, and set the examples of each property."""
    properties = set()
    for item in items:
        path = item.path.relative_to(TESTS).as_posix()
        if path.startswith("benchmarks/"):
            item.add_marker(pytest.mark.slow)
        is_property = isinstance(item, pytest.Function) and is_hypothesis_test(item.obj)
        if is_property and not path.startswith("hostile/"):
            properties.add(item.obj)
    for test in properties:
        multiply_examples(test)


def pytest_collection() -> None:
    """Import all modules without a garbage collection."""
    gc.disable()


def pytest_collection_finish() -> None:
    """Keep the modules that are imported by now out of every later garbage collection."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(autouse=True, scope="module")
def uncollected_modules() -> Iterator[None]:
    """Keep what the tests of a file import, too, out of every later garbage collection, of which
    each training has one."""
    n_modules = len(sys.modules)
    yield
    if len(sys.modules) > n_modules + 50:
        gc.collect()
        gc.freeze()


def multiply_examples(test: Any) -> None:
    """Try a property with EXAMPLES times as many examples as it declares, or as MOST_EXAMPLES."""
    declared = test._hypothesis_internal_use_settings
    examples = EXAMPLES * min(declared.max_examples, MOST_EXAMPLES)
    test._hypothesis_internal_use_settings = settings(declared, max_examples=examples)


@pytest.fixture(scope="session")
def s3() -> "Iterator[Wire]":
    from tests.s3 import serve

    with serve() as wire:
        yield wire
