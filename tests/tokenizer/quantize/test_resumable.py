"""Quantizing in parts: the same codes as at once, and a killed run resumes."""

import numpy as np
import pytest

from sidtool.data.vector_files import open_vectors
from sidtool.data.vectors import VectorSource
from sidtool.tokenizer.codes.assign import assign
from sidtool.tokenizer.codes.make import encode_all, fit_once
from sidtool.tokenizer.codes.measure import codebook_report
from sidtool.tokenizer.quantize import fit
from sidtool.tokenizer.quantize.codebook import Codebook
from tests.tokenizer.quantize.material import mixture

SIZES = (8, 8, 64)


def in_parts(tmp_path, vectors) -> VectorSource:
    path = tmp_path / "v.npy"
    if not path.exists():
        np.save(path, vectors)
    return open_vectors(path, memory=1024 * vectors.shape[1] * 32)


def test_encoding_in_parts_equals_encoding_at_once(tmp_path):
    vectors = mixture(0, 3500, 8)
    vectors[40:60] = vectors[0]
    source, ids = in_parts(tmp_path, vectors), [f"{row:04}" for row in range(3500)]
    book = fit(source, SIZES)
    assert book.params.fit["sample"] == 1024
    raw = encode_all(book, source)
    assert (raw == book.encode(vectors)).all()
    whole, parts = (assign(raw, given, book, ids, "reassign") for given in (vectors, source))
    assert (whole.codes == parts.codes).all()
    assert whole.reassigned.sum() > 1024  # more than is held at once
    reports = [codebook_report(given, book, raw, whole) for given in (vectors, source)]
    assert [report.measured for report in reports] == [3500, 1024]
    assert reports[0].neighbors == reports[1].neighbors
    variances = [report.residual_variance for report in reports]
    np.testing.assert_allclose(*variances, rtol=0.1)


@pytest.mark.parametrize("finished", [1, 3])
def test_an_interrupted_run_resumes(tmp_path, monkeypatch, finished):
    vectors = mixture(1, 4000, 8)
    source, folder = in_parts(tmp_path, vectors), tmp_path / "work"
    book = fit(source, (8, 8))

    def stop(done, total):
        if done >= finished * 1024:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_all(book, source, folder=folder, progress=stop)
    kept = sorted(folder.rglob("*.npy"))
    assert len(kept) == finished
    kept[0].write_bytes(kept[0].read_bytes()[:-5])  # as a crash of the machine may leave a part
    encoded, plain = [], Codebook.encode
    monkeypatch.setattr(
        Codebook, "encode", lambda self, rows: encoded.append(len(rows)) or plain(self, rows)
    )
    codes = encode_all(book, source, folder=folder)
    assert sum(encoded) == 4000 - 1024 * (finished - 1)
    assert (codes == plain(book, vectors)).all()


def test_parts_of_another_codebook_or_other_vectors_are_not_reused(tmp_path):
    vectors = mixture(2, 1500, 6)
    folder, books = tmp_path / "work", [fit(vectors, (8, 8), seed=seed) for seed in (0, 1)]
    for book in books:
        for rows in (vectors, vectors[::-1].copy()):
            assert (
                encode_all(book, VectorSource.of(rows), folder=folder) == book.encode(rows)
            ).all()


@pytest.mark.parametrize("method", ["rq-kmeans", "opq"])
def test_a_fitted_codebook_is_reused_for_equal_inputs_only(tmp_path, method):
    vectors = mixture(3, 400, 8)

    def make():
        made.append(1)
        return fit(vectors, (8, 8), method=method)

    made: list[int] = []
    first = fit_once(make, {"plan": 1}, tmp_path)
    again = fit_once(make, {"plan": 1}, tmp_path)
    assert len(made) == 1
    assert (again.method, again.params) == (first.method, first.params)
    assert (again.encode(vectors) == first.encode(vectors)).all()
    next(tmp_path.glob("*.npz")).write_bytes(b"PK broken")
    fit_once(make, {"plan": 1}, tmp_path)
    fit_once(make, {"plan": 2}, tmp_path)
    assert len(made) == 3
