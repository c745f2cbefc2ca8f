import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidtool.base.errors import DataError
from sidtool.data.vectors import VectorSource
from sidtool.tokenizer.codes.measure import residual_variance
from sidtool.tokenizer.quantize import kmeans, rqkmeans
from sidtool.tokenizer.quantize.methods import fit
from tests.tokenizer.quantize.material import mixture, vectors_of


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), size=st.integers(2, 40))
def test_every_code_of_the_first_level_is_used(seed, size):
    vectors = mixture(seed, 200, 6)
    codes = fit(vectors, (size, 2), seed=seed).encode(vectors)
    assert len(np.unique(codes[:, 0])) == size


def test_the_error_is_that_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.cluster")
    vectors = mixture(3, 3000, 24, clusters=80)
    residual, expected = vectors.astype(np.float64), []
    for _ in range(3):
        result = sklearn.KMeans(32, n_init=1, random_state=0, max_iter=50).fit(residual)
        residual = residual - result.cluster_centers_[result.labels_]
        expected.append(np.square(residual).sum() / np.square(vectors - vectors.mean(axis=0)).sum())
    codebook = fit(vectors, (32, 32, 32))
    ours = residual_variance(vectors, codebook, codebook.encode(vectors))
    # a first level alone may be a little worse: levels are refined for what they leave together
    assert (np.array(ours) < np.array(expected) * (1.05, 1.02, 1.0)).all(), (ours, expected)


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), passes=st.integers(1, 6))
def test_refining_levels_jointly_never_increases_the_error(seed, passes):
    vectors = mixture(seed, 300, 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rqkmeans, "REFINEMENT_PASSES", 0)
        before = fit(vectors, (12, 12, 6), seed=seed)
        patch.setattr(rqkmeans, "REFINEMENT_PASSES", passes)
        after = fit(vectors, (12, 12, 6), seed=seed)
    left = [residual_variance(vectors, book, book.encode(vectors))[-1] for book in (before, after)]
    assert left[1] <= left[0] * (1 + 1e-5)


def test_later_levels_compensate_for_earlier_ones():
    rows = mixture(1, 400, 8) - mixture(1, 400, 8).mean(axis=0)
    first, second = rows[:10].copy(), rows[10:16].copy() / 4
    codes, left = [], rows.copy()
    for centroids in (first, second):
        codes.append(kmeans.nearest(left, centroids)[0])
        left -= centroids[codes[-1]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rqkmeans, "REFINEMENT_PASSES", 1)
        result = rqkmeans.refine(left.copy(), [first, second], np.stack(codes))
    expected = [first.copy(), second.copy()]
    for level, other in ((0, 1), (1, 0)):
        for code in np.unique(codes[level]):
            residuals = rows - expected[other][codes[other]]
            expected[level][code] = residuals[codes[level] == code].mean(axis=0)
    used = [np.unique(column) for column in codes]  # a code without rows is another matter
    for level, by_hand, codes_in_use in zip(result, expected, used, strict=True):
        np.testing.assert_allclose(level[codes_in_use], by_hand[codes_in_use], atol=1e-4)


def test_an_empty_code_restarts_at_the_largest_residual(monkeypatch):
    rows = mixture(2, 300, 6)
    far = np.full((1, 6), 1e3, dtype=np.float32)
    levels = [np.concatenate([rows[:7], far]), np.zeros((1, 6), dtype=np.float32)]
    codes = [kmeans.nearest(rows, levels[0])[0], np.zeros(300, dtype=np.intp)]
    assert 7 not in codes[0]
    left = rows - levels[0][codes[0]]
    farthest = int(np.square(left).sum(axis=1).argmax())
    monkeypatch.setattr(rqkmeans, "REFINEMENT_PASSES", 1)
    result = rqkmeans.refine(left.copy(), levels, np.stack(codes))
    assert np.allclose(result[0][7], rows[farthest], atol=1e-4)
    assert 7 in kmeans.nearest(rows, result[0])[0]


def test_large_inputs_are_sampled_by_a_quarter_up_to_a_bound(monkeypatch):
    vectors = mixture(4, 4000, 4)
    monkeypatch.setattr(kmeans, "ROWS_PER_CENTROID", 4)

    def sample(sizes, **more):
        return fit(vectors, sizes, **more).params.fit["sample"]

    assert sample((4, 2)) == 1000  # a quarter
    assert sample((4, 2), balanced=True) == 16  # even levels cost more a row
    monkeypatch.setattr(rqkmeans, "MAX_SAMPLE", 500)
    assert sample((4, 2)) == 500
    assert sample((256,)) == 1024  # the rows that its codes need


def test_a_common_offset_of_all_vectors_changes_no_codes():
    vectors = np.round(mixture(0, 400, 12), 2)
    offset = np.float32(64)
    plain, moved = fit(vectors, (16, 8)), fit(vectors + offset, (16, 8))
    pairs = ((vectors, plain), (vectors + offset, moved))
    errors = [residual_variance(v, b, b.encode(v))[-1] for v, b in pairs]
    assert errors[1] == pytest.approx(errors[0], rel=0.05)


def test_empty_codes_restart_at_the_farthest_vectors():
    vectors = np.array([[0.0], [1.0], [10.0], [30.0]], dtype=np.float32)
    centroids = np.array([[0.5], [99.0], [98.0]], dtype=np.float32)
    codes, distances = kmeans.nearest(vectors, centroids[:1])
    moved = kmeans.means(vectors, codes, distances, centroids)
    assert moved.ravel().tolist() == [0.5, 30.0, 10.0]


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.filterwarnings("error")
def test_constant_residuals_leave_codes_unused(balanced):
    vectors = np.repeat(np.eye(4, dtype=np.float32), 5, axis=0)
    codebook = fit(vectors, (4, 3, 2), balanced=balanced)
    codes = codebook.encode(vectors)
    assert len(np.unique(codes[:, 0])) == 4
    np.testing.assert_allclose(codebook.reconstruct(codes), vectors, atol=1e-6)


def test_progress_counts_levels():
    seen = []
    fit(vectors_of(0, 50, 4), (8, 4), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


def test_fewer_distinct_vectors_than_codes_is_refused():
    vectors = np.repeat(vectors_of(0, 7, 4), 10, axis=0)
    with pytest.raises(DataError, match=r"70 items have 7 distinct vectors, .* has 8 codes"):
        fit(vectors, (4, 8))
    zeros = np.where(vectors > 0, np.float32(0), np.float32(-0.0))
    with pytest.raises(DataError, match="70 items have 1 distinct vectors"):
        fit(zeros, (4, 2))


def test_values_that_are_not_finite_are_refused():
    vectors = vectors_of(0, 50, 4)
    vectors[3, 1] = np.nan
    with pytest.raises(DataError, match="not finite"):
        fit(vectors, (4, 8))


@pytest.mark.parametrize("method", ["rq-kmeans", "opq"])
def test_values_whose_squared_distances_overflow_are_refused(method):
    vectors = vectors_of(0, 50, 4)
    assert fit(vectors * np.float32(1e7), (4, 8), method=method).sizes == (4, 8)
    for factor in (1e19, -1e19):
        with pytest.raises(DataError, match=r"values up to .*e.19, more than 1e.08") as caught:
            fit(vectors * np.float32(factor), (4, 8), method=method)
        assert caught.value.shell_hint == "scale the vectors down"


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 6))]
)
def test_no_code_holds_most_vectors_of_data_without_clusters(seed):
    noise = np.random.default_rng(seed).standard_normal((4000, 256), dtype=np.float32)
    noise[:40] *= 0.1  # near the mean: each is nearest to nearly all rows, should it become a seed
    codebook = fit(noise, (64, 64), seed=seed)
    for level in codebook.encode(noise).T:
        assert np.bincount(level).max() < len(noise) / 8


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 120),
    size=st.integers(1, 12),
    tied=st.booleans(),
)
def test_codes_are_even_to_within_one(seed, n, size, tied):
    priced = np.square(vectors_of(seed, n, size))
    priced = np.round(priced) if tied else priced
    counts = np.bincount(rqkmeans.even_codes(priced), minlength=size)
    assert counts.sum() == n
    assert counts.max() - counts.min() <= 1


def test_assignment_is_near_the_optimum(monkeypatch):
    optimize = pytest.importorskip("scipy.optimize")
    vectors = mixture(0, 600, 8)
    centroids, _ = kmeans.kmeans(vectors, 12, np.random.default_rng(0))
    distances = rqkmeans.squared_distances(vectors, centroids)
    rows, seats = optimize.linear_sum_assignment(np.repeat(distances, 50, axis=1))
    best = distances[rows, seats // 50].sum()
    monkeypatch.setattr(rqkmeans, "PRICE_UPDATES", 60)
    prices = rqkmeans.even_prices(distances, np.zeros(12, dtype=np.float32))
    ours = distances[rows, rqkmeans.even_codes(distances + prices)].sum()
    assert best * (1 - 1e-5) <= ours <= best * 1.01


def test_catalog_and_later_items_spread_evenly():
    vectors = mixture(1, 6000, 8)
    catalog_vectors, new = vectors[:4000], vectors[4000:]
    spread = {}
    for even in (False, True):
        codebook = fit(catalog_vectors, (16, 8), balanced=even)
        for name, rows in (("known", catalog_vectors), ("new", new)):
            columns = zip(codebook.encode(rows).T, (16, 8), strict=True)
            counts = [np.bincount(column, minlength=size) for column, size in columns]
            spread[name, even] = [float(np.std(usage / len(rows) * len(usage))) for usage in counts]
    assert max(spread["known", True]) < 0.1
    assert max(spread["new", True]) < 0.25
    assert min(spread["known", False]) > 0.2


@pytest.mark.parametrize(("rows", "expected"), [(63, True), (64, False)])
def test_few_vectors_per_code_are_balanced_by_default(rows, expected):
    vectors = np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)
    default, explicit = fit(vectors, (8, 4)), fit(vectors, (8, 4), balanced=expected)
    assert default.params.fit["balanced"] is expected
    for one, other in zip(default.levels, explicit.levels, strict=True):
        np.testing.assert_array_equal(one, other)
    assert fit(vectors, (8, 4), balanced=not expected).params.fit["balanced"] is not expected


def test_a_small_budget_does_not_change_the_default():
    vectors = np.random.default_rng(2).normal(size=(400, 4)).astype(np.float32)
    # 200 rows at once are few for 32 codes, 400 are not
    assert fit(VectorSource(vectors, 200), (32, 2)).params.fit["balanced"] is False
