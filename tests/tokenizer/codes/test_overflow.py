"""Where items go that overflow their prefixes, against the same rounds computed one item at a
time; free SIDs against sets of codes, and the nearest prefixes against an exhaustive search."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.errors import RefusedError
from sidtool.data.vectors import Vectors
from sidtool.tokenizer.codes import overflow
from sidtool.tokenizer.codes.overflow import (
    CANDIDATES,
    FreeSids,
    PrefixSearch,
    place_new_items,
    place_overflow,
)
from sidtool.tokenizer.quantize.codebook import Codebook
from sidtool.tokenizer.sid import Codes, Keys, Levels
from tests.tokenizer.quantize.material import codebook_of, vectors_of

SPACES = [(3, 4, 2), (5, 3), (2, 2, 3, 2), (8, 5, 6)]


def every(sizes: tuple[int, ...]) -> Codes:
    return np.array(list(np.ndindex(sizes)), dtype=np.uint16)


def slow_overflow(latent: Vectors, codebook: Codebook, taken: Codes) -> list[tuple[int, ...]]:
    used = {tuple(sid) for sid in taken.tolist()}
    prefixes = every(codebook.sizes[:-1])
    first_levels = zip(codebook.levels[:-1], prefixes.T, strict=True)
    sums = sum(level[column].astype(float) for level, column in first_levels)
    distances = np.square(latent[:, None].astype(float) - sums).sum(axis=2).astype(np.float32)
    last = range(codebook.sizes[-1])
    room = [len(last) - sum((*p, c) in used for c in last) for p in prefixes.tolist()]
    homes: dict[int, list[tuple[float, int]]] = {}
    waiting = set(range(len(latent)))
    while waiting:
        applicants: dict[int, list[tuple[float, int]]] = {}
        for row in sorted(waiting):
            with_room = [p for p in range(len(room)) if room[p]]
            best = min(with_room, key=lambda p: (distances[row, p], p))
            applicants.setdefault(best, []).append((float(distances[row, best]), row))
        for prefix, rows in applicants.items():
            won = sorted(rows)[: room[prefix]]
            homes.setdefault(prefix, []).extend(won)
            room[prefix] -= len(won)
            waiting -= {row for _, row in won}
    result: list[tuple[int, ...]] = [()] * len(latent)
    for prefix, rows in homes.items():
        for _, row in sorted(rows):
            left = latent[row].astype(float) - sums[prefix]
            first_codes = prefixes[prefix].tolist()
            free = [c for c in range(codebook.sizes[-1]) if (*first_codes, c) not in used]
            nearest = min(free, key=lambda c: np.square(left - codebook.levels[-1][c]).sum())
            result[row] = (*first_codes, nearest)
            used.add(result[row])
    return result


@given(
    seed=st.integers(0, 2**32 - 1),
    sizes=st.sampled_from(SPACES),
    before=st.floats(0, 0.8),
    share=st.floats(0, 1),
    copies=st.integers(0, 12),
    spread=st.sampled_from([0.2, 1.0]),
    entries=st.sampled_from([1, 200, 1 << 21]),
)
def test_batched_rounds_equal_one_item_at_a_time(
    seed, sizes, before, share, copies, spread, entries
):
    sids = np.random.default_rng(seed).permutation(every(sizes))
    taken = sids[: int(before * len(sids))]
    latent = vectors_of(seed + 9, int(share * (len(sids) - len(taken))), 5) * np.float32(spread)
    latent[:copies] = latent[:1]
    codebook = codebook_of(seed, sizes, 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overflow, "ENTRIES", entries)
        result = place_overflow(latent, codebook, taken)
    assert list(map(tuple, result.tolist())) == slow_overflow(latent, codebook, taken)


def test_a_space_fills_to_its_last_sid():
    sizes = (6, 40, 7)  # more prefixes below a code than a row looks at, or remembers
    sids = np.random.default_rng(0).permutation(every(sizes))
    latent = np.tile(vectors_of(1, 1, 4), (len(sids) - 100, 1))
    result = place_overflow(latent, codebook_of(0, sizes, 4), sids[:100])
    assert len(np.unique(np.concatenate([result, sids[:100]]), axis=0)) == len(sids)


def test_a_space_of_64_bits_is_searched():
    codes = np.arange(2**16, dtype=np.float32)[:, None]
    levels = tuple(codes / np.float32(64**level) for level in range(4))
    top = np.full((2, 4), 2**16 - 1, dtype=np.uint16)
    top[1, -1] = 0
    codebook = Codebook("rq-kmeans", levels, {})
    result = place_overflow(np.array([[66_600]], dtype=np.float32), codebook, top)
    assert result.tolist() == [[2**16 - 1] * 3 + [2**16 - 2]]


def test_more_items_than_free_sids_are_refused():
    codebook = codebook_of(0, (3, 4), 5)
    with pytest.raises(RefusedError, match="10 of 12 semantic IDs are taken, and 3 items need one"):
        place_overflow(vectors_of(0, 3, 5), codebook, every((3, 4))[:10])


@given(seed=st.integers(0, 999), before=st.integers(0, 10), copies=st.integers(0, 5))
def test_new_items_get_their_nearest_sid_if_it_is_free_and_else_follow_the_overflow_rule(
    seed, before, copies
):
    sizes = (3, 4, 2)
    codebook = codebook_of(seed, sizes, 4)
    vectors = vectors_of(seed + 50, 12, 4)
    vectors[:copies] = vectors[:1]
    taken = np.random.default_rng(seed).permutation(every(sizes))[:before]
    codes = place_new_items(vectors, codebook, taken)
    in_use = {tuple(sid) for sid in taken.tolist()}
    assert len({tuple(sid) for sid in codes.tolist()} | in_use) == before + 12
    is_settled = np.zeros(12, dtype=np.bool_)
    for row, nearest in enumerate(codebook.encode(vectors).tolist()):
        if tuple(nearest) not in in_use:
            assert codes[row].tolist() == nearest
            is_settled[row] = True
            in_use.add(tuple(nearest))  # an equal item that follows gets another SID
    latent = codebook.transform(vectors[~is_settled])
    expected = slow_overflow(latent, codebook, np.concatenate([taken, codes[is_settled]]))
    assert list(map(tuple, codes[~is_settled].tolist())) == expected


@given(seed=st.integers(0, 999), before=st.integers(0, 20), sizes=st.sampled_from(SPACES))
def test_codes_below_the_first_one_are_given_to_no_item(seed, before, sizes):
    """Placing among shifted codes is placing among the plain ones, until the last is taken."""
    plain = codebook_of(seed, sizes, 4)
    levels = tuple(np.concatenate([np.zeros((1, 4), np.float32), x]) for x in plain.levels)
    shifted = replace(plain, levels=levels, params=replace(plain.params, first_code=1))
    taken = np.random.default_rng(seed).permutation(every(sizes))[:before]
    vectors = vectors_of(seed + 50, len(every(sizes)) - len(taken), 4)
    expected = place_overflow(vectors, plain, taken)
    assert (place_overflow(vectors, shifted, taken + 1) == expected + 1).all()
    with pytest.raises(RefusedError, match="semantic IDs are taken"):
        place_overflow(vectors_of(0, len(vectors) + 1, 4), shifted, taken + 1)


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
    codes = range(LEVELS.sizes[-1])
    expected = {p: sum((*p, code) not in in_use for code in codes) for p in ALL_PREFIXES}
    assert free.count(keys_of(PREFIXES, ALL_PREFIXES)).tolist() == list(expected.values())
    full_first, full_second = free.full_prefixes()
    full = [prefix for prefix, number in expected.items() if number == 0]
    assert full_second.tolist() == keys_of(PREFIXES, full).tolist()
    is_full = [all((code, second) in full for second in range(3)) for code in range(2)]
    assert full_first.tolist() == np.flatnonzero(is_full).tolist()


MORE_PREFIXES = Levels((2, CANDIDATES))
EVERY_PREFIX = list(product(*map(range, MORE_PREFIXES.sizes)))


@given(st.integers(0, 99), st.sets(st.sampled_from(EVERY_PREFIX)))
def test_nearest_prefixes_equal_an_exhaustive_search(seed: int, full: set[tuple[int, int]]) -> None:
    rng = np.random.default_rng(seed)
    sizes = (*MORE_PREFIXES.sizes, 2)
    centroids = tuple(rng.normal(size=(size, 4)).astype(np.float32) for size in sizes)
    vectors = rng.normal(size=(3, 4)).astype(np.float32)
    # no first code is excluded, so the beam contains both
    full_keys = [np.zeros(0, dtype=np.uint64), keys_of(MORE_PREFIXES, sorted(full))]
    search = PrefixSearch(Codebook("rq-kmeans", centroids, {}))
    prefixes, distances = search.nearest(vectors, full_keys)
    assert prefixes.shape == distances.shape == (3, CANDIDATES)
    candidates = [prefix for prefix in EVERY_PREFIX if prefix not in full]
    sums = np.array([centroids[0][one] + centroids[1][two] for one, two in candidates])
    for row, vector in enumerate(vectors):
        if not candidates:
            assert np.isinf(distances[row]).all()
            continue
        expected = np.square(vector - sums).sum(axis=1)
        nearest_distances = distances[row, : len(candidates)]
        smallest = np.sort(expected)[:CANDIDATES]
        np.testing.assert_allclose(nearest_distances, smallest, rtol=1e-4, atol=1e-5)
        assert np.isinf(distances[row, len(candidates) :]).all()
        nearest = candidates[int(expected.argmin())]
        assert prefixes[row, 0] == keys_of(MORE_PREFIXES, [nearest])[0]
