"""The figures of the codebook report against their definitions."""

import json
import math

import numpy as np
import pytest

from sidtool.tokenizer.codes import measure
from sidtool.tokenizer.codes.assign import assign
from sidtool.tokenizer.codes.report import CodebookReport, LevelUse
from sidtool.tokenizer.quantize import fit
from tests.tokenizer.quantize.material import codebook_of, mixture, vectors_of


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
    expected = [
        np.square(vectors - codebook.decode(codes[:, :depth])).sum() / total for depth in (1, 2)
    ]
    assert measure.residual_variance(vectors, codebook, codes) == pytest.approx(
        tuple(expected), rel=1e-5
    )


def slow_preservation(vectors, codes, codebook, depth, k):
    """Mean Jaccard by the definition, item by item."""
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    sums, overlaps = codebook.decode(codes[:, :depth]).astype(np.float64), []
    for query in range(len(codes)):
        others = [item for item in range(len(codes)) if item != query]
        near = sorted(others, key=lambda item: -(directions[item] @ directions[query]))[:k]

        def far(item, query=query):
            common = list(codes[item, :depth] == codes[query, :depth])
            shared = common.index(False) if False in common else depth
            return -shared, np.square(sums[item] - sums[query]).sum()

        by_prefix = sorted(others, key=far)[:k]
        overlaps.append(len(set(near) & set(by_prefix)) / len(set(near) | set(by_prefix)))
    return np.mean(overlaps)


def test_neighbor_preservation_equals_its_definition():
    vectors = mixture(1, 60, 6)
    codebook = codebook_of(1, (6, 6, 16), 6)
    codes = codebook.encode(vectors)
    _, distinct = np.unique(codes, axis=0, return_index=True)  # no ties at full depth
    neighbors = measure.neighbor_preservation(vectors[distinct], codes[distinct], codebook)
    assert (neighbors.k, neighbors.queries, neighbors.pool) == (20, len(distinct), len(distinct))
    expected = slow_preservation(vectors[distinct], codes[distinct], codebook, 3, 20)
    assert neighbors.jaccard[-1] == pytest.approx(expected)
    assert len(neighbors.jaccard) == 3


def test_random_codes_preserve_neighbors_by_chance_only():
    n, k = 400, 20
    codes = np.zeros((n, 2), dtype=np.uint16)
    neighbors = measure.neighbor_preservation(vectors_of(0, n, 8), codes, None).jaccard
    hits = k * k / (n - 1)
    assert neighbors == pytest.approx((hits / (2 * k - hits),) * 2, rel=0.35)


def test_large_inputs_are_sampled(monkeypatch):
    monkeypatch.setattr(measure, "POOL", 50)
    monkeypatch.setattr(measure, "QUERIES", 10)
    neighbors = measure.neighbor_preservation(
        vectors_of(0, 90, 4), codebook_of(0, (8,), 4).encode(vectors_of(0, 90, 4)), None
    )
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
    preserved = first.neighbors.jaccard
    assert all(0 <= value <= 1 and math.isfinite(value) for value in preserved)
    assert preserved[2] > preserved[0]


def test_one_item_has_no_neighbor_preservation():
    neighbors = measure.neighbor_preservation(
        vectors_of(0, 1, 4), np.zeros((1, 2), dtype=np.uint16), None
    )
    assert neighbors.jaccard == (1.0, 1.0)


@pytest.mark.parametrize(("full", "collapsed"), [(60, [0]), (30, [])])
def test_a_level_with_nearly_all_items_in_one_code_is_collapsed(full, collapsed):
    first = np.r_[np.zeros(full, dtype=int), 1 + np.arange(64 - full) % 31]
    evenly = np.arange(64) % 32
    codes = np.stack([first, evenly], axis=1).astype(np.uint16)
    levels = measure.level_use(codes, (32, 32))
    assert [level for level, use in enumerate(levels) if use.is_collapsed(64)] == collapsed
