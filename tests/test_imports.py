import ast
import functools
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import sidtool
from sidtool.data import Items
from sidtool.data.split import Split

HEAVY = ("torch", "transformers", "sentence_transformers", "trl", "datasets", "sklearn", "scipy")
HEAVY += ("pyarrow", "zarr", "pandas")


def loaded_by(program: str) -> set[str]:
    ending = f"; import sys; print(','.join(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program + ending], capture_output=True, text=True, check=True
    )
    return set(filter(None, done.stdout.splitlines()[-1].split(",")))


ROOMS = ("recommendation.recommendations", "evaluation.evaluation", "training.training")
ROOMS += ("training.renewal.refresh", "training.reinforcement.reinforcement")
GOLDEN = Path(__file__).parent / "golden"
LINES = "['--help'], ['train', '--help'], ['evaluate', '--help'], ['--version']"


@pytest.mark.parametrize(
    ("program", "absent"),
    [
        # a base install lacks torch: what trains says so when it is called
        (f"import sidtool.{', sidtool.'.join(ROOMS)}", {"torch", "transformers", "scipy"}),
        # pyarrow imports pandas for most conversions, which takes half a second
        (f"import sidtool; sidtool.open_split('{GOLDEN}/split-4')", {*HEAVY} - {"pyarrow"}),
        # scipy.special takes a quarter of a second
        (f"import sidtool; sidtool.explain('{GOLDEN}/bundle.zarr.zip', (0,))", {*HEAVY}),
        (
            "from typer.testing import CliRunner; from sidtool.cli.main import app; "
            f"assert not any(CliRunner().invoke(app, line).exit_code for line in ({LINES}))",
            {*HEAVY},
        ),
    ],
    ids=["rooms that train", "open_split", "explain", "help"],
)
def test_a_program_loads_nothing_heavy_that_it_does_not_use(program: str, absent: set[str]) -> None:
    assert loaded_by(program).isdisjoint(absent)


def test_without_locks_of_files_sidtool_reads_and_does_not_write(tmp_path: Path) -> None:
    """Windows lacks these modules and functions."""
    program = (
        "import os, sys; sys.modules |= dict.fromkeys(('fcntl', 'resource')); "
        "del os.O_NOFOLLOW, os.O_NONBLOCK, os.set_blocking, os.sched_getaffinity; import sidtool; "
        "bundle = sys.argv[1]; assert len(sidtool.open_bundle(bundle)); "
        "assert sidtool.verify(bundle) == []; sys.argv = ['sidtool', 'split', *sys.argv[2:]]; "
        "from sidtool.__main__ import main; main()"
    )
    bundle, events = GOLDEN / "bundle.zarr.zip", tmp_path / "events.csv"
    events.write_text("user_id,item_id,timestamp\n" + "".join(f"u,{n},{n}\n" for n in range(5)))
    command = [sys.executable, "-c", program, bundle, events, "-o", tmp_path / "split"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: sidtool writes on Linux and macOS only")
    assert list(tmp_path.iterdir()) == [events]


@functools.cache
def exported() -> dict[str, Any]:
    """The public names, whose list is that of docs/api.md (tests/cli/test_pages.py)."""
    return {name: getattr(sidtool, name) for name in set(sidtool.__all__) - {"__version__"}}


def hints_of_functions() -> Iterator[tuple[str, Any]]:
    """The parameters of the public functions, with their types, and what they return."""
    for name, function in exported().items():
        if inspect.isfunction(function):
            for parameter, hint in get_type_hints(function).items():
                yield f"{name}({parameter})", hint


def test_exported_names_are_functions_and_classes() -> None:
    assert all(map(callable, exported().values()))
    # an editable install keeps the version of its day
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    assert sidtool.__version__ == project["version"]


AS_KEYWORDS = {"CatalogNames", "UnknownOptions"}
"""Groups of options whose fields are keywords of the functions that take them."""
NOT_PUBLIC = {
    "CatalogColumns": "what a bundle records, given on from its manifest",
    "EventColumns": "what a bundle or a split records, given on from its manifest",
    "ExampleWriter": "ClusterExamples is one",
    "PairCounter": "in place of it a split is given",
    "Ran": "the result of a command that `fit` runs",
    "RankedQueries": "the result of a ClusterRanker",
    "VectorSource": "in place of it an array or a path is given",
}
"""Types in signatures of public functions that no caller has to name, and why."""


def members(hint: Any) -> Iterator[Any]:
    """The types that a type is made of."""
    yield hint
    for part in get_args(hint):
        yield from members(part)


def test_public_functions_take_what_they_open_by_its_location() -> None:
    opened = (sidtool.Bundle, Items, sidtool.LoadedModel, sidtool.Memory, Split, Path)
    for place, hint in hints_of_functions():
        kinds = list(members(hint))
        if any(kind in opened for kind in kinds) and not place.endswith("(return)"):
            assert str in kinds, place
            assert Path in kinds, place


def test_the_types_in_signatures_of_public_functions_are_public() -> None:
    from sidtool.base.options import options_of

    public = exported().values()
    named = {
        kind
        for _, hint in hints_of_functions()
        for kind in members(hint)
        if inspect.isclass(kind) and kind.__module__.startswith("sidtool.")
    }
    assert {kind.__name__ for kind in named if kind not in public} == NOT_PUBLIC.keys()
    options = {
        kind
        for owner in public
        if is_dataclass(owner) and any(options_of(owner))
        for hint in get_type_hints(owner).values()
        for kind in members(hint)
        if is_dataclass(kind) and any(options_of(kind))  # type: ignore[arg-type]
    }
    assert {kind.__name__ for kind in options if kind not in public} == AS_KEYWORDS


PACKAGE = Path(__file__).resolve().parents[1] / "sidtool"
IMPORT = re.compile(r"^ *from (sidtool[\w.]*) import (\([^)]*\)|[\w, ]*)", re.MULTILINE)
SEPARATE = ("base", "cli")
"""Houses of which each module is a door, or that nothing imports."""
LONGEST_CHAIN = 20
"""Modules that import one another in a row, from a command down to `base`."""


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@functools.cache
def imports_of(path: Path) -> list[tuple[str, str, str]]:
    """The imports of a module, also in functions: from which module, what, and under which name."""
    return [
        (module, name, alias or name)
        for module, names in IMPORT.findall(path.read_text(encoding="utf-8"))
        for name, alias in re.findall(r"(\w+)(?: as (\w+))?", names)
    ]


@functools.cache
def doors() -> dict[str, dict[str, str]]:
    """The names that each door exports, with the module that each is from."""
    return {
        (door := module_name(stub)): {
            alias.name: f"{door}.{node.module}"
            for node in ast.walk(ast.parse(stub.read_text()))
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        for stub in PACKAGE.rglob("__init__.pyi")
    }


def module_imports() -> dict[str, set[str]]:
    """The modules that each module imports: behind a door those with the names that it gives."""
    paths = {module_name(path): path for path in PACKAGE.rglob("*.py")}

    def behind(module: str, name: str) -> str:
        return doors().get(module, {}).get(name, module)

    imports = {}
    for importer, path in paths.items():
        named = set()
        for module, name, alias in imports_of(path):
            whole = f"{module}.{name}"
            named.add(whole if whole in paths else behind(module, name))
            if whole in doors():  # registry.open_bundle, of a door that is imported as a whole
                text = path.read_text(encoding="utf-8")
                named |= {behind(whole, name) for name in re.findall(rf"\b{alias}\.(\w+)", text)}
        imports[importer] = {module for module in named if module in paths} - {importer}
    return imports


def test_the_longest_chain_of_imports_is_short() -> None:
    """What is shared lies below those who share it: otherwise the chain grows with every use."""
    imports = module_imports()

    @functools.cache
    def chain(module: str) -> tuple[str, ...]:
        return (module, *max(map(chain, sorted(imports[module])), key=len, default=()))

    longest = max(map(chain, sorted(imports)), key=len)
    assert 10 < len(longest) <= LONGEST_CHAIN, " -> ".join(longest)


MOST_NAMES = 30
"""Of a door, but for that of the library, whose names are documented (docs/api.md)."""


def test_a_door_has_few_names() -> None:
    """A room that others need more of is divided at another place than its users divide it."""
    n_names = {door: len(names) for door, names in doors().items() if door != "sidtool"}
    assert max(n_names.values()) <= MOST_NAMES, n_names


def test_every_door_gives_what_it_exports() -> None:
    for door, names in doors().items():
        module = importlib.import_module(door)
        assert set(module.__all__) - {"__version__"} == names.keys()
        for name in names:
            assert not inspect.ismodule(getattr(module, name)), f"{door}.{name}"


def test_no_house_imports_past_the_door_of_another() -> None:
    for path in PACKAGE.rglob("*.py"):
        house = path.relative_to(PACKAGE).parts[0]
        for module, name, _ in imports_of(path):
            _, _, other = module.partition(".")
            if other.split(".")[0] in ("", house, *SEPARATE) or house == "__main__.py":
                continue
            is_door = f"{module}.{name}" in doors() or name in doors().get(module, ())
            assert is_door or module == "sidtool.tokenizer.sid", f"{path}: {module}"


def test_dir_lists_the_public_names_alone() -> None:
    assert dir(sidtool) == sorted(sidtool.__all__)


ASSERT = re.compile(r"^\s*assert\b", re.MULTILINE)


def test_an_assert_only_tells_the_type_checker_what_holds() -> None:
    """With PYTHONOPTIMIZE=1 Python skips it: it names a type, and whoever checks input raises an
    error instead."""
    asserts = [
        (path, node)
        for path in PACKAGE.rglob("*.py")
        if ASSERT.search(text := path.read_text(encoding="utf-8"))
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Assert)
    ]
    assert asserts
    for path, node in asserts:
        condition = ast.unparse(node.test)
        narrows = condition.startswith("isinstance(") or condition.endswith(" is not None")
        assert narrows, f"{path}:{node.lineno}: {condition}"
        assert node.msg is None, f"{path}:{node.lineno}: raise an error with this message"
