"""The tensors of zip files of others: of `torch.save`, without PyTorch, and of `numpy.savez`.

A file of `torch.save` has uncompressed entries (PyTorch 1.6 and later): ROOT/data.pkl, whose pickle
names the tensors, and ROOT/data/KEY with the numbers of each storage. Sizes are compared with the
stored bytes before anything is allocated.
"""

import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from sidtool.base.errors import DataError
from sidtool.base.storage import BoundedReader
from sidtool.data import npy_header
from sidtool.data.tables import library_errors, require_regular
from sidtool.integrations.formats.codebooks.pickle_values import Call, Name, read_pickle

BFLOAT16 = "torch.BFloat16Storage"
STORAGES = {
    "torch.FloatStorage": "<f4",
    "torch.DoubleStorage": "<f8",
    "torch.HalfStorage": "<f2",
    BFLOAT16: "<u2",
    "torch.LongStorage": "<i8",
    "torch.IntStorage": "<i4",
    "torch.ShortStorage": "<i2",
    "torch.CharStorage": "<i1",
    "torch.ByteStorage": "<u1",
    "torch.BoolStorage": "<u1",
}
"""Types of numbers by the class of their storage."""
_TENSOR = "torch._utils._rebuild_tensor_v2"
_WRAPPERS = ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state")
MAX_DIMENSIONS = 8
MAX_BYTES = 1 << 18
"""The pickle of a checkpoint with its optimizer has some 50,000 bytes; tensors are stored apart."""
OLD_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How torch.save before PyTorch 1.6 begins a file, and later without its zip: a number, pickled."""
MAX_EXPANSION = 8
"""Bytes beyond FREE_BYTES that each byte of a file may expand to: numbers hardly compress."""
FREE_BYTES = 1 << 24
"""Bytes that a file of any size may expand to."""
NUMBERS = "fiu"
"""Kinds of types that an array may have."""
PART = 1 << 20
"""Bytes that are read at once."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as its place in a storage."""

    key: str
    storage: str
    """class of the storage, like `torch.FloatStorage`"""
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """in numbers, like the offset"""

    @classmethod
    def of(cls, value: Any) -> Self | None:
        """The tensor that a value of a pickle is; None if it is none. Raises ValueError for a
        tensor with impossible numbers."""
        while _is_call(value, *_WRAPPERS) and isinstance(value.args, tuple) and value.args:
            value = value.args[0]
        if not _is_call(value, _TENSOR):
            return None
        try:
            stored, offset, shape, strides, *_ = value.args
            _, storage, key, _, _ = stored.identifier
            tensor = cls(str(key), storage.name, offset, tuple(shape), tuple(strides))
        except (AttributeError, TypeError, ValueError) as error:
            raise ValueError("its pickle has a tensor of another form") from error
        numbers = (offset, *tensor.shape, *tensor.strides)
        if any(type(number) is not int or not 0 <= number < 1 << 48 for number in numbers):
            raise ValueError("its pickle has a tensor with impossible sizes")
        n_dimensions = len(tensor.shape)
        if n_dimensions != len(tensor.strides) or n_dimensions > MAX_DIMENSIONS:
            raise ValueError(f"its pickle has a tensor with {n_dimensions} dimensions")
        return tensor

    @property
    def size(self) -> int:
        """How many numbers the tensor has."""
        return prod(self.shape)

    @property
    def span(self) -> int:
        """How many numbers of the storage lie between its first and its last one, inclusive."""
        if not self.size:
            return 0
        lasts = ((size - 1) * step for size, step in zip(self.shape, self.strides, strict=True))
        return 1 + sum(lasts)


class TorchFile:
    """A file of `torch.save`: its value, and its tensors by name."""

    def __init__(self, path: Path) -> None:
        """Read the pickle. Raises DataError if the file is damaged or has another format."""
        self.path = path
        require_regular(path)
        with library_errors(path, "a file of torch.save"), path.open("rb") as stream:
            if stream.read(len(OLD_START)) == OLD_START:
                raise _no_pickle(path)
            archive, entries = open_zip(stream, path.stat().st_size)
            for name, entry in entries.items():
                is_stored = entry.compress_type == zipfile.ZIP_STORED
                if not is_stored or entry.file_size != entry.compress_size:
                    raise ValueError(
                        f"its entry {name[:60]!r} is compressed, which torch.save never does"
                    )
            pickles = [name for name in entries if name.endswith("/data.pkl")]
            if len(pickles) != 1:
                raise _no_pickle(path)
            root = pickles[0].removesuffix("data.pkl")
            contents = {"byteorder": b"little"}  # where the entry is missing
            for name in ("byteorder", "data.pkl"):
                if root + name not in entries:
                    continue
                entry = entries[root + name]
                if entry.file_size > MAX_BYTES:
                    raise ValueError(
                        f"{name} has {entry.file_size} bytes, the limit is {MAX_BYTES}"
                    )
                contents[name] = archive.read(entry)
            if contents["byteorder"] != b"little":
                raise ValueError("its numbers are not little-endian")
            self.value: Any = read_pickle(contents["data.pkl"])
            data_folder = f"{root}data/"
            self._storages = {
                name.removeprefix(data_folder): entry
                for name, entry in entries.items()
                if name.startswith(data_folder)
            }

    def arrays(self, tensors: Mapping[str, StoredTensor]) -> dict[str, NDArray[Any]]:
        """The numbers of tensors; bfloat16 becomes float32.

        Raises DataError if they do not fit into their storages, or are together larger than the
        file: each byte is used once in a checkpoint."""
        with library_errors(self.path, "tensors"):
            file_size = self.path.stat().st_size
            claimed = sum(self._check(name, tensor) for name, tensor in tensors.items())
            if claimed > file_size:
                raise ValueError(f"its tensors claim {claimed} bytes, it has {file_size}")
            with self.path.open("rb") as stream:
                archive, _ = open_zip(stream, file_size)
                return {name: self._read(archive, tensor) for name, tensor in tensors.items()}

    def _check(self, name: str, tensor: StoredTensor) -> int:
        """Raise ValueError unless the storage of a tensor has its numbers; returns its bytes."""
        if tensor.storage not in STORAGES:
            raise ValueError(f"{name} has numbers of the type {tensor.storage!r}")
        entry = self._storages.get(tensor.key)
        if entry is None:
            raise ValueError(f"the numbers of {name} are not there")
        width = np.dtype(STORAGES[tensor.storage]).itemsize
        end = tensor.offset + max(tensor.span, tensor.size)
        if end * width > entry.file_size:
            raise ValueError(
                f"{name} claims the shape {tensor.shape}, {end * width} bytes, its storage has "
                f"{entry.file_size}"
            )
        return tensor.size * width

    def _read(self, archive: zipfile.ZipFile, tensor: StoredTensor) -> NDArray[Any]:
        dtype = np.dtype(STORAGES[tensor.storage])
        with archive.open(self._storages[tensor.key]) as stream:
            stream.seek(tensor.offset * dtype.itemsize)
            flat = read_numbers(stream, tensor.span, dtype)
        steps = [step * dtype.itemsize for step in tensor.strides]
        array = np.lib.stride_tricks.as_strided(flat, tensor.shape, steps)
        if tensor.storage == BFLOAT16:
            return (array.astype(np.uint32) << 16).view(np.float32)
        return np.ascontiguousarray(array)


def _no_pickle(path: Path) -> DataError:
    return DataError(
        f"{path} has no data.pkl, which torch.save writes since PyTorch 1.6",
        hint="load it with its own program and save it again",
    )


def tensors_of(value: Any) -> dict[str, StoredTensor]:
    """The tensors of a mapping by name: of a `state_dict`. Raises ValueError as StoredTensor.of."""
    tensors = {str(name): StoredTensor.of(member) for name, member in items_of(value)}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


def items_of(value: Any) -> Iterable[tuple[Any, Any]]:
    """The pairs of a mapping in a pickle; none if the value is no mapping."""
    if isinstance(value, Call):
        return value.items.items()
    return value.items() if isinstance(value, dict) else ()


def _is_call(value: Any, *names: str) -> bool:
    return isinstance(value, Call) and isinstance(value.what, Name) and value.what.name in names


def open_zip(
    stream: IO[bytes], file_size: int
) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """A zip whose directory is bounded, and its entries by name. Raises ValueError if an entry is
    encrypted or larger than the file, or there are two of one name, and what zipfile raises."""
    archive = zipfile.ZipFile(BoundedReader(stream))
    entries = {entry.filename: entry for entry in archive.infolist()}
    if len(entries) != len(archive.infolist()):
        raise ValueError("it has two entries of one name")
    for name, entry in entries.items():
        if entry.compress_size > file_size or entry.flag_bits & 1:
            raise ValueError(f"its entry {name[:60]!r} is encrypted or larger than the file")
    return archive, entries


def read_numbers(stream: IO[bytes], count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The next numbers of an entry. Raises ValueError if there are fewer."""
    array = np.empty(count, dtype=dtype)
    view = array.view(np.uint8)
    position = 0
    while position < len(view):
        part = stream.read(min(PART, len(view) - position))
        if not part:
            raise ValueError(f"it ends after {position} of {len(view)} bytes of numbers")
        view[position : position + len(part)] = np.frombuffer(part, dtype=np.uint8)
        position += len(part)
    stream.read(1)  # zipfile compares the checksum of an entry at its end
    return array


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of numbers by name. Raises DataError if the file is damaged, expands to many times
    its size, or has an array of another type or of another size than its bytes."""
    require_regular(path)
    with library_errors(path, "an .npz"), path.open("rb") as stream:
        stored = path.stat().st_size
        archive, entries = open_zip(stream, stored)
        for name, entry in entries.items():  # all of them before an array has memory
            if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"its entry {name[:60]!r} is compressed by an unusual method")
        expanded = sum(entry.file_size for entry in entries.values())
        limit = FREE_BYTES + MAX_EXPANSION * stored
        if expanded > limit:
            raise ValueError(f"it expands from {stored} bytes to {expanded}, the limit is {limit}")
        arrays = {}
        for name, entry in entries.items():
            with archive.open(entry) as member:
                shape, order, dtype = npy_header(member)  # type: ignore[arg-type]
                claimed = member.tell() + dtype.itemsize * prod(shape)
                if dtype.kind not in NUMBERS or min(shape, default=0) < 0:
                    raise ValueError(f"{name} has the shape {shape} and the type {dtype}")
                if claimed != entry.file_size:
                    raise ValueError(
                        f"{name} claims {claimed} bytes of shape {shape}, it has {entry.file_size}"
                    )
                flat = read_numbers(member, prod(shape), dtype)
            arrays[name.removesuffix(".npy")] = flat.reshape(shape, order=order)
        return arrays
