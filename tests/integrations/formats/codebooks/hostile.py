"""Files that pretend to be codebooks."""

import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

MARKER = "executed.txt"


class RunsCode:
    """What a pickle becomes that writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        return (exec, (f"open({self.path!r}, 'w').close()",))


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def rezip(path: Path, entries: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)


class Tensor:
    """What a pickle becomes that calls for a tensor with these arguments."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __reduce__(self) -> Any:
        return (torch._utils._rebuild_tensor_v2, self.args)


STORAGE = torch.zeros(9)._typed_storage()


def checkpoint(path: Path, *, beside: dict[str, Any] | None = None, **changes: Any) -> None:
    """An RQ-VAE of LC-Rec in the smallest shapes, with some tensors changed, and other values
    beside them; None removes a tensor."""
    state = {
        "encoder.mlp_layers.1.weight": torch.randn(4, 6),
        "encoder.mlp_layers.1.bias": torch.randn(4),
        "rq.vq_layers.0.embedding.weight": torch.randn(3, 4),
        "rq.vq_layers.1.embedding.weight": torch.randn(3, 4),
    }
    state |= {name.replace("__", "."): tensor for name, tensor in changes.items()}
    torch.save({"state_dict": state, "epoch": 1, **(beside or {})}, path)


def bare_pickle(path: Path, data: bytes) -> None:
    """A file of nothing but a pickle of protocol 2."""
    rezip(path, {"archive/data.pkl": b"\x80\x02" + data, "archive/version": b"3\n"})


THOUSAND = b"M\xe8\x03"
"""1,000 in a pickle: BININT2, little-endian."""


def replace_in_pickle(path: Path, changes: dict[bytes, bytes]) -> None:
    """Replace what stands once in the pickle of a file of `torch.save`; the entries stay those that
    torch wrote."""
    entries = members(path)
    name = next(name for name in entries if name.endswith("data.pkl"))
    for before, after in changes.items():
        assert entries[name].count(before) == 1
        entries[name] = entries[name].replace(before, after)
    rezip(path, entries)


def claiming_rows(path: Path, count: int) -> None:
    """A file whose first level claims `count` rows of a storage of 12 numbers, by its strides."""
    level = torch.randn(1, 4).expand(1_000, 4)  # rows with a stride of 0
    checkpoint(path, rq__vq_layers__0__embedding__weight=level)
    replace_in_pickle(path, {THOUSAND: b"J" + count.to_bytes(4, "little")})


def claiming_storage(path: Path) -> None:
    """A file whose tensor claims 10^9 rows, in its storage too."""
    checkpoint(path, rq__vq_layers__0__embedding__weight=torch.randn(1_000, 4))
    rows = b"J" + (10**9).to_bytes(4, "little")
    numbers = b"\x8a\x05" + (4 * 10**9).to_bytes(5, "little")
    replace_in_pickle(path, {THOUSAND: rows, b"M\xa0\x0f": numbers})


def bomb(path: Path) -> None:
    """A file whose level is a compressed entry of 40 MB of zeros."""
    checkpoint(path)
    entries = members(path)
    name = next(name for name in entries if name.endswith("/data/2"))
    entries[name] = bytes(40 << 20)
    rezip(path, entries, zipfile.ZIP_DEFLATED)


def without_numbers(path: Path) -> None:
    """A file that lacks the numbers of a tensor."""
    checkpoint(path)
    rezip(path, {name: data for name, data in members(path).items() if "/data/" not in name})


def big_endian(path: Path) -> None:
    """A file of a machine with the other order of bytes."""
    checkpoint(path)
    rezip(path, {name: data.replace(b"little", b"big") for name, data in members(path).items()})


def odd_entries(path: Path, *, copies: int = 1, flags: int = 0, claims: int = 0) -> None:
    """An .npz with a level of 12 numbers, whose entry is stored several times, has other flags in
    the directory, or claims more bytes there, and in its header."""
    array = np.zeros((3, 4), dtype=np.float32)
    np.savez(path, codebook_0=array)
    rows = f"({3 + claims // 16}, 4)".encode()
    data = members(path)["codebook_0.npy"].replace(b"(3, 4)", rows)
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings(action="ignore"):
        for _ in range(copies):
            archive.writestr("codebook_0.npy", data)
        archive.infolist()[0].flag_bits |= flags
        archive.infolist()[0].file_size += claims


def wrong_checksum(path: Path) -> None:
    """A file with one byte of a tensor changed."""
    checkpoint(path)
    content = next(data for name, data in members(path).items() if name.endswith("/data/2"))
    data = path.read_bytes()
    assert data.count(content) == 1
    path.write_bytes(data.replace(content, bytes([content[0] ^ 1]) + content[1:]))
