"""The figures of the codebook report, and what training events say about codes, against their
definitions, counts by hand or a known value. Quantizing in parts: the same codes as at once, and a
killed run resumes."""

import json
from collections import Counter
from itertools import product
from math import log2

import numpy as np
import pytest

from sidtool.base.errors import DataError
from sidtool.data.split.values import UserSequence
from sidtool.data.vector_files import open_vectors
from sidtool.data.vectors import VectorSource
from sidtool.tokenizer.codes import measure
from sidtool.tokenizer.codes.assign import assign
from sidtool.tokenizer.codes.make import encode_all, fit_once
from sidtool.tokenizer.codes.report import CodebookReport, LevelUse
from sidtool.tokenizer.make.compare import Behavior
from sidtool.tokenizer.quantize.codebook import Codebook
from sidtool.tokenizer.quantize.methods import fit
from tests.tokenizer.quantize.material import codebook_of, mixture, vectors_of, with_prices


def test_perplexity_and_utilization_of_a_level():
    codes = np.array([[0, 0], [0, 1], [1, 2], [1, 3]], dtype=np.uint16)
    first, second = measure.level_use(codes, (4, 4))
    assert first == LevelUse(4, 0.5, 1.0, 2.0, pytest.approx(0.5))
    assert second == LevelUse(4, 1.0, 2.0, 4.0, 0.0)


def test_gini_is_half_the_mean_absolute_difference_over_the_mean():
    column = np.random.default_rng(0).geometric(0.3, 200).clip(0, 9).astype(np.uint16)
    counts = np.bincount(column, minlength=10)
    expected = np.abs(counts[:, None] - counts).mean() / (2 * counts.mean())
    assert measure.level_use(column[:, None], (10,))[0].gini == pytest.approx(expected)


def test_residual_variance_equals_a_direct_computation():
    vectors, codebook = mixture(0, 300, 8), codebook_of(0, (8, 8), 8)
    codes = codebook.encode(vectors)
    total = np.square(vectors - vectors.mean(axis=0)).sum()
    decoded = (codebook.decode(codes[:, :depth]) for depth in (1, 2))
    expected = tuple(np.square(vectors - approximation).sum() / total for approximation in decoded)
    variance = measure.residual_variance(vectors, codebook, codes)
    assert variance == pytest.approx(expected, rel=1e-5)


def slow_preservation(vectors, codes, codebook, depth, k):
    """Mean Jaccard by the definition, item by item."""
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    sums, overlaps = codebook.decode(codes[:, :depth]).astype(np.float64), []
    for query in range(len(codes)):
        others = [item for item in range(len(codes)) if item != query]
        near = sorted(others, key=lambda item: -(directions[item] @ directions[query]))[:k]

        def far(item, query=query):
            common = list(codes[item, :depth] == codes[query, :depth])
            n_shared = common.index(False) if False in common else depth
            return -n_shared, np.square(sums[item] - sums[query]).sum()

        by_prefix = sorted(others, key=far)[:k]
        overlaps.append(len(set(near) & set(by_prefix)) / len(set(near) | set(by_prefix)))
    return np.mean(overlaps)


@pytest.mark.parametrize("is_priced", [False, True])
def test_neighbor_preservation_equals_its_definition(is_priced):
    vectors = mixture(1, 60, 6)
    codebook = codebook_of(1, (6, 6, 16), 6)
    codes = codebook.encode(vectors)
    _, distinct = np.unique(codes, axis=0, return_index=True)  # no ties at full depth
    stored = with_prices(codebook) if is_priced else codebook
    neighbors = measure.neighbor_preservation(vectors[distinct], codes[distinct], stored)
    assert (neighbors.k, neighbors.queries, neighbors.pool) == (20, len(distinct), len(distinct))
    expected = slow_preservation(vectors[distinct], codes[distinct], codebook, 3, 20)
    assert (neighbors.jaccard[-1], len(neighbors.jaccard)) == (pytest.approx(expected), 3)
    for depth in (1, 2):  # as if the codes ended there
        prefixes = codes[distinct, :depth]
        shorter = measure.neighbor_preservation(vectors[distinct], prefixes, stored)
        assert shorter.jaccard == neighbors.jaccard[:depth]


def test_large_inputs_are_sampled(monkeypatch):
    monkeypatch.setattr(measure, "POOL", 50)
    monkeypatch.setattr(measure, "QUERIES", 10)
    vectors = vectors_of(0, 90, 4)
    codes = codebook_of(0, (8,), 4).encode(vectors)
    neighbors = measure.neighbor_preservation(vectors, codes, None)
    assert (neighbors.queries, neighbors.pool) == (10, 50)


@pytest.mark.parametrize("policy", ["reassign", "append", "allow"])
def test_whole_report_is_json_and_repeatable(policy):
    vectors = mixture(2, 300, 8)
    codebook = fit(vectors, (16, 8, 8))
    raw = codebook.encode(vectors)
    assigned = assign(raw, vectors, codebook, [f"{row:03}" for row in range(300)], policy)
    first, second = (measure.codebook_report(vectors, codebook, raw, assigned) for _ in range(2))
    assert CodebookReport.from_json(json.loads(json.dumps(first.to_json()))) == second
    assert json.loads(json.dumps(first.to_json())) == first.to_json()
    assert len(first.levels) == len(assigned.level_sizes)
    assert first.reassigned == assigned.reassigned.sum()
    variances = first.residual_variance
    assert list(variances) == sorted(variances, reverse=True)
    assert first.residual_variance_assigned >= variances[-1] - 1e-9
    assert first.neighbors == measure.neighbor_preservation(vectors, assigned.codes, codebook)
    assert first.neighbors.jaccard[2] > first.neighbors.jaccard[0]


def test_one_item_has_no_neighbor_preservation():
    codes = np.zeros((1, 2), dtype=np.uint16)
    assert measure.neighbor_preservation(vectors_of(0, 1, 4), codes, None).jaccard == (1.0, 1.0)


@pytest.mark.parametrize(("full", "collapsed"), [(60, [0]), (30, [])])
def test_a_level_with_nearly_all_items_in_one_code_is_collapsed(full, collapsed):
    first = np.r_[np.zeros(full, dtype=int), 1 + np.arange(64 - full) % 31]
    evenly = np.arange(64) % 32
    codes = np.stack([first, evenly], axis=1).astype(np.uint16)
    levels = measure.level_use(codes, (32, 32))
    assert [level for level, use in enumerate(levels) if use.is_collapsed(64)] == collapsed


def events(*histories: str) -> list[UserSequence]:
    """One user per history, written as the letters of the items."""
    return [
        UserSequence(f"u{number}", tuple(items), tuple(range(len(items))))
        for number, items in enumerate(histories)
    ]


def test_mutual_information_equals_its_definition() -> None:
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 5, size=(60, 2)).astype(np.uint16)
    steps = rng.integers(0, 60, size=(200, 2))
    figures, _ = measure.mutual_information(codes, steps)
    for level in range(2):
        pairs = Counter((int(codes[a, level]), int(codes[b, level])) for a, b in steps)
        now, after = Counter(), Counter()
        for (a, b), count in pairs.items():
            now[a] += count
            after[b] += count
        expected = sum(n / 200 * log2(n * 200 / (now[a] * after[b])) for (a, b), n in pairs.items())
        assert figures[level] == pytest.approx(expected)


def test_mutual_information_is_complete_or_zero_in_the_extremes() -> None:
    rng = np.random.default_rng(2)
    columns = np.arange(64) % 8, rng.integers(0, 8, size=64), np.full(64, 65535)
    codes = np.stack(columns, axis=1).astype(np.uint16)
    first = rng.integers(0, 64, size=20000)
    steps = np.stack([first, (first + 1 + 8 * rng.integers(0, 8, size=20000)) % 64], axis=1)
    figures, chance = measure.mutual_information(codes, steps, seed=5)
    # the next code of the first level is certain
    assert figures[0] == pytest.approx(measure.level_use(codes[first, :1], (8,))[0].entropy)
    assert figures[2] == chance[2] == 0
    assert chance[0] < 0.01
    assert measure.mutual_information(codes, steps, seed=5) == (figures, chance)


def test_steps_stay_within_a_user_and_the_catalog() -> None:
    behavior = Behavior.of(events("abc", "ca", "b", "axb"), ["a", "b", "c"])
    assert behavior.steps.tolist() == [[0, 1], [1, 2], [2, 0]]
    with_gap = UserSequence("u", ("a", "b", "c"), (0, 2, 3))  # an event between is held out
    assert Behavior.of([with_gap], ["a", "b", "c"]).steps.tolist() == [[1, 2]]
    with pytest.raises(DataError, match="no user has two consecutive training events"):
        Behavior.of(events("a", "b"), ["a", "b"])


def test_events_of_each_item_are_counted() -> None:
    assert Behavior.of(events("abxb", "ba"), ["b", "a", "d"]).events.tolist() == [3, 2, 0]


def test_alignment_equals_its_definition() -> None:
    rng = np.random.default_rng(4)
    codes = rng.integers(0, 3, size=(20, 2)).astype(np.uint16)
    steps = rng.integers(0, 20, size=(60, 2))
    alignment = measure.prefix_alignment(codes, (3, 3), steps)
    steps = steps[steps[:, 0] != steps[:, 1]]
    for depth in (1, 2):
        same = [tuple(codes[a, :depth]) == tuple(codes[b, :depth]) for a, b in steps]
        assert alignment[0][depth - 1] == pytest.approx(np.mean(same))
        pairs = [(a, b) for a, b in product(steps[:, 0], steps[:, 1]) if a != b]
        same = [tuple(codes[a, :depth]) == tuple(codes[b, :depth]) for a, b in pairs]
        assert alignment[1][depth - 1] == pytest.approx(np.mean(same))


def test_alignment_is_one_within_a_prefix_and_chance_elsewhere() -> None:
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], dtype=np.uint16)
    within = np.array([[0, 1], [1, 0], [2, 3], [3, 2]])
    expected = ([1.0, 0.0], [pytest.approx(1 / 3), 0.0])
    assert measure.prefix_alignment(codes, (2, 2), within) == expected
    none = measure.prefix_alignment(codes, (2, 2), np.array([[1, 1]]))
    assert none == ([None, None], [None, None])


def test_the_spread_of_head_and_tail() -> None:
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 0], [1, 0]], dtype=np.uint16)
    # of 10 events the first two items have 8: the second one is needed for half of them
    spread = measure.prefix_spread(codes, (2, 2), np.array([4, 4, 1, 1, 0]))
    assert spread == ([1 / 2, 1.0], [1 / 3, 1 / 3])
    assert measure.prefix_spread(codes[:1], (2, 2), np.array([3])) == ([1.0, 1.0], [None, None])
    half = measure.prefix_spread(codes[2:], (2, 2), np.array([2, 1, 1]))  # the first one has it
    assert half == ([1.0, 1.0], [1 / 2, 1 / 2])


SIZES = (8, 8, 64)


def in_parts(tmp_path, vectors) -> VectorSource:
    path = tmp_path / "v.npy"
    if not path.exists():
        np.save(path, vectors)
    return open_vectors(path, memory_limit=1024 * vectors.shape[1] * 32)


def test_encoding_in_parts_equals_encoding_at_once(tmp_path):
    vectors = mixture(0, 3500, 8)
    vectors[40:60] = vectors[0]
    source, ids = in_parts(tmp_path, vectors), [f"{row:04}" for row in range(3500)]
    book = fit(source, SIZES)
    assert book.params.fit["sample"] == 1024
    raw = encode_all(book, source)
    assert (raw == book.encode(vectors)).all()
    whole, parts = (assign(raw, inputs, book, ids, "reassign") for inputs in (vectors, source))
    assert (whole.codes == parts.codes).all()
    assert whole.reassigned.sum() > 1024  # more than is held at once
    reports = [measure.codebook_report(inputs, book, raw, whole) for inputs in (vectors, source)]
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
    files = sorted(folder.rglob("*.npy"))
    assert len(files) == finished
    files[0].write_bytes(files[0].read_bytes()[:-5])  # as a crash of the machine may leave a part
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
            codes = encode_all(book, VectorSource.of(rows), folder=folder)
            assert (codes == book.encode(rows)).all()


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
