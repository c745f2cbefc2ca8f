"""Encoders are loaded with their settings, and what is none is refused."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sidtool.base.errors import DataError, RefusedError, UsageError
from sidtool.tokenizer.encoder.settings import Encoder
from tests.encoders import embed

TEXTS = [f"item {n} {'long ' * (n % 7)}" for n in range(23)]


@pytest.mark.parametrize("kind", ["pipe", "device", "outside"])
def test_weights_that_no_module_reads_are_regular_files(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "encoder"
    shutil.copytree(folder, copy)
    (copy / "extra").mkdir()
    path = copy / "extra" / "weights.bin"
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero" if kind == "device" else folder / "model.safetensors")
    problem = "outside of the model's folder" if kind == "outside" else "is not a regular file"
    with pytest.raises((DataError, RefusedError), match=problem):
        embed(TEXTS[:1], Encoder(str(copy)), cache=tmp_path)


@pytest.mark.parametrize("module", ["Normalize", "Pooling"])
def test_an_encoder_without_weights_is_one_line(module: str, folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "encoder"
    shutil.copytree(folder, copy)
    kind = f"sentence_transformers.models.{module}"
    modules = [{"idx": 0, "name": "0", "path": "1_Pooling", "type": kind}]
    (copy / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(DataError, match="encoder has no weights"):
        embed(TEXTS[:1], Encoder(str(copy)), cache=tmp_path)


def test_settings_are_applied(folder: Path, tmp_path: Path) -> None:
    encoder = Encoder(str(folder))
    plain, _ = embed(["find: lamp"], encoder, cache=tmp_path)
    np.testing.assert_allclose(
        embed(["lamp"], replace(encoder, prompt="find: "), cache=tmp_path)[0], plain, atol=1e-6
    )
    unit, _ = embed(["find: lamp"], replace(encoder, normalize=True), cache=tmp_path)
    np.testing.assert_allclose(unit, plain / np.linalg.norm(plain), atol=1e-6)
    half, facts = embed(["find: lamp"], replace(encoder, dtype="bfloat16"), cache=tmp_path)
    assert facts["dtype"] == "bfloat16"
    assert half.dtype == np.float32


def test_an_invalid_encoder_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a folder"):
        embed(["a"], Encoder(str(tmp_path / "nothing")), cache=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="does not load as an encoder"):
        embed(["a"], Encoder(str(tmp_path / "empty")), cache=tmp_path)
    with pytest.raises(UsageError, match="there is no pooling 'best'") as caught:
        embed(["a"], Encoder(str(folder), pooling="best"), cache=tmp_path)
    assert "lasttoken" in str(caught.value.shell_hint)
    with pytest.raises(UsageError, match="int3"):
        embed(["a"], Encoder(str(folder), dtype="int3"), cache=tmp_path)


def test_pickled_weights_load_only_when_trusted(folder: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    pickled = tmp_path / "pickled"
    shutil.copytree(folder, pickled)
    torch.save(load_file(pickled / "model.safetensors"), pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(RefusedError, match="only pickled weights") as caught:
        embed(["a"], Encoder(str(pickled)), cache=tmp_path)
    assert "--trust-remote-code" in str(caught.value.shell_hint)
    _, facts = embed(["a"], Encoder(str(pickled), trust_remote_code=True), cache=tmp_path)
    assert list(facts["weights"]) == ["pytorch_model.bin"]
