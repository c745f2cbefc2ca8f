import json
import pickle
import resource
import shutil
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from numcodecs import FixedScaleOffset

from sidtool.base.errors import DataError, UsageError
from sidtool.data.vector_files import open_vectors, read_vectors

STORED = np.arange(12, dtype=np.float64).reshape(4, 3)
IDS = ["d", "ä", "b", "c"]


def store(
    path: Path,
    vectors: np.ndarray,
    ids: list[str],
    chunks: tuple[int, int] | None = None,
    group_rows: int | None = None,
) -> Path:
    """Write vectors and their ids in the container that the name's suffix selects."""
    if path.name.endswith(".npy"):
        np.save(path, np.asfortranarray(vectors) if "fortran" in path.name else vectors)
        beside = path.with_suffix(".ids.json" if "json" in path.name else ".ids.txt")
        text = json.dumps(ids) if beside.suffix == ".json" else "".join(f"{item}\n" for item in ids)
        beside.write_text(text, "utf-8")
    elif path.name.endswith(".parquet"):
        kind = pa.list_(pa.float64())
        if "fixed" in path.name:
            kind = pa.list_(pa.float32(), vectors.shape[1])
        columns = {"asin": ids, "embedding": pa.array(vectors.tolist(), kind)}
        pq.write_table(pa.table(columns), path, row_group_size=group_rows)
    else:
        place = zarr.storage.ZipStore(path, mode="w") if path.suffix == ".zip" else path
        group = zarr.open_group(place, mode="w")
        group.create_array("vectors", data=vectors, chunks=chunks or "auto")
        group.create_array("ids", data=np.array(ids, dtype=np.dtypes.StringDType()))
        group.store.close()
    return path


CONTAINERS = ("x.npy", "fortran-json.npy", "x.parquet", "fixed.parquet", "x.zarr", "x.zarr.zip")


@pytest.mark.parametrize("name", CONTAINERS)
def test_vectors_are_returned_in_the_requested_order(tmp_path: Path, name: str) -> None:
    path = store(tmp_path / name, STORED, IDS)
    vectors = read_vectors(path, ["b", "c", "ä"])
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, STORED[[2, 3, 1]])
    np.testing.assert_array_equal(read_vectors(path), STORED)


def test_matrices_without_ids_are_read_by_row_only_if_that_is_meant(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", STORED)
    zarr.save_array(str(tmp_path / "x.zarr"), STORED)
    for name in ("x.npy", "x.zarr"):
        np.testing.assert_array_equal(read_vectors(tmp_path / name, IDS, by_row=True), STORED)
        with pytest.raises(DataError, match="4 vectors for 3 items"):
            read_vectors(tmp_path / name, IDS[:3], by_row=True)
        for by_row in (None, False):
            with pytest.raises(DataError, match="has no item ids") as caught:
                read_vectors(tmp_path / name, IDS, by_row=by_row)
            assert ("--by-row" in str(caught.value.shell_hint)) == (by_row is False)
            assert ("NAME.ids.txt" in str(caught.value.hint)) == (name == "x.npy")  # no .zarr's


@pytest.mark.parametrize("name", CONTAINERS)
def test_missing_duplicate_and_nonfinite_vectors_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no vector for 2 of 3 items, the first is 'x'") as refusal:
        read_vectors(store(tmp_path / name, STORED, IDS), ["b", "x", "y"])
    assert "retired" in str(refusal.value.hint)
    with pytest.raises(DataError, match="two vectors for item 'b'"):
        read_vectors(store(tmp_path / f"2{name}", STORED, ["a", "b", "b", "c"]), ["b"])
    broken = STORED.copy()
    broken[1, 2] = np.inf
    path = store(tmp_path / f"3{name}", broken, IDS)
    with pytest.raises(DataError, match=r"1 of 3 vectors are not finite, like item 'ä' \(row 2\)"):
        read_vectors(path, ["c", "d", "ä"])
    assert len(read_vectors(path, ["c", "d"])) == 2


def parquet(**columns: list[object]) -> Callable[[Path], object]:
    """Writes a table."""
    return lambda path: pq.write_table(pa.table(columns), path)


NO_VECTORS: dict[str, tuple[Callable[[Path], object], str]] = {
    "one.npy": (lambda path: np.save(path, STORED[0]), "not a matrix of numbers"),
    "object.npy": (lambda path: np.save(path, np.array([{}]), allow_pickle=True), "cannot be read"),
    "count.npy": (lambda path: store(path, STORED, IDS[:2]), "4 vectors and 2 ids"),
    "text.npy": (lambda path: path.write_text("nothing"), "cannot be read"),
    "empty.npy": (Path.touch, "cannot be read"),
    "torn.zarr.zip": (lambda path: path.write_bytes(b"PK"), "cannot be read"),
    "npz.npy": (lambda path: np.savez(path.open("wb"), a=STORED), "cannot be read"),
    "x.parquet": (parquet(asin=["a"], x=[1]), "no column of vectors"),
    "ragged.parquet": (parquet(asin=["a", "b"], vector=[[1.0], [1.0, 2.0]]), "different lengths"),
    "null.parquet": (parquet(asin=["a", "b"], vector=[[1.0], None]), "'vector' lacks vectors"),
    "text.parquet": (parquet(asin=["a"], vector=["1 2"]), "'vector' is of type string, not of vec"),
    "unnamed.parquet": (parquet(asin=["a", ""], vector=[[1.0], [2.0]]), "an item id is empty"),
    "x.txt": (Path.touch, "the name does not end in a known suffix"),
    "x.zarr": (lambda path: zarr.open_group(path, mode="w"), "cannot be read"),
    "gone.npy": (lambda path: None, "does not exist"),
    "gone.docx": (lambda path: None, "does not exist"),
}


@pytest.mark.parametrize("name", NO_VECTORS)
def test_a_file_without_vectors_is_refused(tmp_path: Path, name: str) -> None:
    write, message = NO_VECTORS[name]
    write(tmp_path / name)
    refused(tmp_path / name, message)


def many(path: Path, rows: int, dim: int, ids: list[str]) -> np.ndarray:
    """Write vectors in chunks and row groups whose boundaries differ from those of every part that
    is read."""
    vectors = np.arange(rows * dim, dtype=np.float32).reshape(rows, dim)
    store(path, vectors, ids, chunks=(300, dim), group_rows=700)
    return vectors


@pytest.mark.parametrize("name", ["x.npy", "x.parquet", "x.zarr"])
@pytest.mark.parametrize("asked", [None, "same", "mixed"])
def test_vectors_read_in_parts_equal_those_read_at_once(
    tmp_path: Path, name: str, asked: str | None
) -> None:
    rows, dim, rng = 5000, 4, np.random.default_rng(0)
    ids = [f"i{row}" for row in range(rows)]
    vectors = many(tmp_path / name, rows, dim, ids)
    wanted = rng.permutation(rows)[:3500] if asked == "mixed" else np.arange(rows)
    items = None if asked is None else [ids[row] for row in wanted]
    source = open_vectors(tmp_path / name, items, memory_limit=1500 * dim * 32)
    expected = vectors[wanted]
    assert (source.shape, source.limit, len(source)) == (expected.shape, 1500, len(expected))
    result = np.full(expected.shape, np.nan, dtype=np.float32)
    for span in source.spans[::-1]:  # going back as well
        assert 0 < span[1] - span[0] <= 1500
        result[source.rows(span)] = source.read(span)
    np.testing.assert_array_equal(result, expected)
    picked = rng.integers(0, len(expected), 900)
    np.testing.assert_array_equal(source.take(picked), expected[picked])
    np.testing.assert_array_equal(source.all(), expected)


def test_a_value_that_is_not_finite_is_named_in_any_part(tmp_path: Path) -> None:
    vectors = np.zeros((4000, 4), dtype=np.float32)
    vectors[3456, 2] = np.nan
    np.save(tmp_path / "x.npy", vectors)
    ids = [f"i{row}" for row in range(4000)]
    source = open_vectors(tmp_path / "x.npy", ids, memory_limit=1024 * 4 * 32, by_row=True)
    with pytest.raises(DataError, match=r"like item 'i3456' \(row 3456\)"):
        source.read(source.spans[3])
    with pytest.raises(DataError, match="'i3456'"):
        source.take(np.array([7, 3456, 2]))
    assert len(source.read(source.spans[0])) == 1024


def test_a_file_is_not_read_into_memory_at_once(tmp_path: Path) -> None:
    rows, dim = 40_000, 32
    np.save(tmp_path / "x.npy", np.ones((rows, dim), dtype=np.float32))
    source = open_vectors(tmp_path / "x.npy", memory_limit=2048 * dim * 32)
    tracemalloc.start()
    total = sum(float(source.read(span).sum()) for span in source.spans)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == rows * dim
    assert peak < 2048 * dim * 32 < rows * dim * 4


def test_too_little_memory_is_refused_with_the_amount_that_suffices(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((10, 64), dtype=np.float32))
    message = "1000000 bytes of memory are not enough for vectors of 64"
    with pytest.raises(UsageError, match=message) as caught:
        open_vectors(tmp_path / "x.npy", memory_limit=1_000_000)
    assert "2097152" in str(caught.value.shell_hint)
    assert len(open_vectors(tmp_path / "x.npy", memory_limit=2_097_152)) == 10


def test_a_changed_file_has_another_fingerprint(tmp_path: Path) -> None:
    path, ids = tmp_path / "x.npy", [str(row) for row in range(10)]
    np.save(path, np.ones((10, 4), dtype=np.float32))
    first = open_vectors(path, ids, by_row=True).fingerprint
    assert open_vectors(path, ids, by_row=True).fingerprint == first
    assert open_vectors(path, ids[::-1], by_row=True).fingerprint != first
    np.save(path, np.zeros((10, 4), dtype=np.float32))
    assert open_vectors(path, ids, by_row=True).fingerprint != first


def refused(path: Path, message: str) -> None:
    """Read the vectors, which must be refused in one line and without much memory."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message) as caught:
            read_vectors(path, ["a", "b"])
        assert tracemalloc.get_traced_memory()[1] < (64 << 20)
    finally:
        tracemalloc.stop()
    assert str(path.with_suffix("")) in str(caught.value)
    assert "\n" not in str(caught.value)


def npy(header: str, data: bytes = b"", *, length: int | None = None, version: int = 2) -> bytes:
    text = header.encode("latin1") + b"\n"
    size = len(text) if length is None else length
    return b"\x93NUMPY" + bytes([version, 0]) + size.to_bytes(4, "little") + text + data


def descr(kind: str = "<f4", shape: str = "(2, 2)", order: str = "False") -> str:
    return f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}}}"


@pytest.mark.parametrize(
    "content",
    [
        npy(descr(shape="(1000000000, 1000000000)"), bytes(16)),
        npy(descr(shape=f"({2**62}, 4)"), bytes(16)),
        *(npy(descr(shape=shape), bytes(16)) for shape in ("(-1, 2)", "(-2, -2)")),
        *(npy(descr(shape=shape), bytes(16)) for shape in ("(2, 3)", "(2.0, 2)")),
        *(npy(descr(shape=shape)) for shape in ("2", "(" * 4000)),
        *(npy(descr(kind=kind)) for kind in ("|V0", "<U1000000000")),
        *(npy(header) for header in ("-" * 9000, "[" * 9000, "{}")),
        *(npy(descr(), bytes(16), length=length) for length in (2**32 - 1, 2**20)),
        npy(descr(), bytes(17)),
        npy(descr(kind="|O"), pickle.dumps([1, 2, 3, 4])),
        npy(descr(), bytes(16), version=9),
        b"\x93NUMPY\x03\x00" + npy(descr(), bytes(16))[8:],
        b"\x93NUM",
    ],
)
def test_a_npy_header_that_lies_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    refused(tmp_path / "x.npy", "cannot be read as vectors|not a matrix of numbers")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.ids.txt", b"a\n\xff", "cannot be read"),
        ("x.ids.txt", b"a\n\nb\nc\n", "line 2: the item id is empty"),
        ("x.ids.json", b'["a", true, "b", "c"]', "no list of ids"),
        ("x.ids.json", b'["a", 1.0, "b", "c"]', "no list of ids"),
        ("x.ids.json", b'{"a": 1}', "no list of ids"),
        ("x.ids.json", b'["a", "\\ud800", "b", "c"]', "lone surrogate"),
        ("x.ids.json", b"[" * 100_000, "too deep"),
        ("x.ids.json", b"[" + b"9" * 5000 + b"]", "too many digits"),
    ],
)
def test_ids_beside_a_matrix_are_ids(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    np.save(tmp_path / "x.npy", STORED)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_vectors(tmp_path / "x.npy", ["a"])
    assert str(tmp_path / name) in str(caught.value)


def test_ids_beside_a_matrix_end_at_line_feeds_alone(tmp_path: Path) -> None:
    ids = [" a", "b\u2028c", "d\x0be", "f\x85"]
    np.save(tmp_path / "x.npy", STORED)
    (tmp_path / "x.ids.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(ids).encode() + b"\r\n")
    np.testing.assert_array_equal(read_vectors(tmp_path / "x.npy", ids[::-1]), STORED[::-1])


def rewritten(path: Path, array: str, **changes: object) -> Path:
    """A Zarr group with changed metadata of an array."""
    group = store(path, STORED, IDS)
    file = group / array / "zarr.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return path


def grid(*shape: int) -> dict[str, object]:
    return {"name": "regular", "configuration": {"chunk_shape": list(shape)}}


@pytest.mark.parametrize("array", ["vectors", "ids"])
@pytest.mark.parametrize(
    "changes",
    [
        *({"shape": shape} for shape in ([10**9, 3], [10**18, 10**18], [-4, 3], [0, 3], "4")),
        *({"chunk_grid": grid(n, 3)} for n in (10**9, -1, 0)),
        *({"chunk_grid": grid(n, n)} for n in (10**9, 1)),
        *({"codecs": [{"name": name}]} for name in ("numcodecs.pickle", "evil")),
        {"shape": [10**9, 3], "chunk_grid": grid(1, 1)},
        {"data_type": "complex128"},
        {"data_type": {"name": "fixed_length_utf32", "configuration": {"length_bytes": 4 << 40}}},
        {"zarr_format": 4},
        {"fill_value": "NaN NaN"},
    ],
)
def test_a_zarr_array_that_claims_more_than_is_stored_is_refused(
    tmp_path: Path, array: str, changes: dict[str, object]
) -> None:
    if array == "ids":
        if "shape" in changes and isinstance(changes["shape"], list):
            changes = changes | {"shape": changes["shape"][:1]}
        if "chunk_grid" in changes:
            shape = changes["chunk_grid"]["configuration"]["chunk_shape"]  # type: ignore[index]
            changes = changes | {"chunk_grid": grid(shape[0])}
    refused(rewritten(tmp_path / "x.zarr", array, **changes), "cannot be read|x.zarr")


def test_a_zarr_chunk_that_is_missing_is_not_read_as_zeros(tmp_path: Path) -> None:
    path = store(tmp_path / "x.zarr", STORED, IDS)
    (path / "vectors" / "c" / "0" / "0").unlink()
    refused(path, "1 of 1 chunks of vectors/ are not stored")


def test_a_zarr_array_cannot_run_code(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "ran",)

    path = store(tmp_path / "x.zarr", STORED, IDS)
    shutil.rmtree(path / "ids")
    (path / "ids").mkdir()
    (path / "ids" / "0").write_bytes(pickle.dumps(Evil()))
    metadata = {"zarr_format": 2, "shape": [4], "chunks": [4], "dtype": "|O", "order": "C"}
    codecs = {"fill_value": None, "compressor": None, "filters": [{"id": "pickle"}]}
    (path / "ids" / ".zarray").write_text(json.dumps(metadata | codecs))
    refused(path, "cannot be read|codec 'pickle'")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (np.array([b"a", b"\xc3\xa4"]), ""),
        (np.array([7, 8]), ""),
        (np.array([7, 8.5]), "row 1 of ids: 7.0 is no id"),
    ],
)
def test_the_ids_of_a_zarr_group_are_texts_or_whole_numbers(
    tmp_path: Path, ids: np.ndarray, message: str
) -> None:
    group = zarr.open_group(tmp_path / "x.zarr", mode="w", zarr_format=2)
    group.create_array("vectors", data=STORED[:2])
    group.create_array("ids", data=ids)
    if message:
        return refused(tmp_path / "x.zarr", message)
    texts = [item.decode() if isinstance(item, bytes) else str(item) for item in ids.tolist()]
    np.testing.assert_array_equal(read_vectors(tmp_path / "x.zarr", texts[::-1]), STORED[1::-1])


def test_a_codec_that_is_not_known_is_refused(tmp_path: Path) -> None:
    scale = FixedScaleOffset(offset=0, scale=10, dtype="<f8")
    zarr.create_array(tmp_path / "x.zarr", data=STORED, zarr_format=2, filters=[scale])
    refused(tmp_path / "x.zarr", "the codec 'fixedscaleoffset' of the array is not read")


def test_a_zip_that_expands_without_end_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zarr.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zarr.json", bytes(40 << 20))
    refused(tmp_path / "x.zarr.zip", "expands to more than 100 times its size")


def test_parquet_claims_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.parquet"
    zeros = pa.array(np.zeros(1 << 24, dtype=np.float32))
    lists = pa.FixedSizeListArray.from_arrays(zeros, 1 << 23)
    pq.write_table(pa.table({"item_id": ["a", "b"], "vector": lists}), path)
    refused(path, "claims a column of 16777216 values")
    monkeypatch.setattr("sidtool.data.tables.parquet.ROWS_PER_BYTE", 64)
    pq.write_table(pa.table({"item_id": pa.repeat("a", 1 << 22)}), path)
    refused(path, "claims 4194304 rows")


def test_damage_in_a_later_part_is_one_line(tmp_path: Path) -> None:
    rows = 3000
    for name in ("x.parquet", "x.zarr"):
        many(tmp_path / name, rows, 4, [f"i{row}" for row in range(rows)])
        source = open_vectors(tmp_path / name)
        damaged = tmp_path / name
        if damaged.is_dir():
            damaged = max((damaged / "vectors" / "c").rglob("0"), key=lambda file: file.parts)
        content = bytearray(damaged.read_bytes())
        quarter = len(content) // 4
        content[4 : 3 * quarter] = b"\xff" * (3 * quarter - 4)
        damaged.write_bytes(content)
        with pytest.raises(DataError, match=r"cannot be read as vectors|not finite"):
            source.all()


def test_a_folder_may_have_more_files_than_a_process_may_open(tmp_path: Path) -> None:
    rows = np.arange(400, dtype=np.float32).reshape(100, 4)
    for number, row in enumerate(rows):
        table = pa.table({"item_id": [f"i{number}"], "vector": [row.tolist()]})
        pq.write_table(table, tmp_path / f"{number:03d}.parquet")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    in_use = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (in_use + 60, hard))
    try:
        assert (open_vectors(tmp_path).all() == rows).all()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_parquet_at_a_url(tmp_path: Path) -> None:
    store(tmp_path / "x.parquet", STORED, IDS)
    files = fsspec.filesystem("memory")
    files.put(str(tmp_path / "x.parquet"), "/shop/vectors/part.parquet")
    for url in ("memory://shop/vectors", "memory://shop/vectors/part.parquet"):
        vectors = open_vectors(Path(url), ["b", "d"])
        for copy in (vectors, pickle.loads(pickle.dumps(vectors))):
            assert copy.all().tolist() == [[6, 7, 8], [0, 1, 2]]
    before = open_vectors(Path("memory://shop/vectors")).fingerprint
    assert open_vectors(Path("memory://shop/vectors")).fingerprint == before
    files.pipe_file("/shop/x.npy", b"")
    with pytest.raises(DataError, match=r"memory://shop/x\.npy: vectors at a URL must be Parquet"):
        open_vectors(Path("memory://shop/x.npy"))
    files.pipe_file("/shop/bad/part.parquet", b"no table")
    with pytest.raises(DataError, match=r"memory:/+shop/bad.* cannot be read"):
        open_vectors(Path("memory://shop/bad"))
    with pytest.raises(DataError, match=r"memory://shop/none does not exist"):
        open_vectors(Path("memory://shop/none"))
