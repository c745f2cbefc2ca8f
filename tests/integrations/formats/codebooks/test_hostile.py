import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.errors import DataError
from sidtool.integrations.formats.codebooks import tensor_files
from sidtool.integrations.formats.codebooks.layouts import read_codebook
from sidtool.integrations.formats.codebooks.pickle_values import Call, Name, Stored, read_pickle
from tests.hostile.harness import call, cases
from tests.integrations.formats.codebooks import hostile
from tests.integrations.formats.codebooks.hostile import MARKER, checkpoint

MANY = torch.zeros(400, 4)
MANY_ZEROS = np.zeros((10 << 20, 1), dtype=np.float32)
FEW_BYTES = 24 << 20
"""Less than any of the claims below; a pickle of 256 kB makes some million bytes of records."""


def refused(path: Path, message: str) -> None:
    """Fail unless reading the file ends in one line that matches, without a large allocation."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message) as caught:
            read_codebook(path)
        assert tracemalloc.get_traced_memory()[1] < FEW_BYTES
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    assert not (path.parent / MARKER).exists()


def pickled(data: bytes) -> Callable[[Path], None]:
    return lambda path: hostile.bare_pickle(path, data)


DEEP_TUPLES = b"}" + b"K\x01\x85" + b"q\x00h\x00\x86" * 60 + b"K\x01s."
"""A mapping whose key is nested tuples: its hash takes 2^60 steps."""
FAR_MEMO = b"}r\xff\xff\xff\xff."
"""A value at the place 2^32 - 1 of the memo, a table in CPython."""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: hostile.claiming_rows(path, 10**9), "claims the shape .1000000000, 4."),
        (hostile.claiming_storage, "claims the shape .1000000000, 4."),
        (lambda path: hostile.claiming_rows(path, 50), "claims the shape .50, 4."),
        (hostile.bomb, "is compressed, which torch.save never does"),
        (pickled(DEEP_TUPLES), "has no tensors by name"),
        (pickled(FAR_MEMO), "has no tensors by name"),
        (hostile.without_numbers, "the numbers of .* are not there"),
        (hostile.big_endian, "its numbers are not little-endian"),
        (pickled(b"(" + b"]" * 1_000_000 + b"t."), "has 1000005 bytes, the limit is 262144"),
        (hostile.wrong_checksum, "Bad CRC-32"),
        (lambda path: path.write_bytes(b""), "is not a zip file"),
        (lambda path: path.write_bytes(b"\x80\x02}q\x00."), "is not a zip file"),
        (lambda path: hostile.rezip(path, {"model.json": b"{}"}), "has no data.pkl"),
        (
            lambda path: torch.save({}, path, _use_new_zipfile_serialization=False),
            "has no data.pkl, which torch.save writes since PyTorch 1.6",
        ),
    ],
)
def test_claims_and_bombs(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    path = tmp_path / "model.pth"
    make(path)
    refused(path, message)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda path: np.savez_compressed(path, codebook_0=MANY_ZEROS),
            "expands from .* bytes to 41943168, the limit is",
        ),
        (
            lambda path: np.savez_compressed(path, **dict.fromkeys("ab", MANY_ZEROS[:3_000_000])),
            "expands from .* bytes to 24000256, the limit is",
        ),
        (lambda path: hostile.rezip(path, {"x.npy": b""}, zipfile.ZIP_LZMA), "an unusual method"),
        (lambda path: hostile.odd_entries(path, copies=2), "it has two entries of one name"),
        (lambda path: hostile.odd_entries(path, flags=1), "'codebook_0.npy' is encrypted"),
        (lambda path: hostile.odd_entries(path, claims=16), "it ends after 48 of 64 bytes"),
    ],
)
def test_an_npz(tmp_path: Path, make: Callable[[Path], None], message: str) -> None:
    make(tmp_path / "x.npz")
    refused(tmp_path / "x.npz", message)


def test_an_npz_is_refused_for_a_later_entry_before_one_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.npz"
    small, bomb = np.ones((3, 4), dtype=np.float32), np.zeros((2_621_440, 4), dtype=np.float32)
    np.savez_compressed(path, codebook_0=small, codebook_1=bomb)
    monkeypatch.setattr(tensor_files, "npy_header", lambda stream: pytest.fail("an entry is read"))
    refused(path, "it expands")


def test_an_npz_that_claims_rows(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, codebook_0=np.zeros((3, 4), dtype=np.float32))
    entries = hostile.members(path)
    data = entries["codebook_0.npy"].replace(b"(3, 4), }      ", b"(999999999, 4),}")
    hostile.rezip(path, {"codebook_0.npy": data})
    refused(path, "claims .* bytes of shape .999999999, 4")
    np.savez(path, codebook_0=np.array([{}], dtype=object))
    refused(path, "has the shape .* and the type object")


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    code = {"args": hostile.RunsCode(tmp_path / MARKER)}
    torch.save({**code, "state_dict": {}}, tmp_path / "model.pth")
    refused(tmp_path / "model.pth", "has no tensors by name")
    # beside tensors, code is skipped like any other object
    checkpoint(tmp_path / "whole.pth", beside=code)
    assert read_codebook(tmp_path / "whole.pth").codebook.sizes == (3, 3)
    assert not (tmp_path / MARKER).exists()
    torch.load(tmp_path / "whole.pth", weights_only=False)
    assert (tmp_path / MARKER).exists()  # the file does run code for a reader that unpickles


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rq__vq_layers__0__embedding__weight": torch.zeros(3, 5)}, "level 1 has width 4"),
        ({"rq__vq_layers__0__embedding__weight": torch.zeros(12)}, "has the shape .12,."),
        ({"rq__vq_layers__0__embedding__weight": torch.zeros(0, 4)}, "has the shape .0, 4."),
        ({"rq__vq_layers__0__embedding__weight": torch.zeros(3, 4).long()}, "the type int64"),
        ({"rq__vq_layers__1__embedding__weight": torch.full((3, 4), torch.nan)}, "is not finite"),
        ({"encoder__mlp_layers__1__weight": torch.full((4, 6), torch.inf)}, "not finite float32"),
        ({"encoder__mlp_layers__1__bias": torch.zeros(5)}, "has weights .4, 6. and a bias .5,."),
        ({"encoder__mlp_layers__1__weight": torch.zeros(9, 6)}, "bias"),
        ({"encoder__mlp_layers__3__weight": torch.zeros(4, 9)}, "layer 1 has shapes"),
        ({"encoder__mlp_layers__2__running_mean": torch.zeros(4)}, "is no BatchNorm1d"),
        ({"encoder__mlp_layers__2__gamma": torch.zeros(4)}, "is no linear layer"),
        ({"rq__vq_layers__3__embedding__weight": torch.zeros(3, 4)}, r"the levels \[0, 1, 3\]"),
        ({"rq__vq_layers__0__embedding__weight": torch.zeros(1 << 16, 4)}, "not 1 to 65535"),
        ({f"rq__vq_layers__{level}__embedding__weight": MANY for level in range(9)}, "claim 57"),
        ({"rq__vq_layers__0__embedding__weight": MANY.to(torch.complex64)}, "ComplexFloatStorage"),
        ({"encoder__mlp_layers__1__weight": None, "encoder__mlp_layers__1__bias": None}, "no line"),
        ({"x": hostile.Tensor(1)}, "a tensor of another form"),
        ({"x": hostile.Tensor(1, 0, (3, 3), (3, 1))}, "a tensor of another form"),
        ({"x": hostile.Tensor(hostile.STORAGE, -1, (3, 3), (3, 1))}, "impossible sizes"),
        ({"x": hostile.Tensor(hostile.STORAGE, 0, (1,) * 9, (1,) * 9)}, "with 9 dimensions"),
    ],
)
def test_tensors_of_other_shapes_and_values(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    checkpoint(tmp_path / "model.pth", **changes)
    refused(tmp_path / "model.pth", message)


@pytest.mark.parametrize(
    ("module", "variances", "message"),
    [
        (2, -torch.ones(4), "variances below 0"),
        (2, torch.ones(5), "has width .5,., the layer before it .4,."),
        (0, torch.ones(4), "normalizes before the first linear layer"),
    ],
)
def test_batch_statistics_that_cannot_be(
    tmp_path: Path, module: int, variances: torch.Tensor, message: str
) -> None:
    names = ("running_mean", "weight", "bias", "running_var")
    parts = {f"encoder__mlp_layers__{module}__{name}": abs(variances) for name in names}
    parts[f"encoder__mlp_layers__{module}__running_var"] = variances
    checkpoint(tmp_path / "model.pth", **parts)
    refused(tmp_path / "model.pth", message)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "model.pth", "does not exist")
    (tmp_path / "folder.pth").mkdir()
    refused(tmp_path / "folder.pth", "Is a directory")


@cases(60)
@given(share=st.floats(0, 0.999))
def test_a_truncated_file_is_refused(tmp_path: Path, share: float) -> None:
    checkpoint(tmp_path / "whole.pth")
    data = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "model.pth").write_bytes(data[: int(share * len(data))])
    assert call(read_codebook, tmp_path / "model.pth", input_bytes=len(data)) is None


@cases(150)
@given(place=st.floats(0, 1), bits=st.integers(1, 255), length=st.integers(0, 3))
def test_a_damaged_file_is_refused_or_has_valid_numbers(
    tmp_path: Path, place: float, bits: int, length: int
) -> None:
    checkpoint(tmp_path / "whole.pth")
    data = bytearray((tmp_path / "whole.pth").read_bytes())
    at = min(int(place * len(data)), len(data) - 1)
    data[at] ^= bits
    del data[at + 1 : at + 1 + length]
    (tmp_path / "model.pth").write_bytes(bytes(data))
    read = call(read_codebook, tmp_path / "model.pth", input_bytes=len(data))
    if read is not None:
        read.codebook.check()


RECORDS = (type(None), bool, int, float, str, bytes, tuple, list, dict, Name, Call, Stored)


@cases(150)
@given(data=st.binary(max_size=200))
def test_any_bytes_as_a_pickle_are_records_or_malformed(data: bytes) -> None:
    value = None
    with suppress(ValueError):
        value = read_pickle(b"\x80\x02" + data + b".")
    assert type(value) in RECORDS


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"}", "exhausted before seeing STOP"),
        (b"h\x00.", "takes values that are not there"),
        (b"K\x01\x86.", "takes values that are not there"),
        (b"K\x01K\x02K\x03s.", "sets items of what is no mapping"),
    ],
)
def test_a_malformed_pickle_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_pickle(b"\x80\x02" + data)


def test_objects_of_a_pickle_are_records() -> None:
    import argparse
    import pickle

    value = read_pickle(pickle.dumps({"args": argparse.Namespace(layers=[4, 2])}, protocol=4))
    assert isinstance(value["args"], Call)
    assert value["args"].what == Name("argparse.Namespace")
