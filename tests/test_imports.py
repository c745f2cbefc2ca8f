"""What is loaded when: a laptop that only opens bundles must not wait for torch."""

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "transformers",
    "sentence_transformers",
    "trl",
    "datasets",
    "sklearn",
    "scipy",
    "pyarrow",
    "zarr",
)


def loaded_by(program: str) -> set[str]:
    ending = f"; import sys; print(','.join(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", program + ending], capture_output=True, text=True, check=True
    )
    return set(filter(None, done.stdout.splitlines()[-1].split(",")))


def test_import_sidtool_loads_nothing_heavy() -> None:
    assert loaded_by("import sidtool") == set()


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    program = (
        "from typer.testing import CliRunner; from sidtool.cli.main import app; "
        f"result = CliRunner().invoke(app, {arguments!r}); assert result.exit_code == 0, "
        "result.output"
    )
    assert loaded_by(program) == set()


def test_the_exported_names_are_these() -> None:
    import sidtool

    assert sidtool.__all__ == ["Bundle", "SidSpace", "SidtoolError", "__version__", "open_bundle"]
    assert all(hasattr(sidtool, name) for name in sidtool.__all__)
