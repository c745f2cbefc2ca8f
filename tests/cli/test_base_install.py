"""A base install: every command works or names in one line the extra that it needs."""

import sys
from pathlib import Path

import pytest

from tests.cli.base_install import ROOT, check_base_install


@pytest.mark.slow
def test_every_command_works_or_names_the_extra_that_it_needs(
    base_inputs: Path, tmp_path: Path
) -> None:
    check_base_install(sys.executable, base_inputs, tmp_path / "out", ROOT)
