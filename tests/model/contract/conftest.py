"""The bundle and the base model of the tests of models, and a trained model."""

from pathlib import Path

import pytest

from sidtool.tokenizer.bundle import Bundle
from tests.model.conftest import base as base
from tests.model.conftest import bundle as bundle
from tests.model.conftest import one_thread as one_thread
from tests.model.contract.cases import trained_model


@pytest.fixture
def trained(base: Path, bundle: Bundle, tmp_path: Path) -> Path:
    return trained_model(base, bundle, tmp_path / "trained")
