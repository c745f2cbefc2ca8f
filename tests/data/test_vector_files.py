"""Vectors computed elsewhere: each item gets its own in every container, read at once or in
parts."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidtool.data.vector_files import open_vectors, read_vectors
from sidtool.errors import DataError, UsageError

STORED = np.arange(12, dtype=np.float64).reshape(4, 3)
IDS = ["d", "ä", "b", "c"]


def store(path: Path, vectors: np.ndarray, ids: list[str]) -> Path:
    """Write vectors and their ids in the container that the name's suffix selects."""
    if path.name.endswith(".npy"):
        np.save(path, vectors)
        beside = path.with_suffix(".ids.json" if "json" in path.name else ".ids.txt")
        beside.write_text(
            json.dumps(ids) if beside.suffix == ".json" else "".join(f"{item}\n" for item in ids),
            "utf-8",
        )
    elif path.name.endswith(".parquet"):
        kind = (
            pa.list_(pa.float32(), vectors.shape[1])
            if "fixed" in path.name
            else pa.list_(pa.float64())
        )
        pq.write_table(pa.table({"asin": ids, "embedding": pa.array(vectors.tolist(), kind)}), path)
    else:
        group = zarr.open_group(
            zarr.storage.ZipStore(path, mode="w") if path.suffix == ".zip" else path, mode="w"
        )
        group["vectors"] = vectors
        group.create_array("ids", data=np.array(ids, dtype=np.dtypes.StringDType()))
        group.store.close()
    return path


CONTAINERS = ("x.npy", "json.npy", "x.parquet", "fixed.parquet", "x.zarr", "x.zarr.zip")


@pytest.mark.parametrize("name", CONTAINERS)
def test_vectors_are_returned_in_the_requested_order(tmp_path: Path, name: str) -> None:
    path = store(tmp_path / name, STORED, IDS)
    vectors = read_vectors(path, ["b", "c", "ä"])
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, STORED[[2, 3, 1]])
    np.testing.assert_array_equal(read_vectors(path), STORED)


@settings(
    max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(
    st.permutations(range(6)), st.permutations(range(6)), st.sampled_from(["x.npy", "x.parquet"])
)
def test_any_order_gives_each_item_its_vector(
    tmp_path: Path, stored: list[int], asked: list[int], name: str
) -> None:
    path = store(
        tmp_path / name,
        np.array([[n, -n] for n in stored], dtype=np.float32),
        [str(n) for n in stored],
    )
    assert read_vectors(path, [str(n) for n in asked])[:, 0].tolist() == asked


def test_matrices_without_ids_need_as_many_rows_as_items(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", STORED)
    zarr.save_array(str(tmp_path / "x.zarr"), STORED)
    for name in ("x.npy", "x.zarr"):
        np.testing.assert_array_equal(read_vectors(tmp_path / name, IDS), STORED)
        with pytest.raises(DataError, match="4 vectors for 3 items"):
            read_vectors(tmp_path / name, IDS[:3])


@pytest.mark.parametrize("name", CONTAINERS)
def test_missing_duplicate_and_nonfinite_vectors_are_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no vector for 2 of 3 items, the first is 'x'"):
        read_vectors(store(tmp_path / name, STORED, IDS), ["b", "x", "y"])
    with pytest.raises(DataError, match="two vectors for item 'b'"):
        read_vectors(store(tmp_path / f"2{name}", STORED, ["a", "b", "b", "c"]), ["b"])
    broken = STORED.copy()
    broken[1, 2] = np.inf
    path = store(tmp_path / f"3{name}", broken, IDS)
    with pytest.raises(
        DataError, match=r"1 of 3 vectors are not finite, the first is item 'ä' \(row 2\)"
    ):
        read_vectors(path, ["c", "d", "ä"])
    assert len(read_vectors(path, ["c", "d"])) == 2


def test_files_without_vectors_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", STORED[0])
    np.save(tmp_path / "object.npy", np.array([{}]), allow_pickle=True)
    np.save(tmp_path / "count.npy", STORED)
    (tmp_path / "count.ids.txt").write_text("a\nb\n")
    (tmp_path / "text.npy").write_text("nothing")
    (tmp_path / "empty.npy").touch()
    (tmp_path / "torn.zarr.zip").write_bytes(b"PK")
    with (tmp_path / "several.npy").open("wb") as stream:
        np.savez(stream, a=STORED)
    pq.write_table(pa.table({"asin": ["a"], "x": [1]}), tmp_path / "x.parquet")
    pq.write_table(
        pa.table({"asin": ["a", "b"], "vector": [[1.0], [1.0, 2.0]]}), tmp_path / "ragged.parquet"
    )
    zarr.open_group(tmp_path / "x.zarr", mode="w")
    for name, message in (
        ("one.npy", "not a matrix of numbers"),
        ("object.npy", "cannot be read"),
        ("count.npy", "4 vectors and 2 ids"),
        ("text.npy", "cannot be read"),
        ("empty.npy", "cannot be read"),
        ("torn.zarr.zip", "cannot be read"),
        ("several.npy", "cannot be read"),
        ("x.parquet", "no column of vectors"),
        ("ragged.parquet", "different lengths"),
        ("x.zarr", "cannot be read"),
        ("gone.npy", "does not exist"),
        ("x.docx", "cannot tell|does not exist"),
    ):
        with pytest.raises(DataError, match=message):
            read_vectors(tmp_path / name, ["a"])


# In parts


def many(path: Path, rows: int, dim: int, ids: list[str]) -> np.ndarray:
    """Write vectors in chunks and row groups whose boundaries differ from those of every part that
    is read."""
    vectors = np.arange(rows * dim, dtype=np.float32).reshape(rows, dim)
    if path.suffix == ".parquet":
        table = pa.table(
            {"item_id": ids, "vector": pa.array(list(vectors), pa.list_(pa.float32(), dim))}
        )
        pq.write_table(table, path, row_group_size=700)
    elif path.suffix == ".zarr":
        group = zarr.open_group(path, mode="w")
        group.create_array("vectors", data=vectors, chunks=(300, dim))
        group.create_array("ids", data=np.array(ids, dtype=np.dtypes.StringDType()))
    else:
        store(path, vectors, ids)
    return vectors


@pytest.mark.parametrize("name", ["x.npy", "x.parquet", "x.zarr"])
@pytest.mark.parametrize("asked", [None, "same", "mixed"])
def test_vectors_read_in_parts_equal_those_read_at_once(
    tmp_path: Path, name: str, asked: str | None
) -> None:
    rows, dim, rng = 5000, 4, np.random.default_rng(0)
    ids = [f"i{row}" for row in range(rows)]
    vectors = many(tmp_path / name, rows, dim, ids)
    wanted = {
        None: np.arange(rows),
        "same": np.arange(rows),
        "mixed": rng.permutation(rows)[:3500],
    }[asked]
    source = open_vectors(
        tmp_path / name,
        None if asked is None else [ids[row] for row in wanted],
        memory=1500 * dim * 32,
    )
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
    source = open_vectors(
        tmp_path / "x.npy", [f"i{row}" for row in range(4000)], memory=1024 * 4 * 32
    )
    with pytest.raises(DataError, match=r"the first is item 'i3456' \(row 3456\)"):
        source.read(source.spans[3])
    with pytest.raises(DataError, match="'i3456'"):
        source.take(np.array([7, 3456, 2]))
    assert len(source.read(source.spans[0])) == 1024


def test_a_file_is_not_read_into_memory_at_once(tmp_path: Path) -> None:
    rows, dim = 40_000, 32
    np.save(tmp_path / "x.npy", np.ones((rows, dim), dtype=np.float32))
    source = open_vectors(tmp_path / "x.npy", memory=2048 * dim * 32)
    tracemalloc.start()
    total = sum(float(source.read(span).sum()) for span in source.spans)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == rows * dim
    assert peak < 2048 * dim * 32 < rows * dim * 4


def test_too_little_memory_is_refused_with_the_amount_that_suffices(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones((10, 64), dtype=np.float32))
    with pytest.raises(
        UsageError, match="1000000 bytes of memory are not enough for vectors of 64"
    ) as caught:
        open_vectors(tmp_path / "x.npy", memory=1_000_000)
    assert "2097152" in str(caught.value.hint)
    assert len(open_vectors(tmp_path / "x.npy", memory=2_097_152)) == 10


def test_a_changed_file_has_another_fingerprint(tmp_path: Path) -> None:
    path, ids = tmp_path / "x.npy", [str(row) for row in range(10)]
    np.save(path, np.ones((10, 4), dtype=np.float32))
    first = open_vectors(path, ids).fingerprint
    assert open_vectors(path, ids).fingerprint == first
    assert open_vectors(path, ids[::-1]).fingerprint != first
    np.save(path, np.zeros((10, 4), dtype=np.float32))
    assert open_vectors(path, ids).fingerprint != first
