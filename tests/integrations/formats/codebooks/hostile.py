"""Files that pretend to be codebooks."""

import io
import pickle
import warnings
import zipfile
import zlib
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


def checkpoint(path: Path, **changes: Any) -> None:
    """An RQ-VAE of LC-Rec in the smallest shapes, with some tensors changed; None removes one."""
    state = {
        "encoder.mlp_layers.1.weight": torch.randn(4, 6),
        "encoder.mlp_layers.1.bias": torch.randn(4),
        "rq.vq_layers.0.embedding.weight": torch.randn(3, 4),
        "rq.vq_layers.1.embedding.weight": torch.randn(3, 4),
    }
    state |= {name.replace("__", "."): tensor for name, tensor in changes.items()}
    torch.save({"state_dict": state, "epoch": 1}, path)


def with_pickle(path: Path, change: Any) -> None:
    """Replace the pickle of a file of `torch.save`; the entries stay those that torch wrote."""
    entries = members(path)
    name = next(name for name in entries if name.endswith("data.pkl"))
    entries[name] = change(entries[name])
    rezip(path, entries)


def pickle_with_code(path: Path, marker: Path) -> None:
    """A file whose pickle runs code besides naming its tensors."""
    checkpoint(path)
    state = {"args": RunsCode(marker), "state_dict": {}}
    code = pickle.dumps(state, protocol=2)

    def change(_: bytes) -> bytes:
        return code

    with_pickle(path, change)


def checkpoint_with_code(path: Path, marker: Path) -> None:
    """A whole checkpoint, with an object that runs code beside its tensors."""
    state = {
        "rq.vq_layers.0.embedding.weight": torch.randn(3, 4),
        "encoder.mlp_layers.1.weight": torch.randn(4, 6),
        "encoder.mlp_layers.1.bias": torch.randn(4),
    }
    torch.save({"args": RunsCode(marker), "state_dict": state}, path)


def claiming_rows(path: Path, count: int) -> None:
    """A file whose first level claims `count` rows of a storage of 12 numbers, by its strides."""
    level = torch.randn(1, 4).expand(1_000, 4)  # rows with a stride of 0
    checkpoint(path, rq__vq_layers__0__embedding__weight=level)

    def change(data: bytes) -> bytes:
        # BININT2 1000, little-endian
        assert data.count(b"M\xe8\x03") == 1
        return data.replace(b"M\xe8\x03", b"J" + count.to_bytes(4, "little"))

    with_pickle(path, change)


def claiming_storage(path: Path) -> None:
    """A file whose tensor claims 10^9 rows, in its storage too."""
    checkpoint(path, rq__vq_layers__0__embedding__weight=torch.randn(1_000, 4))

    def change(data: bytes) -> bytes:
        rows = b"J" + (10**9).to_bytes(4, "little")
        numbers = b"\x8a\x05" + (4 * 10**9).to_bytes(5, "little")
        return data.replace(b"M\xe8\x03", rows).replace(b"M\xa0\x0f", numbers)

    with_pickle(path, change)


def bomb(path: Path) -> None:
    """A file whose level is a compressed entry of 40 MB of zeros."""
    checkpoint(path)
    entries = members(path)
    name = next(name for name in entries if name.endswith("/data/2"))
    entries[name] = bytes(40 << 20)
    rezip(path, entries, zipfile.ZIP_DEFLATED)


def npz_bomb(path: Path) -> None:
    """An .npz whose level is 40 MB of zeros in 40 kB."""
    header = io.BytesIO()
    shape = (10 << 20, 1)
    description = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}"
    text = description.encode().ljust(118 - 1) + b"\n"
    header.write(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("codebook_0.npy", "w") as entry,
    ):
        entry.write(header.getvalue())
        for _ in range(40):
            entry.write(bytes(1 << 20))


def deep_tuples(path: Path) -> None:
    """A pickle whose keys are nested tuples: their hash takes 2^60 steps."""
    data = b"\x80\x02}" + b"K\x01\x85" + b"q\x00h\x00\x86" * 60 + b"K\x01s."
    rezip(path, {"archive/data.pkl": data, "archive/version": b"3\n"})


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


def far_memo(path: Path) -> None:
    """A pickle that stores a value at the place 2^32 - 1 of its memo, a table in CPython."""
    data = b"\x80\x02}r\xff\xff\xff\xff."
    rezip(path, {"archive/data.pkl": data, "archive/version": b"3\n"})


def long_pickle(path: Path) -> None:
    """A pickle of a million empty lists."""
    data = b"\x80\x02(" + b"]" * 1_000_000 + b"t."
    rezip(path, {"archive/data.pkl": data, "archive/version": b"3\n"})


def wrong_checksum(path: Path) -> None:
    """A file with one byte of a tensor changed."""
    checkpoint(path)
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        entry = next(e for e in archive.infolist() if e.filename.endswith("/data/2"))
        start = entry.header_offset + 30
    content = members(path)[entry.filename]
    place = data.index(content, start)
    data[place] ^= 1
    assert zlib.crc32(bytes(data[place : place + len(content)])) != entry.CRC
    path.write_bytes(bytes(data))
