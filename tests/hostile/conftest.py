"""The inputs of all commands that write."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hostile.crash import make_forked
from tests.hostile.writing_commands import heavy_inputs, light_inputs


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The inputs of the commands that load no model."""
    folder = tmp_path_factory.mktemp("inputs")
    make_forked(light_inputs, folder)
    gc.freeze()  # forked processes then share the memory of what there is
    yield folder
    gc.unfreeze()


@pytest.fixture(scope="session")
def models(inputs: Path) -> Path:
    """The inputs of all commands."""
    make_forked(heavy_inputs, inputs)
    return inputs
