from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sidtool.base.checkpoint import read_weights
from sidtool.base.digests import file_digest
from sidtool.base.errors import DataError, IntegrityError

DTYPES = ["float32", "float64", "bfloat16", "float16", "int64", "int32", "uint8", "bool"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tensors = {name: torch.arange(12).reshape(3, 4).to(getattr(torch, name)) for name in DTYPES}
    tensors |= {"scalar": torch.tensor(3.5), "empty": torch.zeros(0, 4)}
    tensors["long"] = torch.arange(100_000)
    save_file(tensors, tmp_path / "w.safetensors", metadata={"format": "pt"})
    return tmp_path / "w.safetensors"


def test_the_tensors_are_those_of_the_library_and_stay(path: Path) -> None:
    expected = {name: tensor.clone() for name, tensor in load_file(path).items()}
    tensors = read_weights(path, file_digest(path))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.write(b"\xff" * size)
        file.truncate(10)
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert (tensor.dtype, tensor.shape) == (expected[name].dtype, expected[name].shape)
        assert torch.equal(tensor, expected[name])


def test_a_changed_byte_is_refused(path: Path) -> None:
    digest = file_digest(path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="is not the file that the model's contract records"):
        read_weights(path, digest)


def test_a_file_truncated_meanwhile_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sidtool.base.checkpoint import weights

    def read_and_truncate(stream: Any) -> Any:
        entries = read_entries(stream)
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 4)
        return entries

    read_entries = weights.read_entries
    monkeypatch.setattr(weights, "read_entries", read_and_truncate)
    with pytest.raises(DataError, match="became shorter while it was read"):
        read_weights(path)
