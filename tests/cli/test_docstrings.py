import doctest

import pytest

import sidtool
from sidtool.cli.main import app

COMMANDS = {
    "compare": "compare_bundles",
    "embed": "embed_folder",
    "example": "write_example",
    "export": "export_map",
    "import": "import_map",
    "inspect": "explain",
    "settings": "list_settings",
    "split": "split_events",
}
"""The functions whose names differ from those of their commands."""
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples_of(name: str) -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(recurse=False)
    tests = finder.find(getattr(sidtool, name), name, globs={"sidtool": sidtool})
    return [test for test in tests if test.examples]


def test_every_command_has_an_example() -> None:
    names = [str(command.name) for command in app.registered_commands]
    functions = [COMMANDS.get(name, name.replace("-", "_")) for name in names]
    assert [name for name in functions if not examples_of(name)] == []


@pytest.mark.parametrize("name", [name for name in sidtool.__all__ if examples_of(name)])
@pytest.mark.usefixtures("in_road")
def test_the_examples_of_a_docstring_run(name: str) -> None:
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    said: list[str] = []
    for test in examples_of(name):
        runner.run(test, out=said.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(said)
