"""A sentence-transformers folder runs no code, and names none, unless it is trusted."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sidtool.base.checkpoint import check_encoder
from sidtool.base.errors import DataError, RefusedError, SidtoolError
from sidtool.tokenizer.encoder import Encoder
from tests.encoders import embed, tiny_encoder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("bert"), tmp_path_factory.mktemp("encoder"))


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "encoder"))


def change_module(folder: Path, number: int, **values: Any) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    modules[number] |= values
    (folder / "modules.json").write_text(json.dumps(modules))


def evil_module(folder: Path) -> Path:
    """Code that leaves a mark when it is imported, in the folder and on the path of modules."""
    mark = folder.parent / "ran"
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nclass Evil: pass\n"
    for place in (folder, folder.parent):
        (place / "evil_module.py").write_text(code)
    return mark


@pytest.mark.parametrize(
    "module",
    [
        *("evil_module.Evil", "evil_module", "sentence_transformers.evil_module.Evil", ""),
        *(f"sentence_transformers.models.{name}" for name in ("Evil", "Router", "Asym")),
        *(f"sentence_transformers.models.Pooling{end}" for end in ("\n", ".load")),
        "sentence_transformers.util.import_from_string",
    ],
)
def test_a_module_of_the_folder_does_not_run(
    module: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = evil_module(folder)
    monkeypatch.syspath_prepend(tmp_path)
    change_module(folder, 1, type=module)
    with pytest.raises(RefusedError, match=r"modules\.json has the module"):
        embed(["a"], Encoder(str(folder)), cache=tmp_path)
    assert not mark.exists()
    assert "evil_module" not in sys.modules


@pytest.mark.parametrize("path", ["../outside", "/etc", "a\\b", "..", "1_Pooling/../..", "link"])
def test_a_module_is_inside_of_the_folder(path: str, folder: Path) -> None:
    (folder.parent / "outside").mkdir()
    (folder / "link").symlink_to(folder.parent / "outside")
    change_module(folder, 1, path=path)
    with pytest.raises(RefusedError, match="outside of its folder"):
        check_encoder(folder)


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("1_Pooling/config.json", {"activation_function": "evil_module.Evil"}),
        ("1_Pooling/config.json", {"activation_function": "torch.hub.load"}),
        ("1_Pooling/config.json", {"tokenizer_class": "evil_module.Evil"}),
        ("sentence_bert_config.json", {"model_args": {"trust_remote_code": True}}),
        ("sentence_bert_config.json", {"model_kwargs": {"code_revision": "x"}}),
        ("sentence_bert_config.json", {"config_args": {"subfolder": "../.."}}),
        ("sentence_bert_config.json", {"tokenizer_name_or_path": "../outside"}),
        ("sentence_bert_config.json", {"modality_config": {"text": {"method": "save"}}}),
        ("config.json", {"attn_implementation": "org/kernel"}),
        ("config.json", {"_attn_implementation": "org/kernel"}),
        ("config.json", {"attn_implementation": {"": "org/kernel"}}),
    ],
)
def test_settings_name_no_code(file: str, values: dict[str, Any], folder: Path) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    with pytest.raises(RefusedError):
        check_encoder(folder)


@pytest.mark.parametrize("text", ["{}", "[]"])
def test_modules_are_a_list(text: str, folder: Path) -> None:
    (folder / "modules.json").write_text(text)
    with pytest.raises(DataError, match=r"modules\.json has no list of modules"):
        check_encoder(folder)


def test_pickled_weights_of_a_module_are_refused(folder: Path) -> None:
    shutil.copytree(folder / "1_Pooling", folder / "2_Dense")
    (folder / "2_Dense" / "pytorch_model.bin").write_bytes(b"x")
    change_module(folder, 1, path="2_Dense", type="sentence_transformers.models.Dense")
    with pytest.raises(RefusedError, match="2_Dense has only pickled weights"):
        check_encoder(folder)


def test_an_adapter_of_an_unknown_base_is_refused(folder: Path) -> None:
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/name"}')
    with pytest.raises(RefusedError, match="adapter"):
        check_encoder(folder)


def test_a_module_without_files_needs_no_folder(folder: Path, tmp_path: Path) -> None:
    # archives and wheels drop the empty folder, as that of all-MiniLM-L6-v2
    expected = embed(["a red lamp"], Encoder(str(folder)), cache=tmp_path / "before")[0]
    modules = json.loads((folder / "modules.json").read_text())
    normalize = {"idx": 2, "name": "2", "path": "2_Normalize"}
    kind = "sentence_transformers.models.Normalize"
    (folder / "modules.json").write_text(json.dumps([*modules, {**normalize, "type": kind}]))
    check_encoder(folder)
    vectors = embed(["a red lamp"], Encoder(str(folder)), cache=tmp_path / "after")[0]
    assert vectors == pytest.approx(expected / np.linalg.norm(expected), abs=1e-6)
    change_module(folder, 2, type="sentence_transformers.models.Dense")
    with pytest.raises(SidtoolError, match="which is not a folder"):
        check_encoder(folder)
