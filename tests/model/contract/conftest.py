"""A trained model, made once; a test gets a copy of the folder."""

import shutil
from pathlib import Path

import pytest

from tests.model.conftest import shop
from tests.model.contract.cases import trained_model


@pytest.fixture(scope="session")
def trained_folder(base_folder: Path) -> Path:
    return trained_model(base_folder, shop(), base_folder.parent / "trained")


@pytest.fixture
def trained(trained_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained_folder, tmp_path / "trained"))
