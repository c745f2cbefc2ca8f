"""The road, walked once for all tests of the command line, and a tiny text encoder."""

from pathlib import Path

import pytest
import torch

from tests.cli.road import Road, walk
from tests.encoders import tiny_encoder


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def road(tmp_path_factory: pytest.TempPathFactory) -> Road:
    torch.set_num_threads(1)
    return walk(tmp_path_factory.mktemp("road"))


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("encoder"))
