"""A base install, also in fresh environments, from a clone and from the wheel: every command works
or names in one line the extra that it needs."""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.cli.base_install import ROOT, check_base_install

pytestmark = pytest.mark.slow
CACHES = shutil.ignore_patterns("__pycache__")


def pip(python: Path, *words: object) -> str:
    """Run pip of an environment; fails with its last lines."""
    command = [str(python), "-m", "pip", "--quiet", *map(str, words)]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return ended.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the files that are built into the distribution."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "sidtool", folder / "sidtool", ignore=CACHES)
    return folder


@pytest.mark.parametrize("source", ["clone", "wheel"])
def test_a_base_install_runs_every_command_or_names_its_extra(
    source: str, clone: Path, base_inputs: Path, tmp_path: Path
) -> None:
    if source == "wheel":
        pip(Path(sys.executable), "wheel", "--no-deps", "--wheel-dir", tmp_path / "dist", clone)
        (clone,) = (tmp_path / "dist").glob("sidtool-*.whl")
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    pip(python, "install", clone)
    packages = pip(python, "list", "--format", "freeze")
    assert "torch" not in packages
    where = [python, "-c", "import sidtool; print(sidtool.__file__)"]
    installed = subprocess.run(where, cwd=tmp_path, env={}, capture_output=True, text=True)
    assert installed.stdout.startswith(str(tmp_path)), installed
    command = [python.parent / "sidtool", "--version"]
    version = subprocess.run(command, capture_output=True, text=True, env={})
    assert version.stdout.startswith("sidtool "), version
    # only the tests, so that nothing but the installed package is imported
    shutil.copytree(ROOT / "tests", tmp_path / "path" / "tests", ignore=CACHES)
    check_base_install(str(python), base_inputs, tmp_path / "out", tmp_path / "path")


def test_every_command_works_or_names_the_extra_it_needs(base_inputs: Path, tmp_path: Path) -> None:
    check_base_install(sys.executable, base_inputs, tmp_path / "out", ROOT)
