import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidtool.base.errors import SidtoolError, UsageError
from sidtool.tokenizer.bundle import Bundle
from sidtool.tokenizer.codes.assign import assign, assign_group, assign_pairs
from sidtool.tokenizer.codes.report import Assigned, CollisionCounts
from sidtool.tokenizer.quantize.codebook import Codebook
from sidtool.tokenizer.sid import Levels, read_sizes
from tests.tokenizer.quantize.material import codebook_of, vectors_of

cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "sizes": st.sampled_from([(3, 4), (2, 3, 4), (6,), (4, 2, 2), (1, 8)]),
        "filled": st.floats(0.2, 0.9),
        "copies": st.integers(0, 6),  # items with the vector of the first
        "spread": st.sampled_from([0.2, 1.0]),  # narrow: nearly all in one prefix
    }
)


def make(case):
    """A codebook, vectors in random order, and ids in another order."""
    rng = np.random.default_rng(case["seed"])
    codebook = codebook_of(case["seed"], case["sizes"], 5)
    n = max(1, int(case["filled"] * Levels(case["sizes"]).capacity))
    vectors = (vectors_of(case["seed"] + 9, n, 5) * case["spread"]).astype(np.float32)
    vectors[: case["copies"]] = vectors[0]
    ids = [f"item-{number}" for number in rng.permutation(n)]
    return codebook, vectors, ids


def settle(codebook, vectors, ids, policy) -> Assigned:
    return assign(codebook.encode(vectors), vectors, codebook, ids, policy)


@given(cases)
def test_reassign_leaves_no_duplicates_and_moves_the_fewest(case):
    codebook, vectors, ids = make(case)
    raw = codebook.encode(vectors)
    assigned = settle(codebook, vectors, ids, "reassign")
    assert len(np.unique(assigned.codes, axis=0)) == len(vectors)
    assert (assigned.after, assigned.level_sizes) == (CollisionCounts(0, 0, 1), codebook.sizes)
    Levels(assigned.level_sizes).check(assigned.codes)
    # every SID in use keeps one of its items, and more is not possible
    assert assigned.reassigned.sum() == len(raw) - len(np.unique(raw, axis=0))
    assert ((assigned.codes != raw).any(axis=1) == assigned.reassigned).all()
    alone = np.array([(raw == row).all(axis=1).sum() == 1 for row in raw])
    assert not assigned.reassigned[alone].any()
    # an item leaves its prefix only if that is full
    for row in np.flatnonzero((raw[:, :-1] != assigned.codes[:, :-1]).any(axis=1)):
        shares_prefix = (assigned.codes[:, :-1] == raw[row, :-1]).all(axis=1)
        assert shares_prefix.sum() == codebook.sizes[-1]


@given(cases, st.sampled_from(["reassign", "append", "allow"]), st.randoms(use_true_random=False))
def test_the_order_of_items_does_not_matter(case, policy, random):
    codebook, vectors, ids = make(case)
    order = random.sample(range(len(ids)), len(ids))
    first = settle(codebook, vectors, ids, policy)
    second = settle(codebook, vectors[order], [ids[row] for row in order], policy)
    assert (first.codes[order] == second.codes).all()
    assert (first.before, first.after) == (second.before, second.after)


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 5), copies=st.integers(0, 3))
def test_reassign_equals_an_exhaustive_search(seed, n, copies):
    """One prefix, five codes, every injective map tried: fewest moves first, then least total
    squared distance."""
    codebook = codebook_of(seed, (5, 2), 3)
    codebook = Codebook("rq-kmeans", (np.zeros((2, 3), dtype=np.float32), codebook.levels[0]), {})
    vectors = vectors_of(seed + 3, n, 3) * np.float32(0.5)
    vectors[:copies] = vectors[0]
    raw = codebook.encode(vectors)
    distances = np.square(vectors[:, None].astype(np.float64) - codebook.levels[1]).sum(axis=2)
    free = set(range(5)) - set(raw[:, 1].tolist())

    def cost(codes):
        return sum(codes != raw[:, 1]), sum(distances[range(n), codes])

    nearest = raw[:, 1]
    permutations = itertools.permutations(range(5), n)
    pairs = ((codes, zip(codes, nearest, strict=True)) for codes in permutations)
    legal = [
        codes
        for codes, code_pairs in pairs
        if all(code in free or code == nearest_code for code, nearest_code in code_pairs)
    ]
    best = min(cost(np.array(codes)) for codes in legal)
    assigned = settle(codebook, vectors, [f"i{row}" for row in range(n)], "reassign")
    moves, distance = cost(assigned.codes[:, 1])
    assert moves == best[0]
    assert distance == pytest.approx(best[1], abs=1e-9)


def test_equal_items_are_ordered_by_id():
    codebook = Codebook("rq-kmeans", (np.arange(6, dtype=np.float32)[:, None],), {})
    vectors = np.full((4, 1), 2.2, dtype=np.float32)
    assigned = settle(codebook, vectors, ["d", "b", "a", "c"], "reassign")
    assert assigned.codes.ravel().tolist() == [4, 3, 2, 1]  # by distance: 2, 3, 1, 4 for a, b, c, d


def test_items_at_distance_zero_from_every_code_are_ordered_by_id():
    levels = (np.eye(3, dtype=np.float32), np.zeros((4, 3), dtype=np.float32))
    codebook = Codebook("rq-kmeans", levels, {})
    vectors = np.repeat(levels[0], 3, axis=0)
    assigned = settle(codebook, vectors, list("ihgfedcba"), "reassign")
    expected = [[code, last] for code in range(3) for last in (2, 1, 0)]
    assert assigned.codes.tolist() == expected


def test_group_larger_than_its_prefix_spills_to_the_next_nearest():
    first, second = np.array([[0], [10], [100]]), np.array([[-1], [1]])
    levels = (first.astype(np.float32), second.astype(np.float32))
    codebook = Codebook("rq-kmeans", levels, {})
    vectors = np.array([[1], [1], [1], [1.5], [99]], dtype=np.float32)
    assigned = settle(codebook, vectors, ["c", "b", "a", "z", "y"], "reassign")
    # a and b fill prefix 0; z is nearer to prefix 10 than c is, and both take its codes, the
    # nearest first
    assert assigned.codes.tolist() == [[1, 1], [0, 0], [0, 1], [1, 0], [2, 0]]


def test_a_full_space_is_refused_with_the_depth_that_suffices():
    codebook = codebook_of(0, (4, 4), 3)
    with pytest.raises(UsageError, match=r"15 items .* 94% of the 16") as caught:
        settle(codebook, vectors_of(1, 15, 3), [str(row) for row in range(15)], "reassign")
    assert "4x4x4" in caught.value.shell_hint


def test_a_full_space_without_collisions_is_accepted():
    codebook = codebook_of(0, (1, 2), 3)
    vectors = codebook.decode(np.array([[0, 0], [0, 1]], dtype=np.uint16))
    assert settle(codebook, vectors, ["a", "b"], "reassign").codes.tolist() == [[0, 0], [0, 1]]


@pytest.mark.filterwarnings("ignore:level . is collapsed")
@pytest.mark.parametrize(("n", "distinct"), [(1, 1), (5, 1), (2, 2), (40, 3), (9, 9)])
def test_following_the_hints_ends_in_a_codebook(n, distinct):
    vectors = vectors_of(0, distinct, 8)[np.arange(n) % distinct]
    ids = [f"i{row}" for row in range(n)]
    sizes = (256, 256)
    policy = "reassign"
    for _ in range(3):
        try:
            made = Bundle.from_vectors(ids, vectors, levels=sizes, collisions=policy)
        except SidtoolError as error:
            hint = error.shell_hint or ""
            if "policy append" in hint:
                policy = "append"
            elif match := re.search("levels of at most ([0-9]+) codes", hint):
                sizes = (int(match[1]),) * 2
            else:
                sizes = read_sizes(hint.split()[1])
    assert len(np.unique(made.items.codes, axis=0)) == n


@given(cases)
def test_append_numbers_a_group_by_id_and_reserves_codes(case):
    codebook, vectors, ids = make(case)
    raw = codebook.encode(vectors)
    assigned = settle(codebook, vectors, ids, "append")
    assert (assigned.codes[:, :-1] == raw).all()
    assert not assigned.reassigned.any()
    assert assigned.after.items == 0
    assert assigned.level_sizes[-1] >= 4 * assigned.before.largest
    Levels(assigned.level_sizes).check(assigned.codes)
    for sid in np.unique(raw, axis=0):
        rows = sorted(np.flatnonzero((raw == sid).all(axis=1)), key=lambda row: ids[row])
        assert assigned.codes[rows, -1].tolist() == list(range(len(rows)))


def test_allow_changes_nothing_and_counts():
    codes = np.array([[0, 1], [0, 1], [1, 1], [1, 0], [0, 1], [1, 0]], dtype=np.uint16)
    codebook = codebook_of(0, (2, 2), 3)
    assigned = assign(codes, vectors_of(0, 6, 3), codebook, list("abcdef"), "allow")
    assert (assigned.codes == codes).all()
    assert assigned.before == assigned.after == CollisionCounts(items=5, groups=2, largest=3)
    assert not assigned.reassigned.any()


@given(seed=st.integers(0, 2**32 - 1), used=st.floats(0, 1), equal=st.booleans())
def test_pairs_assigned_in_one_batch_equal_pairs_one_by_one(seed, used, equal):
    rng, size = np.random.default_rng(seed), 6
    centroids, residuals = vectors_of(seed, size, 4), vectors_of(seed + 1, 40, 4).reshape(20, 2, 4)
    residuals[:5, 1] = residuals[:5, 0] if equal else residuals[:5, 1]
    nearest, taken = rng.integers(0, size, 20).astype(np.uint16), rng.random((20, size)) < used
    taken[np.arange(20), nearest] = True
    assigned = assign_pairs(nearest, residuals, centroids, taken)
    for row in range(20):
        counts = taken[row].astype(np.intp)
        counts[nearest[row]] = 2
        expected = assign_group(nearest[[row, row]], residuals[row], centroids, counts)
        assert assigned[row].tolist() == expected.tolist()
