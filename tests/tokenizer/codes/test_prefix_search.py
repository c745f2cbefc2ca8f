"""Free SIDs under prefixes against sets of codes, and the search for the nearest prefixes against
an exhaustive one."""

from itertools import product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sidtool.tokenizer.codes.overflow import CANDIDATES, FreeSids, PrefixSearch
from sidtool.tokenizer.quantize.codebook import Codebook
from sidtool.tokenizer.sid import Keys, Levels

LEVELS = Levels((2, 3, 2))
PREFIXES = Levels(LEVELS.sizes[:-1])
ALL_SIDS = list(product(*map(range, LEVELS.sizes)))
ALL_PREFIXES = list(product(*map(range, PREFIXES.sizes)))


def keys_of(levels: Levels, codes: list[tuple[int, ...]]) -> Keys:
    array = np.array(codes, dtype=np.uint16).reshape(-1, levels.levels)
    return np.sort(levels.pack(array))


@given(st.lists(st.sampled_from(ALL_SIDS), unique=True), st.lists(st.sampled_from(ALL_SIDS)))
def test_free_sids_are_counted_as_in_a_set(
    taken: list[tuple[int, ...]], more: list[tuple[int, ...]]
) -> None:
    free = FreeSids(LEVELS, keys_of(LEVELS, taken), first_code=0)
    added = sorted(set(more) - set(taken))
    by_prefix = [sid[:-1] for sid in added]
    distinct = sorted(set(by_prefix))
    counts = np.array([by_prefix.count(prefix) for prefix in distinct], dtype=np.intp)
    free.take(keys_of(PREFIXES, distinct), counts)
    in_use = {*taken, *added}
    expected = {
        prefix: sum((*prefix, code) not in in_use for code in range(LEVELS.sizes[-1]))
        for prefix in ALL_PREFIXES
    }
    assert free.count(keys_of(PREFIXES, ALL_PREFIXES)).tolist() == list(expected.values())
    full_first, full_second = free.full_prefixes()
    full = [prefix for prefix, number in expected.items() if number == 0]
    assert full_second.tolist() == keys_of(PREFIXES, full).tolist()
    assert full_first.tolist() == [
        code for code in range(2) if all((code, second) in full for second in range(3))
    ]


@given(st.integers(0, 99), st.sets(st.sampled_from(ALL_PREFIXES)))
def test_the_nearest_prefixes_equal_an_exhaustive_search(
    seed: int, full: set[tuple[int, int]]
) -> None:
    rng = np.random.default_rng(seed)
    centroids = tuple(rng.normal(size=(size, 4)).astype(np.float32) for size in LEVELS.sizes)
    vectors = rng.normal(size=(3, 4)).astype(np.float32)
    # no first code is excluded, so the beam contains both
    full_keys = [np.zeros(0, dtype=np.uint64), keys_of(PREFIXES, sorted(full))]
    prefixes, distances = PrefixSearch(Codebook("rq-kmeans", centroids, {})).nearest(
        vectors, full_keys
    )
    assert prefixes.shape == distances.shape == (3, CANDIDATES)
    candidates = [prefix for prefix in ALL_PREFIXES if prefix not in full]
    sums = np.array([centroids[0][one] + centroids[1][two] for one, two in candidates])
    for row, vector in enumerate(vectors):
        if not candidates:
            assert np.isinf(distances[row]).all()
            continue
        expected = np.square(vector - sums).sum(axis=1)
        np.testing.assert_allclose(
            distances[row, : len(candidates)], np.sort(expected), rtol=1e-4, atol=1e-5
        )
        assert np.isinf(distances[row, len(candidates) :]).all()
        nearest = candidates[int(expected.argmin())]
        assert prefixes[row, 0] == keys_of(PREFIXES, [nearest])[0]
