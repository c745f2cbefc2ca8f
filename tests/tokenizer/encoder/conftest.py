"""A tiny encoder for the tests of this folder."""

from pathlib import Path

import pytest

from tests.encoders import tiny_encoder


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("encoder"))
